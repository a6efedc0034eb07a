"""Waiting for a file system that may never answer, for a bounded time.

Place: below the providers. Contract: what does not answer in time goes on in a thread of its own,
which is one for each file system at most; until it has ended, nothing else is begun there: who
comes meanwhile waits for it, until its time is up.
"""

import time
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, TypeVar

from samba_rvss.errors import Problem, RvssError

T = TypeVar("T")

_SECONDS = 10.0


class Patience:
    """Does something on file systems, each for a bounded time.

    Args:
        seconds: how long to wait for one.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._changed = Condition()
        self._since: dict[str, float] = {}

    def call(self, file_system: str, function: Callable[[], T]) -> T:
        """Return what a function returns.

        Args:
            file_system: which one it waits for.
            function: what to do.

        Raises:
            RvssError: BUSY if it has not ended in time, or one before has not ended in its own.
            Exception: what the function raises.
        """
        with self._changed:
            while (since := self._since.get(file_system)) is not None:
                spent = time.monotonic() - since
                if spent >= self._seconds:
                    raise _silent(spent)
                self._changed.wait(self._seconds - spent)
            self._since[file_system] = time.monotonic()
        done: dict[str, Any] = {}

        def work() -> None:
            try:
                done["result"] = function()
            except Exception as exc:  # noqa: BLE001 - it is raised again by who waits
                done["error"] = exc
            finally:
                with self._changed:
                    del self._since[file_system]
                    self._changed.notify_all()

        # A daemon's: who ends need not wait for the disk.
        thread = Thread(target=work, name=f"look {file_system}", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if thread.is_alive():
            raise _silent(self._seconds)
        if "error" in done:
            raise done["error"]
        result: T = done["result"]
        return result


def _silent(seconds: float) -> RvssError:
    return RvssError(
        Problem.BUSY,
        f"it has not answered for {seconds:.0f} s",
        "see what its disks do, and which task of the kernel hangs",
    )
