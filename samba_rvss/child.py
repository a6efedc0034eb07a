"""A child process of our own program that runs functions for its owner.

Place: beside `run`, which is for other programs. Contract: the child inherits standard error and
one end of a socket pair, nothing else. It ends by itself when its owner is gone; `close` kills and
reaps it. One call at a time: an owner with several threads needs a lock. A package may be upgraded
while its daemon runs: one version's code never meets the values or the code of another.
"""

import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeAlias, TypeVar, cast

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment, not_started

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_PACKAGE)


_Version: TypeAlias = tuple[int, int, int]


def _installed() -> _Version | None:
    """Return what changes when another version is put in the place of this one."""
    try:
        status = os.stat(os.path.join(_PACKAGE, "__init__.py"))
    except OSError:
        return None
    # A package's files may have the time of its release; a number of an inode comes again.
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


# As it was when this process began.
_VERSION = _installed()


def _require(version: _Version | None) -> None:
    """See that what is installed now is a version.

    Raises:
        RvssError: BUSY.
    """
    if version is None or version != _installed():
        raise RvssError(
            Problem.BUSY,
            "another version of samba-rvss was installed while this one runs",
            "systemctl restart samba-rvss.service",
        )


class _Guard:
    """Refuses modules of ours that are not loaded yet, if they are another version's now.

    It stands first in `sys.meta_path`, and finds nothing itself.
    """

    def __init__(self, version: _Version | None) -> None:
        self._version = version

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Refuse a module, or leave it to whoever comes next.

        Raises:
            RvssError: BUSY.
        """
        if name.partition(".")[0] == __package__:
            _require(self._version)


def guard(version: _Version | None) -> None:
    """Have this process, a child, import no modules of ours but its owner's version.

    Raises:
        RvssError: BUSY if it is of another version itself.
    """
    _require(version)
    sys.meta_path.insert(0, _Guard(version))


def enter(version: _Version | None) -> None:
    """Do as `guard`, in a child that has nobody to tell: it ends with a sentence."""
    try:
        guard(version)
    except RvssError as exc:
        sys.exit(exc.line())


def start(
    function: Callable[..., None], *args: float, fd: int
) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a process that runs one function; return it, and our end of a socket pair.

    Args:
        function: of a module; it gets its end of the socket pair, the numbers and the descriptor.
        args: the numbers.
        fd: a descriptor that the process gets besides; it stays the caller's.

    If another version was installed meanwhile, it ends at once, after saying so.

    Raises:
        ToolError: if it cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        given = ", ".join(map(repr, (theirs.fileno(), *args, fd)))
        code = (
            f"from samba_rvss import child; child.enter({_VERSION!r});"
            f" from {function.__module__} import {function.__name__} as run; run({given})"
        )
        try:
            return _run(code, (theirs.fileno(), fd)), ours
        except OSError as exc:
            ours.close()
            raise not_started([sys.executable], exc) from exc


def _run(
    code: str, fds: tuple[int, ...], *, apart: bool = False, above: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    ours = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {_ROOT!r}); {code}"]
    return subprocess.Popen(
        [*above, *ours],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=fds,
        env=environment(),
        start_new_session=apart,
    )


class Child(Closing):
    """A process that calls functions for its owner, who has to close it.

    Args:
        apart: whether it is in a session of its own: what it has begun when its owner is ended by
            his terminal, it does to the end. In the owner's process group it can look at mounts
            that are his on demand without having them made (autofs).
        above: a program that becomes the process, or runs it, with its arguments: nsenter(1), for
            example. It has to hand on descriptors.

    Attributes:
        pid: its process id.

    Raises:
        ToolError: if it cannot be started.
    """

    def __init__(self, *, apart: bool = False, above: Sequence[str] = ()) -> None:
        try:
            self._start(apart=apart, above=above)
        except OSError as exc:
            raise not_started([sys.executable], exc) from exc

    def _start(self, *, apart: bool, above: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        self._pipe = Connection(ours.detach())
        try:
            code = f"from samba_rvss.child import serve; serve({fd}, {_VERSION!r})"
            self._process = _run(code, (fd,), apart=apart, above=above)
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


def serve(fd: int, version: _Version | None) -> None:
    """Answer calls until the owner closes its end (the child's main function).

    Args:
        fd: our end.
        version: the owner's; what another one's values and calls mean is not known.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    refusal: RvssError | None = None
    try:
        guard(version)
    except RvssError as exc:
        refusal = exc
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return
        answer = _answer(data) if refusal is None else (False, refusal)
        try:
            pipe.send(answer)
        except BrokenPipeError:  # the owner was killed, and nobody waits for it
            return


def _answer(data: bytes) -> tuple[bool, object]:
    """Carry out a call; return whether it went well, and the result or the error."""
    name = "the call"
    try:
        # Reading it imports what it needs.
        module, function, args, kwargs = pickle.loads(data)  # noqa: S301 - the owner's, who is we
        name = f"{module}.{function}"
        return True, getattr(importlib.import_module(module), function)(*args, **kwargs)
    except RvssError as exc:
        return False, exc
    except Exception as exc:  # noqa: BLE001 - an unknown failure is the caller's to report
        return False, RuntimeError(f"{name}: {type(exc).__name__}: {exc}")
