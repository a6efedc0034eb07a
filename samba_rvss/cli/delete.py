"""``samba-rvss delete``: delete shadow copies, with their exposed shares; the daemon does it."""

import argparse

from samba_rvss import output, wire
from samba_rvss.cli.common import Verbs, ask_each, configuration, open_ledger, the_copy
from samba_rvss.errors import RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "delete",
        help="delete shadow copies and backups",
        description="Delete shadow copies: exposed share, mounts and image. Clients that still"
        " use one lose it. Of a backup all parts are deleted; what is held is refused.",
    )
    verb.add_argument(
        "copy", nargs="+", metavar="ID", help="our id or its end, Samba's id, or the path"
    )
    verb.add_argument(
        "--lost",
        action="store_true",
        help="give up what is on a file system that is gone for good; nothing is destroyed",
    )
    verb.set_defaults(function=run)


def _meant(ledger: Ledger, word: str) -> list[ShadowCopy]:
    """Return the shadow copy that a word means, or all parts of the backup.

    Raises:
        RvssError: NOT_FOUND or USAGE.
    """
    found = [copy for copy in ledger.find(word) if copy.phase is not Phase.GONE]
    sets = {copy.set_id or copy.id for copy in found}
    if len(sets) == 1 and all(copy.phase is Phase.KEPT for copy in found):
        parts = [copy for copy in ledger.of_set(found[0].set_id) if copy.phase is Phase.KEPT]
        return parts or found
    return [the_copy(ledger, word, gone=False)]


def run(arguments: argparse.Namespace) -> int:
    """Delete the copies; each failure is reported and none stops the rest."""
    config = configuration(arguments)
    status = 0
    for word in arguments.copy:
        try:
            with open_ledger(config) as ledger:
                copies = _meant(ledger, word)
            verb = "lost" if arguments.lost else "delete"
            requests = [wire.AdminRequest(verb=verb, copy=copy.id) for copy in copies]
            for exc in ask_each(config, requests):
                output.print_error(exc.line())
                status = status or int(exc.problem)
        except RvssError as exc:
            output.print_error(exc.line())
            status = status or int(exc.problem)
    return status
