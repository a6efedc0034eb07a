"""``samba-rvss events``: what happened to a shadow copy or a set, with our ids and Samba's."""

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration, open_ledger
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Event, ShadowCopy
from samba_rvss.samba.names import names

_LIMIT = 1000


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "events",
        help="tell what happened to shadow copies",
        description="Tell what happened to shadow copies and sets, those that are gone as well,"
        " the newest last.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument(
        "--limit",
        type=_count,
        default=_LIMIT,
        metavar="N",
        help=f"the newest N only (default: {_LIMIT})",
    )
    verb.add_argument(
        "id", nargs="*", metavar="ID", help="a copy's id or its end, Samba's, a set's, or the path"
    )
    verb.set_defaults(function=run)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError("a number above 0 is wanted")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Print the events."""
    with open_ledger(configuration(arguments)) as ledger:
        events = select(ledger, arguments.id, arguments.limit)
        known = {copy: ledger.get(copy) for copy in {event.copy for event in events} if copy}
        sets = {event.set_id for event in events if event.set_id and not event.copy}
        members = {set_id: ledger.of_set(set_id) for set_id in sets}
    called = users(events)
    rows = [
        as_data(
            event,
            known.get(event.copy),
            () if event.copy else members.get(event.set_id, ()),
            users=called,
        )
        for event in events
    ]
    if arguments.json:
        output.print_json({"events": rows})
        return 0
    # A terminal has no room for three long ids: the end of ours is enough for any command.
    at_terminal = sys.stdout.isatty()
    whose = ["SHARE", "COPY"] if at_terminal else ["COPY", "SET", "SAMBA'S COPY"]
    output.print_table(
        ["TIME", *whose, "EVENT", "USER", "TOOK", "DETAIL"],
        [
            [
                output.local_time(event.time),
                *(_briefly(row) if at_terminal else _exactly(row)),
                event.what,
                _user(row),
                f"{event.duration * 1000:.0f} ms" if event.duration is not None else "",
                event.detail,
            ]
            for event, row in zip(events, rows, strict=True)
        ],
        "Nothing has happened yet.",
    )
    return 0


def _exactly(row: Mapping[str, Any]) -> list[str]:
    return [_named(row, "copy"), str(row["set_id"] or "-"), _named(row, "copy_id")]


def _briefly(row: Mapping[str, Any]) -> list[str]:
    """Return the share, and the end of our id; of a set's event those of its copies."""
    names = [row["copy"]] if row["copy"] else [copy["copy"] for copy in row["copies"]]
    ends = [str(name).rpartition("-")[2] for name in names]
    return [str(row["share"] or "-"), ", ".join(ends) or "-"]


def select(ledger: Ledger, words: Iterable[str], limit: int) -> list[Event]:
    """Return the newest events of the copies and sets that some words mean; without words, of all.

    Raises:
        RvssError: NOT_FOUND if nothing is known by one of the words.
    """
    words = [ledger.spelt(word) for word in words]
    if not words:
        return ledger.events(limit=limit)
    names: dict[str, None] = {}
    for word in words:
        # A set's first events are found by its copies: its id was not known when they happened.
        copies = ledger.find(word)
        names |= dict.fromkeys(copy.id for copy in copies)
        if all(word == copy.set_id for copy in copies):
            names[word] = None
    found: dict[Event, None] = {}
    for name in names:
        events = ledger.events(name, limit)
        if not events and name in words:
            raise RvssError(
                Problem.NOT_FOUND, f"nothing is known of {name}", "see 'samba-rvss list --all'"
            )
        found |= dict.fromkeys(events)
    return sorted(found, key=lambda event: event.time)[-limit:]


def _named(row: Mapping[str, Any], name: str) -> str:
    """Return an id of an event's copy, or of all copies of the set that it is of."""
    return str(row[name]) or ", ".join(copy[name] for copy in row["copies"]) or "-"


def users(events: Iterable[Event]) -> dict[int, str]:
    """Return the names of those whom events are of, by uid; see `names`."""
    return names({event.uid for event in events if event.uid >= 0})


def as_data(
    event: Event,
    copy: ShadowCopy | None,
    members: Iterable[ShadowCopy] = (),
    *,
    users: Mapping[int, str],
) -> dict[str, Any]:
    """Return an event as JSON has it, with the ids that became known only later.

    Args:
        event: the event.
        copy: the record of its copy.
        members: of an event of a set alone, the copies of that.
        users: as `users` returns them.
    """
    known = event.uid >= 0
    return {
        "time": event.time.isoformat(),
        "copy": event.copy,
        "set_id": event.set_id or (copy.set_id if copy else ""),
        "copy_id": copy.copy_id if copy else "",
        "copies": [{"copy": member.id, "copy_id": member.copy_id} for member in members],
        # Which of several shares of one directory it was became known later, too.
        "share": copy.share if copy else event.share,
        "what": event.what,
        "uid": event.uid if known else None,
        "user": users.get(event.uid, ""),
        "duration": event.duration,
        "detail": event.detail,
    }


def _user(row: Mapping[str, Any]) -> str:
    if row["uid"] is None:
        return "-"
    return f"{row['uid']} ({row['user']})" if row["user"] else str(row["uid"])
