"""A child process of our own program that runs functions for its owner.

Place: beside `run`, which is for other programs. Contract: the child inherits standard error and
one end of a socket pair, nothing else. It ends by itself when its owner is gone; `close` kills and
reaps it. One call at a time: an owner with several threads needs a lock.
"""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar, cast

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment, not_started

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_PACKAGE)


def _installed() -> tuple[int, int]:
    """Return what changes when another version is put in the place of this one."""
    status = os.stat(os.path.join(_PACKAGE, "__init__.py"))
    return status.st_ino, status.st_mtime_ns


# As it was when this process began.
_VERSION = _installed()


def start(
    function: Callable[..., None], *args: float, fd: int
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a process that runs one function; return it, and our end of a socket pair.

    Args:
        function: of a module; it gets its end of the socket pair, the numbers and the descriptor.
        args: the numbers.
        fd: a descriptor that the process gets besides; it stays the caller's.

    Raises:
        ToolError: if it cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        given = ", ".join(map(repr, (theirs.fileno(), *args, fd)))
        try:
            return _run(function.__module__, function.__name__, given, (theirs.fileno(), fd)), ours
        except OSError as exc:
            ours.close()
            raise not_started([sys.executable], exc) from exc


def _run(module: str, name: str, given: str, fds: tuple[int, ...]) -> "subprocess.Popen[bytes]":
    code = (
        f"import sys; sys.path.insert(0, {_ROOT!r}); from {module} import {name}; {name}({given})"
    )
    return subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=fds,
        env=environment(),
    )


class Child(Closing):
    """A process that calls functions for its owner, who has to close it.

    Attributes:
        pid: its process id.

    Raises:
        ToolError: if it cannot be started.
    """

    def __init__(self) -> None:
        try:
            self._start()
        except OSError as exc:
            raise not_started([sys.executable], exc) from exc

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        self._pipe = Connection(ours.detach())
        try:
            self._process = _run("samba_rvss.child", "serve", f"{fd}, {_VERSION!r}", (fd,))
        except OSError:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid

    def call(
        self, seconds: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a module-level function in the child and return its result.

        Args:
            seconds: how long it may take.
            function: the child finds it by module and name; its arguments and its result have to
                be picklable.

        Raises:
            RvssError: what the function raised; BUSY if the child is of another version, because
                that was installed since this process began.
            RuntimeError: the function raised something else, which this says in words.
            TimeoutError: it took too long; the child has to be closed.
            OSError, EOFError: the child has died; it has to be closed.
        """
        self._pipe.send((function.__module__, function.__name__, args, kwargs))
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        good, value = self._pipe.recv()
        if not good:
            raise cast("BaseException", value)
        return cast("R", value)

    def close(self) -> None:
        """End the child with SIGKILL, and wait for it."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def serve(fd: int, version: tuple[int, int]) -> None:
    """Answer calls until the owner closes its end (the child's main function).

    Args:
        fd: our end.
        version: the owner's; another one's calls are refused, which may mean another thing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    while True:
        try:
            module, name, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            if version != _VERSION:
                raise RvssError(
                    Problem.BUSY,
                    "another version of samba-rvss was installed while this one runs",
                    "systemctl restart samba-rvss.service",
                )
            answer = (True, getattr(importlib.import_module(module), name)(*args, **kwargs))
        except RvssError as exc:
            answer = (False, exc)
        except Exception as exc:  # noqa: BLE001 - an unknown failure is the caller's to report
            answer = (False, RuntimeError(f"{module}.{name}: {type(exc).__name__}: {exc}"))
        pipe.send(answer)
