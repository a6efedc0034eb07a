"""A process that answers for us when we do not: whoever looks into a backup waits for nobody.

The kernel has a client's smbd wait until a question of `kernel.autofs` is answered, without any
limit. So a process of its own reads the questions and hands them on. It answers one that we have
not answered in time, because we have been stopped or hang, and all others at once until we are
back; when we have ended, however that was, it has the kernel ask nothing any more. If it is ended
itself, the kernel sees that nobody reads the pipe, and we see that nobody writes to us.

    to us       what the kernel asks, as it asks it
    from us     ROOT and a descriptor, GONE, DONE: that a mount is there, or not any more, or that
                its question has been answered

Place: on `kernel.autofs`, for `versions`. Contract: the process waits for nothing but questions, us
and time. Whoever has a Keeper closes it.
"""

import errno
import os
import select
import signal
import socket
import struct
import time
from contextlib import suppress

from samba_rvss import child
from samba_rvss.closing import Closing
from samba_rvss.kernel import autofs
from samba_rvss.kernel.autofs import Asked

_MESSAGE = struct.Struct("=BII")  # what, a mount's device, a question's token
_ROOT, _GONE, _DONE = range(3)
_LARGEST = 4096


class Keeper(Closing):
    """Such a process.

    Args:
        questions: our end of `kernel.autofs.pipe`, which is the process's from now on.
        seconds: after which it answers a question that we have not.

    Raises:
        ToolError: it cannot be started.
    """

    def __init__(self, questions: int, seconds: float) -> None:
        try:
            self._process, self._socket = child.start(serve, seconds, fd=questions)
        finally:
            os.close(questions)
        self._socket.setblocking(False)  # noqa: FBT003 - it takes no keywords

    def fileno(self) -> int:
        """Return the descriptor from which questions can be read (`kernel.autofs.asked`)."""
        return self._socket.fileno()

    def add(self, root: int) -> None:
        """Have it answer for a mount, by the mount's root, which stays the caller's."""
        message = _MESSAGE.pack(_ROOT, autofs.device(root), 0)
        socket.send_fds(self._socket, [message], [root])

    def drop(self, root: int) -> None:
        """Have it forget a mount."""
        self._tell(_GONE, autofs.device(root))

    def done(self, asked: Asked) -> None:
        """Tell it that a question has been answered."""
        self._tell(_DONE, asked.device, asked.token)

    def _tell(self, what: int, device: int, token: int = 0) -> None:
        with suppress(OSError):  # it has ended, or it answers once more, which nobody hears
            self._socket.send(_MESSAGE.pack(what, device, token))

    def close(self) -> None:
        """End it; the kernel asks nothing any more."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def serve(fd: int, seconds: float, questions: int) -> None:
    """Hand on questions until the owner has ended, and answer those that he does not.

    Args:
        fd: the socket to the owner.
        seconds, questions: as `Keeper` has them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=fd) as owner:
        _Serving(owner, seconds, questions).run()


class _Serving:
    def __init__(self, owner: socket.socket, seconds: float, questions: int) -> None:
        owner.setblocking(False)  # noqa: FBT003 - it takes no keywords
        self._owner = owner
        self._seconds = seconds
        self._questions = questions
        self._roots: dict[int, int] = {}
        self._open: dict[tuple[int, int], float] = {}  # until when, by device and token
        self._overdue: set[tuple[int, int]] = set()  # what the owner has not answered yet

    def run(self) -> None:
        poll = select.poll()
        for fd in (self._owner.fileno(), self._questions):
            poll.register(fd, select.POLLIN)
        while True:
            first = min(self._open.values(), default=None)
            left = None if first is None else max(0.0, first - time.monotonic()) * 1000 + 1
            ready = {fd for fd, _ in poll.poll(left)}
            # What we are told comes first: a mount is known before it asks.
            if self._owner.fileno() in ready and not self._hear():
                break
            if self._questions in ready:
                for data, asked in autofs.questions(self._questions):
                    self._hand_on(data, asked)
            for key, until in tuple(self._open.items()):
                if until <= time.monotonic():
                    self._overdue.add(key)
                    self._fail(*key)
        for root in self._roots.values():
            autofs.silence(root)

    def _hear(self) -> bool:
        """Take what the owner says; return whether he is still there."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._owner, _LARGEST, 1)
            except BlockingIOError:
                return True
            except OSError as exc:
                if exc.errno == errno.ECONNRESET:
                    return False
                raise
            if not data:
                return False
            what, device, token = _MESSAGE.unpack(data)
            if what == _ROOT:
                self._forget(device)
                self._roots[device] = fds[0]
            elif what == _GONE:
                self._forget(device)
            else:
                self._open.pop((device, token), None)
                self._overdue.discard((device, token))

    def _forget(self, device: int) -> None:
        root = self._roots.pop(device, -1)
        if root >= 0:
            os.close(root)
        for key in [key for key in self._open if key[0] == device]:
            del self._open[key]
        self._overdue = {key for key in self._overdue if key[0] != device}

    def _hand_on(self, data: bytes, asked: Asked) -> None:
        key = (asked.device, asked.token)
        if self._overdue:  # smbd asks several times, and its client does not wait as often
            self._fail(*key)
            return
        self._open[key] = time.monotonic() + self._seconds
        try:
            self._owner.send(data)
        except OSError:  # he takes no more
            self._fail(*key)

    def _fail(self, device: int, token: int) -> None:
        self._open.pop((device, token), None)
        root = self._roots.get(device)
        if root is not None:
            with suppress(OSError):  # it has been answered just now
                autofs.answer(root, token, done=False)
