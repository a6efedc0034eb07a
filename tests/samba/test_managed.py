"""Managed backups: runs of definitions in rvss-backup.conf, with us as the client."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.copies import identity, restoring
from samba_rvss.copies.locate import find
from samba_rvss.errors import Problem
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.providers.all import providers
from samba_rvss.run import environment, run
from samba_rvss.samba import conf
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only
from tests.samba.lanes import lane

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_ROOT = Path(__file__).resolve().parents[2]
# The command, but that the process that does the run kills itself where a test wants it to.
_KILLED = """
import os, sys
from dataclasses import replace
from samba_rvss.cli.running import order, verb
from samba_rvss.samba import conf, definitions
config = conf.load(sys.argv[1])
made = order.make(config, definitions.load(config).get(sys.argv[2]), os.getpid())
verb.done(replace(made, point=sys.argv[3]))
"""


class Managed:
    """A rig with definitions, and programs that write down what they were told.

    Args:
        rig: with the shares ``vms`` and ``logs``.
        top: where the client's files are; beside the rig's smb.conf if it is the rig itself.
    """

    def __init__(self, rig: "Rig", top: Path | None = None) -> None:
        self.rig = rig
        self._top = top or rig.samba.directory
        self._file = self._top / "rvss-backup.conf"
        self._told = self._top / "told"
        self._who = self._made("who", 0o600)
        who = f"username = {rig.operator.name}\npassword = {rig.operator.password}\n"
        self._who.write_text(who)

    def _made(self, name: str, mode: int) -> Path:
        path = self._top / name
        path.touch()
        path.chmod(mode)
        return path

    def program(self, name: str, *lines: str) -> str:
        """Write a program that tells what it found in its environment, and does more."""
        path = self._made(name, 0o700)
        told = (
            "#!/usr/bin/python3 -I\nimport json, os, subprocess, sys\n"
            "found = {k: v for k, v in os.environ.items() if k.startswith('RVSS_')}\n"
            f"line = json.dumps({{'program': {name!r}, **found}}) + '\\n'\n"
            f"open({str(self._told)!r}, 'a').write(line)\n"
        )
        path.write_text(told + "".join(f"{line}\n" for line in lines))
        return str(path)

    def define(self, name: str, **options: str) -> None:
        """Define a backup, in the place of all others."""
        given = {"shares": "vms logs", "authentication_file": str(self._who), **options}
        lines = [f"    {key.replace('_', ' ')} = {text}\n" for key, text in given.items()]
        self._file.write_text("".join((f"[{name}]\n", *lines)))

    def told(self) -> list[dict[str, str]]:
        """Return what programs were told, in their order."""
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        return [json.loads(line) for line in lines]

    def called(self) -> list[str]:
        """Return which programs were called."""
        return [told["program"] for told in self.told()]

    def run(self, name: str) -> Any:
        """Run a definition; return what it printed as JSON."""
        done = self.rig.command("backup", "run", name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str, namespace: str = "") -> "subprocess.Popen[str]":
        """Start a run, in a network namespace if one is named."""
        above = ["ip", "netns", "exec", namespace] if namespace else []
        return subprocess.Popen(
            [*above, sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({"PYTHONPATH": str(_ROOT)}),
        )

    def backups(self) -> list[dict[str, Any]]:
        """Return all backups."""
        done = self.rig.command("backup", "list", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["backups"]
        return found

    def records(self) -> list[ShadowCopy]:
        """Return the records of the copies that exist, and of the backups."""
        path = self.rig.daemon.state_directory / "ledger.db"
        with closing(Ledger(str(path), read_only=True)) as ledger:
            gone = Phase.GONE
            return [c for c in (*ledger.copies(), *ledger.backups()) if c.phase is not gone]

    def reason(self, name: str) -> str:
        """Return what is written down of how the last run of a definition ended."""
        written = self.rig.daemon.state_directory / "runs" / f"{name}.json"
        return str(json.loads(written.read_text())["reason"])


def _deleted(rig: "Rig", backup: str) -> bool:
    return rig.command("delete", backup).returncode == 0


@pytest.fixture
def managed(rig: "Rig") -> Iterator[Managed]:
    for name, keep in {"vms": "no", "logs": "yes"}.items():
        rig.share(name, rig.volume(name), {"rvss:keep": keep})
    rig.start()
    made = Managed(rig)
    yield made
    for backup in made.backups():
        for hold in backup["holds"]:
            assert rig.command("release", "--tag", hold["tag"], backup["id"]).returncode == 0
        # A look at its disks, or what makes its manifest, may still be reading it.
        wait_until("it can be deleted", partial(_deleted, rig, backup["id"]))


_CHECK = """
for path in os.environ['RVSS_PATHS'].splitlines():
    subprocess.run(['qemu-img', 'check', '-r', 'all', f'{path}/a.vhdx'], check=True)
