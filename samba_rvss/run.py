"""The one door to other programs.

A program runs with an argument list, a small environment of our own, no standard input but what
it is given, and a time limit. It is reaped whatever happens; if it outlives even SIGKILL, then by
a later `run`.
"""

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Self

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.priority import put_among_others

_logger = logging.getLogger(__name__)

# In an uninterruptible sleep a process outlives even SIGKILL, until its device answers.
_KILLED_SECONDS = 5.0
_STOP_SECONDS = 0.2
_PIPE_SIZE = 65536  # pipe(7)
_SAID = 4096
_abandoned: list["subprocess.Popen[str]"] = []

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ToolError(RvssError):
    """A program that failed: what was run, how it ended and what it said.

    Attributes:
        argv: the program's absolute path and its arguments.
        status: its exit status, negative for the signal that ended it; None if it did not end in
            time, or could not be started.
        stdout: all of its standard output; empty if there is no status.
        stderr: all of its standard error; empty if there is no status.
    """

    def __init__(
        self, argv: Sequence[str], status: int | None, stdout: str, stderr: str, how: str
    ) -> None:
        """Make the error.

        Args:
            argv: see the attributes; so for status, stdout and stderr.
            how: how it ended; the message is argv and then this.
        """
        super().__init__(Problem.TOOL, f"{' '.join(argv)} {how}")
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self._how = how

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return (type(self), (self.argv, self.status, self.stdout, self.stderr, self._how))

    @property
    def said(self) -> str:
        """Its standard error as one line, or its standard output if that is empty."""
        return _said(self.stdout, self.stderr)


class Stopped(RvssError):
    """A program was killed because that was asked for."""


class NotStarted(ToolError):
    """A program that could not be started: it has done nothing."""


@cache
def tool(name: str, search: str = "") -> str:
    """Return the absolute path of a program, looked up once on a search path.

    Args:
        name: the program.
        search: directories with colons between them; if empty, a fixed list of our own.

    Raises:
        RvssError: MISSING if there is no such program.
    """
    search = search or _PATH
    for directory in search.split(":"):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return path
    raise RvssError(
        Problem.MISSING, f"the program {name} is not installed", f"install it into {search}"
    )


def not_started(argv: Sequence[str], exc: Exception) -> NotStarted:
    """Return the error for a program that the kernel, or Python, did not start.

    Args:
        argv: its absolute path and its arguments.
        exc: why.
    """
    reason = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
    return NotStarted(argv, None, "", "", f"cannot be started: {reason}")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that programs get: nothing is inherited."""
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    allow: frozenset[int] = frozenset({0}),
    text: str = "",
    preferred: bool = True,
) -> str:
    """Run a program to its end and return its standard output.

    Args:
        argv: the program (a bare name is looked up by `tool`) and its arguments.
        timeout: seconds after which the program and its children are killed.
        env: additions to the fixed environment.
        allow: exit statuses that are not failures.
        text: its standard input.
        preferred: whether it is preferred to others' programs where we are.

    Raises:
        RvssError: MISSING if there is no such program.
        ToolError: if it could not be started, or did not end in time, or with a status that is a
            failure.
    """
    words = [argv[0] if "/" in argv[0] else tool(argv[0]), *argv[1:]]
    process = _start(words, env, subprocess.PIPE, subprocess.PIPE if text else subprocess.DEVNULL)
    if not preferred:
        put_among_others(process.pid)
    try:
        out, err = process.communicate(text or None, timeout=timeout)
    except subprocess.TimeoutExpired as exc:
        # _kill() closes its pipes without reading on: a grandchild may hold them for ever.
        ended = (
            "and was killed" if _kill(process) else "and cannot be killed: it waits for a device"
        )
        raise ToolError(words, None, "", "", f"did not end within {timeout:g} s {ended}") from exc
    except BaseException:
        _kill(process)
        raise
    if process.returncode not in allow:
        how = f"ended with status {process.returncode} and said: {_said(out, err)}"
        raise ToolError(words, process.returncode, out, err, how)
    _logger.debug("%s: %d", " ".join(words), process.returncode)
    return out


def call(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str],
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Run a program that an administrator names, until it exits.

    What it has left running goes on, and is not waited for though it may hold the pipe. Of what it
    prints, only the end is kept. It stays in our session: see `kernel.processes.end_session`.

    Args:
        argv: its absolute path and its arguments.
        timeout: seconds after which the program and its children are killed.
        env: additions to the fixed environment.
        stopped: asked several times a second; the program is killed when that returns true.

    Raises:
        Stopped: ``stopped`` returned true.
        ToolError: as `run`.
    """
    process = _start(argv, env, subprocess.STDOUT, apart=False)
    try:
        said = _watch(process, timeout, stopped).decode("utf-8", "surrogateescape")
    except subprocess.TimeoutExpired as exc:
        _kill(process)
        raise ToolError(argv, None, "", "", f"did not end within {timeout:g} s") from exc
    except BaseException:
        _kill(process)
        raise
    if process.stdout is not None:
        process.stdout.close()
    if process.returncode:
        how = f"ended with status {process.returncode} and said: {_said(said, '')}"
        raise ToolError(argv, process.returncode, said, "", how)


