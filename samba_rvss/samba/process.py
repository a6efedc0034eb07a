"""python-samba in a process of its own.

Samba's libraries keep global state, can wait for the lock of a database that a hung smbd holds,
and end the process when one is damaged, all with the interpreter's lock held. The daemon must go
on serving through that, so it lets a child do this work, and replaces a child that does not
answer in time. Arguments and results are values of `samba_rvss.model` and `samba_rvss.samba.conf`.

The owner calls `close`; the child ends by itself when its owner is gone.
"""

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, Protocol, TypeVar, cast

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = 20.0


class Caller(Protocol):
    """Runs functions of `samba_rvss.samba`, wherever that is."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function and return its result.

        Raises:
            RvssError: what the function raised, or SAMBA.
        """


class Here:
    """Runs functions of `samba_rvss.samba` in this process: for a command, which may block."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function and return its result.

        Raises:
            RvssError: what the function raised.
        """
        return function(*args, **kwargs)


class SambaProcess:
    """Runs functions of `samba_rvss.samba` one at a time in a child process.

    Args:
        seconds: time limit of one call.

    Attributes:
        seconds: the same, for the calls from now on.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int:
        """The child's process id, or 0 while there is none."""
        return self._child.pid if self._child else 0

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a module-level function in the child and return its result.

        Raises:
            RvssError: what the function raised; SAMBA if it did not answer in time or the child
                died, after which the next call gets a new child.
        """
        name = function.__name__
        with self._lock:
            pipe = self._pipe or self._start()
            try:
                pipe.send((function.__module__, name, args, kwargs))
                if not pipe.poll(self.seconds):
                    raise TimeoutError(f"no answer within {self.seconds:g} s")
                good, value = pipe.recv()
            except (OSError, EOFError) as exc:
                self._stop()
                reason = str(exc) or "its process died"
                raise RvssError(
                    Problem.SAMBA,
                    f"Samba's library failed in {name}: {reason}",
                    "see whether Samba's databases are damaged or locked (tdbtool, smbstatus)",
                ) from exc
        if not good:
            raise cast("BaseException", value)
        return cast("R", value)

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = (
            f"import sys; sys.path.insert(0, {root!r}); "
            f"from samba_rvss.samba.process import serve; serve({theirs.fileno()})"
        )
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
        finally:
            theirs.close()
        self._pipe = Connection(ours.detach())
        _logger.debug("python-samba runs as %d", self._child.pid)
        return self._pipe

    def _stop(self) -> None:
        if self._pipe:
            self._pipe.close()
        if self._child:
            self._child.kill()
            self._child.wait()
        self._pipe = self._child = None


def serve(fd: int) -> None:
    """Answer calls until the owner closes its end (the child's main function)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    while True:
        try:
            module, name, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(importlib.import_module(module), name)(*args, **kwargs))
        except RvssError as exc:
            answer = (False, exc)
        except Exception as exc:  # noqa: BLE001 - an unknown failure is the caller's to report
            answer = (False, RuntimeError(f"{module}.{name}: {type(exc).__name__}: {exc}"))
        pipe.send(answer)
