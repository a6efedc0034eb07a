"""``samba-rvss notify``: have the daemon run the notify command once, to see that it works."""

import argparse

from samba_rvss import output, wire
from samba_rvss.cli.common import Verbs, ask, configuration


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "notify",
        help="try 'rvss:notify command'",
        description="Have the daemon run 'rvss:notify command' once, with RVSS_EVENT=test, and"
        " tell what came of it.",
    )
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon, and print what it says."""
    output.print_line(ask(configuration(arguments), wire.AdminRequest(verb="notify")))
    return 0
