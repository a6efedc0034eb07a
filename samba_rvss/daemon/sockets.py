"""Both sockets: listening, admitting, and letting each connection be served in a task of its own.

Contract: a connection is admitted or refused before anything is read from it; a refusal is cheap,
and logged at most once a second for each user.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any, TypeAlias

from samba_rvss import wire
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.processes import Peer, peer_credentials
from samba_rvss.samba.conf import Config
from systemd import daemon as systemd

_logger = logging.getLogger(__name__)

Admit: TypeAlias = Callable[[socket.socket], Peer]
Serve: TypeAlias = Callable[[socket.socket, Peer], Coroutine[Any, Any, None]]

_BACKLOG = 256
_REQUEST_SECONDS = 5.0
_MOST_USERS = 1000


def listen(config: Config, cleanup: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return both listening sockets, the hook's first: systemd's if it gave them, else our own.

    Raises:
        RvssError: SYSTEM.
    """
    given = systemd.listen_fds_with_names() if os.environ.get("LISTEN_FDS") else {}
    listeners = []
    for path, mode in ((config.hook_socket, 0o666), (config.admin_socket, 0o600)):
        fd = next((fd for fd in given if _bound_to(fd, path)), None)
        if fd is not None:
            listener = socket.socket(fileno=fd)
        else:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with suppress(FileNotFoundError):
                os.unlink(path)
            try:
                listener.bind(path)
                os.chmod(path, mode)
            except OSError as exc:
                listener.close()
                raise RvssError(
                    Problem.SYSTEM, f"cannot listen at {path}: {exc.strerror or exc}"
                ) from exc
            cleanup.callback(_unlink, path)
            listener.listen(_BACKLOG)
        listener.settimeout(0)
        cleanup.callback(listener.close)
        listeners.append(listener)
    return listeners[0], listeners[1]


def _bound_to(fd: int, path: str) -> bool:
    with socket.socket(fileno=os.dup(fd)) as candidate:
        return candidate.family == socket.AF_UNIX and candidate.getsockname() == path


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def admit_root(connection: socket.socket) -> Peer:
    """Return the process that connected to admin.sock, if it is root's.

    Raises:
        RvssError: REFUSED if it is not root.
    """
    peer = peer_credentials(connection)
    if peer.uid != 0:
        raise RvssError(Problem.REFUSED, "only root may use this socket")
    return peer


async def receive(connection: socket.socket) -> bytes:
    """Return a request; empty if the connection was closed, or if the request is empty.

    Raises:
        RvssError: BAD_REQUEST if it does not come in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            return await loop.sock_recv(connection, wire.MAXIMUM + 1)
    except TimeoutError as exc:
        raise RvssError(Problem.BAD_REQUEST, "no request came in time") from exc


class Door:
    """Accepts connections, as long as `run` runs.

    Args:
        tasks: each connection is served in one of them.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._refused: dict[int, tuple[float, int]] = {}

    async def run(self, listener: socket.socket, admit: Admit, serve: Serve) -> None:
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
            try:
                peer = admit(connection)
            except RvssError as exc:
                self._log_refusal(connection, exc)
                with suppress(OSError):
                    connection.send(wire.encode_reply(exc.problem, exc.line()))
                connection.close()
            else:
                self._tasks.start(serve(connection, peer))
            # A client that connects without end must not keep others from being served.
            await asyncio.sleep(0)

    def _log_refusal(self, connection: socket.socket, exc: RvssError) -> None:
        uid = peer_credentials(connection).uid
        since, count = self._refused.get(uid, (0.0, 0))
        if time.monotonic() - since < 1.0:
            self._refused[uid] = (since, count + 1)
            return
        more = f" (and {count} before)" if count else ""
        _logger.warning("refused: %s%s", exc.line(), more)
        if len(self._refused) > _MOST_USERS:
            self._refused.clear()
        self._refused[uid] = (time.monotonic(), 0)


def log_request(verb: str, subject: str, uid: int, seconds: float, status: int, line: str) -> None:
    """Log a finished request: who wanted what, how long it took, and what came of it."""
    level = logging.ERROR if status else logging.INFO
    outcome = f"failed ({Problem(status).name}): {line}" if status else "done"
    what = f"{verb} {subject}".rstrip().encode("utf-8", "backslashreplace").decode("utf-8")[:300]
    _logger.log(level, "%s by uid %d in %.1f ms: %s", what, uid, seconds * 1000, outcome)
