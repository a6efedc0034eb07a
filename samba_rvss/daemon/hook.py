"""hook.sock: the callouts of vfs_shell_snap, one request a connection.

Contract: a copy whose path cannot be delivered to Samba is withdrawn: no client can know of it.
"""

import logging
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from samba_rvss import wire
from samba_rvss.daemon import journal
from samba_rvss.daemon.requests import NOTED, Requests
from samba_rvss.daemon.sockets import log_request, receive
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.kernel.permissions import User
from samba_rvss.kernel.processes import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from samba_rvss.model import ShadowCopy

_logger = logging.getLogger(__name__)


def _user(peer: Peer) -> User | None:
    """Return a callout's user; None if he does not see the files that we see, or has ended."""
    try:
        if processes.mount_namespace(peer.pid) != processes.mount_namespace(os.getpid()):
            return None
        return User(uid=peer.uid, gid=peer.gid, groups=processes.groups(peer.pid))
    except OSError:
        return None


def _message(verb: str, *, failed: bool) -> journal.Message | None:
    """Return what has happened with a callout that has ended."""
    if not failed:
        return journal.Message.TAKEN if verb == "create" else None
    return journal.Message.NOT_DELETED if verb == "delete" else journal.Message.NOT_TAKEN


async def serve(connection: socket.socket, peer: Peer, requests: Requests) -> None:
    """Answer one callout, and close its connection."""
    started = time.monotonic()
    verb, subject, words = "request", "", tuple[str, ...]()
    made: ShadowCopy | None = None
    copy: ShadowCopy | None = None
    ended: Callable[..., None] | None = None
    try:
        data = await receive(connection)
        if not data:
            # Closed, or an empty request; somebody may have looked whether we are here.
            _logger.debug("uid %d connected and said nothing", peer.uid)
            with suppress(OSError):
                connection.send(wire.encode_reply(Problem.BAD_REQUEST, "the request is empty"))
            connection.close()
            return
        request = wire.decode_hook(data)
        verb, words = request.verb, request.words
        subject = " ".join(words)
        ended = requests.begins(verb, peer.uid, words, started)
        status, line = 0, ""
        if verb == "check":
            await requests.refresh()
            await requests.check(words, _user(peer), peer)
        elif verb == "create":
            made = await requests.create(words, peer, started)
            line, subject = made.path, made.title
        else:
            await requests.refresh()
            copy = await requests.find(words)
            subject = copy.title
            await requests.deletions.for_samba(copy, peer.uid)
    except RvssError as exc:
        status, line = int(exc.problem), (await requests.explained(exc, words)).line()
    except Exception:
        _logger.exception("%s %s failed", verb, subject)
        status, line = int(Problem.INTERNAL), "an internal error; see samba-rvss's journal"
    try:
        connection.send(wire.encode_reply(status, line))
    except OSError as exc:
        if made is not None:
            reason = f"Samba did not wait for the answer ({exc.strerror})"
            await requests.deletions.withdraw(made, reason)
            late = int(Problem.DEADLINE)
            await requests.note_failure(verb, words, None, peer.uid, late, reason)
    else:
        if made is not None:
            requests.delivered(made)
    finally:
        connection.close()
        if ended is not None:
            ended(good=not status)
    about = journal.fields(
        _message(verb, failed=bool(status)),
        copy=made or copy,
        share=requests.share_of(words[:-1] if verb == "delete" else words),
        client=peer.uid,
    )
    log_request(verb, subject, peer.uid, time.monotonic() - started, status, line, about)
    if status and verb in NOTED:
        await requests.note_failure(verb, words, copy, peer.uid, status, line)