"""


@only("btrfs")
def test_a_run_over_two_shares(managed: Managed) -> None:
    rig = managed.rig
    for name in ("vms", "logs"):
        disk = rig.fs.path / name / "a.vhdx"
        run(["qemu-img", "create", "-f", "vhdx", str(disk), "64M"], timeout=60)
        (rig.fs.path / name / "b").mkdir()
        (rig.fs.path / name / "b" / "c.VHDX").write_bytes(b"")
        (rig.fs.path / name / "b" / "c.link.vhdx").symlink_to("/etc/shadow")
    commands = {
        "preexec": managed.program("pre"),
        "postexec": managed.program("post"),
        "recovery_command": managed.program("recover", _CHECK),
    }
    more = {"consistency": "application", "files": "/*.vhdx/", "retention": "latest 1"}
    managed.define("nightly", **commands, **more, warn_age="1 h")
    made = managed.run("nightly")
    assert (made["consistency"], made["problems"]) == ("application", [])
    pre, post, recover = managed.told()
    assert [pre["program"], post["program"], recover["program"]] == ["pre", "post", "recover"]
    common = {"RVSS_BACKUP": "nightly", "RVSS_SHARES": "vms\nlogs", "RVSS_SET_ID": made["set_id"]}
    for told in (pre, post, recover):
        assert common.items() <= told.items()
    assert pre["RVSS_PATHS"] == "\n".join(str(rig.fs.path / name) for name in ("vms", "logs"))
    assert (post["RVSS_RESULT"], post["RVSS_PRE_FAILED"]) == ("taken", "0")
    (backup,) = managed.backups()
    assert (backup["id"], backup["set_id"]) == (made["id"], made["set_id"])
    assert (backup["consistent"], backup["missing"]) == (True, "")
    proven = {"name": "nightly", "consistency": "application", "veto_files": []}
    assert backup["run"] == {**proven, "files": ["*.vhdx"]}
    listed = json.loads(rig.command("backup", "files", backup["id"], "--json").stdout)
    found = [(file["share"], file["path"]) for file in listed["files"]]
    assert found == [(s, p) for s in ("logs", "vms") for p in ("a.vhdx", "b/c.VHDX")]
    # What is known of the run stands with the image.
    rig.daemon.stop()
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    rig.daemon.start()
    (again,) = managed.backups()
    assert (again["id"], again["run"]) == (backup["id"], backup["run"])
    # Its backups are pruned by its rules: those of the shares keep all.
    second = managed.run("nightly")
    assert rig.command("prune", "--yes").returncode == 0
    assert [each["id"] for each in managed.backups()] == [second["id"]]


_GUID = "8F2C1B9E-7D4A-4C3B-9A51-0E6D2F4B8C17"
_MACHINE = f"one/Virtual Machines/{_GUID}.vmcx"
_DISK = "one/Virtual Hard Disks/disk.vhdx"
_REPAIR = f"""
path = os.environ['RVSS_PATHS'].splitlines()[0] + '/{_DISK}'
subprocess.run(['qemu-img', 'check', '-r', 'all', path], check=True)
"""


@only("btrfs")
def test_what_a_run_has_taken_is_brought_back(managed: Managed) -> None:
    """A file, a directory and a virtual machine, as they were in the frozen moment."""
    rig = managed.rig
    vms, logs = (rig.fs.path / name for name in ("vms", "logs"))
    (vms / _MACHINE).parent.mkdir(parents=True)
    (vms / _MACHINE).write_bytes(b"the machine")
    disk = vms / _DISK
    disk.parent.mkdir()
    run(["qemu-img", "create", "-f", "vhdx", str(disk), "64M"], timeout=60)
    write = "write -P 0x5a 1M 3M"
    run(["qemu-io", "-f", "vhdx", "-c", write, str(disk)], timeout=60)
    (logs / "kept").mkdir()
    for number in range(3):
        (logs / "kept" / f"{number}.log").write_bytes(b"%d" % number * 5000)
    (logs / "one.log").write_bytes(b"one")
    managed.define("nightly", recovery_command=managed.program("recover", _REPAIR))
    config = conf.load(str(rig.samba.configuration))
    volume = find(config.shares[0], providers(identity.read(config), config.homes))
    with restoring.restoring(config, volume):
        done = rig.command("backup", "run", "nightly")
        assert done.returncode == Problem.BUSY
        assert "something is being restored into" in done.stderr
    assert managed.called() == []
    backup = managed.run("nightly")["id"]
    frozen = {path: path.read_bytes() for top in (vms, logs) for path in _files(top)}

    (vms / _MACHINE).unlink()
    disk.write_bytes(b"damaged")
    for path in _files(logs / "kept"):
        path.unlink()
    (logs / "kept").rmdir()
    (logs / "one.log").write_bytes(b"two")
    words = ["backup", "restore", "--overwrite", "always", "--share"]
    for more in (["vms", backup, "--machine", _GUID], ["logs", f"{backup}:kept"]):
        done = rig.command(*words, *more)
        assert done.returncode == 0, (done.stdout, done.stderr)
    assert (logs / "one.log").read_bytes() == b"two"
    done = rig.command(*words, "logs", f"{backup}:one.log")
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for top in (vms, logs) for path in _files(top)} == frozen
    run(["qemu-img", "check", str(disk)], timeout=60)


def _files(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*") if path.is_file())


@only("btrfs")
def test_what_is_proven_is_recorded(managed: Managed) -> None:
    """Of what programs fail, nothing is more than it is."""
    rig = managed.rig
    fails = managed.program("fails", "sys.exit(3)")
    managed.define("either", recovery_command=fails)
    done = rig.command("backup", "run", "either", "--json")
    assert (done.returncode, "'recovery command' failed" in done.stderr) == (25, True)
    assert json.loads(done.stdout)["consistency"] == "crash"
    managed.define("either", recovery_command=managed.program("good"), preexec=fails)
    done = rig.command("backup", "run", "either", "--json")
    assert (done.returncode, "'preexec' failed" in done.stderr) == (25, True)
    assert json.loads(done.stdout)["consistency"] == "crash"
    first, second = managed.backups()
    assert [each["consistent"] for each in (first, second)] == [False, False]
    assert "no writers took part" in first["missing"]
    assert "the run of either that took it proved no more" in second["missing"]
    for options in (
        {"consistency": "application", "recovery_command": fails},
        {"preexec": fails, "preexec_close": "yes"},
    ):
        managed.define("strict", **options, postexec=managed.program("post"))
        calls = len(managed.told())
        done = rig.command("backup", "run", "strict")
        assert (done.returncode, "failed" in done.stderr) == (25, True), done
        assert "post" in managed.called()[calls:]
        told = next(each for each in managed.told()[calls:] if each["program"] == "post")
        assert told["RVSS_PRE_FAILED"] == str(int("preexec" in options))
        assert managed.backups() == [first, second]
    assert "'preexec' failed" in managed.reason("strict")
    line = "the last run of the backup strict did not go well: 'preexec' failed"
    done = rig.command("status")
    assert line in done.stdout, done.stdout


_WAIT = "import time; open({!r}, 'w').close(); time.sleep(600)"
_PROGRAMS = {"preexec": "pre", "postexec": "post", "recovery_command": "recover"}


@only("btrfs")
def test_a_run_that_is_cancelled_leaves_nothing(managed: Managed) -> None:
    """While a program runs: by Ctrl-C, and by the end of its command."""
    rig = managed.rig
    own = ["-m", "samba_rvss", "-s", str(rig.samba.configuration), "backup", "run", "cancelled"]
    mark = rig.samba.directory / "waits"
    for option, number, expected in (
        ("preexec", signal.SIGKILL, ["pre", "post"]),
        ("recovery_command", signal.SIGINT, ["pre", "post", "recover"]),
    ):
        waits = {option: [_WAIT.format(str(mark))]}
        commands = {
            key: managed.program(name, *waits.get(key, ())) for key, name in _PROGRAMS.items()
        }
        managed.define("cancelled", **commands, consistency="application")
        calls = len(managed.told())
        with managed.start(*own) as process:
            wait_until("the program waits", mark.exists)
            refused = rig.command("backup", "run", "cancelled")
            assert (refused.returncode, "goes on already" in refused.stderr) == (17, True)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        mark.unlink()
        wait_until("nothing is recorded", lambda: managed.records() == [])
        wait_until("it is told", lambda: "the run was cancelled" in managed.reason("cancelled"))
        assert managed.called()[calls:] == expected
    assert (process.returncode, "the run was cancelled" in said) == (130, True), said


@only("btrfs")
def test_a_process_that_dies_leaves_nothing(managed: Managed) -> None:
    """The command does what is owed; what was being deleted by its client is a backup."""
    commands = {option: managed.program(name) for option, name in _PROGRAMS.items()}
    managed.define("dies", **commands)
    configuration = str(managed.rig.samba.configuration)

    def killed(point: str) -> str:
        with managed.start("-c", _KILLED, configuration, "dies", point) as process:
            _, said = process.communicate(timeout=120)
        assert "the process that ran the backup dies failed" in said
        return said

    for point in ("frozen", "exposed", "recorded"):
        calls = len(managed.told())
        assert "nothing of it is left" in killed(point)
        wait_until("nothing is recorded", lambda: managed.records() == [])
        assert managed.called()[calls:].count("post") == 1
        assert "its process died" in managed.reason("dies")
    assert "its backup is whole" in killed("finishing")
    (backup,) = managed.backups()
    assert backup["consistent"]


def test_another_server_whose_link_is_cut(tmp_path: Path) -> None:
    """Nothing is left there after the server's own timers, and the client says so."""
    options = {"recovery timeout": "9 s", "grace": "6 s"}
    with lane("btrfs", options) as made:
        rig = made.rig
        client = Managed(rig, tmp_path)
        places = ("lock", "state", "cache", "rvss:run", "rvss:state")
        lines = [f"    {name} directory = {tmp_path}/{name[-5:]}\n" for name in places]
        lines.append(f"    private dir = {tmp_path}\n")
        (tmp_path / "smb.conf").write_text("".join(("[global]\n", *lines)))
        words = ["-m", "samba_rvss", "-s", f"{tmp_path}/smb.conf", "backup", "run", "far", "--json"]
        mark, go = tmp_path / "waits", tmp_path / "go"
        waits = (
            f"import time; open({str(mark)!r}, 'w').close()",
            f"while not os.path.exists({str(go)!r}): time.sleep(0.05)",
        )
        there = {
            "server": made.link.address,
            "shares": "vms sql",
            "postexec": client.program("post"),
        }
        client.define("far", **there)
        with client.start(*words, namespace=made.link.namespace) as process:
            out, said = process.communicate(timeout=120)
        assert process.returncode == 0, (said, rig.samba.log(), rig.daemon.log())
        made_there = json.loads(out)
        assert (made_there["id"], made_there["consistency"]) == (None, "crash")
        assert f"up to {made.link.address}" in made_there["keeping"]
        rig.assert_nothing_left()
        client.define("far", **there, recovery_command=client.program("recover", *waits))
        with client.start(*words, namespace=made.link.namespace) as process:
            wait_until("the program waits", mark.exists)
            made.link.cut()
            go.touch()
            _, said = process.communicate(timeout=120)
        assert process.returncode == 23, said
        assert "did not answer RecoveryCompleteShadowCopySet" in said
        assert f"may be left on {made.link.address}" in said
        told = [each for each in client.told() if each["program"] == "recover"]
        assert told[0]["RVSS_PATHS"].startswith(f"\\\\{made.link.address}\\vms@")
        made.link.mend()
        rig.assert_nothing_left()
