"""python-samba in a process of its own.

Samba's libraries have global state, can wait for the lock of a database that a hung smbd holds,
and end the process when a database is damaged, all with the interpreter's lock held. The daemon
must go on serving meanwhile: so it has a child do this work, and replaces a child that dies or does
not answer in time. Arguments and results are values of `samba_rvss.model` and
`samba_rvss.samba.conf`.

The owner calls `close`; the child ends by itself when its owner is gone.
"""

import logging
import threading
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from samba_rvss.child import Child
from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = 20.0


class Caller(Protocol):
    """Runs functions of `samba_rvss.samba`, in this process or in another."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function and return its result.

        Raises:
            RvssError: what the function raised, or SAMBA if it did not come to an end.
        """


class Here:
    """Runs functions of `samba_rvss.samba` in this process: for a command, which may block."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function and return its result.

        Raises:
            RvssError: what the function raised.
        """
        return function(*args, **kwargs)


class SambaProcess(Closing):
    """Runs functions of `samba_rvss.samba` one at a time in a child process.

    Args:
        seconds: time limit of one call.
        apart: whether the child is in a session of its own, see `samba_rvss.child.Child`.

    Attributes:
        seconds: the time limit; a change is for the calls after it.
    """

    def __init__(self, seconds: float = _SECONDS, *, apart: bool = False) -> None:
        self.seconds = seconds
        self._apart = apart
        self._lock = threading.Lock()
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The child's process id, or 0 while there is none."""
        return self._child.pid if self._child else 0

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a module-level function in the child and return its result.

        Raises:
            RvssError: what the function raised; TOOL if there can be no child; SAMBA if it did not
                answer in time or the child died, after which the next call gets a new child.
        """
        with self._lock:
            child = self._child or self._start()
            try:
                return child.call(self.seconds, function, *args, **kwargs)
            except (OSError, EOFError) as exc:
                self._stop()
                reason = str(exc) or "its process died"
                raise RvssError(
                    Problem.SAMBA,
                    f"Samba's library failed in {function.__name__}: {reason}",
                    "see whether Samba's databases are damaged or locked (tdbtool, smbstatus)",
                ) from exc

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _start(self) -> Child:
        self._child = Child(apart=self._apart)
        _logger.debug("python-samba runs as %d", self._child.pid)
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child:
            child.close()
