"""Both sockets: listening, admitting, and letting each connection be served in a task of its own.

Contract: a connection is admitted or refused before anything is read from it; a refusal is cheap,
and logged at most once a second for each user. Who is refused again and again is refused without
being looked at, and all refusals together take a small part of the time: the others wait in the
kernel's queue, in their order.
"""

import asyncio
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TypeAlias

from samba_rvss import wire
from samba_rvss.daemon import journal
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.processes import Peer, peer_credentials
from samba_rvss.samba.conf import Config
from systemd import daemon as systemd

_logger = logging.getLogger(__name__)

REQUESTS = f"{__name__}.requests"
"""The logger of finished requests: each has a line."""

Serve: TypeAlias = Callable[[socket.socket, Peer], Coroutine[Any, Any, None]]

# Whoever is in the queue is before a callout of Samba's, and costs it a share of _PAUSE.
_BACKLOG = 64
_REQUEST_SECONDS = 5.0
_ADMIT_SECONDS = 5.0
_MOST_USERS = 1000
# How many refusals a user may have at once, and in a second, before he is not looked at any more.
_REFUSALS, _REFUSALS_A_SECOND = 20.0, 2.0
_AT_ONCE = 4  # refusals between two pauses
_PAUSE = 0.001  # seconds


class Admission(Protocol):
    """Who may use a socket."""

    def quickly(self, connection: socket.socket) -> Peer | None:
        """Return the process that connected, or None if `slowly` has to be asked; waits for nobody.

        Raises:
            RvssError: REFUSED.
        """

    def slowly(self, connection: socket.socket) -> Peer:
        """Return the process that connected.

        Raises:
            RvssError: REFUSED.
        """


