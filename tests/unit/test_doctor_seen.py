"""``samba-rvss doctor``: each thing that it looks at, looked at in real files and processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.cli.doctor import here, observe, tools
from samba_rvss.cli.doctor.bounded import bounded
from samba_rvss.cli.doctor.finding import CHECKS, PROBE
from samba_rvss.cli.doctor.seen import Hook
from samba_rvss.cli.doctor.tools import Place
from samba_rvss.copies.locate import Target
from samba_rvss.copies.room import Space
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.addresses import is_local
from samba_rvss.model import Share, Volume
from samba_rvss.run import environment
from samba_rvss.samba import privileged
from samba_rvss.samba.privileged import Privileged
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.sections import Section
from samba_rvss.samba.server import Server, look
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator, User
from tests.unit.values import CONFIG

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "samba_rvss" / "hook.py"


# the hook


def _hook(program: Path) -> Hook:
    section = Section(
        name="vms",
        path="/srv/vms",
        registry=False,
        share=Share(name="vms", path="/srv/vms"),
        reason="",
        callouts=(f"/usr/bin/python3 -I {program} -S /run/x create",),
    )
    (found,) = here.hooks(replace(CONFIG, sections=(section,)))
    return found


@pytest.mark.require("root")
def test_a_hook_that_users_can_run(reachable: Path) -> None:
    program = reachable / "hook"
    shutil.copy(HOOK, program)
    program.chmod(0o755)
    assert _hook(program) == Hook(path=str(program))
    program.write_bytes(HOOK.read_bytes().replace(b"#!/usr/bin/python3", b"#!/usr/bin/python3.11"))
    assert not _hook(program).other
    with program.open("ab") as file:
        file.write(b"# of another version\n")
    assert _hook(program).other


@pytest.mark.require("root")
def test_a_hook_that_users_cannot_run(reachable: Path) -> None:
    program = reachable / "hook"
    assert _hook(program).reason == "No such file or directory"
    shutil.copy(HOOK, program)
    program.chmod(0o644)
    assert _hook(program).reason == "it is not executable for everybody"
    program.chmod(0o750)
    assert _hook(program).reason == f"not everybody may use {program} (mode 0750)"
    program.chmod(0o777)
    assert _hook(program).reason == f"others than root may write to {program}"
    program.chmod(0o755)
    reachable.chmod(0o700)
    assert _hook(program).reason == f"not everybody may use {reachable} (mode 0700)"


def test_the_hook_s_socket(reachable: Path) -> None:
    config = replace(CONFIG, run_directory=str(reachable))
    path = Path(config.hook_socket)
    assert here.socket_obstacle(config) == ""  # there is none yet
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        assert here.socket_obstacle(config) == ""
        path.chmod(0o600)
        assert here.socket_obstacle(config) == f"not everybody may connect to {path} (mode 0600)"
    path.chmod(0o666)
    reachable.chmod(0o750)
    said = here.socket_obstacle(config)
    assert said == f"not everybody reaches {path}: {reachable} has mode 0750"
    reachable.chmod(0o755)
    path.unlink()
    path.touch()
    assert here.socket_obstacle(config) == f"{path} is no socket"


# shares


@pytest.mark.require("root")
def test_the_top_of_a_btrfs(tmp_path: Path) -> None:
    def is_open(mode: int, uid: int = 0, gid: int = 0, **volume: str) -> bool:
        os.chown(tmp_path, uid, gid)
        tmp_path.chmod(mode)
        facts = {"provider": "btrfs", "id": "5", "directory": "", **volume}
        target = Target(
            share=Share(name="x", path=str(tmp_path)),
            volume=Volume(file_system="fs", name="/", inode=256, **facts),
            space=Space(free=1, size=1),
        )
        return here.is_open_top(str(tmp_path), target)

    assert not is_open(0o755)
    assert not is_open(0o775)  # root's own group
    assert is_open(0o1777)
    assert is_open(0o775, gid=100)
    assert is_open(0o755, uid=1000)
    assert not is_open(0o777, id="256")
    assert not is_open(0o777, directory="vms")
    assert not is_open(0o777, provider="zfs")


# names, users, the machine


def test_whether_an_address_is_here() -> None:
    server = Server(
        netbios_name="LOCALHOST",
        host_name="x",
        realm="",
        is_member=False,
        address="127.0.0.1",
        version="",
    )
    found, is_here = here.addresses(server)
    assert found
    assert is_here
    assert here.addresses(replace(server, netbios_name="192.0.2.1")) == (("192.0.2.1",), False)


def test_the_address_to_try_is_one_of_this_machine(tmp_path: Path) -> None:
    """``interfaces`` may name one that the other node of a failover pair has."""
    file = tmp_path / "smb.conf"

    def address(interfaces: str) -> str:
        lines = ["[global]", "bind interfaces only = yes", f"interfaces = {interfaces}", ""]
        file.write_text("\n".join(lines))
        with closing(SambaProcess()) as samba:
            return samba.call(look, str(file)).address

    assert address("192.0.2.1/24 eth9 127.0.0.7/8") == "127.0.0.7"
    assert address("192.0.2.1/24 2001:db8::1") == "127.0.0.1"
    assert is_local("::1%lo") == os.path.exists("/proc/net/if_inet6")
    assert not is_local("x")


def test_facts_of_this_machine() -> None:
    assert here.kind_of("/proc") == "proc"
    assert here.kind_of("/proc/self") == "proc"
    assert here.closes_mounts()
    assert here.is_clock_kept() in (True, False)
    assert here.confinement(1 << 22) == ""


def test_users_of_this_machine() -> None:
    root = here.user_of("SERVER\\root")
    assert root is not None
    assert (root.name, root.uid, root.logs_on) == ("root", 0, False)
    nobody = here.user_of("nobody")
    assert nobody is not None
    assert not nobody.logs_on
    assert here.user_of("DOM\\nobody-of-that-name") is None
    assert here.is_kept_out(("ann-of-nowhere", "nobody"), nobody) is False
    assert here.is_kept_out(("daemon",), nobody) is True
    assert here.is_kept_out((), nobody) is False


@pytest.mark.require("root", "smbd")
def test_who_may_take_shadow_copies() -> None:
    """As Samba's own databases have it, whether Samba runs or not."""
    with PrivateSmbd() as samba:
        file = str(samba.configuration)
        nobody = Privileged(operators=None, administrators=None, granted=())
        assert privileged.look(file) == nobody
        with BackupOperator(samba) as operator, User(samba) as user:
            samba.net("sam", "rights", "grant", user.name, "SeBackupPrivilege")
            found = privileged.look(file)
            names = [f"RVSSRIG\\{who.name}" for who in (operator, user)]
            assert found == replace(nobody, operators=(names[0],), granted=(names[1],))
            assert found.named == tuple(names)


