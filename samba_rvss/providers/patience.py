"""Waiting for a file system that may never answer, for a bounded time.

Place: below the providers, and for whoever looks at a share by its path. Contract: what does not
answer in time goes on in a thread of its own, which is one for each file system at most; until it
has ended, nothing else is begun there: who comes meanwhile waits for it, until its time is up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, TypeVar

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounttable

T = TypeVar("T")

_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file system is: its device, as in the mount table, and what it is called."""

    device: str
    words: str


class Patience:
    """Does something on file systems, each for a bounded time.

    Args:
        seconds: how long to wait for one.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._changed = Condition()
        self._since: dict[str, float] = {}

    def look(self, path: str, function: Callable[[], T]) -> T:
        """Return what a function returns that looks at a path.

        Raises:
            RvssError: BUSY, and `Exception`, as `call`.
        """
        raw = mounttable.read_mountinfo()
        mount = mounttable.above(path, raw)
        device, words = mount.device if mount else path, mounttable.file_system_of(path, raw)
        return self.call(Place(device=device, words=words), function)

    def call(self, place: Place, function: Callable[[], T]) -> T:
        """Return what a function returns.

        Args:
            place: the file system that it waits for.
            function: what to do.

        Raises:
            RvssError: BUSY if it has not ended in time, or one before has not ended in its own.
            Exception: what the function raises.
        """
        with self._changed:
            while (since := self._since.get(place.device)) is not None:
                spent = time.monotonic() - since
                if spent >= self._seconds:
                    raise _silent(place, spent)
                self._changed.wait(self._seconds - spent)
            self._since[place.device] = time.monotonic()
        done: dict[str, Any] = {}

        def work() -> None:
            try:
                done["result"] = function()
            except Exception as exc:  # noqa: BLE001 - it is raised again by who waits
                done["error"] = exc
            finally:
                with self._changed:
                    del self._since[place.device]
                    self._changed.notify_all()

        # A daemon's: who ends need not wait for the disk.
        thread = Thread(target=work, name=f"look {place.device}", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if thread.is_alive():
            raise _silent(place, self._seconds)
        if "error" in done:
            raise done["error"]
        result: T = done["result"]
        return result


COMMON = Patience()
"""Of the whole process: so each file system has one thread of it at most."""


def _silent(place: Place, seconds: float) -> RvssError:
    return RvssError(
        Problem.BUSY,
        f"{place.words} has not answered for {seconds:.0f} s",
        "see what its disks do, and which task of the kernel hangs",
    )