def listen(config: Config, cleanup: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return both listening sockets, the hook's first: systemd's if it gave them, else our own.

    Of our own, the hook's is made last: where it listens, the other does too.

    Raises:
        RvssError: SYSTEM.
    """
    given = systemd.listen_fds_with_names() if os.environ.get("LISTEN_FDS") else {}
    listeners = []
    for path, mode in ((config.admin_socket, 0o600), (config.hook_socket, 0o666)):
        fd = next((fd for fd in given if _bound_to(fd, path)), None)
        if fd is not None:
            listener = socket.socket(fileno=fd)
            listener.listen(_BACKLOG)  # systemd's own is thousands (systemd.socket(5), Backlog=)
        else:
            listener = _listen_at(path, mode)
            cleanup.callback(_clear, path)
        listener.settimeout(0)
        cleanup.callback(listener.close)
        listeners.append(listener)
    return listeners[1], listeners[0]


def _listen_at(path: str, mode: int) -> socket.socket:
    """Listen at a path, in the place of a socket that nobody holds any more."""
    with ExitStack() as guard:
        try:
            if not _clear(path):
                raise RvssError(
                    Problem.BUSY,
                    f"somebody else's socket is at {path}",
                    "end its owner (if it is systemd, let it start the daemon:"
                    " 'systemctl start samba-rvss.service'),"
                    " or give this instance an 'rvss:run directory' of its own",
                )
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            guard.callback(listener.close)
            listener.bind(path)
            os.chmod(path, mode)
            listener.listen(_BACKLOG)
        except OSError as exc:
            raise RvssError(
                Problem.SYSTEM, f"cannot listen at {path}: {exc.strerror or exc}"
            ) from exc
        guard.pop_all()
        return listener


def _clear(path: str) -> bool:
    """Remove a socket that nobody holds; return whether nothing is there.

    The kernel finds out without disturbing a holder, whoever that is and in whatever namespace: it
    looks for the socket that is bound to the file, by its inode, and refuses the connection if
    there is none, before it compares the types (net/unix/af_unix.c, unix_find_bsd()). As ours is
    a datagram socket, no listener hears of it, and no systemd starts a daemon for it. Names, as
    /proc/net/unix has them, would tell less: they are as the holder wrote them, and of one network
    namespace only.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return True
    except FileNotFoundError:
        return True
    except OSError as exc:
        _logger.debug("%s: %s", path, exc)
    return False


def _bound_to(fd: int, path: str) -> bool:
    with socket.socket(fileno=os.dup(fd)) as candidate:
        name = candidate.getsockname() if candidate.family == socket.AF_UNIX else ""
        if not isinstance(name, str) or not name.startswith("/"):
            return False
        directory, base = os.path.split(name)
        return os.path.join(os.path.realpath(directory), base) == path


class RootOnly:
    """Who may use admin.sock; see `Admission`."""

    def quickly(self, connection: socket.socket) -> Peer:
        """See `Admission`."""
        peer = peer_credentials(connection)
        if peer.uid != 0:
            raise RvssError(Problem.REFUSED, "only root may use this socket")
        return peer

    slowly = quickly


async def receive(connection: socket.socket) -> bytes:
    """Return a request; empty if the connection was closed, or if the request is empty.

    Raises:
        RvssError: BAD_REQUEST if it does not come in time.
    """
    with suppress(BlockingIOError):  # the hook sends as soon as it has connected
        return connection.recv(wire.MAXIMUM + 1)
    loop = asyncio.get_running_loop()
    receiving = asyncio.ensure_future(loop.sock_recv(connection, wire.MAXIMUM + 1))
    # A timeout would drop what has come while this process had no time, on a busy machine.
    await asyncio.wait({receiving}, timeout=_REQUEST_SECONDS)
    if not receiving.done():
        receiving.cancel()
        await asyncio.wait({receiving})
        raise RvssError(Problem.BAD_REQUEST, "no request came in time")
    return receiving.result()


class Door:
    """Accepts connections, as long as `run` runs.

    Args:
        tasks: each connection is served in one of them.
        threads: where those are looked at that may take time.
    """

    def __init__(self, tasks: Tasks, threads: Executor) -> None:
        self._tasks = tasks
        self._threads = threads
        self._users: dict[int, _User] = {}
        self._refusals = 0

    async def run(self, listener: socket.socket, admission: Admission, serve: Serve) -> None:
        """Accept connections, and serve those that are admitted, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as exc:
                _logger.error("cannot accept a connection: %s", exc)
                await asyncio.sleep(0.1)
                continue
            connection.settimeout(0)
            uid = peer_credentials(connection).uid
            try:
                if uid and not self._user(uid).is_looked_at:
                    raise RvssError(
                        Problem.REFUSED, f"user {uid} was refused too often just now", "wait"
                    )
                peer = admission.quickly(connection)
            except RvssError as exc:
                self._refuse(connection, uid, exc)
            else:
                if peer is not None:
                    self._tasks.start(serve(connection, peer))
                else:
                    self._tasks.start(self._slowly(connection, uid, admission, serve))
            # A client that connects without end must not keep others from being served.
            pause = self._refusals >= _AT_ONCE
            self._refusals = 0 if pause else self._refusals
            await asyncio.sleep(_PAUSE if pause else 0)

    async def _slowly(
        self, connection: socket.socket, uid: int, admission: Admission, serve: Serve
    ) -> None:
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(self._threads, admission.slowly, connection)
        await asyncio.wait({looking}, timeout=_ADMIT_SECONDS)
        try:
            if not looking.done():
                reason = f"whether user {uid} may use it cannot be told in {_ADMIT_SECONDS:g} s"
                raise RvssError(Problem.REFUSED, reason)
            peer = looking.result()
        except RvssError as exc:
            looking.cancel()
            self._refuse(connection, uid, exc)
        else:
            await serve(connection, peer)

    def _user(self, uid: int) -> "_User":
        if uid not in self._users:
            if len(self._users) >= _MOST_USERS:
                self._users.clear()
            self._users[uid] = _User()
        return self._users[uid]

    def _refuse(self, connection: socket.socket, uid: int, exc: RvssError) -> None:
        self._refusals += 1
        count = self._user(uid).refused()
        if count is not None:
            more = f" (and {count} before)" if count else ""
            about = journal.fields(journal.Message.REFUSED, client=uid)
            _logger.warning("refused: %s%s", exc.line(), more, extra=about)
        with suppress(OSError):
            connection.send(wire.encode_reply(exc.problem, exc.line()))
        connection.close()


class _User:
    """A user's refusals: how many he may have, and how many were not logged."""

    def __init__(self) -> None:
        self._left = _REFUSALS
        self._last = self._logged = time.monotonic()
        self._count = -1  # none was logged yet

    @property
    def is_looked_at(self) -> bool:
        """Whether he is within his budget."""
        present = time.monotonic()
        self._left = min(_REFUSALS, self._left + (present - self._last) * _REFUSALS_A_SECOND)
        self._last = present
        return self._left >= 1

    def refused(self) -> int | None:
        """Count a refusal; return how many were not logged before it, None if it is not either."""
        self._left = max(0.0, self._left - 1)
        present = time.monotonic()
        if self._count >= 0 and present - self._logged < 1.0:
            self._count += 1
            return None
        count, self._count, self._logged = max(self._count, 0), 0, present
        return count


def log_request(
    verb: str,
    subject: str,
    uid: int,
    seconds: float,
    status: int,
    line: str,
    about: Mapping[str, str] | None = None,
) -> None:
    """Log a finished request: who wanted what, how long it took, and what came of it.

    Args:
        verb: what was wanted.
        subject: of what.
        uid: by whom.
        seconds: how long it took.
        status: 0, or the `Problem`.
        line: the error.
        about: what the journal is told beside (`samba_rvss.daemon.journal`).
    """
    level = logging.ERROR if status else logging.INFO
    outcome = f"failed ({Problem(status).name}): {line}" if status else "done"
    what = f"{verb} {subject}".rstrip()[:300]
    logging.getLogger(REQUESTS).log(
        level, "%s by uid %d in %.1f ms: %s", what, uid, seconds * 1000, outcome, extra=about
    )
