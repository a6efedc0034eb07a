"""``samba-rvss backup files``: the files in a backup that its definition is about.

The command looks into the image itself, and opens nothing there but directories.
"""

import argparse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from samba_rvss import output
from samba_rvss.backups.selection import Selection
from samba_rvss.cli.common import BACKUP_ID, Verbs, configuration, open_ledger
from samba_rvss.cli.look import instance_of
from samba_rvss.cli.manifest import MOST, text
from samba_rvss.cli.reading import parts_of
from samba_rvss.copies import manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.manifests import listing
from samba_rvss.manifests.entry import Entry, Kind
from samba_rvss.model import ShadowCopy

_SECOND = 10**9


def register(verbs: Verbs) -> None:
    """Add the verb to those of ``backup``."""
    verb = verbs.add_parser(
        "files",
        help="list the files that a backup is about",
        description="List the files in a backup that its definition is about, with their sizes and"
        " times; without a definition, all.",
    )
    verb.add_argument("copy", metavar="ID", help=BACKUP_ID)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """List the files; what cannot be looked at is told, and the exit status says so."""
    config = configuration(arguments)
    kept: list[dict[str, Any]] = []
    left_out, failures = 0, 0

    def failed(what: str) -> None:
        nonlocal failures
        failures += 1
        output.print_error(what)

    with open_ledger(config) as ledger:
        instance = instance_of(config, ledger)
        for part in parts_of(ledger, arguments.copy):
            for entry in of_part(instance, part, failed):
                if not arguments.json:
                    _print(part, entry)
                elif len(kept) < MOST:
                    kept.append(as_data(part, entry))
                else:
                    left_out += 1
    if arguments.json:
        output.print_json({"files": kept, "left_out": left_out})
    return int(Problem.DAMAGED) if failures else 0


def of_part(instance: Instance, part: ShadowCopy, failed: Callable[[str], None]) -> Iterator[Entry]:
    """Yield the files in a part of a backup that its definition is about.

    Args:
        instance: the backup's.
        part: which part.
        failed: called with a sentence on what cannot be looked at.

    Raises:
        RvssError: as `selection_of` and `manifests.opened`.
    """
    chosen = selection_of(instance, part)
    with manifests.opened(instance, part) as root:
        for entry in listing.files(
            root,
            lambda name: not chosen.leaves_out(name),
            lambda what: failed(f"[{part.share}] {what}"),
        ):
            if entry.kind is Kind.FILE and chosen.has(entry.path):
                yield entry


def selection_of(instance: Instance, part: ShadowCopy) -> Selection:
    """Return which files a part of a backup is about, as its image's mark says.

    Raises:
        RvssError: NOT_FOUND if the image is not there; READ_ONLY or SYSTEM.
    """
    mark = instance.provider(part.volume).mark(part.volume, part.id)
    if mark is None:
        raise RvssError(Problem.NOT_FOUND, f"the image of {part.id} is not there")
    return mark.kept.run.selection if mark.kept and mark.kept.run else Selection()


def as_data(part: ShadowCopy, entry: Entry) -> dict[str, Any]:
    """Return a file as JSON has it."""
    return {
        "share": part.share,
        "path": text(entry.path),
        "size": entry.size,
        "changed": _time(entry).isoformat(),
    }


def _time(entry: Entry) -> datetime:
    seconds = max(0, min(entry.mtime // _SECOND, 253402300799))  # the year 9999 ends
    return datetime.fromtimestamp(seconds, UTC)


def _print(part: ShadowCopy, entry: Entry) -> None:
    changed = output.local_time(_time(entry))
    output.print_line(
        f"{output.size(entry.size):>10}  {changed}  [{part.share}] {text(entry.path)}"
    )
