"""``samba-rvss delete``: delete shadow copies, with their exposed shares; the daemon does it."""

import argparse

from samba_rvss import output, wire
from samba_rvss.cli.common import Verbs, ask, configuration, open_ledger, the_copy
from samba_rvss.errors import RvssError


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "delete",
        help="delete shadow copies",
        description="Delete shadow copies: exposed share, mounts and image. Clients that still"
        " use one lose it.",
    )
    verb.add_argument(
        "copy", nargs="+", metavar="ID", help="our id or its end, Samba's id, or the path"
    )
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Delete the copies; each failure is reported and none stops the rest."""
    config = configuration(arguments)
    status = 0
    for word in arguments.copy:
        try:
            with open_ledger(config) as ledger:
                copy = the_copy(ledger, word, gone=False)
            output.print_line(ask(config, wire.AdminRequest(verb="delete", copy=copy.id)))
        except RvssError as exc:
            output.print_error(exc.line())
            status = status or int(exc.problem)
    return status
