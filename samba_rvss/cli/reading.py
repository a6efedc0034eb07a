"""``samba-rvss backup exec``, ``mount`` and ``umount``: what is in a backup, to read.

The command does it itself, in its caller's mount namespace or in one of its own; of the daemon it
needs the run directory, and ``--tag``.
"""

import argparse
import os

from samba_rvss import output, wire
from samba_rvss.cli.common import BACKUP_ID, Verbs, ask, configuration, open_ledger
from samba_rvss.cli.look import instance_of
from samba_rvss.copies import attached, carry
from samba_rvss.copies.holds import require_tag
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy


def register(verbs: Verbs) -> None:
    """Add the verbs to those of ``backup``."""
    verb = verbs.add_parser(
        "exec",
        help="run a program that reads a backup",
        description="Run a program for which the backup is, read-only, where its shares are; its"
        " exit status is ours. Nobody else sees that, and the backup is not deleted meanwhile.",
        usage="%(prog)s [-h] ID [--tag TAG] -- COMMAND ...",
    )
    verb.add_argument("copy", metavar="ID", help=BACKUP_ID)
    verb.add_argument("--tag", default="", help="the tag that the backup gets if COMMAND succeeds")
    verb.set_defaults(function=run_exec, command=[])
    verb = verbs.add_parser(
        "mount",
        help="mount a backup, to look into it",
        description="Mount a backup read-only, and print where. It is not deleted while it is"
        " mounted.",
    )
    verb.add_argument("copy", metavar="ID", help=BACKUP_ID)
    where = "an empty directory; several shares are mounted in it (default: one of our own)"
    verb.add_argument("directory", metavar="DIR", nargs="?", default="", help=where)
    verb.set_defaults(function=run_mount)
    verb = verbs.add_parser(
        "umount", help="unmount a backup", description="Unmount a backup, wherever it is mounted."
    )
    verb.add_argument("copy", metavar="ID|DIR", help=f"{BACKUP_ID}; or where it is mounted")
    verb.set_defaults(function=run_umount)


def run_exec(arguments: argparse.Namespace) -> int:
    """Run a program over a backup; return its exit status."""
    if not arguments.command:
        raise RvssError(Problem.USAGE, "there is no COMMAND", "it stands after --")
    config = configuration(arguments)
    tag = arguments.tag and require_tag(arguments.tag)
    with open_ledger(config) as ledger:
        parts = parts_of(ledger, arguments.copy)
        status = carry.run(instance_of(config, ledger), parts, arguments.command)
    if tag and not status:
        for part in parts:
            ask(config, wire.AdminRequest(verb="tag", copy=part.id, tag=tag))
    return status


def run_mount(arguments: argparse.Namespace) -> int:
    """Mount a backup, and print the paths of its parts."""
    config = configuration(arguments)
    with open_ledger(config) as ledger:
        parts = parts_of(ledger, arguments.copy)
        for path in attached.mount(instance_of(config, ledger), parts, arguments.directory):
            output.print_line(path)
    return 0


def run_umount(arguments: argparse.Namespace) -> int:
    """Unmount a backup."""
    config = configuration(arguments)
    word, where = arguments.copy, os.path.abspath(arguments.copy)
    with open_ledger(config) as ledger:
        instance = instance_of(config, ledger)
        kept = [copy for copy in ledger.backups() if copy.phase is Phase.KEPT]
        sets = {copy.set_id or copy.id: copy.id for copy in kept}
        backups = [parts_of(ledger, copy) for copy in sets.values()]
        done = attached.umount_at(instance, backups, where)
        if not done and not attached.umount(instance, parts_of(ledger, word)):
            raise RvssError(Problem.NOT_FOUND, f"{word} is not mounted", "see 'findmnt'")
    return 0


def parts_of(ledger: Ledger, word: str) -> list[ShadowCopy]:
    """Return all parts of the backup that a word on the command line means.

    Raises:
        RvssError: NOT_FOUND if it means none, USAGE if it means several.
    """
    found = [copy for copy in ledger.find(word) if copy.phase is not Phase.GONE]
    kept = [copy for copy in found if copy.phase is Phase.KEPT]
    # Of a set that is ending, what is a backup already is one.
    for copy in found:
        kept += [other for other in ledger.of_set(copy.set_id) if other.phase is Phase.KEPT]
    parts = {copy.id: copy for copy in kept}
    if not parts:
        what = "is a shadow copy, and no backup yet" if found else "is no backup"
        raise RvssError(Problem.NOT_FOUND, f"{word} {what}", "see 'samba-rvss backup list'")
    if len({copy.set_id or copy.id for copy in parts.values()}) > 1:
        raise RvssError(
            Problem.USAGE, f"{word} is several backups", f"name one of {' '.join(parts)}"
        )
    return sorted(parts.values(), key=lambda copy: (copy.share, copy.id))