# processes


@pytest.mark.require("root")
def test_a_program_that_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "rpcd_fsrvp"
    shutil.copy(Path(sys.executable).resolve(), program)
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [program, "-ISEc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = {"rpcd_fsrvp": [process.pid, 1 << 22]}
        (seen,) = observe._programs("rpcd_fsrvp", pids, None, CONFIG)
        assert (seen.pid, seen.replaced, seen.sees_mounts) == (process.pid, False, None)
        assert 0 <= time.time() - seen.started < 3600
        program.unlink()
        (seen,) = observe._programs("rpcd_fsrvp", pids, None, CONFIG)
        assert seen.replaced
        process.kill()


@pytest.mark.require("root")
def test_who_sees_the_daemon_s_mounts(tmp_path: Path) -> None:
    """Whichever of both is in a mount namespace of its own; a slave sees them, and shows none."""
    own = [
        *("unshare", "--mount", "--propagation", "unchanged", "sh", "-c"),
        # As systemd does it for a service with PrivateTmp= and the like.
        'mount --make-rslave / && test "$1" = slave || mount --make-private "$2"; echo; read x',
        "sh",
    ]
    run = str(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "--make-shared", "none", run], check=True)
    try:
        for kind in ("slave", "private"):
            with subprocess.Popen(
                [*own, kind, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                process.stdout.readline()
                other, ours = process.pid, os.getpid()
                assert here.sees_mounts(other, ours, run) is (kind == "slave")
                assert here.sees_mounts(ours, other, run) is False
                assert here.sees_mounts(other, other, run) is True
                process.kill()
    finally:
        subprocess.run(["umount", run], check=True)


def test_nothing_is_waited_for_without_end() -> None:
    over = threading.Event()
    with pytest.raises(RvssError, match="has not ended within") as caught:
        bounded(over.wait, 0.01)
    over.set()
    assert caught.value.problem is Problem.BUSY
    assert bounded(lambda: 5, 60) == 5
    with pytest.raises(RvssError, match="why"):
        bounded(_fail, 60)


def _fail() -> None:
    raise RvssError(Problem.STATE, "why")


# other snapshot tools

VMS = Place(share="vms", path="/srv/vms")
TANK = Place(share="vms", path="/tank/vms", pool="tank")
HARMLESS = {
    "snapper/configs/root": 'SUBVOLUME="/"\n',
    "snapper/configs/beside": "SUBVOLUME=/srv/vms2\n",
    "btrbk/btrbk.conf": (
        "snapshot_create no\nsnapshot_preserve_min all\nvolume /mnt/pool\n"
        "  snapshot_dir .samba-rvss\n  subvolume vms\n    snapshot_name vms-256\n"
        "  subvolume home\n    snapshot_dir snaps\n    snapshot_preserve_min 2d\n"
    ),
    "sanoid/sanoid.conf": (
        "[tank]\nuse_template = all\nrecursive = yes\n"
        "[tank/samba-rvss]\nautosnap = no\nautoprune = no\nrecursive = yes\n"
        "[other]\nrecursive = zfs\n[template_all]\nautosnap = yes\nrecursive = zfs\n"
    ),
    "zrepl/zrepl.yml": (
        'jobs:\n- type: snap\n  filesystems: {\n    "tank<": true,\n'
        '    "tank/samba-rvss<": false,\n  }\n'
    ),
    "cron.hourly/zfs-auto-snapshot": "#!/bin/sh\nexec zfs-auto-snapshot //\n",
}
HARMFUL = {
    "snapper/configs/vms": ('SUBVOLUME="/srv/vms"\n', "snapper keeps its snapshots in /srv/vms/."),
    "snapper/configs/in": ("SUBVOLUME=/srv/vms/deep\n", "inside the share"),
    "btrbk/btrbk.conf": (
        "snapshot_create no\nsnapshot_preserve_min 2d\nsnapshot_dir\t.samba-rvss\nsubvolume vms\n",
        "btrbk prunes the snapshots of vms in .samba-rvss",
    ),
    "btrbk/second.conf": (
        "volume /mnt/pool\n  snapshot_dir .samba-rvss\n  subvolume vms\n",
        "btrbk makes snapshots of its own in .samba-rvss",
    ),
    "btrbk/third.conf": (
        "volume /mnt/pool\n  subvolume .samba-rvss/*\n",
        "btrbk takes snapshots of .samba-rvss/*",
    ),
    "sanoid/sanoid.conf": (
        "[tank]\nuse_template = all\nrecursive = yes\n[tank/samba-rvss]\nautosnap = no\n",
        "sanoid takes snapshots of what is in tank/samba-rvss, by [tank]",
    ),
    "zrepl/zrepl.yml": (
        'filesystems:\n  "tank<": true\n  "tank/samba-rvss": false\n',
        "zrepl takes snapshots of what is in tank/samba-rvss, by 'tank<: true'",
    ),
}


def _configured(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        file = root / "etc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = tools.look(str(root))
    assert len(found) == len(files)
    return [advice.line() for advice in tools.judge(found, [VMS, TANK])]


def test_tools_that_leave_ours_alone(tmp_path: Path) -> None:
    assert _configured(tmp_path, HARMLESS) == []


@pytest.mark.parametrize("name", HARMFUL)
def test_tools_that_touch_ours(tmp_path: Path, name: str) -> None:
    text, said = HARMFUL[name]
    (line,) = _configured(tmp_path, {name: text})
    assert said in line
    assert f"{tmp_path}/etc/{name}" in line


def test_configurations_that_nobody_understands(tmp_path: Path) -> None:
    files = dict.fromkeys(HARMLESS, "\x00[[: {{\nvolume\nsubvolume\n")
    assert _configured(tmp_path, files) == []
    os.mkfifo(tmp_path / "etc" / "snapper" / "configs" / "pipe")  # it is not waited for
    assert len(tools.look(str(tmp_path))) == len(files)


# the whole command


def _doctor(file: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "samba_rvss", "-s", str(file), "doctor", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )


@pytest.mark.require("root", "smbd")
def test_without_samba_and_without_a_daemon(reachable: Path) -> None:
    """It says that both do not run, and tells all that can be told without them."""
    lines = []
    for name in ("lock", "state", "cache", "private", "vms"):
        (reachable / name).mkdir()
        option = "private dir" if name == "private" else f"{name} directory"
        lines.append(f"    {option} = {reachable}/{name}\n" if name != "vms" else "")
    ours = (
        f"    rvss:run directory = {reachable}/run\n    rvss:state directory = {reachable}/rvss\n"
    )
    hook = f"/usr/libexec/samba-rvss/hook -S {reachable}/run/hook.sock"
    file = reachable / "smb.conf"
    file.write_text(
        f"[global]\n{''.join(lines)}{ours}{GLOBAL_EXAMPLE}"
        + share_section("vms", f"{reachable}/missing", hook)
    )
    file.chmod(0o644)
    done = _doctor(file, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["version"], told["worst"]) == (1, 1, "error")
    by_check = {finding["check"]: finding for finding in told["findings"]}
    assert list(by_check) == [name for name in CHECKS if name != PROBE]
    assert by_check["daemon"]["what"] == "the daemon does not run"
    assert by_check["daemon"]["write"] == "start samba-rvss.service"
    assert "no smbd runs" in by_check["smbd"]["what"]
    assert by_check["namespace"]["severity"] == "not told"
    assert by_check["operators"]["what"] == "nobody but root may take shadow copies"
    path = by_check["path"]
    assert (path["severity"], path["share"]) == ("error", "vms")
    assert path["what"] == f"the path {reachable}/missing of [vms] does not exist"
    for name in ("registry", "workers", "readable", "installed", "callouts", "tools", "orphans"):
        assert by_check[name]["severity"] == "good", by_check[name]
    assert sorted(os.listdir(reachable)) == sorted(
        ["cache", "lock", "private", "smb.conf", "state", "vms"]
    )
    done = _doctor(file, "other")
    assert (done.returncode, done.stdout) == (Problem.NOT_FOUND, "")
    assert "there is no share other" in done.stderr
    probed = _doctor(file, "--probe", "--json")
    (finding,) = [f for f in json.loads(probed.stdout)["findings"] if f["check"] == PROBE]
    assert finding["severity"] == "error"
    assert "the daemon does not answer" in finding["what"]


@pytest.mark.require("root", "smbd")
def test_an_smb_conf_that_cannot_be_read(tmp_path: Path) -> None:
    done = _doctor(tmp_path / "none")
    assert done.returncode == 1
    assert "  error    configuration: cannot read" in done.stdout
    assert "checks: smb.conf cannot be read" in done.stdout
    done = _doctor(tmp_path / "none", "--user", "ann")
    assert done.returncode == Problem.USAGE
    assert "a user is for --probe" in done.stderr
    done = _doctor(tmp_path / "none", "--probe", "--user", "ann", "--use-krb5-ccache", "FILE:x")
    assert done.returncode == Problem.USAGE
    assert "several users are named" in done.stderr
