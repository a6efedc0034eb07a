"""How many commands of a kind look at file systems at once: what hangs is not begun without end.

A look at a disk that stands still keeps its process in the kernel, though nobody waits for that
(`apart`). A monitoring system would begin another each minute. So each look has a locked file in
the run directory for as long as its process lives.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from samba_rvss import output
from samba_rvss.errors import Problem, RvssError

_MODE = 0o600
_PAUSE = 0.1


@contextmanager
def limited(
    directory: str, kind: str, most: int, *, seconds: float = 0.0, for_good: bool = False
) -> Iterator[None]:
    """Look in the block, if not too many looks are under way.

    Args:
        directory: the instance's run directory. Where nothing can be written there, nothing is
            limited: that is the daemon's to tell.
        kind: what the looks are for, a word.
        most: how many there may be at once.
        seconds: how long to wait for others to end.
        for_good: whether this one is under way until the process has ended, not only the block.

    Raises:
        RvssError: BUSY.
    """
    held = _await(directory, kind, most, time.monotonic() + seconds)
    try:
        yield
    finally:
        if not for_good and held is not None:
            os.close(held)


def _await(directory: str, kind: str, most: int, until: float) -> int | None:
    """Return a descriptor that holds a lock; None if there can be none.

    Raises:
        RvssError: BUSY.
    """
    while True:
        begun: list[float] = []
        for number in range(most):
            try:
                held = _lock(os.path.join(directory, f"look-{kind}-{number}"), begun)
            except OSError:
                return None
            if held is not None:
                return held
        if time.monotonic() >= until:
            break
        time.sleep(_PAUSE)
    when = output.local_time(datetime.fromtimestamp(min(begun), UTC))
    what = "a look" if most == 1 else f"the first of {most} looks"
    raise RvssError(
        Problem.BUSY,
        f"{what} that was begun at {when} has not ended",
        "see which disk does not answer: 'journalctl -u samba-rvss.service'",
    )


def _lock(path: str, begun: list[float]) -> int | None:
    """Lock a file; if another process has it, add since when, and return None."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(fd)
    except BlockingIOError:
        begun.append(os.fstat(fd).st_mtime)
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd
