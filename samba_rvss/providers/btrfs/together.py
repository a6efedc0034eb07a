"""Snapshots that are of one instant: they meet in one transaction of their file system.

A snapshot is made while its transaction is committed, when nobody can write
(fs/btrfs/transaction.c, create_pending_snapshots()). Of callers side by side, the first begins to
commit at once and alone; the others join the next transaction, which is not committed before the
first one is on the disk. So throw-away snapshots begin, and what is wanted follows while they are
being written. With one alone, every fifth set on busy processors did not meet: its thread had not
begun yet; with four, none of sixty. Where one was late all the same, its ``transid`` tells, and all
are taken again.

Each snapshot needs room for metadata until its transaction is committed: of nodes of 16 KiB, some
1.5 MiB as seen. Who finds none waits for a commit to make room, and misses the others' transaction
(fs/btrfs/space-info.c, handle_reserve_ticket()), however often it is tried: so there is nothing
more under way than there must be, and no more is tried than applications can wait for.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Semaphore

from samba_rvss.errors import RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.priority import hurry
from samba_rvss.providers.btrfs import ioctl, subvolumes
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume

_logger = logging.getLogger(__name__)

_STARTERS = 4  # throw-away snapshots; each has blocks of its own to be written
_TRIES = 4
# Seconds for all of them: VSS has applications stand still for ten at most, and Samba has yet to
# ask for each copy.
_LONGEST = 5.0
_MOST = 256  # snapshots that are taken at one instant
_HEAD_START = 0.0003  # seconds; a commit takes some milliseconds
_SOURCE, _THROWN_AWAY = "source", "snapshot"


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
        deadline: time (`time.monotonic`) by which they are needed. No try begins that would end
            later than half way to it, or 5 s from now, if it took as long as the one before.

    Returns:
        The number of the transaction in which all were made that could be; 0 if it is not one.
    """
    if len(wanted) == 1:
        _make(home, wanted[0])
        return _instant(wanted)
    try:
        if len(wanted) <= _MOST:
            return _met(home, wanted, place, deadline)
        with ThreadPoolExecutor(_MOST, "snapshot") as threads:
            list(threads.map(partial(_make, home), wanted))
    except RuntimeError as exc:  # no more threads are to be had
        _logger.warning("snapshots are not taken at one instant: %s", exc)
        for each in wanted:
            if each.made is None and each.failure is None:
                _make(home, each)
    return _instant(wanted)


def _met(home: Home, wanted: Sequence[Snapshot], place: str, deadline: float) -> int:
    """Take several snapshots again and again, until all have met; see `take`.

    Raises:
        RuntimeError: not all threads could be started.
    """
    began = time.monotonic()
    last = min((began + deadline) / 2, began + _LONGEST)
    with (
        ThreadPoolExecutor(len(wanted) + _STARTERS + 1, "snapshot", hurry) as threads,
        _starters(home, place) as source,
    ):
        for number in range(1, _TRIES + 1):
            tried = time.monotonic()
            # Not in this thread, which does not hurry.
            threads.submit(_together, threads, home, wanted, source).result()
            instant = _instant(wanted)
            hopeless = all(each.made is None for each in wanted)
            ended = time.monotonic()
            if instant or hopeless or number == _TRIES or ended + (ended - tried) > last:
                return instant
            found = [each.made.transid if each.made else 0 for each in wanted]
            _logger.info("snapshots did not meet at try %d, but in transactions %s", number, found)
            for each in wanted:
                if each.made is not None:
                    home.delete(each.name)
                    each.made = None
    raise AssertionError(wanted)


def _together(
    threads: ThreadPoolExecutor, home: Home, wanted: Sequence[Snapshot], starters: str
) -> None:
    """Take snapshots right after others have begun, so that all can join the next transaction.

    Args:
        threads: enough for all of them.
        home: where.
        wanted: which.
        starters: the name of the directory for the others, below the home; empty if there is none.
    """
    ready, begin, go = Semaphore(0), Event(), Event()
    starts = partial(_start, home, starters, ready=ready.release, go=begin.wait)
    makes = partial(_make, home, ready=ready.release, go=go.wait)
    try:
        under_way = [threads.submit(starts, n) for n in range(_STARTERS if starters else 0)]
        under_way += [threads.submit(makes, each) for each in wanted]
        for _ in under_way:
            ready.acquire()
        begin.set()
        time.sleep(_HEAD_START)
    finally:  # nobody waits for what does not come
        begin.set()
        go.set()
    wait(under_way)


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
def _starters(home: Home, place: str) -> Iterator[str]:
    """Give the name of a directory for throw-away snapshots to a block; empty if it has no room.

    Before Linux 6.5, making the empty subvolume that they are of commits a transaction too.
    """
    made = ""
    try:
        with suppress(OSError):
            os.mkdir(place, 0o700, dir_fd=home.fd)
            with _directory(home, place) as fd:
                ioctl.create_subvolume(fd, _SOURCE)
            made = place
        yield made
    finally:
        with suppress(OSError, RvssError):  # it goes with the mark
            clear(home, place)


def _start(
    home: Home,
    place: str,
    number: int,
    *,
    ready: Callable[[], object],
    go: Callable[[], object],
) -> None:
    """Take a throw-away snapshot, as `_make`; what was taken before under its number goes."""
    holder = f"{place}/{number}"
    with suppress(OSError, RvssError), ExitStack() as stack:
        try:
            with suppress(FileExistsError):
                os.mkdir(holder, 0o700, dir_fd=home.fd)
            source = stack.enter_context(_directory(home, f"{place}/{_SOURCE}"))
            parent = stack.enter_context(_directory(home, holder))
            home.delete(f"{holder}/{_THROWN_AWAY}")
        finally:
            ready()
        go()
        ioctl.snapshot(source, parent, _THROWN_AWAY, read_only=False)


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
                home.delete(f"{place}/{name}/{_THROWN_AWAY}")
                os.rmdir(name, dir_fd=fd)
        os.rmdir(place, dir_fd=home.fd)


def _directory(home: Home, name: str) -> AbstractContextManager[int]:
    return files.opened(os.open(name, files.DIRECTORY, dir_fd=home.fd))
