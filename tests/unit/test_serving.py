"""Whether Samba can serve Remote VSS: what is installed and what runs, and what `status` says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.kernel import files
from samba_rvss.ledger import Ledger
from samba_rvss.model import Nested, Phase, Share
from samba_rvss.run import environment
from samba_rvss.samba import serving
from samba_rvss.samba.conf import Config
from samba_rvss.samba.sections import Section
from samba_rvss.samba.serving import Places
from tests.unit.values import CONFIG, copy_of

ROOT = Path(__file__).resolve().parents[2]
PLACES = Places(modules="/lib/samba", programs="/libexec/samba")


def config_of(**objects: tuple[str, ...]) -> Config:
    """Return a configuration that has these shares, with these ``vfs objects``."""
    sections = (
        Section(
            name=name,
            path=f"/srv/{name}",
            registry=False,
            share=Share(name=name, path=f"/srv/{name}", nested=Nested.REFUSE, vfs_objects=modules),
            reason="",
        )
        for name, modules in objects.items()
    )
    return replace(CONFIG, sections=tuple(sections))


# what is installed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with a Samba that has everything; its modules are behind a link."""
    (tmp_path / "libexec/samba").mkdir(parents=True)
    for name in ("samba-dcerpcd", "rpcd_fsrvp"):
        (tmp_path / "libexec/samba" / name).touch()
    (tmp_path / "usr/lib/samba/vfs").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("/usr/lib")
    for name in ("shell_snap", "acl_xattr"):
        (tmp_path / f"usr/lib/samba/vfs/{name}.so").touch()
    return tmp_path


def missing(root: Path, config: Config, *, elsewhere: bool = False) -> list[str]:
    with files.opened(os.open(root, os.O_PATH)) as fd:
        found = serving.missing(config, PLACES, fd, elsewhere=elsewhere)
        return [advice.line() for advice in found]


def test_everything_is_installed(root: Path) -> None:
    config = config_of(vms=("shell_snap", "acl_xattr:x"), sql=("/lib/samba/vfs/shell_snap.so",))
    assert missing(root, config) == missing(root, config, elsewhere=True) == []


def test_what_is_not_installed(root: Path) -> None:
    (root / "libexec/samba/rpcd_fsrvp").unlink()
    shutil.rmtree(root / "usr/lib/samba/vfs")
    config = config_of(vms=("acl_xattr", "shell_snap"), sql=("shell_snap",))
    for elsewhere in (False, True):
        program, acl, snap = missing(root, config, elsewhere=elsewhere)
        assert "rpcd_fsrvp is not installed (/libexec/samba/rpcd_fsrvp)" in program
        assert "samba-common-bin" in program
        assert "module acl_xattr is not installed (/lib/samba/vfs/acl_xattr.so)" in acl
        assert "has it: [vms]; install it" in acl
        assert "module shell_snap" in snap
        assert "[vms], [sql]; install it (on Debian, samba, or samba-vfs-modules" in snap


def test_a_samba_of_another_root_may_look_elsewhere(tmp_path: Path) -> None:
    config = config_of(vms=("shell_snap",))
    assert missing(tmp_path, config, elsewhere=True) == []
    assert len(missing(tmp_path, config)) == 3


@pytest.mark.require("smbd")
def test_a_module_that_is_part_of_smbd_is_there(root: Path) -> None:
    assert missing(root, config_of(vms=("posixacl", "shell_snap"))) == []


@pytest.mark.require("smbd")
@pytest.mark.vm(seconds=0.5)  # Samba 4.22
def test_where_this_samba_looks() -> None:
    where = serving.places()
    assert Path(where.programs, "rpcd_fsrvp").exists()
    assert Path(where.modules, "vfs", "shell_snap.so").exists()


# what runs

_SAMBA = "import sys; print(flush=True); sys.stdin.read()"


