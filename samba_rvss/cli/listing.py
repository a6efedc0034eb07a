"""``samba-rvss list`` and ``show``: what the ledger says; the daemon need not run."""

import argparse
import dataclasses
import sys
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from samba_rvss import output
from samba_rvss.cli import disks, events, exposing, rows
from samba_rvss.cli.common import (
    Verbs,
    configuration,
    ledger_or_empty,
    open_ledger,
    the_copy,
)
from samba_rvss.copies import identity, instants
from samba_rvss.copies.create import INTENDED
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import (
    ENDED,
    Context,
    Event,
    Image,
    Mark,
    Phase,
    SetState,
    ShadowCopy,
    Volume,
    Whose,
)
from samba_rvss.samba.conf import Config


def register(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = verbs.add_parser(
        "list", help="list the shadow copies", description="List the shadow copies, oldest first."
    )
    verb.add_argument(
        "--all",
        action="store_true",
        help="list those that are gone as well, and images that are not ours",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("share", nargs="*", metavar="SHARE", help="list those of these shares only")
    verb.set_defaults(function=run_list, looks=True)
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
    waits: dict[str, str] = {}
    sets: dict[str, list[ShadowCopy]] = {}
    try:
        with open_ledger(config) as ledger:
            copies = ledger.copies(gone=arguments.all)
            if not arguments.all:  # what its client has deleted, and is still to be sealed
                copies += [copy for copy in ledger.backups() if copy.phase is not Phase.KEPT]
            if arguments.json:
                sets = {name: ledger.of_set(name) for name in {copy.set_id for copy in copies}}
            else:
                waits = rows.waiting(config, ledger, copies)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        copies = []  # no daemon has ever run here
    living = {copy.id for copy in copies if copy.phase is not Phase.GONE}
    copies = [copy for copy in copies if not wanted or copy.share.lower() in wanted]
    with output.progress(output.LOOKING):
        others = _others(config, living) if arguments.all else []
        exposed = _exposed(config)
    exposed = [image for image in exposed if not wanted or image.mark.share.lower() in wanted]
    others = [row for row in others if not wanted or str(row["share"]).lower() in wanted]
    if arguments.json:
        told = [copy_data(copy, sets.get(copy.set_id, ())) for copy in copies]
        output.print_json(
            {
                "copies": told,
                "exposed": [exposing.as_data(image) for image in exposed],
                "images": others,
            }
        )
        return 0
    _show(config, copies, waits, exposed, others)
    return 0


def _show(
    config: Config,
    copies: Sequence[ShadowCopy],
    waits: Mapping[str, str],
    exposed: Sequence[Image],
    others: Sequence[dict[str, Any]],
) -> None:
    """Print the list: on a terminal what one wants to see at a glance, else times and paths."""
    clients = rows.Clients(config)
    lines = [
        _Line(
            id=copy.id,
            share=copy.share,
            taken=copy.created,
            phase=copy.phase.value,
            clients=clients.of(copy.exposed_share if copy.phase not in ENDED else ""),
            waits=waits.get(copy.id, ""),
            path=copy.path,
        )
        for copy in copies
    ]
    for image in exposed:
        how = exposing.shown(image.mark.exposed) if image.mark.exposed else "concealed"
        lines.append(
            _Line(
                id=image.id,
                share=image.mark.share,
                taken=image.mark.created,
                phase="writable copy" if image.mark.branch else "backup",
                clients=clients.of(image.mark.exposed.share if image.mark.exposed else ""),
                waits=how,
                path=how,
            )
        )
    lines += map(_other_line, others)
    at_terminal = sys.stdout.isatty()  # which has no room for paths
    when, told = ("AGE", rows.age) if at_terminal else ("TAKEN", output.local_time)
    path = [] if at_terminal else ["PATH"]
    columns = ["ID", "SHARE", when, "PHASE", *path, "CONNECTED", "WAITS FOR"]
    shown = [
        [
            at.id,
            at.share,
            told(at.taken) if at.taken else "-",
            at.phase,
            *([] if at_terminal else [at.path]),
            at.clients,
            at.waits,
        ]
        for at in lines
    ]
    output.print_table(columns, shown, "There are no shadow copies.", rows.STYLES)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line of the list."""

    id: str
    share: str
    taken: datetime | None
    phase: str
    clients: str
    waits: str
    path: str


def _exposed(config: Config) -> list[Image]:
    """Return the backups that are shares, and the writable copies beside backups."""
    with ledger_or_empty(config) as ledger:
        file_systems = {copy.volume.file_system for copy in ledger.backups()}
    found = exposing.images(config, file_systems) if file_systems else ()
    return exposing.of(found)


def _others(config: Config, living: Container[str]) -> list[dict[str, Any]]:
    """Return as JSON has it what is on the file systems and is in no record that is not gone."""
    from samba_rvss.providers.all import providers
    from samba_rvss.providers.inventory import of_all

    known = providers(identity.read(config), config.homes)
    inventory = of_all(known)
    found = []
    for image in inventory.images:
        if image.id not in living and not image.mark.branch:
            whose = Whose.FORMER if image.former else Whose.OURS
            instance = config.run_directory if image.former else ""
            where = (image.mark.volume.name, image.mark.volume.file_system)
            row = other(image.id, whose, image.mark, instance, *where, read_only=image.read_only)
            found.append(row)
    for theirs in inventory.foreign:
        where = (theirs.where, theirs.file_system)
        row = other(
            theirs.id,
            theirs.whose,
            theirs.mark,
            theirs.instance,
            *where,
            read_only=theirs.read_only,
        )
        found.append(row | {"machine": theirs.machine})
    for file_system, reason in inventory.unlisted.items():
        output.print_error(f"{file_system} cannot be listed: {reason}")
    return found


def other(
    name: str,
    whose: Whose,
    mark: Mark | None,
    instance: str,
    where: str,
    file_system: str,
    *,
    read_only: bool,
) -> dict[str, Any]:
    """Return an image that is in no record as JSON has it.

    Args:
        name: its id.
        whose: whose it is.
        mark: its mark, if it has one that can be read.
        instance: whose it is by that mark.
        where: what an administrator finds it by.
        file_system: which one it is on.
        read_only: whether every part of it is.
    """
    return {
        "id": name,
        "share": mark.share if mark else "",
        "created": mark.created.isoformat() if mark else None,
        "whose": whose.value,
        "instance": instance,
        "machine": "",
        "where": where,
        "file_system": file_system,
        "read_only": read_only,
        "sealed": mark is not None and mark.sealed is not None,
    }


def _other_line(row: dict[str, Any]) -> _Line:
    whose = f"{row['whose']}, {row['instance']}" if row["instance"] else row["whose"]
    state = "read-only" if row["read_only"] else "writable"
    where = f"{row['where']} on {row['file_system']}"
    return _Line(
        id=row["id"],
        share=row["share"] or "-",
        taken=datetime.fromisoformat(row["created"]) if row["created"] else None,
        phase=f"{whose}, {state}",
        clients="-",
        waits=where,
        path=where,
    )


def run_show(arguments: argparse.Namespace) -> int:
    """Show one copy."""
    config = configuration(arguments)
    with open_ledger(config) as ledger:
        copy = the_copy(ledger, arguments.copy, gone=True)
        history = ledger.events(copy.id)
        members = ledger.of_set(copy.set_id)
    if arguments.json:
        users = events.users(history)
        told = [events.as_data(event, copy, users=users) for event in history]
        seen = {**copy_data(copy, members), "disks": disks.as_data(config, copy)}
        output.print_json({"copy": seen, "events": told})
        return 0
    volume = copy.volume
    said = next((event.detail for event in history if event.what == INTENDED), "")
    forced = f" ({said})" if said else ""
    output.print_facts(
        {
            "id": copy.id,
            "share": copy.share,
            "share path": copy.share_path,
            "taken": output.local_time(copy.created),
            "of one instant": _instant(copy, members),
            "phase": copy.phase.value,
            "virtual disks": disks.told(config, [copy]),
            "volume": f"{volume.name} on {volume.provider} {volume.file_system}",
            "directory in it": volume.directory or "/",
            "recovery mount": copy.path,
            "previous version": copy.previous_path or "none",
            "exposed share": copy.exposed_share or "none yet",
            "shadow copy id": copy.copy_id or "none yet",
            "shadow copy set": copy.set_id or "none yet",
            "context": Context(copy.context).words if copy.set_id else "not known yet",
            "client's uid": f"{copy.uid}{forced}" if copy.uid >= 0 else "not known",
            **({"adopted": "its record was made anew from its mark"} if copy.adopted else {}),
        }
    )
    output.print_line()
    output.print_table(
        ["TIME", "EVENT", "TOOK", "UID", "DETAIL"], [_event_row(event) for event in history], ""
    )
    return 0


def _instant(copy: ShadowCopy, members: Sequence[ShadowCopy]) -> str:
    """Return what of a copy, or of its set, is of one instant, in words."""
    said = {
        None: "not known",
        instants.OneInstant.NONE: "not all of its volume: what is nested is of other instants",
        instants.OneInstant.VOLUME: "its volume",
        instants.OneInstant.SET: "its set",
    }[instants.of(copy, members)]
    gap = instants.gap(members)
    if gap is None:
        return said
    between = f"{gap.total_seconds() * 1000:.0f} ms between its file systems"
    return f"{said}, on this file system; {between}"


def copy_data(copy: ShadowCopy, members: Sequence[ShadowCopy]) -> dict[str, Any]:
    """Return a copy as JSON has it.

    Args:
        copy: the copy.
        members: all copies of its set.
    """
    found: dict[str, Any] = as_data(copy)
    instant, gap = instants.of(copy, members), instants.gap(members)
    milliseconds = None if gap is None else round(gap.total_seconds() * 1000)
    return {**found, "instant": as_data(instant), "gap_ms": milliseconds}


def as_data(value: object) -> Any:
    """Return a value of the model as JSON has it."""
    if dataclasses.is_dataclass(value):
        names = [entry.name for entry in dataclasses.fields(value)]
        if isinstance(value, Volume):
            names = ["key" if name == "id" else name for name in names]  # its id is in its key
        return {name: as_data(getattr(value, name)) for name in names}
    if isinstance(value, SetState):
        return value.name.lower()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _event_row(event: Event) -> list[str]:
    took = f"{event.duration * 1000:.0f} ms" if event.duration is not None else ""
    uid = str(event.uid) if event.uid >= 0 else ""
    return [output.local_time(event.time), event.what, took, uid, event.detail]