def _watch(
    process: subprocess.Popen[str], timeout: float, stopped: Callable[[], bool] | None
) -> bytes:
    """Wait until a program has exited; return the end of what it printed."""
    if process.stdout is None:
        raise ValueError(process.args)
    pipe, said = process.stdout.fileno(), b""
    os.set_blocking(pipe, False)
    deadline = time.monotonic() + timeout
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    exited = os.pidfd_open(process.pid)
    try:
        ready.register(exited, select.POLLIN)
        while process.poll() is None:
            if stopped is not None and stopped():
                raise Stopped(Problem.BUSY, f"{process.args!r} was stopped")
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout)
            for fd, _ in ready.poll(1000 * min(_STOP_SECONDS, left)):
                if fd == pipe:
                    read = os.read(pipe, _PIPE_SIZE)
                    said = (said + read)[-_SAID:]
                    if not read:  # it has closed its output
                        ready.unregister(pipe)
    finally:
        os.close(exited)
    with suppress(BlockingIOError):
        said = (said + os.read(pipe, _PIPE_SIZE))[-_SAID:]
    return said


def beginning(argv: Sequence[str], size: int, *, timeout: float) -> bytes:
    """Return what a program prints, but no more than its beginning: then it is killed.

    Args:
        argv: the program's absolute path and its arguments.
        size: how many bytes are enough.
        timeout: seconds after which the program and its children are killed.

    Raises:
        ToolError: if it could not be started, or ended with a failure before that, or did not end
            in time.
    """
    process = _start(argv, None, subprocess.DEVNULL)
    deadline = time.monotonic() + timeout
    try:
        found = _read(process, size, deadline)
        if len(found) < size:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as exc:
        raise ToolError(argv, None, "", "", f"did not end within {timeout:g} s") from exc
    finally:
        _end(process)
    if len(found) < size and process.returncode:
        how = f"ended with status {process.returncode}"
        raise ToolError(argv, process.returncode, "", "", how)
    return found


def _start(
    words: Sequence[str],
    env: Mapping[str, str] | None,
    stderr: int,
    stdin: int = subprocess.DEVNULL,
    *,
    apart: bool = True,
) -> subprocess.Popen[str]:
    """Start a program in a process group of its own, which prints into a pipe.

    Args:
        words: its absolute path and its arguments.
        env: additions to the fixed environment.
        stderr: where its standard error goes, as `subprocess.Popen` has it.
        stdin: whence its standard input comes; likewise.
        apart: whether it is in a session of its own as well.

    Raises:
        ToolError: it could not be started.
    """
    _reap_abandoned()
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment(env),
            text=True,
            errors="surrogateescape",
            start_new_session=apart,
            process_group=None if apart else 0,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        tool.cache_clear()  # it may be somewhere else by now
        raise not_started(words, exc) from exc


def _read(process: subprocess.Popen[str], size: int, deadline: float) -> bytes:
    """Return the first bytes of what a program prints; fewer if it prints no more."""
    if process.stdout is None:
        raise ValueError(process.args)
    pipe = process.stdout.fileno()
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    found = b""
    while len(found) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not ready.poll(left * 1000):
            raise subprocess.TimeoutExpired(process.args, left)
        read = os.read(pipe, size - len(found))
        if not read:
            break
        found += read
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a program with its children, unless it has ended."""
    if process.returncode is None:
        _kill(process)
    elif process.stdout is not None:
        process.stdout.close()


def _said(stdout: str, stderr: str) -> str:
    return " ".join(stderr.split()) or " ".join(stdout.split()) or "nothing"


def _kill(process: subprocess.Popen[str]) -> bool:
    """Kill a program with its children; return whether it is gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # what it has not read
                pipe.close()
    try:
        process.wait(_KILLED_SECONDS)
    except subprocess.TimeoutExpired:
        _abandoned.append(process)
        return False
    return True


def _reap_abandoned() -> None:
    """Reap the programs that outlived SIGKILL and have ended since."""
    for process in _abandoned.copy():
        if process.poll() is not None:
            with suppress(ValueError):  # another thread was faster
                _abandoned.remove(process)
