"""What the daemon answers an administrator in more than one datagram.

Whoever asked may be slow, or go away: what was asked for is done all the same, at its own pace.
"""

import asyncio
import socket

from samba_rvss import report, wire
from samba_rvss.reconcile.runner import Outcome, Runner

_ALIVE_SECONDS = 15.0
_SEND_SECONDS = 30.0
_BATCH = 200
_SHOWN = 10


def finding(outcome: Outcome) -> wire.Finding:
    """Return what came of an action as a finding."""
    if outcome.error is not None:
        return report.of_action(outcome.action, wire.Fate.FAILED, outcome.error.line())
    return report.of_action(outcome.action, wire.Fate.STALE if outcome.stale else wire.Fate.DONE)


async def reconcile(connection: socket.socket, runner: Runner) -> str:
    """Reconcile, and send each finding as it comes.

    Returns:
        a line that says how it ended.

    Raises:
        RvssError: as `Runner.reconcile`.
    """
    queue: asyncio.Queue[wire.Finding | None] = asyncio.Queue()
    sending = asyncio.ensure_future(_send_all(connection, queue))
    try:
        decided, outcomes = await runner.reconcile(
            report=lambda outcome: queue.put_nowait(finding(outcome))
        )
        for one in report.left(decided):
            queue.put_nowait(one)
    finally:
        queue.put_nowait(None)
        await sending
    failed = sum(outcome.error is not None for outcome in outcomes)
    return f"reconciled: {len(outcomes)} found, {failed} failed, {len(decided.kept)} kept"


async def _send_all(connection: socket.socket, queue: "asyncio.Queue[wire.Finding | None]") -> None:
    """Send findings until None comes or nobody takes them."""
    while True:
        part: wire.Part | None
        try:
            async with asyncio.timeout(_ALIVE_SECONDS):
                part = await queue.get()
        except TimeoutError:
            part = wire.Alive()
        if part is None or not await send(connection, wire.encode_part(part)):
            return


async def tell(connection: socket.socket, runner: Runner) -> str:
    """Send what the daemon knows and no file says; return a line for the log."""
    last = runner.last
    presence = wire.Presence(
        quiet=runner.quiet,
        reconciled=last.time.isoformat() if last else "",
        done=_some(last.done) if last else (),
        failed=_some(last.failed) if last else (),
    )
    await send(connection, wire.encode_part(presence))
    busy = sorted(runner.busy)
    for start in range(0, len(busy), _BATCH):
        part = wire.Busy(copies=tuple(busy[start : start + _BATCH]))
        await send(connection, wire.encode_part(part))
    return "told"


def _some(lines: tuple[str, ...]) -> tuple[str, ...]:
    more = len(lines) - _SHOWN
    return (*lines[:_SHOWN], f"and {more} more") if more > 0 else lines


async def send(connection: socket.socket, data: bytes) -> bool:
    """Send a datagram; return whether it could be, within a time limit."""
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await asyncio.get_running_loop().sock_sendall(connection, data)
    except OSError:  # TimeoutError is one
        return False
    return True
