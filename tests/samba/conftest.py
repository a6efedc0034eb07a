"""The rig of the Samba floor: a file system, a Samba, a samba-rvss and a Backup Operator.

What smb.conf says is what the README tells an administrator (samba_rvss.testing.example).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import tdb

from samba_rvss import kernel
from samba_rvss.errors import RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, SetState, ShadowCopy
from samba_rvss.run import environment
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet, take
from samba_rvss.samba.fsrvp.methods import BACKUP
from samba_rvss.samba.parser import EXPOSED
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.plugin import CAPABILITIES, require
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.zfs import Pool
from tests.samba import leftovers
from tests.samba.filesystems import FileSystem, OnBtrfs, OnZfs

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.testing.smbclient import Session
    from samba_rvss.testing.users import BackupOperator, Root

    Account: TypeAlias = BackupOperator | Root

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 60.0  # limits for an emulated machine; nothing waits so long on a real one


@dataclass(kw_only=True)
class Rig:
    """Everything that a test on this floor needs, and what it wants to know afterwards."""

    directory: Path
    fs: FileSystem
    samba: PrivateSmbd
    daemon: RvssDaemon
    operator: "BackupOperator"

    def start(self) -> None:
        """Start Samba and then samba-rvss."""
        self.samba.start()
        self.daemon.start()

    def volume(self, name: str = "vms") -> Path:
        """Make a volume with a file in it, into which every user may write."""
        path = self.fs.volume(name)
        (path / "data").write_bytes(b"from the source\n" * 64)
        (path / "data").chmod(0o666)
        return path

    def share(self, name: str, path: Path | str, options: Mapping[str, str] | None = None) -> None:
        """Add a share, or replace it."""
        self.samba.set_share(name, self.daemon.share(name, path, options))

    def previous_options(self, name: str, path: Path) -> dict[str, str]:
        """Return the options with which a share shows its copies as Previous Versions."""
        return {
            "vfs objects": "shadow_copy2 shell_snap",
            "rvss:previous versions": "yes",
            "shadow:snapdir": str(self.daemon.run_directory / "previous" / name),
            "shadow:mountpoint": str(path),
        }

    # clients

    def client(self, user: "Account | None" = None) -> "Client":
        """Connect to FSRVP, as the operator unless somebody else is named."""
        from samba_rvss.samba.fsrvp.client import Client

        who = user or self.operator
        return Client(self.samba.address, who.logon)

    def session(self, share: str, user: "Account | None" = None) -> "Session":
        """Connect to a share, as the operator unless somebody else is named."""
        from samba_rvss.testing.smbclient import Session

        who = user or self.operator
        return Session(self.samba.address, share, who.logon)

    def expose(self, client: "Client", *shares: str, recovery: bool = True) -> CopySet:
        """Take a shadow copy set and expose it, with auto-recovery unless told not to."""
        return take(client, shares, Context.AUTO_RECOVERY if recovery else BACKUP)

    # samba-rvss

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run ``samba-rvss`` on this instance."""
        return subprocess.run(
            [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment({"PYTHONPATH": str(_ROOT)}),
            timeout=60,
            check=False,
        )

    def copies(self, *words: str) -> list[dict[str, Any]]:
        """Return what ``samba-rvss list --json`` says."""
        done = self.command("list", "--json", *words)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def hook(
        self, *words: str, uid: int = 0, above: Sequence[str] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Run the hook, as some user and below some other program if wanted."""
        own: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
        return subprocess.run(
            [*above, *self.daemon.hook.split(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=60,
            check=False,
            cwd="/",
            **own,
        )

    def ledger(self) -> list[ShadowCopy]:
        """Return the copies that exist, oldest first, without a process for it."""
        path = self.daemon.state_directory / "ledger.db"
        with closing(Ledger(str(path), read_only=True)) as ledger:
            return ledger.copies()

    def wait_for_phase(
        self,
        phase: Phase,
        count: int = 1,
        seconds: float = _SECONDS,
        *,
        state: SetState | None = None,
    ) -> list[ShadowCopy]:
        """Wait until so many copies, and no others, exist and all are in one phase.

        Args:
            phase: which phase.
            count: how many.
            seconds: for how long.
            state: what the ledger is to know of their set, if that matters.
        """
        deadline = time.monotonic() + seconds
        while True:
            copies = self.ledger()
            ready = [copy for copy in copies if copy.phase is phase and state in (None, copy.state)]
            if len(copies) == len(ready) == count:
                return copies
            if time.monotonic() > deadline:
                found = [(copy.id, copy.phase.value) for copy in copies]
                pytest.fail(f"not {count} copies {phase.value} within {seconds:g} s: {found}")
            time.sleep(0.01)

    def wait_for_log(self, text: str, seconds: float = _SECONDS, start: int = 0) -> str:
        """Wait until samba-rvss has logged a line with some text; return the line."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self.daemon.log()[start:].splitlines():
                if text in line:
                    return line
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not logged: {self.daemon.log()[start:][-2000:]}")
            time.sleep(0.02)

    def wait_for_unmounted(self, path: str, seconds: float = _SECONDS) -> None:
        """Wait until nothing is mounted at a path."""
        deadline = time.monotonic() + seconds
        while path in self.mounts():
            if time.monotonic() > deadline:
                pytest.fail(f"{path} is still mounted after {seconds:g} s")
            time.sleep(0.01)

    # what is there

    def image(self, copy: ShadowCopy) -> AbstractContextManager[Path]:
        """Mount a copy's whole image at one more place."""
        return self.fs.mounted_image(copy.id)

    def images(self) -> list[str]:
        """Return the names of all images, found by looking."""
        return self.fs.images()

    def mounts(self) -> list[str]:
        """Return the recovery mounts."""
        prefix = f"{self.daemon.run_directory}/"
        return [m.target for m in kernel.mountinfo() if m.target.startswith(prefix)]

    def mount_directories(self) -> list[str]:
        """Return every directory at which a recovery mount is or was."""
        found: list[Path] = []
        for kind in ("exposed", "previous"):
            found += (self.daemon.run_directory / kind).glob("*/*")
        return [str(path) for path in found]

    def exposed_shares(self) -> list[str]:
        """Return the registry shares of shadow copies."""
        names = self.samba.net("conf", "listshares").splitlines()
        return [name for name in names if EXPOSED.fullmatch(name)]

    def parameters(self, share: str) -> dict[str, str]:
        """Return the parameters of a registry share."""
        lines = self.samba.net("conf", "showshare", share).splitlines()
        pairs = [line.strip().partition(" = ") for line in lines if " = " in line]
        return {key: value for key, _, value in pairs}

    def descriptors(self) -> list[str]:
        """Return the exposed shares that have a security descriptor."""
        path = self.samba.directory / "state" / "share_info.tdb"
        if not path.exists():
            return []
        database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDONLY)
        try:
            keys = [bytes(key).rstrip(b"\0").decode() for key in database]
        finally:
            database.close()
        return [key for key in keys if key.startswith("SECDESC/") and "@{" in key]

    def sets(self) -> int:
        """Return how many sets srv_fss.tdb holds; -1 while it is being written."""
        try:
            state = fss_state.settled(str(self.samba.lock_directory / "srv_fss.tdb"), 1)
        except RvssError:
            return -1
        return len(state.sets)

    def left(self, *, sets: bool = True) -> dict[str, object]:
        """Return what is left of shadow copies, anywhere."""
        found: dict[str, object] = {
            "ledger": [(copy.id, copy.phase.value) for copy in self.ledger()],
            "images": self.images(),
            "mounts": self.mounts(),
            "directories": self.mount_directories(),
            "registry shares": self.exposed_shares(),
            "security descriptors": self.descriptors(),
        }
        if sets:
            found["sets"] = self.sets()
        return {name: value for name, value in found.items() if value}

    def assert_nothing_left(self, seconds: float = _SECONDS, *, sets: bool = True) -> None:
        """Fail unless every trace of every shadow copy has gone, or goes within some time."""
        deadline = time.monotonic() + seconds
        while left := self.left(sets=sets):
            if time.monotonic() > deadline:
                pytest.fail(f"something is left of shadow copies: {left}")
            time.sleep(0.1)


@pytest.fixture(scope="session", autouse=True)
def _session_leaves_nothing() -> Iterator[None]:
    """Fail the last test if the machine is not as it was before the first one."""
    if CAPABILITIES["smbd"]():
        yield
        return
    before = leftovers.everything()
    yield
    if left := leftovers.everything() - before:
        pytest.fail("the session left behind: " + "; ".join(sorted(left)), pytrace=False)


@pytest.fixture(scope="session")
def zfs_pool() -> Iterator[Pool]:
    """A pool for all tests of a session; making one takes longer than most of them."""
    require("root", "zfs")
    with ExitStack() as undo:
        directory = Path(tempfile.mkdtemp(prefix=f"rvss-{os.getpid()}-pool-"))
        undo.callback(shutil.rmtree, directory)
        yield undo.enter_context(Pool(directory))


@pytest.fixture(params=["btrfs", "zfs"])
def file_system(request: pytest.FixtureRequest, rig_directory: Path) -> Iterator[FileSystem]:
    """Each file system that we know, one after the other."""
    if request.param == "zfs":
        with OnZfs(rig_directory, request.getfixturevalue("zfs_pool")) as on_zfs:
            yield on_zfs
    else:
        require("root", "btrfs", "loop")
        with OnBtrfs(rig_directory, size=1 << 30) as on_btrfs:
            yield on_btrfs


@pytest.fixture
def rig(rig_directory: Path, file_system: FileSystem) -> Iterator[Rig]:
    """A rig in which nothing runs yet; `Rig.start` starts it."""
    require("root", "smbd")
    from samba_rvss.testing.users import BackupOperator

    with ExitStack() as stack:
        samba = stack.enter_context(PrivateSmbd())
        daemon = stack.enter_context(RvssDaemon(samba))
        operator = stack.enter_context(BackupOperator(samba))
        rig = Rig(
            directory=rig_directory,
            fs=file_system,
            samba=samba,
            daemon=daemon,
            operator=operator,
        )
        try:
            yield rig
        finally:
            # pytest shows it if the test failed.
            print("samba-rvss:", rig.daemon.log()[-4000:])
            for name in ("rpcd_fsrvp", "smbd"):
                print(f"log.{name}:", samba.log(name)[-2000:])


@pytest.fixture
def second_operator(rig: Rig) -> "Iterator[BackupOperator]":
    """Another Backup Operator of the rig's Samba."""
    from samba_rvss.testing.users import BackupOperator

    with BackupOperator(rig.samba) as operator:
        yield operator


@pytest.fixture
def samba_root(rig: Rig) -> "Root":
    """root, known to the rig's Samba."""
    from samba_rvss.testing.users import Root

    return Root(rig.samba)
