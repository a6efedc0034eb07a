"""Snapshots that are of one instant: they meet in one transaction of their file system.

A snapshot is made while its transaction is committed, when nobody can write
(fs/btrfs/transaction.c, create_pending_snapshots()). Of callers side by side, the first begins to
commit at once and alone; the others join the next transaction, which is not committed before the
first one is on the disk. So throw-away snapshots begin, and what is wanted follows while they are
being written. Several of them take longer to be written than one, which leaves time for many to
join. Where one was late all the same, its ``transid`` tells, and all are taken again.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Semaphore

from samba_rvss.errors import RvssError
from samba_rvss.kernel import files
from samba_rvss.providers.btrfs import ioctl, subvolumes
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume

_STARTERS = 4
_HEAD_START = 0.0003  # seconds; a commit takes some milliseconds
_TRIES = 4
_SOURCE = "source"


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A writable snapshot that is wanted.

    Attributes:
        tree: the id of the subvolume that it is to be of.
        name: where it is to be made, below the home; in a directory that no other is made in.
        made: what was made; None if that failed.
        failure: why it failed, if it did.
    """

    tree: int
    name: str
    made: Subvolume | None = None
    failure: OSError | None = None


def take(home: Home, wanted: Sequence[Snapshot], place: str, deadline: float) -> int:
    """Take snapshots, durable on return, and all at one instant if that can be had in time.

    A snapshot keeps others from changing anything in its directory until its transaction is
    committed (fs/btrfs/ioctl.c, btrfs_mksubvol()): two in one directory wait for each other.

    Args:
        home: where.
        wanted: which; what becomes of each is noted in it.
        place: the name of a directory, below the home, for what is thrown away.
        deadline: time (`time.monotonic`) by which they are needed; half way to it, what there is
            has to do.

    Returns:
        The number of the transaction in which all were made that could be; 0 if it is not one.
    """
    if len(wanted) == 1:
        _make(home, wanted[0])
        return _instant(wanted)
    last = (time.monotonic() + deadline) / 2
    with (
        ThreadPoolExecutor(len(wanted) + _STARTERS, "snapshot") as threads,
        _starters(home, place) as starters,
    ):
        for number in range(_TRIES):
            ready, go = Semaphore(0), Event()
            makes = partial(_make, home, ready=ready.release, go=go.wait)
            making = [threads.submit(makes, each) for each in wanted]
            for _ in wanted:
                ready.acquire()
            for starter in starters:
                threads.submit(_start, home, starter, number)
            time.sleep(_HEAD_START)
            go.set()
            for done in making:
                done.result()
            instant = _instant(wanted)
            if instant or number == _TRIES - 1 or time.monotonic() > last:
                return instant
            for each in wanted:
                if each.made is not None:
                    home.delete(each.name)
    raise AssertionError(wanted)


def _instant(taken: Sequence[Snapshot]) -> int:
    found = {each.made.transid for each in taken if each.made is not None}
    return found.pop() if len(found) == 1 else 0


def _make(
    home: Home,
    wanted: Snapshot,
    *,
    ready: Callable[[], object] = lambda: None,
    go: Callable[[], object] = lambda: None,
) -> None:
    """Take a snapshot, and note what became of it.

    Args:
        home: where.
        wanted: which.
        ready: is called when nothing is left to be done before.
        go: waits until it is to be taken.
    """
    holder, _, leaf = wanted.name.rpartition("/")
    wanted.made = wanted.failure = None
    try:
        with ExitStack() as stack:
            try:
                source = stack.enter_context(files.opened(subvolumes.opened(home.top, wanted.tree)))
                parent = stack.enter_context(_directory(home, holder))
            finally:
                ready()
            go()
            ioctl.snapshot(source, parent, leaf, read_only=False)
        wanted.made = home.subvolume(wanted.name)
        if wanted.made is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), wanted.name)
    except OSError as exc:
        wanted.failure = exc


@contextmanager
def _starters(home: Home, place: str) -> Iterator[list[str]]:
    """Give the names of directories for throw-away snapshots to a block; none if there is no room.

    Before Linux 6.5, making the empty subvolume that they are of commits a transaction too.
    """
    names: list[str] = []
    try:
        with suppress(OSError):
            os.mkdir(place, 0o700, dir_fd=home.fd)
            with _directory(home, place) as fd:
                ioctl.create_subvolume(fd, _SOURCE)
                for number in range(_STARTERS):
                    os.mkdir(str(number), 0o700, dir_fd=fd)
                    names.append(f"{place}/{number}")
        yield names
    finally:
        with suppress(OSError, RvssError):  # it goes with the mark
            clear(home, place)


def _start(home: Home, holder: str, number: int) -> None:
    place = holder.rpartition("/")[0]
    with (
        suppress(OSError),
        _directory(home, f"{place}/{_SOURCE}") as source,
        _directory(home, holder) as parent,
    ):
        ioctl.snapshot(source, parent, str(number), read_only=False)


def clear(home: Home, place: str) -> None:
    """Remove what was made to be thrown away. Gone already is success.

    Args:
        home: where.
        place: the name of the directory that it is in, below the home.

    Raises:
        RvssError: BUSY.
        OSError: if btrfs refuses.
    """
    with suppress(FileNotFoundError):
        home.delete(f"{place}/{_SOURCE}")
        with _directory(home, place) as fd:
            for name in os.listdir(fd):
                with _directory(home, f"{place}/{name}") as inner:
                    for leaf in os.listdir(inner):
                        home.delete(f"{place}/{name}/{leaf}")
                os.rmdir(name, dir_fd=fd)
        os.rmdir(place, dir_fd=home.fd)


def _directory(home: Home, name: str) -> AbstractContextManager[int]:
    return files.opened(os.open(name, files.DIRECTORY, dir_fd=home.fd))
