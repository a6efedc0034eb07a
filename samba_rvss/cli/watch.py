"""``samba-rvss watch``: the shadow copies and what happens to them, again and again.

Contract: nothing is changed, no file system is looked at, and what is shown fits the terminal. It
ends at Ctrl-C, or after a number of looks.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from samba_rvss import output, wire
from samba_rvss.cli import rows
from samba_rvss.cli.common import Verbs, ask, configuration, ledger_or_empty
from samba_rvss.clock import now
from samba_rvss.daemon import holding
from samba_rvss.errors import RvssError
from samba_rvss.model import Phase
from samba_rvss.samba.conf import Config

_SECONDS = 2.0
_ASK_SECONDS = 1.0
_EVENTS, _TROUBLES = 8, 5
_LEAST = 3  # shadow copies, however small the terminal is
_WIDE = 120  # columns; on less a shadow copy takes several lines
_COPIES = ["ID", "SHARE", "AGE", "PHASE", "CONNECTED", "WAITS FOR"]
_HAPPENED = ["TIME", "SHARE", "EVENT", "COPY", "DETAIL"]


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "watch",
        help="show the shadow copies, and what happens to them, as it happens",
        description="Show the shadow copies, who is connected, what each waits for, and what has"
        " happened last, again and again, until Ctrl-C.",
    )
    verb.add_argument(
        "--interval",
        type=_seconds,
        default=_SECONDS,
        metavar="SECONDS",
        help=f"look so often (default: {_SECONDS:g})",
    )
    verb.add_argument("--count", type=_count, default=0, metavar="N", help="end after N looks")
    verb.set_defaults(function=run)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError("a number of seconds from 0.1 to 3600 is wanted")
    return found


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError("a number above 0 is wanted")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Show it until it is enough."""
    config = configuration(arguments)
    left = arguments.count
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt), output.Screen() as screen:
        while True:
            _draw(screen, look(config))
            left -= 1
            if not left:
                break
            time.sleep(arguments.interval)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen at one look.

    Attributes:
        state: whether the daemon answers, and how many copies are in which phase.
        troubles: what is wrong, a sentence each.
        copies: a row each, with the columns ID to WAITS FOR.
        events: a row each, the newest last.
    """

    state: str
    troubles: tuple[str, ...]
    copies: tuple[Sequence[str], ...] = ()
    events: tuple[Sequence[str], ...] = ()


def look(config: Config) -> Sight:
    """Look once; what cannot be seen is said."""
    state, troubles = _daemon(config)
    try:
        with ledger_or_empty(config) as ledger:
            copies = ledger.copies()
            copies += [copy for copy in ledger.backups() if copy.phase is not Phase.KEPT]
            waits = rows.waiting(config, ledger, copies)
            events = ledger.events(limit=_EVENTS)
    except RvssError as exc:
        return Sight(state=state, troubles=(*troubles, exc.line()))
    clients = rows.Clients(config)
    # What is being worked on stands first: it may not all fit.
    copies.sort(key=lambda copy: copy.phase is Phase.SEALED)
    counts = {phase: sum(copy.phase is phase for copy in copies) for phase in Phase}
    told = [f"{count} {phase.value}" for phase, count in counts.items() if count]
    return Sight(
        state=f"{state}; {', '.join(told) or 'no shadow copies'}",
        troubles=troubles,
        copies=tuple(
            (
                copy.id,
                copy.share,
                rows.age(copy.created),
                copy.phase.value,
                clients.of(copy.exposed_share),
                waits[copy.id],
            )
            for copy in copies
        ),
        events=tuple(
            (
                f"{event.time.astimezone():%H:%M:%S}",
                event.share,
                event.what,
                event.copy or event.set_id,
                event.detail,
            )
            for event in events
        ),
    )


def _daemon(config: Config) -> tuple[str, tuple[str, ...]]:
    if not holding.is_taken(config):
        return "the daemon does not run", ()
    parts: list[wire.Part] = []
    try:
        ask(config, wire.AdminRequest(verb="status"), parts.append, _ASK_SECONDS, quiet=True)
    except RvssError as exc:
        return "the daemon does not answer", (exc.line(),)
    found = [part for part in parts if isinstance(part, wire.Presence)]
    return "the daemon answers", tuple(
        line
        for presence in found
        for line in (
            *presence.failed,
            *presence.unsealed,
            *presence.refused,
            *presence.late,
            *presence.lacking,
        )
    )


def _draw(screen: output.Screen, seen: Sight) -> None:
    title = f"samba-rvss on {socket.gethostname()}, {now().astimezone():%Y-%m-%d %H:%M:%S}"
    if screen.size is None:
        for line in (title, seen.state, *seen.troubles):
            output.print_line(line)
        output.print_table(_COPIES, seen.copies, "")
        output.print_table(_HAPPENED, seen.events, "")
        output.print_line()
        sys.stdout.flush()
        return
    troubles = seen.troubles[:_TROUBLES]
    columns, lines = screen.size
    # Titles, headings and what stands between take eight lines.
    room = lines - 8 - len(troubles) - len(seen.events)
    room = max(_LEAST, room if columns >= _WIDE else room // 3)
    copies = seen.copies[: room if len(seen.copies) <= room else room - 1]
    more = len(seen.copies) - len(copies)
    screen.show(
        output.text_of(title, "bold"),
        output.text_of(seen.state),
        *(output.text_of(line, "bold red") for line in troubles),
        output.text_of(""),
        output.table_of(_COPIES, copies, rows.STYLES),
        *([output.text_of(f"and {more} more")] if more else []),
        output.text_of(""),
        output.table_of(_HAPPENED, seen.events, {}, _HAPPENED[-1]),
    )
