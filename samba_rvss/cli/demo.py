"""``samba-rvss demo``: the main job, shown on a private Samba and a loop-mounted btrfs."""

import argparse

from samba_rvss.cli.common import Verbs


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "demo",
        help="show the main job on a private Samba and a private btrfs",
        description="Show the main job.",
    )
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    raise NotImplementedError
