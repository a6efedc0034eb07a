"""``samba-rvss list`` and ``show``: what the ledger says; the daemon need not run."""

import argparse
import dataclasses
from datetime import datetime
from enum import Enum
from typing import Any

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration, open_ledger, the_copy
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context, Event, Volume


def register(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = verbs.add_parser(
        "list", help="list the shadow copies", description="List the shadow copies, oldest first."
    )
    verb.add_argument("--all", action="store_true", help="list those that are gone as well")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("share", nargs="*", metavar="SHARE", help="list those of these shares only")
    verb.set_defaults(function=run_list)
    verb = verbs.add_parser(
        "show",
        help="show a shadow copy and what happened to it",
        description="Show a shadow copy and its events.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("copy", metavar="ID", help="our id or its end, Samba's id, or the path")
    verb.set_defaults(function=run_show)


def run_list(arguments: argparse.Namespace) -> int:
    """List the copies."""
    config = configuration(arguments)
    wanted = {share.lower() for share in arguments.share}
    try:
        with open_ledger(config) as ledger:
            copies = ledger.copies(gone=arguments.all)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        copies = []  # no daemon has ever run here
    copies = [copy for copy in copies if not wanted or copy.share.lower() in wanted]
    if arguments.json:
        output.print_json([as_data(copy) for copy in copies])
        return 0
    rows = [
        [copy.id, copy.share, output.local_time(copy.created), copy.phase.value, copy.path]
        for copy in copies
    ]
    output.print_table(
        ["ID", "SHARE", "TAKEN", "PHASE", "PATH"], rows, "There are no shadow copies."
    )
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Show one copy."""
    with open_ledger(configuration(arguments)) as ledger:
        copy = the_copy(ledger, arguments.copy, gone=True)
        events = ledger.events(copy.id)
    if arguments.json:
        output.print_json({**as_data(copy), "events": [as_data(event) for event in events]})
        return 0
    volume = copy.volume
    output.print_facts(
        {
            "id": copy.id,
            "share": copy.share,
            "share path": copy.share_path,
            "taken": output.local_time(copy.created),
            "phase": copy.phase.value,
            "volume": f"{volume.name} on {volume.provider} {volume.file_system}",
            "directory in it": volume.directory or "/",
            "recovery mount": copy.path,
            "previous version": copy.previous_path or "none",
            "exposed share": copy.exposed_share or "none yet",
            "shadow copy id": copy.copy_id or "none yet",
            "shadow copy set": copy.set_id or "none yet",
            "context": str(Context(copy.context)) if copy.set_id else "not known yet",
            "client's uid": str(copy.uid) if copy.uid >= 0 else "not known",
        }
    )
    print()
    output.print_table(
        ["TIME", "EVENT", "TOOK", "UID", "DETAIL"], [_event_row(event) for event in events], ""
    )
    return 0


def as_data(value: object) -> Any:
    """Return a value of the model as JSON has it."""
    if dataclasses.is_dataclass(value):
        names = [entry.name for entry in dataclasses.fields(value)]
        if isinstance(value, Volume):
            names = ["key" if name == "id" else name for name in names]  # its id is in its key
        return {name: as_data(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _event_row(event: Event) -> list[str]:
    took = f"{event.duration * 1000:.0f} ms" if event.duration is not None else ""
    uid = str(event.uid) if event.uid >= 0 else ""
    return [output.local_time(event.time), event.what, took, uid, event.detail]