class Running:
    """Programs that have the names of a Samba's, and lock files where it has them."""

    def __init__(self, directory: Path, undo: ExitStack) -> None:
        self._directory = directory
        self._undo = undo
        (directory / "msg.lock").mkdir()
        self.config = replace(CONFIG, samba_lock_directory=str(directory))

    def start(self, name: str) -> int:
        program = self._directory / name
        if not program.exists():
            shutil.copy(Path(sys.executable).resolve(), program)
        process = self._undo.enter_context(
            subprocess.Popen(
                [program, "-ISEc", _SAMBA], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        self._undo.callback(process.kill)
        assert process.stdout is not None
        process.stdout.readline()
        (self._directory / "msg.lock" / str(process.pid)).touch()
        return process.pid


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with ExitStack() as undo:
        yield Running(tmp_path, undo)


@pytest.mark.require("root", "smbd")
def test_more_than_one_worker(running: Running) -> None:
    first = running.start("rpcd_fsrvp")
    assert list(serving.obstacles(running.config)) == []
    second = running.start("rpcd_fsrvp")
    (said,) = serving.obstacles(running.config)
    assert said.startswith(
        f"2 rpcd_fsrvp of this Samba run ({first}, {second}): each knows its own"
    )
    assert "set 'rpcd_fsrvp:num_workers = 1' in [global], and start Samba anew" in said
    # Of another Samba.
    (Path(running.config.samba_lock_directory) / "msg.lock" / str(second)).unlink()
    assert list(serving.obstacles(running.config)) == []


@pytest.mark.require("root", "smbd")
def test_nothing_starts_the_workers(running: Running) -> None:
    config = replace(running.config, helpers_on_demand=False)
    (said,) = serving.obstacles(config)
    assert "samba-dcerpcd does not run: nobody serves Remote VSS; start samba-dcerpcd" in said
    running.start("samba-dcerpcd")
    assert list(serving.obstacles(config)) == []


@pytest.mark.require("root", "smbd")
def test_a_worker_that_cannot_be_looked_at(running: Running) -> None:
    """It is not taken for one that is not there: its sets are in its memory."""
    pid = running.start("rpcd_fsrvp")
    program = (
        "import sys; from samba_rvss.samba import control;"
        " from samba_rvss.errors import RvssError\n"
        "try: control.worker_pids(sys.argv[1])\n"
        "except RvssError as exc: print(exc.line())"
    )
    done = subprocess.run(
        [
            *("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"),
            *(sys.executable, "-c", program, running.config.samba_lock_directory),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )
    assert f"whether process {pid} is rpcd_fsrvp of this Samba cannot be told" in done.stdout
    assert "CAP_SYS_PTRACE" in done.stdout


# status

_CONF = """\
[global]
    lock directory = {0}/lock
    state directory = {0}/state
    cache directory = {0}/cache
    private dir = {0}/private
    rvss:run directory = {0}/run
    rvss:state directory = {0}/rvss
    registry shares = yes
    include = registry
    rpcd_fsrvp:num_workers = 01
    rpcd_fsrvp:idle_seconds = 10
    server role = active directory domain controller
    vfs objects = shell_snap
    shell_snap:check path command = {hook} check
    shell_snap:create command = {hook} create
    shell_snap:delete command = {hook} delete
[print$]
    path = {0}/printers
[homes]
    browseable = no
[data]
    path = {0}/data
[vms]
    path = {0}/vms
    rvss:nested = include
"""


@pytest.mark.require("root", "smbd")
def test_status_without_a_daemon(reachable: Path) -> None:
    """What Samba lacks is said; who only inherits the hook is wrong if there are copies of it."""
    for name in ("lock", "state", "cache", "private", "run", "rvss"):
        (reachable / name).mkdir()
    hook = f"/usr/libexec/samba-rvss/hook -S {reachable}/run/hook.sock"
    (reachable / "smb.conf").write_text(_CONF.format(reachable, hook=hook))
    copy = replace(copy_of("20261122T100000Z-0000aaaa", Phase.SEALED), share="data")
    with closing(Ledger(f"{reachable}/rvss/ledger.db")) as ledger:
        ledger.add(copy, "create")
    where = serving.places()
    hide = f"mount -t tmpfs none {where.modules}/vfs && mount -t tmpfs none {where.programs}"
    command = [sys.executable, "-m", "samba_rvss", "-s", str(reachable / "smb.conf"), "status"]

    def status(*words: str) -> str:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f'{hide} && exec "$@"', "sh", *command, *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment({"PYTHONPATH": str(ROOT)}),
        )
        assert done.returncode == 1, done.stderr
        return done.stdout

    told = json.loads(status("--json"))
    daemon, left, data, vms, role, host, worker, module = told["wrong"]
    assert daemon == "the daemon does not run: start samba-rvss.service"
    assert left.startswith(f"{copy.id}: its file system is not there")
    assert data == f"[data]: the path {reachable}/data of [data] does not exist"
    assert vms == f"[vms]: the path {reachable}/vms of [vms] does not exist"
    assert "domain controller, and there Samba offers no Remote VSS: have a member server" in role
    assert "samba-dcerpcd is not installed" in host
    assert "rpcd_fsrvp is not installed" in worker
    assert "shell_snap is not installed" in module
    assert list(told["shares"]["unsupported"]) == ["data", "vms"]
    assert told["shares"]["inheriting"] == ["print$"]
    shown = status()
    assert shown.startswith("NOT HEALTHY: 8 wrong\n")
    assert all(f"  {line}\n" in shown for line in told["wrong"])
    assert "3 ours, 2 unsupported, 1 without copies as they only inherit the hook" in shown
