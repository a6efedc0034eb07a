"""A process that answers for us when we do not: whoever looks into a backup waits for nobody.

The kernel has a client's smbd wait until a question of `kernel.autofs` is answered, without any
limit. So a process of its own reads the questions and hands them on. Any name is a question, so
what is not there it answers itself: we get one question at most for each name that is shown. It
answers one that we have not answered in time, because we have been stopped or hang, and all others
at once until we are back; when we have ended, however that was, it has the kernel ask nothing any
more. If it is ended itself, the kernel sees that nobody reads the pipe, and we see that nobody
writes to us.

    to us       what the kernel asks, as it asks it
    from us     ROOT and a descriptor, GONE, DONE: that a mount is there, or asks nothing any more,
                or that its question has been answered

Place: on `kernel.autofs`, for `versions`. Contract: the process waits for nothing but questions, us
and time; who asks without end keeps it from neither of the others. Whoever has a Keeper closes it.
"""

import errno
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from itertools import islice

from samba_rvss import child
from samba_rvss.closing import Closing
from samba_rvss.kernel import autofs, processes
from samba_rvss.kernel.autofs import Asked

_MESSAGE = struct.Struct("=BII")  # what, a mount's device, a question's token
_ROOT, _GONE, _DONE = range(3)
_LARGEST = 4096
_AT_ONCE = 64  # so many questions, then we are heard again
_FORGET_SECONDS = 60.0


class Keeper(Closing):
    """Such a process.

    Args:
        questions: our end of `kernel.autofs.pipe`, which is the process's from now on.
        seconds: after which it answers a question that we have not.
        forget: so many seconds later it takes us for being back, whatever we have said.

    Raises:
        ToolError: it cannot be started.
    """

    def __init__(self, questions: int, seconds: float, *, forget: float = _FORGET_SECONDS) -> None:
        self._unsent: deque[bytes] = deque()
        try:
            self._process, self._socket = child.start(serve, seconds, forget, fd=questions)
        finally:
            os.close(questions)
        self._socket.setblocking(False)  # noqa: FBT003 - it takes no keywords

    def fileno(self) -> int:
        """Return the descriptor from which questions can be read (`kernel.autofs.asked`)."""
        return self._socket.fileno()

    def add(self, root: int) -> None:
        """Have it answer for a mount, by the mount's root, which stays the caller's.

        Raises:
            OSError: if it takes nothing now, or has ended.
        """
        self._send()
        if self._unsent:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        message = _MESSAGE.pack(_ROOT, autofs.device(root), 0)
        socket.send_fds(self._socket, [message], [root])

    def drop(self, root: int) -> None:
        """Have it forget a mount, which asks nothing any more."""
        self._tell(_GONE, autofs.device(root))

    def done(self, asked: Asked) -> None:
        """Tell it that a question has been answered."""
        self._tell(_DONE, asked.device, asked.token)

    def _tell(self, what: int, device: int, token: int = 0) -> None:
        self._unsent.append(_MESSAGE.pack(what, device, token))
        self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except ConnectionError:
            self._unsent.clear()  # it has ended
        except OSError:
            pass  # it goes with what is sent next

    def close(self) -> None:
        """End it; the kernel asks nothing any more."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def serve(fd: int, seconds: float, forget: float, questions: int) -> None:
    """Hand on questions until the owner has ended, and answer those that he does not.

    Args:
        fd: the socket to the owner.
        seconds, forget, questions: as `Keeper` has them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    # To be in the mounts' process group is enough to answer. Whom their directories let pass is not
    # for us: we have to see what is in them.
    processes.keep_capability(processes.CAP_DAC_READ_SEARCH)
    with socket.socket(fileno=fd) as owner:
        _Serving(owner, seconds, forget, questions).run()


class _Serving:
    def __init__(self, owner: socket.socket, seconds: float, forget: float, questions: int) -> None:
        owner.setblocking(False)  # noqa: FBT003 - it takes no keywords
        self._owner = owner
        self._seconds = seconds
        self._forget_seconds = forget
        self._questions = questions
        self._roots: dict[int, int] = {}
        self._gone: set[int] = set()  # the devices of those that ask nothing any more
        self._open: dict[tuple[int, int], float] = {}  # until when, by device and token
        # What the owner has not answered yet, and when that is forgotten.
        self._overdue: dict[tuple[int, int], float] = {}

    def run(self) -> None:
        poll = select.poll()
        for fd in (self._owner.fileno(), self._questions):
            poll.register(fd, select.POLLIN)
        with suppress(EOFError):  # the owner has ended in good order
            while self._turn(poll):
                pass
        for root in self._roots.values():
            autofs.silence(root)

    def _turn(self, poll: select.poll) -> bool:
        """Wait for something, and do it; return whether to go on."""
        first = min(self._open.values(), default=None)
        left = None if first is None else max(0.0, first - time.monotonic()) * 1000 + 1
        ready = {fd for fd, _ in poll.poll(left)}
        # What we are told comes first: a mount is known before it asks.
        if self._owner.fileno() in ready and not self._hear():
            return False
        if self._questions in ready:
            for data, asked in islice(autofs.questions(self._questions), _AT_ONCE):
                if not self._take(data, asked):
                    return False
        present = time.monotonic()
        for key, until in tuple(self._open.items()):
            if until <= present:
                if key[0] not in self._roots:
                    return False  # we cannot answer it; once we have ended, the owner does
                self._overdue[key] = present + self._forget_seconds
                self._fail(*key)
        return True

    def _hear(self) -> bool:
        """Take what the owner says; return whether he is still there."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._owner, _LARGEST, 1)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # he has ended; what he said before comes after this
            if not data:
                return False
            what, device, token = _MESSAGE.unpack(data)
            if what == _ROOT:
                if not fds:  # EMFILE: we cannot answer for it; once we have ended, the owner does
                    return False
                early = [key for key in self._open if key[0] == device]
                self._forget(device)
                self._roots[device] = fds[0]
                for key in early:
                    self._fail(*key)
            elif what == _GONE:
                self._forget(device)
                self._gone.add(device)
            else:
                self._open.pop((device, token), None)
                self._overdue.pop((device, token), None)

    def _forget(self, device: int) -> None:
        self._gone.discard(device)
        root = self._roots.pop(device, -1)
        if root >= 0:
            os.close(root)
        for keys in (self._open, self._overdue):
            for key in [key for key in keys if key[0] == device]:
                del keys[key]

    def _take(self, data: bytes, asked: Asked) -> bool:
        """Hand a question on, or answer it; return whether the owner is still there."""
        key = (asked.device, asked.token)
        if asked.device not in self._roots and not self._hear():
            return False
        if asked.device in self._gone:
            return True  # who waited has been told
        root = self._roots.get(asked.device)
        if root is None:
            self._open[key] = time.monotonic() + self._seconds  # until we hear of the mount
        elif self._is_overdue() or (asked.missing and not autofs.shows(root, asked.name)):
            self._fail(*key)
        else:
            self._open[key] = time.monotonic() + self._seconds
            try:
                self._owner.send(data)
            except OSError:  # he takes no more
                self._fail(*key)
        return True

    def _is_overdue(self) -> bool:
        """Return whether the owner does not answer: no client waits as often as smbd asks."""
        present = time.monotonic()
        for key in [key for key, until in self._overdue.items() if until <= present]:
            del self._overdue[key]
        return bool(self._overdue)

    def _fail(self, device: int, token: int) -> None:
        self._open.pop((device, token), None)
        root = self._roots.get(device)
        if root is not None:
            with suppress(OSError):  # it has been answered just now
                autofs.answer(root, token, done=False)
