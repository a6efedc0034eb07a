"""Who waits for whom: requests side by side, one at a time per volume.

A request, or an action of reconciling, takes the turns of all the volumes that it works on before
it begins, always in the same order, so that no two wait for each other. The sealing of a copy takes
no turn, because it is tried again until it succeeds, and nobody must wait for that. It is the work
on a copy: there is at most one for each copy, and whoever deletes the copy ends it first.

Contract: all of it belongs to one event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ShadowCopy, Volume

Work: TypeAlias = "asyncio.Task[ShadowCopy | None]"


class Turns:
    """The turns of one instance's volumes, and the work on its copies."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._work: dict[str, Work] = {}

    @asynccontextmanager
    async def take(self, *volumes: Volume, deadline: float | None = None) -> AsyncIterator[None]:
        """Take the turns of some volumes: nobody else works on them until the block ends.

        Args:
            volumes: which; without any, there is nothing to take or to wait for.
            deadline: time (`time.monotonic`) after which the turns are not wanted any more.

        Raises:
            RvssError: DEADLINE; no turn is taken then.
        """
        left = None if deadline is None else deadline - time.monotonic()
        async with AsyncExitStack() as taken:
            try:
                async with asyncio.timeout(left):
                    for key in sorted({volume.key for volume in volumes}):
                        lock = self._locks.setdefault(key, asyncio.Lock())
                        await taken.enter_async_context(lock)
            except TimeoutError as exc:
                raise RvssError(
                    Problem.DEADLINE,
                    "other requests for the same volume took too long",
                    "try again",
                ) from exc
            yield

    @asynccontextmanager
    async def free(self, *volumes: Volume) -> AsyncIterator[frozenset[str]]:
        """Take the turns of those volumes on which nobody works, without waiting.

        Args:
            volumes: which; the caller may have the turns of others.

        Returns:
            The keys of the volumes whose turns were taken.
        """
        async with AsyncExitStack() as taken:
            keys = set()
            for key in sorted({volume.key for volume in volumes}):
                lock = self._locks.setdefault(key, asyncio.Lock())
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await lock.acquire()
                    taken.callback(lock.release)
                    keys.add(key)
            yield frozenset(keys)

    # the work on a copy

    @property
    def worked_on(self) -> frozenset[str]:
        """Ids of the copies that have work going on."""
        return frozenset(copy for copy, task in self._work.items() if not task.done())

    def begin_work(self, copy: ShadowCopy, work: Coroutine[Any, Any, ShadowCopy | None]) -> Work:
        """Begin the work on a copy that has none."""
        task = self._work[copy.id] = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._drop(copy.id, done))
        return task

    def _drop(self, copy: str, task: Work) -> None:
        if self._work.get(copy) is task:
            del self._work[copy]

    async def end_work(self, copy: ShadowCopy) -> None:
        """End the work on a copy; no step of it runs on return."""
        task = self._work.pop(copy.id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def end_all_work(self) -> None:
        """End the work on every copy, without waiting for that."""
        for task in self._work.values():
            task.cancel()

    async def settled(self, seconds: float) -> bool:
        """Wait until no copy has work, at most so many seconds; return whether that is so."""
        if self._work:
            await asyncio.wait(self._work.values(), timeout=seconds)
        return not self.worked_on
