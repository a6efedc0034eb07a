"""What is under way, and since when: so that what hangs can be named.

Place: beside requests and reconciling. Contract: notes only; nothing waits for them.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doing:
    what: str
    since: float
    usual: float


class UnderWay:
    """The work that is under way, all of it in one event loop."""

    def __init__(self) -> None:
        self._doings: dict[int, _Doing] = {}
        self._number = 0

    def begin(self, what: str, since: float, usual: float = math.inf) -> int:
        """Note that some work is under way; return what `end` is to be called with.

        Args:
            what: the beginning of a sentence that goes on with "for so many seconds".
            since: when it has begun (`time.monotonic`).
            usual: after how many seconds it takes longer than it should.
        """
        self._number += 1
        self._doings[self._number] = _Doing(what=what, since=since, usual=usual)
        return self._number

    def end(self, number: int) -> None:
        """Note that some work has ended."""
        del self._doings[number]

    @contextmanager
    def doing(self, what: str, usual: float) -> Iterator[None]:
        """Note that some work is under way until the end of a block; see `begin`."""
        number = self.begin(what, time.monotonic(), usual)
        try:
            yield
        finally:
            self.end(number)

    def until_done(self, task: "asyncio.Future[Any]", what: str, since: float) -> None:
        """Note that a task is under way that takes longer than it should; see `begin`."""
        number = self.begin(what, since, 0.0)
        task.add_done_callback(lambda done: self.end(number))

    def late(self) -> tuple[str, ...]:
        """Return a sentence on all that takes longer than it should, the oldest first."""
        present = time.monotonic()
        return tuple(
            f"{doing.what} for {present - doing.since:.0f} s: see what its disks do"
            for doing in sorted(self._doings.values(), key=lambda doing: doing.since)
            if present - doing.since >= doing.usual
        )
