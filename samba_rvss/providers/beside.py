"""Doing things side by side, each of which waits for a disk or a program."""

from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread

_MOST = 128


def side_by_side(actions: Sequence[Callable[[], object]], most: int = _MOST) -> None:
    """Do things, each in a thread of its own where there are enough.

    They begin in order. Where no more threads are to be had, those that there are do everything.

    Args:
        actions: what to do; one may wait for one before it, never for one after it.
        most: threads.

    Raises:
        BaseException: the first that one of them raised, once all have ended.
    """
    failures: list[BaseException] = []
    left = deque(actions)

    def work() -> None:
        while True:
            try:
                action = left.popleft()
            except IndexError:
                return
            try:
                action()
            except BaseException as exc:  # noqa: BLE001 - it is raised below
                failures.append(exc)

    threads = [Thread(target=work, name="beside") for _ in actions[1:most]]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:
            break
        started.append(thread)
    work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
