"""Looking at shares whose file systems may never answer.

Contract: a look is waited for until a deadline, and goes on in its thread if it has not ended then;
of one share there are few at a time, so that a dead file system takes no thread from others.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from samba_rvss.errors import Problem, RvssError

T = TypeVar("T")

_HINT = "see what its disks do"
_AT_ONCE = 4
_SILENT = 1.0  # seconds after which who has not answered is taken for dead, until he does
_LONG = 10.0  # seconds after which that is worth a word


class Looks:
    """The looks at the shares of one instance."""

    def __init__(self) -> None:
        self._since: dict[str, dict[int, float]] = {}
        self._number = 0

    async def look(self, path: str, function: Callable[[], T], deadline: float) -> T:
        """Return what a function returns, which looks at a share.

        Args:
            path: the share's.
            function: is run in a thread.
            deadline: time (`time.monotonic`) until which to wait.

        Raises:
            RvssError: BUSY if too many have not ended, DEADLINE if this one has not in time; what
                the function raises.
        """
        present = time.monotonic()
        others = self._since.setdefault(path, {})
        if len(others) >= _AT_ONCE and present - min(others.values()) >= _SILENT:
            silent = present - min(others.values())
            raise RvssError(Problem.BUSY, _silent(path, silent), _HINT)
        self._number += 1
        number, others[self._number] = self._number, present
        looking = asyncio.get_running_loop().run_in_executor(None, function)
        looking.add_done_callback(lambda done: self._on_end(path, number, done))
        await asyncio.wait({looking}, timeout=max(0.0, deadline - present))
        if not looking.done():
            raise too_late(f"the file system of {path}")
        return looking.result()

    def is_silent(self, path: str, seconds: float) -> bool:
        """Return whether a share has not answered for so many seconds, nor yet."""
        since = min(self._since.get(path, {}).values(), default=math.inf)
        return time.monotonic() - since >= seconds

    def late(self, longest: float = _LONG) -> tuple[str, ...]:
        """Return a sentence on each share that has not answered for so many seconds, nor yet."""
        present = time.monotonic()
        return tuple(
            f"{_silent(path, present - since)}: {_HINT}"
            for path, looks in self._since.items()
            if present - (since := min(looks.values())) >= longest
        )

    def _on_end(self, path: str, number: int, looking: "asyncio.Future[T]") -> None:
        others = self._since[path]
        del others[number]
        if not others:
            del self._since[path]
        if not looking.cancelled():
            looking.exception()  # nobody may wait for it any more


def _silent(path: str, seconds: float) -> str:
    return f"the file system of {path} has not answered for {seconds:.0f} s"


def too_late(what: str) -> RvssError:
    """Return the error for something that has not answered within the commit deadline."""
    return RvssError(
        Problem.DEADLINE,
        f"{what} has not answered within 'rvss:commit deadline'; what was begun is undone when it"
        " does",
        "see what keeps it busy",
    )
