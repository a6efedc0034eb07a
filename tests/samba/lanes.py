"""Rigs that serve many tests, one after the other, with a client that can vanish.

A lane is a Samba, a samba-rvss and a file system of its own, a share or more, and a network
namespace behind a link. Lanes can be used side by side, each by one thread: what talks SMB is in
processes of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.run import ToolError
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.netns import LENGTH, Link
from samba_rvss.testing.plugin import require
from samba_rvss.testing.remote import Remote
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.waiting import wait_until
from samba_rvss.testing.zfs import Pool, zfs
from tests.samba.conftest import Rig
from tests.samba.filesystems import OnBtrfs, OnZfs

SHARES = ("vms", "sql", "web")
_SECONDS = 20.0


class Stage(Enum):
    """How far a set has come."""

    STARTED = "started"
    ADDED = "added"
    COMMITTED = "committed"
    EXPOSED = "exposed"
    RECOVERED = "recovered"
    DELETING = "deleting"


@dataclass(kw_only=True)
class Lane:
    """A rig with some shares of one volume, and a client here or behind a link."""

    rig: Rig
    link: Link
    path: Path

    def near(self, undo: ExitStack) -> Remote:
        """Return a client on this machine."""
        who = self.rig.operator
        return undo.enter_context(Remote(self.rig.samba.address, who.logon))

    def far(self, undo: ExitStack) -> Remote:
        """Return a client behind the link."""
        who, link = self.rig.operator, self.link
        return undo.enter_context(Remote(link.address, who.logon, link.namespace))

    def configure(self) -> None:
        """Put the shares into smb.conf."""
        for name in SHARES:
            self.rig.share(name, self.path / name)

    def assert_a_fresh_set_works(self, share: str = SHARES[0], seconds: float = _SECONDS) -> None:
        """Take a set from beginning to end with a client of its own, in a process of its own."""
        with ExitStack() as undo:
            self.rig.assert_a_fresh_set_works(share, client=self.near(undo), seconds=seconds)

    def destroy(self, copy: ShadowCopy) -> None:
        """Destroy an image as an administrator might, who does not know what it is for."""
        fs = self.rig.fs
        if isinstance(fs, OnBtrfs):
            for name in fs.image_parts(copy.id):
                try:
                    fs.delete_subvolume(f".samba-rvss/{name}")
                except ToolError:
                    # What recovery wrote to is cleared away meanwhile.
                    if name in fs.image_parts(copy.id):
                        raise
            return
        assert isinstance(fs, OnZfs)
        self.rig.unmount(copy.path)
        for snapshot in [name for name in fs.pool.names() if name.endswith(f"@rvss-{copy.id}")]:
            for _, tag, *_ in zfs("holds", "-H", snapshot):
                zfs("release", tag, snapshot)
            zfs("destroy", "-R", snapshot)


@contextmanager
def lane(
    kind: str, rvss: Mapping[str, str], samba_options: Mapping[str, str] | None = None
) -> Iterator[Lane]:
    """Make a lane, in which everything runs.

    Args:
        kind: "btrfs" or "zfs".
        rvss: options of samba-rvss, without the prefix.
        samba_options: more options of [global].
    """
    require("root", "smbd", *(["zfs"] if kind == "zfs" else ["btrfs", "loop"]))
    from samba_rvss.testing.users import BackupOperator

    with ExitStack() as undo:
        directory = Path(tempfile.mkdtemp(prefix=f"rvss-test-{os.getpid()}-"))
        undo.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        fs: OnBtrfs | OnZfs
        if kind == "zfs":
            fs = OnZfs(directory, undo.enter_context(Pool(directory)))
        else:
            fs = OnBtrfs(directory, size=1 << 30)
        undo.enter_context(fs)
        link = undo.enter_context(Link())
        interfaces = [f"{link.address}/{LENGTH}"]
        samba = undo.enter_context(PrivateSmbd(options=samba_options, interfaces=interfaces))
        daemon = undo.enter_context(RvssDaemon(samba, options=rvss))
        operator = undo.enter_context(BackupOperator(samba))
        rig = Rig(directory=directory, fs=fs, samba=samba, daemon=daemon, operator=operator)
        made = Lane(rig=rig, link=link, path=rig.volume())
        for name in SHARES:
            (made.path / name).mkdir()
            (made.path / name).chmod(0o777)
            (made.path / name / "data").write_bytes(b"from the source")
            (made.path / name / "data").chmod(0o666)
        made.configure()
        rig.start()
        yield made


class SetDriver:
    """Drives a set with auto-recovery on its way, and brings it into trouble.

    Args:
        made: where.
        client: who.
        shares: what it is to hold.
    """

    def __init__(self, made: Lane, client: Remote, shares: Sequence[str] = SHARES[:1]) -> None:
        self.lane = made
        self.client = client
        self.shares = shares
        self.set = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)

    def start(self) -> None:
        """Begin it."""
        self.set.start()

    def add(self) -> None:
        """Add its shares."""
        self.set.prepare(*self.shares)

    def commit(self) -> None:
        """Commit it, and wait until its copies are open."""
        self.set.commit()
        self._wait_for(Phase.OPEN)

    def commit_in_vain(self) -> None:
        """Let its Commit fail for the second share; the shares before or after it are taken."""
        path = self.lane.path / self.shares[1]
        path.rename(path.with_name("elsewhere"))
        try:
            with pytest.raises(FsrvpError):
                self.set.commit()
        finally:
            path.with_name("elsewhere").rename(path)
        assert Phase.TAKEN in {copy.phase for copy in self.lane.rig.ledger()}

    def expose(self) -> None:
        """Expose it."""
        self.set.expose()

    def expose_in_vain(self) -> None:
        """Let its Expose fail: Samba opens smb.conf as the client's user, who could read it."""
        file = self.lane.rig.samba.configuration
        file.chmod(0o600)
        try:
            with pytest.raises(FsrvpError):
                self.set.expose()
        finally:
            file.chmod(0o644)

    def recover(self) -> None:
        """Say that it is recovered, and wait until its copies are sealed."""
        self.set.complete()
        self._wait_for(Phase.SEALED)

    def delete(self) -> None:
        """Delete its mappings."""
        self.set.delete()

    def delete_in_vain(self, undo: ExitStack) -> None:
        """Delete the first of its mappings, whose image cannot be destroyed until undone."""
        undo.enter_context(self.lane.rig.fs.keep(self.copies()[0].id))
        # Where somebody keeps the image busy, as on ZFS, the copy is gone for Samba all the same.
        with suppress(FsrvpError):
            self.set.delete(self.shares[0])
        assert Phase.DELETING in {copy.phase for copy in self.copies()}

    def abort(self) -> None:
        """Abort it, also where it is too late; Samba may not know it any more."""
        try:
            self.client.abort_shadow_copy_set(self.set.id)
        except FsrvpError as exc:
            if exc.hresult != HResult.E_INVALIDARG or not self.set.mappings:
                raise

    def copies(self) -> list[ShadowCopy]:
        """Return its shadow copies in the ledger."""
        found = [copy for copy in self.lane.rig.ledger() if copy.set_id == str(self.set.id)]
        return sorted(found, key=lambda copy: self.shares.index(copy.share))

    def _wait_for(self, phase: Phase) -> None:
        def reached() -> bool:
            return [copy.phase for copy in self.copies()] == [phase] * len(self.shares)

        wait_until(f"all copies of {self.set.id} {phase.value}", reached, _SECONDS)
