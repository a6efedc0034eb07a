"""The daemon as a process: how it is started, how it stops, what it does side by side."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.errors import Problem
from samba_rvss.model import Context, Phase
from samba_rvss.run import environment, run
from samba_rvss.samba.fsrvp.copyset import take
from samba_rvss.samba.fsrvp.methods import BACKUP
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.device_group import NoBlockDevices
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import FileSystem, OnBtrfs, only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

ROOT = Path(__file__).parents[2]


@dataclass
class Instance:
    """A daemon for a Samba that need not run: its hook is called by hand, as root."""

    samba: PrivateSmbd
    daemon: RvssDaemon
    file_system: FileSystem

    def hook(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.daemon.hook.split(), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)

    def create(self, path: str | Path) -> str:
        done = self.hook("create", str(path))
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration), *words]
        env = environment({"PYTHONPATH": str(ROOT)})
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env=env, check=False
        )

    def listing(self, *words: str) -> list[dict[str, object]]:
        done = self.command("list", "--json", *words)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)["copies"]
        return found

    def nothing_left(self) -> bool:
        mounted = f"{self.daemon.run_directory}/" in Path("/proc/self/mountinfo").read_text()
        return not mounted and not self.file_system.images() and not self.listing()


@pytest.fixture
def instance(file_system: FileSystem, samba_rig: Callable[..., PrivateSmbd]) -> Iterator[Instance]:
    samba = samba_rig()
    with RvssDaemon(samba) as daemon:
        path = file_system.volume("vms")
        samba.set_share("vms", daemon.share("vms", path))
        yield Instance(samba, daemon, file_system)


def test_stops_on_sigterm_and_leaves_copies_mounted(instance: Instance) -> None:
    instance.daemon.start()
    path = instance.create(instance.file_system.path / "vms")
    instance.daemon.stop()
    assert os.path.ismount(path)
    assert not (instance.daemon.run_directory / "hook.sock").exists()
    assert [copy["phase"] for copy in instance.listing()] == ["taken"]
    instance.daemon.start()
    assert os.path.ismount(path)
    done = instance.hook("delete", str(instance.file_system.path / "vms"), path)
    assert done.returncode == 0, done.stderr
    wait_until("nothing is left", instance.nothing_left)


def test_reading_commands_need_no_daemon(instance: Instance) -> None:
    assert instance.listing() == []
    shown = json.loads(instance.command("shares", "--json").stdout)
    assert [(row["share"], row["supported"]) for row in shown["shares"]] == [("vms", True)]
    instance.daemon.start()
    path = instance.create(instance.file_system.path / "vms")
    instance.daemon.kill()
    (copy,) = instance.listing()
    assert copy["path"] == path
    shown = json.loads(instance.command("show", "--json", str(copy["id"])).stdout)
    assert [event["what"] for event in shown["events"]] == ["create", "taken"]
    refused = instance.command("delete", str(copy["id"]))
    assert refused.returncode == Problem.NO_DAEMON
    assert "start samba-rvss.service" in refused.stderr
    instance.daemon.start()
    assert instance.command("delete", str(copy["id"])).returncode == 0
    assert instance.nothing_left()


def test_second_daemon_on_one_state_directory_refuses(instance: Instance) -> None:
    instance.daemon.start()
    done = instance.command("daemon")
    assert done.returncode == Problem.BUSY
    assert "another samba-rvss daemon uses" in done.stderr
    assert instance.hook("check", str(instance.file_system.path / "vms")).returncode == 0


def test_instances_do_not_see_each_others_copies(
    instance: Instance, samba_rig: Callable[..., PrivateSmbd]
) -> None:
    instance.daemon.start()
    path = instance.create(instance.file_system.path / "vms")
    other_samba = samba_rig()
    with RvssDaemon(other_samba) as other:
        other_samba.set_share("vms", other.share("vms", instance.file_system.path / "vms"))
        other.start()
        second = Instance(other_samba, other, instance.file_system)
        mine = second.create(instance.file_system.path / "vms")
        assert [copy["path"] for copy in second.listing()] == [mine]
        # A start looks at every image on the file system, and must leave the other's alone.
        other.stop()
        other.start()
        assert [copy["path"] for copy in instance.listing()] == [path]
        assert os.path.ismount(path)
        assert second.hook("delete", str(instance.file_system.path / "vms"), path).returncode == (
            Problem.NOT_FOUND
        )
        assert second.command("delete", mine).returncode == 0
    assert instance.command("delete", path).returncode == 0
    assert instance.nothing_left()


def test_socket_activation_and_notification(instance: Instance) -> None:
    run_directory = instance.daemon.run_directory
    run_directory.mkdir()
    with ExitStack() as cleanup:
        listeners = []
        for name in ("admin.sock", "hook.sock"):
            listener = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(str(run_directory / name))
            listener.listen()
            listeners.append(listener)
        notified = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notified.bind(str(run_directory / "notify"))
        notified.settimeout(30)
        script = (
            "import os, runpy, sys\n"
            f"os.dup2({listeners[0].fileno()}, 3); os.dup2({listeners[1].fileno()}, 4)\n"
            "os.set_inheritable(3, True); os.set_inheritable(4, True)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "sys.argv = ['samba-rvss', '-s', sys.argv[1], 'daemon']\n"
            "runpy.run_module('samba_rvss', run_name='__main__')\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(instance.samba.configuration)],
            env=environment(
                {
                    "PYTHONPATH": str(ROOT),
                    "LISTEN_FDS": "2",
                    "LISTEN_FDNAMES": "admin:hook",
                    "NOTIFY_SOCKET": str(run_directory / "notify"),
                }
            ),
            pass_fds=[listener.fileno() for listener in listeners],
            stderr=subprocess.PIPE,
        )
        try:
            assert notified.recv(100) == b"READY=1"
            inode = (run_directory / "hook.sock").stat().st_ino
            path = instance.create(instance.file_system.path / "vms")
            assert instance.command("delete", path).returncode == 0
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert notified.recv(100) == b"STOPPING=1"
        # The sockets are systemd's: a request that comes now waits for the next start.
        assert (run_directory / "hook.sock").stat().st_ino == inode
    assert instance.nothing_left()


def test_a_run_directory_behind_a_link(
    file_system: FileSystem, samba_rig: Callable[..., PrivateSmbd]
) -> None:
    """As /var/run is one; the mount table has the path without it."""
    samba = samba_rig()
    link = samba.directory / "link"
    link.symlink_to("samba-rvss")
    options = {"run directory": f"{link}/run", "state directory": f"{link}/state"}
    with RvssDaemon(samba, options=options) as daemon:
        instance = Instance(samba, daemon, file_system)
        daemon.hook = daemon.hook.replace(str(daemon.run_directory), f"{link}/run")
        path = file_system.volume("vms")
        samba.set_share("vms", daemon.share("vms", path))
        daemon.start()
        copy = instance.create(path)
        assert copy.startswith(f"{daemon.run_directory}/exposed/")
        daemon.kill()
        daemon.start()
        assert os.path.ismount(copy)
        assert [found["path"] for found in instance.listing()] == [copy]
        done = instance.hook("delete", str(path), copy)
        assert done.returncode == 0, done.stderr
        wait_until("nothing is left", instance.nothing_left)
        daemon.stop()
        # A user could let it lead elsewhere, if it were his.
        os.chown(link, 65534, 65534, follow_symlinks=False)
        done = instance.command("daemon")
        assert done.returncode == Problem.CONFIG
        sentence = (
            f"'rvss:run directory = {link}/run' is refused: {link} belongs to user 65534, who can"
            " replace it: take a path that only root can change"
        )
        assert sentence in done.stderr


def test_deadline_undoes_everything(instance: Instance) -> None:
    instance.samba.set_options({"rvss:commit deadline": "0.001"})
    instance.daemon.start()
    done = instance.hook("create", str(instance.file_system.path / "vms"))
    assert done.returncode == Problem.DEADLINE
    assert "rvss:commit deadline" in done.stderr
    wait_until("nothing is left", instance.nothing_left)


@only("btrfs")  # ZFS cannot be frozen
def test_a_frozen_volume_holds_up_nobody_else(instance: Instance, rig_directory: Path) -> None:
    with OnBtrfs(rig_directory) as other:
        instance.samba.set_share("slow", instance.daemon.share("slow", other.volume("slow")))
        instance.samba.set_options({"rvss:commit deadline": "5"})
        instance.daemon.start()
        answers: list[subprocess.CompletedProcess[str]] = []
        run(["fsfreeze", "--freeze", str(other.path)], timeout=30)
        try:
            waiting = [
                threading.Thread(
                    target=lambda: answers.append(instance.hook("create", str(other.path / "slow")))
                )
                for _ in range(2)
            ]
            for thread in waiting:
                thread.start()
            for thread in waiting:
                thread.join(60)
            # One is in the kernel still, past its deadline; the other waited for it.
            assert [done.returncode for done in answers] == [Problem.DEADLINE] * 2
            paths = [instance.create(instance.file_system.path / "vms") for _ in range(3)]
            for path in paths:
                done = instance.hook("delete", str(instance.file_system.path / "vms"), path)
                assert done.returncode == 0
            told = instance.command("status")
            assert told.returncode == 1
            late = f"a shadow copy of {other.path / 'slow'} that came too late has been under way"
            assert late in told.stdout
        finally:
            run(["fsfreeze", "--unfreeze", str(other.path)], timeout=30)
        wait_until("both are undone", instance.nothing_left)
        assert other.images() == []


def test_an_answer_that_nobody_takes_is_undone(instance: Instance) -> None:
    instance.daemon.start()
    path = os.fsencode(instance.file_system.path / "vms")
    for _ in range(20):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hook:
            hook.connect(str(instance.daemon.run_directory / "hook.sock"))
            hook.send(b"create\0" + path)
    refused = "did not wait for the answer"
    wait_until("each is undone", lambda: instance.daemon.log().count(refused) == 20)
    wait_until("nothing is left", instance.nothing_left)


def test_a_deletion_that_fails_is_tried_again(instance: Instance) -> None:
    instance.daemon.start()
    top = instance.file_system.path
    path = instance.create(top / "vms")
    (copy,) = instance.listing()
    with instance.file_system.keep(str(copy["id"])):
        done = instance.hook("delete", str(top / "vms"), path)
        # What is only busy is gone for Samba, which must not wait for it.
        assert done.returncode in (Problem.READ_ONLY, 0), done.stderr
        assert [copy["phase"] for copy in instance.listing()] == ["deleting"]
    wait_until("the copy is gone", lambda: not instance.listing(), pause=0.2)
    wait_until("nothing is left", instance.nothing_left)
    done = instance.hook("delete", str(top / "vms"), path)
    assert done.returncode == 0, done.stderr


def test_damaged_ledger_is_set_aside_and_made_anew(instance: Instance) -> None:
    """A lost one is made anew in the same way; of this one the damaged file is left, and said."""
    instance.daemon.start()
    paths = sorted(instance.create(instance.file_system.path / "vms") for _ in range(3))
    instance.daemon.stop()
    ledger = instance.daemon.state_directory / "ledger.db"
    ledger.write_bytes(b"no ledger " * 2000)
    assert "restart samba-rvss.service" in instance.command("list").stderr
    instance.daemon.start()
    (aside,) = instance.daemon.state_directory.glob("ledger.db.damaged-*")
    assert aside.read_bytes() == b"no ledger " * 2000
    assert f"set aside as {aside}" in instance.command("status").stdout
    aside.unlink()
    assert "set aside" not in instance.command("status").stdout
    copies = instance.listing()
    assert sorted(str(copy["path"]) for copy in copies) == paths
    assert all(os.path.ismount(path) for path in paths)
    for path in paths:
        done = instance.hook("delete", str(instance.file_system.path / "vms"), path)
        assert done.returncode == 0, done.stderr
    wait_until("nothing is left", instance.nothing_left)


def test_mounts_come_back_after_a_reboot(instance: Instance) -> None:
    instance.daemon.start()
    path = instance.create(instance.file_system.path / "vms")
    instance.daemon.stop()
    instance.daemon.unmount()
    os.rmdir(path)
    instance.daemon.start()
    assert os.path.ismount(path)
    assert os.statvfs(path).f_flag & os.ST_RDONLY
    assert instance.command("delete", path).returncode == 0
    assert instance.nothing_left()


@only("btrfs")
def test_a_file_system_that_is_mounted_later_is_found(instance: Instance) -> None:
    """Its disk came late: the copy is left alone, and serves again as soon as that is there."""
    instance.daemon.start()
    path = instance.create(instance.file_system.path / "vms")
    instance.daemon.stop()
    instance.daemon.unmount()
    run(["umount", str(instance.file_system.path)], timeout=60)
    instance.daemon.start()
    assert not os.path.ismount(path)
    assert "its file system is not there" in instance.command("status").stdout
    assert isinstance(instance.file_system, OnBtrfs)
    instance.file_system.mount(instance.file_system.path)
    wait_until("the copy is mounted", lambda: os.path.ismount(path), pause=0.2)
    assert instance.command("delete", path).returncode == 0
    assert instance.nothing_left()


@only("btrfs")
def test_what_the_daemon_may_not_do_is_said(instance: Instance) -> None:
    """As in a container without the permission for a disk, or without CAP_SYS_PTRACE."""
    vms = instance.file_system.path / "vms"

    def wrong() -> list[str]:
        told = instance.command("status", "--json")
        found: dict[str, Any] = json.loads(told.stdout)
        assert told.returncode == (1 if found["wrong"] else 0), told.stderr
        assert found["wrong"] == found["daemon"]["lacking"]
        shown = instance.command("status")
        assert shown.returncode == told.returncode
        assert all(f"  {line}\n" in shown.stdout for line in found["wrong"])
        return list(found["wrong"])

    def refused() -> str:
        done = instance.hook("check", str(vms))
        assert done.returncode in (Problem.SYSTEM, Problem.REFUSED), done.stderr
        return done.stderr

    with NoBlockDevices() as group:
        instance.daemon.start(above=group.above)
        (line,) = wrong()
        reason = line.removeprefix("[vms]: ")
        assert re.match(
            f"samba-rvss may not open /dev/\\S+, which {vms} is on: it can make no", reason
        )
        assert reason in refused()
        instance.daemon.stop()
    less = [f"--{kind}=-sys_ptrace" for kind in ("bounding-set", "inh-caps")]
    instance.daemon.start(above=["setpriv", *less])
    (line,) = wrong()
    assert line.startswith("every request is refused, because it cannot be seen which process")
    assert "give samba-rvss the capability CAP_SYS_PTRACE" in line
    assert "CAP_SYS_PTRACE" in refused()
    instance.daemon.stop()
    instance.daemon.start()
    assert wrong() == []


def test_usage_errors(instance: Instance) -> None:
    for words in ((), ("nonsense",), ("show",), ("list", "--nonsense")):
        done = instance.command(*words)
        assert done.returncode == Problem.USAGE, words
        assert done.stderr.count("\n") == 1, done.stderr
    assert instance.command("--help").returncode == 0
    for verb in ("daemon", "list", "show", "delete", "shares", "demo"):
        assert instance.command(verb, "--help").returncode == 0
    missing = instance.command("show", "nothing")
    assert missing.returncode == Problem.NOT_FOUND


def test_needs_root(instance: Instance) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from samba_rvss.cli import main; "
    code += "sys.exit(main(['list']))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        user=65534,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (Problem.REFUSED, "")
    assert done.stderr == "samba-rvss: only root may use samba-rvss: try sudo\n"


def test_reload_by_hand_and_by_change(instance: Instance) -> None:
    instance.daemon.start()
    new = instance.file_system.volume("new")
    assert instance.hook("check", str(new)).returncode == Problem.NOT_OURS
    instance.samba.set_share("new", instance.daemon.share("new", new))
    assert instance.hook("check", str(new)).returncode == 0
    instance.samba.set_options({"rvss:commit dedline": "3"})
    assert instance.hook("check", str(new)).returncode == 0
    assert "[global] has the unknown option 'rvss:commit dedline'" in instance.daemon.log()
    assert _admin(instance, b'{"verb": "reload"}')["status"] == 0
    assert _admin(instance, b'{"verb": "nonsense"}')["status"] == Problem.BAD_REQUEST


def _admin(instance: Instance, request: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(instance.daemon.run_directory / "admin.sock"))
        peer.send(request)
        answer: dict[str, object] = json.loads(peer.recv(16384))
        return answer


@only("btrfs")
def test_the_event_loop_waits_for_no_disk(rig: "Rig") -> None:
    """A whole life of two shadow copies, with all that an administrator may ask meanwhile."""
    path = rig.volume()
    rig.share("vms", path, rig.previous_options("vms", path))
    rig.samba.start()
    rig.daemon.start(watched=True)
    for name in ("first", "second"):
        with rig.client() as client:
            copies = take(client, ["vms"], BACKUP | Context.AUTO_RECOVERY)
            rig.wait_for_phase(Phase.OPEN)
            (exposed,) = copies.exposed_shares
            with rig.session(exposed) as session:
                session.write(name, b"recovered")
            rig.samba.set_options({"rvss:grace": "60 s"})
            for words in (["reconcile"], ["status"], ["list"]):
                assert rig.command(*words).returncode == 0, words
            copies.complete()
            rig.wait_for_phase(Phase.SEALED)
            copies.delete()
    rig.assert_nothing_left()
    log = rig.daemon.log()
    assert "sealed in" in log
    assert [line for line in log.splitlines() if line.startswith("in the event loop:")] == []
