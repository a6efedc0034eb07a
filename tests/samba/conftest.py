"""The rig of the Samba floor: a file system, a Samba, a samba-rvss and a Backup Operator.

What smb.conf says is what the README tells an administrator (samba_rvss.testing.example).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import tdb

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, SambaState, SetState, ShadowCopy
from samba_rvss.run import environment
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet, take
from samba_rvss.samba.fsrvp.methods import BACKUP, Methods
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.samba.parser import EXPOSED
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.leftovers import ASIDE
from samba_rvss.testing.plugin import CAPABILITIES, require
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.waiting import wait_until
from samba_rvss.testing.zfs import Pool
from tests.samba import leftovers
from tests.samba.filesystems import FileSystem, OnBtrfs, OnZfs
from tests.vm import choice

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.testing.domain import Domain
    from samba_rvss.testing.smbclient import Session
    from samba_rvss.testing.users import BackupOperator, Root

    Account: TypeAlias = BackupOperator | Root

ON_MEMBER = "SAMBA_RVSS_ON_MEMBER" in os.environ
"""Whether we are on the file server of a domain, where `test_member` runs what is marked so."""

_ROOT = Path(__file__).resolve().parents[2]
_RECOVERED = b"by the application"
_SECONDS = 60.0  # limits for an emulated machine; nothing waits so long on a real one


@dataclass(kw_only=True)
class Rig:
    """Everything that a test on this floor needs, and what it wants to know afterwards."""

    directory: Path
    fs: FileSystem
    samba: PrivateSmbd
    daemon: RvssDaemon
    operator: "BackupOperator"
    binding: tuple[str, ...] = ()
    """Options of the clients' DCE/RPC binding."""
    others: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """What is there that is not ours, as `traces` returns it."""

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
        return Client(self.samba.address, who.logon, options=self.binding)

    def session(self, share: str, user: "Account | None" = None) -> "Session":
        """Connect to a share, as the operator unless somebody else is named."""
        from samba_rvss.testing.smbclient import Session

        who = user or self.operator
        return Session(self.samba.address, share, who.logon)

    def expose(self, client: Methods, *shares: str, recovery: bool = True) -> CopySet:
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
        found: list[dict[str, Any]] = json.loads(done.stdout)["copies"]
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
        copies: list[ShadowCopy] = []

        def reached() -> bool:
            copies[:] = self.ledger()
            ready = [c for c in copies if c.phase is phase and state in (None, c.state)]
            return len(copies) == len(ready) == count

        wait_until(
            lambda: f"{count} copies {phase.value}: {[(c.id, c.phase.value) for c in copies]}",
            reached,
            seconds,
            pause=0.01,
        )
        return copies

    def wait_for_log(self, text: str, seconds: float = _SECONDS, start: int = 0) -> str:
        """Wait until samba-rvss has logged a line with some text; return the line."""
        return wait_until(
            lambda: f"a line with {text!r} in the log: {self.daemon.log()[start:][-2000:]}",
            lambda: next((s for s in self.daemon.log()[start:].splitlines() if text in s), ""),
            seconds,
        )

    def wait_for_unmounted(self, path: str, seconds: float = _SECONDS) -> None:
        """Wait until nothing is mounted at a path."""
        wait_until(f"nothing is mounted at {path}", lambda: path not in self.mounts(), seconds)

    # what is there

    def image(self, copy: ShadowCopy) -> AbstractContextManager[Path]:
        """Mount a copy's whole image at one more place."""
        return self.fs.mounted_image(copy.id)

    def images(self) -> list[str]:
        """Return the names of all images, found by looking."""
        return self.fs.images()

    def mounts(self) -> list[str]:
        """Return where recovery mounts are, each once, whether they are open or not."""
        prefix = f"{self.daemon.run_directory}/"
        found = dict.fromkeys(mounttable.mount_targets())
        return [target for target in found if target.startswith(prefix)]

    def unmount(self, path: str) -> None:
        """Take away all that is mounted at a path."""
        while os.path.ismount(path):
            mounting.umount(path)

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
        path = self.samba.state_directory / "share_info.tdb"
        if not path.exists():
            return []
        database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDONLY)
        try:
            keys = [bytes(key).rstrip(b"\0").decode() for key in database]
        finally:
            database.close()
        return [key for key in keys if key.startswith("SECDESC/") and "@{" in key]

    def samba_state(self, seconds: float = 5.0) -> SambaState:
        """Return what srv_fss.tdb holds, as soon as Samba does not write it."""
        return fss_state.settled(str(self.samba.lock_directory / "srv_fss.tdb"), seconds)

    def sets(self) -> list[SetState]:
        """Return the states of the sets that srv_fss.tdb holds, sorted."""
        return sorted(each.state for each in self.samba_state().sets)

    def traces(self, *, sets: bool = True) -> dict[str, list[object]]:
        """Return all traces of shadow copies, anywhere, ours and others'.

        Args:
            sets: whether those in srv_fss.tdb count.

        Raises:
            RvssError: srv_fss.tdb cannot be read.
        """
        found = {name: look() for name, look in self._sources(sets=sets).items()}
        return {name: sorted(values, key=str) for name, values in found.items() if values}

    def _sources(self, *, sets: bool) -> dict[str, Callable[[], Sequence[object]]]:
        """Return where traces can be, what costs least to look at first: net(8) is a process."""
        found: dict[str, Callable[[], Sequence[object]]] = {
            "ledger": lambda: [(copy.id, copy.phase.value) for copy in self.ledger()],
            "mounts": self.mounts,
            "directories": self.mount_directories,
            "images": self.images,
            "security descriptors": self.descriptors,
        }
        if sets:
            found["sets"] = lambda: [each.id for each in self.samba_state(1.0).sets]
        return {**found, "registry shares": self.exposed_shares}

    def left(self, *, sets: bool = True) -> dict[str, list[object]]:
        """Return what is left of shadow copies, anywhere, besides what is others'.

        The arguments and errors are those of `traces`.
        """
        ours = {
            name: [value for value in values if value not in self.others.get(name, ())]
            for name, values in self.traces(sets=sets).items()
        }
        return {name: values for name, values in ours.items() if values}

    def note_others(self) -> None:
        """Take all that is there for others', from now on.

        Raises:
            RvssError: srv_fss.tdb cannot be read.
        """
        self.others = self.traces()

    def assert_nothing_left(self, seconds: float = _SECONDS, *, sets: bool = True) -> None:
        """Fail unless every trace of every shadow copy has gone, or goes within some time."""

        def gone() -> bool:
            try:
                return not any(
                    value not in self.others.get(name, ())
                    for name, look in self._sources(sets=sets).items()
                    for value in look()
                )
            except (OSError, RvssError):  # Samba is making or writing a database just now
                return False

        def said() -> str:
            return f"nothing is left of shadow copies: {self.left(sets=sets)}"

        wait_until(said, gone, seconds, pause=0.1)

    def assert_a_fresh_set_works(
        self,
        *shares: str,
        user: "Account | None" = None,
        client: Methods | None = None,
        unblock: Callable[[], object] | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        """Take a set from beginning to end; fail if anything is refused, or is not as it should be.

        Args:
            shares: whose copies; "vms" if none is named.
            user: who, if not the operator.
            client: the user's connection, if there is one that is to be used. As it is in a
                process of its own then, nothing is written to the copies, which would be done from
                here: it is enough that they are open.
            unblock: called if Samba refuses because of a set that somebody has begun and left;
                then it is tried once more.
            seconds: how long it may take until its copies are in the phase that is due.
        """
        with ExitStack() as undo:
            connected = client or undo.enter_context(self.client(user))
            try:
                taken = self.expose(connected, *(shares or ("vms",)))
            except FsrvpError as exc:
                if exc.hresult != HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS or not unblock:
                    raise
                undo.close()
                unblock()
                self.assert_a_fresh_set_works(*shares, user=user, seconds=seconds)
                return

            def copies() -> list[Phase]:
                return [c.phase for c in self.ledger() if c.set_id == str(taken.id)]

            def wait_for(phase: Phase) -> None:
                wanted = [phase] * len(taken.copies)
                wait_until(
                    lambda: f"the fresh set is {phase.value}: {copies()}",
                    lambda: copies() == wanted,
                    seconds,
                )

            if client is None:
                written = {name: self._recover(name, user) for name in taken.exposed_shares}
            else:
                written = {}
                wait_for(Phase.OPEN)
            taken.complete()
            wait_for(Phase.SEALED)
            for exposed, names in written.items():
                self._assert_sealed(exposed, names, user)
            taken.delete()
            # Samba is answered as soon as clients see it no more.
            wait_until(lambda: f"the fresh set is gone: {copies()}", lambda: not copies(), seconds)

    def _recover(self, exposed: str, user: "Account | None") -> list[str]:
        """Write a new file, and over `data` where that is; return their names."""
        with self.session(exposed, user) as session:
            names = ["recovered", *(name for name in session.list() if name == "data")]
            for name in names:
                session.write(name, _RECOVERED)
        return names

    def _assert_sealed(self, exposed: str, names: list[str], user: "Account | None") -> None:
        """Fail unless what was written is there, and neither it nor a new file can be written."""
        from samba_rvss.testing.smbclient import SmbError

        with self.session(exposed, user) as session:
            for name in names:
                assert session.read(name) == _RECOVERED, name
            for name in (*names, "late"):
                with pytest.raises(SmbError):
                    session.write(name, b"")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``member``."""
    config.addinivalue_line(
        "markers",
        "member(PARAMETER=VALUE, ...): runs on a domain's file server as well, signed and sealed;"
        " with parameters, of which `binding` is one, only in these forms",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On a member, have each test once for each binding."""
    if ON_MEMBER and "binding" in metafunc.fixturenames:
        metafunc.parametrize("binding", ["sign", "seal"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a member, leave out what is not marked for it."""
    if ON_MEMBER:
        items[:] = [
            item
            for item in items
            if any(choice.fits(mark, item) for mark in item.iter_markers("member"))
        ]


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


@pytest.fixture(scope="session")
def domain() -> "Iterator[Domain]":
    """A domain for all tests of a session; who changes it puts it back."""
    require("root", "domain")
    from samba_rvss.testing.domain import Domain

    with Domain() as made:
        for host in (made.dc, made.files, made.hv1):
            ASIDE.update(host.processes)
        yield made


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
def private_samba(file_system: FileSystem) -> Iterator[PrivateSmbd]:
    """The rig's Samba; it lets go of the file system before that goes."""
    require("root", "smbd")
    with _samba() as samba:
        yield samba


@pytest.fixture
def binding(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options of the clients' DCE/RPC binding; a member's are asked for in each way."""
    return (request.param,) if hasattr(request, "param") else ()


@pytest.fixture
def rig(
    rig_directory: Path,
    file_system: FileSystem,
    private_samba: PrivateSmbd,
    binding: tuple[str, ...],
) -> Iterator[Rig]:
    """A rig in which nothing runs yet; `Rig.start` starts it."""
    with ExitStack() as stack:
        samba = private_samba
        daemon = stack.enter_context(_daemon(samba))
        operator = stack.enter_context(_operator(samba, 0))
        rig = Rig(
            directory=rig_directory,
            fs=file_system,
            samba=samba,
            daemon=daemon,
            operator=operator,
            binding=binding,
        )
        try:
            yield rig
        finally:
            # pytest shows it if the test failed.
            print("samba-rvss:", rig.daemon.log()[-4000:])
            for name in ("rpcd_fsrvp", "smbd"):
                print(f"log.{name}:", samba.log(name)[-2000:])


def _samba() -> PrivateSmbd:
    if not ON_MEMBER:
        return PrivateSmbd()
    from samba_rvss.testing.member import MemberSmbd

    return MemberSmbd()


def _daemon(samba: PrivateSmbd) -> RvssDaemon:
    if not ON_MEMBER:
        return RvssDaemon(samba)
    from samba_rvss.testing.member import MemberDaemon

    return MemberDaemon(samba)


def _operator(samba: PrivateSmbd, number: int) -> "BackupOperator":
    """Return a Backup Operator; a domain has two that are made already."""
    if not ON_MEMBER:
        from samba_rvss.testing.users import BackupOperator

        return BackupOperator(samba)
    from samba_rvss.testing.domain import HV1, SERVICE
    from samba_rvss.testing.member import DomainOperator

    return DomainOperator(samba, (HV1, SERVICE)[number])


@pytest.fixture
def second_operator(rig: Rig) -> "Iterator[BackupOperator]":
    """Another Backup Operator of the rig's Samba."""
    with _operator(rig.samba, 1) as operator:
        yield operator


@pytest.fixture
def samba_root(rig: Rig) -> "Root":
    """root, known to the rig's Samba."""
    from samba_rvss.testing.users import Root

    return Root(rig.samba)
