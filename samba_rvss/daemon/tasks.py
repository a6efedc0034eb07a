"""Threads for what blocks, and tasks for what goes on side by side."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from samba_rvss.kernel.priority import nice, set_nice

P = ParamSpec("P")
R = TypeVar("R")

# Threads are made when there is work for them. Each share may have some that wait for a dead file
# system; enough are left for others.
_THREADS = 512


class Threads(ThreadPoolExecutor):
    """Threads for a loop's executor, whose end nobody waits for: one may hang for ever."""

    def __init__(self) -> None:
        # Not as the thread that asks for work is just then: that may hurry.
        super().__init__(_THREADS, "rvss", initializer=set_nice, initargs=(nice(),))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as `Executor` has it
        """See `concurrent.futures.Executor`."""
        super().shutdown(wait=False, cancel_futures=True)


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking function in the loop's executor."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(function, *args, **kwargs))


async def whole(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking function to its end even if the task that waits for it is cancelled."""
    step = asyncio.ensure_future(in_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


class Tasks:
    """Tasks that nobody awaits, held until they are done."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        """Start a task, and return it for a caller that wants to know what it raised."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finish(self, seconds: float) -> None:
        """Wait until all tasks are done, at most so many seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
