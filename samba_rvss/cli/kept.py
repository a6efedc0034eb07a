"""``samba-rvss backup list`` and ``show``: they only read.

Whatever names a part of a backup means all of it.
"""

import argparse
from collections.abc import Container, Sequence
from typing import Any

from samba_rvss import output
from samba_rvss.cli import disks, events, exposing, manifest
from samba_rvss.cli.common import (
    BACKUP_ID,
    Verbs,
    configuration,
    ledger_or_empty,
    open_ledger,
    whole_set,
)
from samba_rvss.clock import now
from samba_rvss.copies import identity
from samba_rvss.copies.backup import Backup, in_ledger
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Image, Run
from samba_rvss.samba.conf import Config

_STYLES = {"application": "green", "crash": "yellow", "not seen": "bold red"}


def register(verbs: Verbs) -> None:
    """Add the verbs to those of ``backup``."""
    listing = verbs.add_parser(
        "list", help="list the backups", description="List the backups, oldest first."
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("share", nargs="*", metavar="SHARE", help="those of these shares only")
    listing.set_defaults(function=run_list, looks=True)
    showing = verbs.add_parser("show", help="show a backup", description="Show a backup.")
    showing.add_argument("--json", action="store_true", help="print JSON")
    showing.add_argument("copy", metavar="ID", help=BACKUP_ID)
    showing.set_defaults(function=run_show, looks=True)


def look(config: Config, ledger: Ledger) -> list[Backup]:
    """Return the backups of an instance; what cannot be seen of them is said.

    Raises:
        RvssError: STATE.
    """
    file_systems = {copy.volume.file_system for copy in ledger.backups()}
    return in_ledger(ledger, _images(config, file_systems)) if file_systems else []


def _images(config: Config, file_systems: Container[str]) -> Sequence[Image]:
    from samba_rvss.providers.all import providers
    from samba_rvss.providers.inventory import with_sizes

    known = providers(identity.read(config), config.homes)
    found = exposing.images(config, file_systems)
    sized = with_sizes(known, (image for image in found if image.mark.sealed))
    return [*sized, *(image for image in found if image.mark.branch)]


def run_list(arguments: argparse.Namespace) -> int:
    """List the backups."""
    config = configuration(arguments)
    wanted = {share.lower() for share in arguments.share}
    with ledger_or_empty(config) as ledger, output.progress(output.LOOKING):
        found = look(config, ledger)
    found = [
        backup
        for backup in found
        if not wanted or wanted & {share.lower() for share in backup.shares}
    ]
    if arguments.json:
        output.print_json({"backups": [as_data(backup, config) for backup in found]})
        return 0
    rows = [
        [
            backup.id,
            output.local_time(backup.taken),
            ", ".join(backup.shares),
            "application" if backup.is_consistent else "crash",
            ", ".join(hold.tag for hold in backup.holds if not hold.is_over(now())) or "-",
            (", ".join(sorted(backup.tags)) or "-") if backup.seen else "not seen",
            manifest.state(config, backup.parts),
            disks.state(config, backup.parts),
            output.span(now() - backup.taken),
            output.size(backup.size),
            "; ".join(map(exposing.line, exposing.of(backup.exposed))) or "-",
            backup.run.name if backup.run else "-",
        ]
        for backup in found
    ]
    columns = ["ID", "TAKEN", "SHARES", "CONSISTENT", "HELD", "TAGS", "VERIFIED"]
    columns += ["DISKS", "AGE", "SIZE", "EXPOSED", "RUN"]
    output.print_table(columns, rows, "There are no backups.", _STYLES, brief=True)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Show one backup."""
    config = configuration(arguments)
    with open_ledger(config) as ledger, output.progress(output.LOOKING):
        names = {copy.id for copy in whole_set(ledger, arguments.copy)}
        found = [b for b in look(config, ledger) if names & {part.id for part in b.parts}]
        history = [
            (event, part)
            for part in (found[0].parts if found else ())
            for event in ledger.events(part.id)
        ]
    if not found:
        raise RvssError(
            Problem.NOT_FOUND,
            f"{arguments.copy} is a shadow copy, and no backup yet",
            "see 'samba-rvss show'",
        )
    (backup,) = found
    if arguments.json:
        users = events.users(event for event, _ in history)
        told = [events.as_data(event, part, users=users) for event, part in history]
        output.print_json({"backup": as_data(backup, config), "events": told})
        return 0
    first = backup.parts[0]
    output.print_facts(
        {
            "id": backup.id,
            "taken": output.local_time(backup.taken),
            "age": output.span(now() - backup.taken),
            "consistent": "for applications"
            if backup.is_consistent
            else f"as after a crash: {backup.missing}",
            "shadow copy set": first.set_id or "not known",
            "context": Context(first.context).words if first.set_id else "not known",
            "tags": ", ".join(sorted(backup.tags)) or "none",
            "held": "; ".join(map(_hold, backup.holds)) or "no",
            "verified": manifest.state(config, backup.parts),
            "virtual disks": disks.told(config, backup.parts),
            "space": output.size(backup.size),
            "exposed": "; ".join(map(exposing.line, exposing.of(backup.exposed))) or "no",
            **(_of_run(backup.run) if backup.run else {}),
        }
    )
    output.print_line()
    rows = [
        [
            part.id,
            part.share,
            part.volume.name,
            part.volume.directory or "/",
            output.size(backup.sizes.get(part.id)),
            manifest.told(config, part),
            part.copy_id,
        ]
        for part in backup.parts
    ]
    columns = ["PART", "SHARE", "VOLUME", "DIRECTORY", "SIZE", "MANIFEST", "SHADOW COPY"]
    output.print_table(columns, rows, "")
    output.print_line()
    of_disks = disks.rows(config, backup.parts)
    if of_disks:
        output.print_table(disks.COLUMNS, of_disks, "")
        output.print_line()
    lines = [
        [output.local_time(e.time), e.copy, part.copy_id, e.what, e.detail] for e, part in history
    ]
    output.print_table(["TIME", "PART", "SHADOW COPY", "EVENT", "DETAIL"], lines, "")
    return 0


def _of_run(run: Run) -> dict[str, str]:
    return {
        "run": f"{run.name}, {run.consistency.value}-consistent",
        "files": " ".join(run.files) or "all",
        "veto files": " ".join(run.veto) or "none",
    }


def _hold(hold: Any) -> str:
    if hold.until is None:
        return str(hold.tag)
    over = ", over" if hold.is_over(now()) else ""
    return f"{hold.tag} until {output.local_time(hold.until)}{over}"


def as_data(backup: Backup, config: Config) -> dict[str, Any]:
    """Return a backup as JSON has it."""
    first = backup.parts[0]
    return {
        "id": backup.id,
        "set_id": first.set_id,
        "taken": backup.taken.isoformat(),
        "shares": list(backup.shares),
        "consistent": backup.is_consistent,
        "missing": backup.missing,
        "context": first.context,
        "tags": sorted(backup.tags),
        "holds": [
            {
                "tag": hold.tag,
                "until": hold.until.isoformat() if hold.until else None,
                "over": hold.is_over(now()),
            }
            for hold in backup.holds
        ],
        "exposed": [exposing.as_data(image) for image in exposing.of(backup.exposed)],
        "seen": backup.seen,
        "size": backup.size,
        "run": backup.run
        and {
            "name": backup.run.name,
            "consistency": backup.run.consistency.value,
            "files": list(backup.run.files),
            "veto_files": list(backup.run.veto),
        },
        "parts": [
            {
                "id": part.id,
                "share": part.share,
                "share_path": part.share_path,
                "copy_id": part.copy_id,
                "volume": part.volume.key,
                "name": part.volume.name,
                "directory": part.volume.directory,
                "uid": part.uid,
                "size": backup.sizes.get(part.id),
                **manifest.standing_as_data(config, part),
                "disks": disks.as_data(config, part),
            }
            for part in backup.parts
        ],
    }
