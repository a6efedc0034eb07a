"""admin.sock: what the administrator's commands ask for; some answers take many datagrams.

Contract: a request is carried out even if its sender is slow or goes away.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from samba_rvss import wire
from samba_rvss.access import Access
from samba_rvss.backups import selection
from samba_rvss.backups.plausibility import DEFERRED
from samba_rvss.copies import holds
from samba_rvss.daemon import journal
from samba_rvss.daemon.exposures import Wish
from samba_rvss.daemon.notifier import Notifier
from samba_rvss.daemon.requests import Requests
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.sockets import log_request, receive
from samba_rvss.daemon.versions import Versions
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate, Finding
from samba_rvss.kernel.processes import Peer
from samba_rvss.model import Consistency, Run, ShadowCopy
from samba_rvss.reconcile import report

_logger = logging.getLogger(__name__)

_ALIVE_SECONDS = 15.0
_SEND_SECONDS = 30.0
_BATCH = 200
_SHOWN = 10


async def serve(
    connection: socket.socket,
    peer: Peer,
    requests: Requests,
    runner: Runner,
    access: Access,
    notifier: Notifier,
    versions: Versions,
) -> None:
    """Answer one request of an administrator, and close its connection."""
    started = time.monotonic()
    verb, subject = "admin request", ""
    copy: ShadowCopy | None = None
    try:
        request = wire.decode_admin(await receive(connection))
        verb, subject = request.verb, request.copy
        if verb == "reload":
            await requests.refresh(anew=True)
            line = "the configuration was read"
        elif verb == "reconcile":
            await requests.refresh()
            line = await _reconcile(connection, runner)
        elif verb == "adopt":
            subject = request.source
            await requests.refresh()
            line = await _adopt(connection, requests, request)
        elif verb == "status":
            line = await _tell(connection, requests, runner, access, notifier, versions)
        elif verb == "notify":
            line = await notifier.try_out()
        elif verb in ("pruned", "unpruned"):
            line = await requests.note_pruned(request.reason, done=verb == "pruned")
        elif verb == "deferred":
            copy = await requests.get(request.copy)
            subject = copy.title
            line = await requests.note(copy, DEFERRED, request.reason, peer.uid)
        elif verb == "restored":
            copy = await requests.get(request.copy)
            subject = copy.title
            line = await requests.note(copy, "restored", request.reason, peer.uid)
        elif verb == "guard":
            await requests.refresh()
            copy = await requests.get(request.copy)
            subject = copy.title
            line = await requests.guards.take(copy, peer.uid)
        elif verb == "lost":
            copy = await requests.get(request.copy)
            subject = copy.title
            await requests.deletions.give_up(copy)
            line = f"{copy.id} is given up"
        elif verb == "delete":
            copy = await requests.get(request.copy)
            subject = copy.title
            await requests.deletions.for_administrator(copy, peer.uid)
            line = f"{copy.id} is deleted"
        elif verb == "expose":
            await requests.refresh()
            copy = await requests.get(request.copy)
            subject = copy.title
            line = await _expose(requests, request, copy, peer.uid)
        elif verb == "conceal":  # it may be a writable copy, of which there is no record
            await requests.refresh()
            line = await requests.exposures.conceal(request.copy, peer.uid, delete=request.delete)
        else:
            copy = await requests.get(request.copy)
            subject = copy.title
            line = await _annotate(requests, request, copy, peer.uid)
        status = 0
    except RvssError as exc:
        status, line = int(exc.problem), exc.line()
    except Exception:
        _logger.exception("%s %s failed", verb, subject)
        status, line = int(Problem.INTERNAL), "an internal error; see samba-rvss's journal"
    await _send(connection, wire.encode_result(status, line))
    connection.close()
    if verb != "status" or status:
        about = journal.fields(copy=copy, client=peer.uid)
        log_request(verb, subject, peer.uid, time.monotonic() - started, status, line, about)


async def _annotate(
    requests: Requests, request: wire.AdminRequest, copy: ShadowCopy, uid: int
) -> str:
    """Do what is said of a copy as a backup; return the line of the result.

    Raises:
        RvssError: as the functions of `copies.holds`.
    """
    tag, until = request.tag, _time(request.until)
    match request.verb:
        case "keep":
            await requests.annotate(copy, lambda it, of: holds.want(it, of, uid))
            return f"{copy.id} is kept"
        case "unkeep":
            await requests.annotate(copy, lambda it, of: holds.unwant(it, of, uid))
            return f"{copy.id} is deleted when it ends"
        case "record":
            run = _run(request)
            await requests.annotate(copy, lambda it, of: holds.record(it, of, run, uid))
            return f"{copy.id} is kept as a backup of {run.name}"
        case "hold":
            await requests.annotate(copy, lambda it, of: holds.hold(it, of, tag, until, uid))
            return f"{copy.id} is held as '{tag}'"
        case "release":
            await requests.annotate(copy, lambda it, of: holds.release(it, of, tag, uid))
            return f"{copy.id} is no longer held as '{tag}'"
        case _:
            await requests.annotate(copy, lambda it, of: holds.tag_with(it, of, tag, uid))
            return f"{copy.id} has the tag '{tag}'"


def _run(request: wire.AdminRequest) -> Run:
    """Return which run a copy came of.

    Raises:
        RvssError: BAD_REQUEST.
    """
    if not selection.is_name(request.run):
        raise RvssError(Problem.BAD_REQUEST, f"{request.run!r} is no name of a backup")
    try:
        run = Run(
            name=request.run,
            consistency=Consistency(request.consistency),
            files=selection.parse(request.files) if request.files else (),
            veto=selection.parse(request.veto) if request.veto else (),
        )
    except ValueError as exc:
        raise RvssError(Problem.BAD_REQUEST, f"the request record is wrong: {exc}") from None
    if not selection.fits(run.files, run.veto):
        raise RvssError(Problem.LIMIT, f"the patterns of {run.name} are too long")
    return run


async def _expose(
    requests: Requests, request: wire.AdminRequest, copy: ShadowCopy, uid: int
) -> str:
    """Expose a backup; return the line of the result.

    Raises:
        RvssError: as `daemon.exposures.Exposures.expose`.
    """
    wish = Wish(writable=request.writable, account=request.account, until=_time(request.until))
    return f"{copy.id} is exposed as {await requests.exposures.expose(copy, wish, uid)}"


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise RvssError(Problem.BAD_REQUEST, f"{text!r} is no time") from None


async def _reconcile(connection: socket.socket, runner: Runner) -> str:
    """Reconcile, and send each finding as it comes; return the line of the result.

    Raises:
        RvssError: as `Runner.reconcile`.
    """
    async with _telling(connection) as tell:
        decided, outcomes = await runner.reconcile(
            report=lambda outcome: tell(report.of_outcome(outcome))
        )
        for finding in report.not_done(decided):
            tell(finding)
    failed = sum(outcome.fate is Fate.FAILED for outcome in outcomes)
    left = len(decided.left_alone)
    return f"reconciled: {len(outcomes)} found, {failed} failed, {left} left alone"


async def _adopt(connection: socket.socket, requests: Requests, request: wire.AdminRequest) -> str:
    """Adopt, and send what comes of each image; return the line of the result.

    Raises:
        RvssError: as `Adoptions.of_instance`.
    """
    async with _telling(connection) as tell:
        await requests.adoptions.of_instance(request.source, request.on, tell)
    return f"asked for the images of {request.source}"


@asynccontextmanager
async def _telling(connection: socket.socket) -> AsyncIterator[Callable[[Finding], None]]:
    """Give a function to a block that sends findings, without waiting until they are sent."""
    queue: asyncio.Queue[Finding | None] = asyncio.Queue()
    sending = asyncio.ensure_future(_send_all(connection, queue))
    try:
        yield queue.put_nowait
    finally:
        queue.put_nowait(None)
        await sending


async def _send_all(connection: socket.socket, queue: "asyncio.Queue[Finding | None]") -> None:
    """Send findings, and `Alive` in long pauses, until None comes or nobody takes them."""
    while True:
        part: wire.Part | None
        try:
            async with asyncio.timeout(_ALIVE_SECONDS):
                part = await queue.get()
        except TimeoutError:
            part = wire.Alive()
        if part is None or not await _send(connection, wire.encode_part(part)):
            return


async def _tell(
    connection: socket.socket,
    requests: Requests,
    runner: Runner,
    access: Access,
    notifier: Notifier,
    versions: Versions,
) -> str:
    """Send what only the daemon knows; return the line of the result."""
    last = runner.last
    presence = wire.Presence(
        quiet=runner.quiet,
        reconciled=last.time.isoformat() if last else "",
        done=_some(last.done) if last else (),
        failed=_some(last.failed) if last else (),
        unsealed=_some(runner.delayed),
        refused=_some(requests.refused),
        late=_some((*requests.late, *runner.late(), *versions.late)),
        lacking=_some((*access.lacking, *await requests.lacking(), *versions.lacking)),
        unnotified=_some(notifier.wrong),
    )
    await _send(connection, wire.encode_part(presence))
    busy = sorted(runner.busy)
    for start in range(0, len(busy), _BATCH):
        part = wire.Busy(copies=tuple(busy[start : start + _BATCH]))
        await _send(connection, wire.encode_part(part))
    return "told"


def _some(lines: tuple[str, ...]) -> tuple[str, ...]:
    more = len(lines) - _SHOWN
    return (*lines[:_SHOWN], f"and {more} more") if more > 0 else lines


async def _send(connection: socket.socket, data: bytes) -> bool:
    """Send a datagram; return whether it could be, within a time limit."""
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await asyncio.get_running_loop().sock_sendall(connection, data)
    except OSError:  # TimeoutError is one
        return False
    return True
