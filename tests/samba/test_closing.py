"""At RecoveryComplete a copy is closed first, before anything that could fail or wait.

Each trouble is one in which it cannot be sealed: it is closed all the same, `status` is not well,
and once the trouble is over it is sealed.
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import mounttable
from samba_rvss.model import Phase
from samba_rvss.run import run
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import full, only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_SECONDS = 60.0
_LOOKS = 20


def _is_writable(path: str) -> bool:
    """Return whether the topmost mount at a path is writable."""
    found = [mount for mount in mounttable.mountinfo() if mount.target == path]
    return bool(found) and "rw" in found[-1].options


@contextmanager
def _full_state_directory(rig: "Rig") -> Iterator[None]:
    """The ledger cannot be written."""
    filler = rig.daemon.state_directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _no_descriptors(rig: "Rig") -> Iterator[None]:
    """The daemon can open nothing any more."""
    pid = rig.daemon.pid
    free: list[int] = []

    def at_rest() -> bool:
        """Return whether nothing is under way that will close some, and leave room by that."""
        used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        free.append(next(number for number in range(len(used) + 1) if number not in used))
        return free[-1] == min(free) and len(free) > _LOOKS and len(set(free[-_LOOKS:])) == 1

    wait_until("the daemon is at rest", at_rest, pause=0.1)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[-1], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def own_state(rig: "Rig") -> Iterator[None]:
    """Put the state directory on a small file system of its own."""
    directory = rig.daemon.state_directory
    directory.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", str(directory)], timeout=10)
    yield
    rig.daemon.stop()
    run(["umount", str(directory)], timeout=10)


@pytest.mark.parametrize("trouble", [_full_state_directory, _no_descriptors])
@pytest.mark.usefixtures("own_state")
def test_closed_without_ledger_or_descriptors(
    rig: "Rig", trouble: "Callable[[Rig], AbstractContextManager[None]]"
) -> None:
    _complete_in(rig, trouble)


@only("btrfs")
def test_closed_on_a_full_file_system(rig: "Rig") -> None:
    _complete_in(rig, lambda rig: full(rig.fs.path))


def _complete_in(rig: "Rig", trouble: "Callable[[Rig], AbstractContextManager[None]]") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        assert _is_writable(copy.path)
        file = Path(copy.path) / "data"
        file.write_bytes(b"recovered")
        with trouble(rig):
            taken.complete()
            wait_until(f"{copy.path} is closed", lambda: not _is_writable(copy.path), _SECONDS)
            with pytest.raises(OSError, match="Read-only file system"):
                file.open("r+b")
            wait_until("status is not well", lambda: rig.command("status").returncode == 1)
            assert rig.ledger()[0].phase is not Phase.SEALED
        rig.wait_for_phase(Phase.SEALED, seconds=_SECONDS)
        wait_until("status is well", lambda: rig.command("status").returncode == 0)
        assert file.read_bytes() == b"recovered"
        taken.delete()
    rig.assert_nothing_left()


@only("btrfs")
def test_home_that_was_opened_to_all(rig: "Rig") -> None:
    """As by ``chmod -R`` and ``chown -R`` over all of the file system: it is closed again."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        rig.wait_for_phase(Phase.OPEN)
        home = rig.fs.path / ".samba-rvss"
        home.chmod(0o777)
        os.chown(home, rig.operator.uid, rig.operator.uid)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        status = home.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o700, 0, 0)
        taken.delete()
    rig.assert_nothing_left()


@only("btrfs")
def test_never_writable_again_when_its_file_system_is(rig: "Rig") -> None:
    """A file system that was read-only in between: nobody writes when it is writable again."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        file = Path(copy.path) / "data"
        file.write_bytes(b"recovered")
        with rig.fs.read_only():
            taken.complete()
            wait_until(f"{copy.path} is closed", lambda: not _is_writable(copy.path), _SECONDS)
            rig.wait_for_log("is not sealed")
        while rig.ledger()[0].phase is not Phase.SEALED:
            with pytest.raises(OSError, match="Read-only file system"):
                file.open("r+b")
        assert file.read_bytes() == b"recovered"
        taken.delete()
    rig.assert_nothing_left()
