"""Doing something that may never end, for a bounded time."""

import threading
from collections.abc import Callable
from typing import TypeVar

from samba_rvss.errors import Problem, RvssError

T = TypeVar("T")


def bounded(function: Callable[[], T], seconds: float) -> T:
    """Return what a function returns, which may never end.

    Raises:
        RvssError: BUSY if it has not ended in time.
        Exception: what it raises.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            done.append(function())
        except Exception as exc:  # noqa: BLE001 - it is raised again by who waits
            failed.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise RvssError(Problem.BUSY, f"that has not ended within {seconds:g} s")
    return done[0]
