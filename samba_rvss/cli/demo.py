"""``samba-rvss demo``: the main job, shown on a private Samba and a loop-mounted btrfs."""

import argparse
from pathlib import Path

from samba_rvss.cli.common import Verbs
from samba_rvss.demo import show


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "demo",
        help="show the main job on a private Samba and a private btrfs",
        description="Make a btrfs in a file and start an smbd of its own on a loopback address."
        " Then, as a Backup Operator, back up a virtual disk that is being written to: take a"
        " shadow copy, recover it over SMB, seal it, read it, delete it. Each step and each"
        " expectation is shown; the exit status is 1 if one of them was not met. Everything is"
        " cleared away in the end; the machine's own Samba is not touched.",
    )
    verb.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where to put the file system's file; all users must be able to walk there"
        " (default: a directory for temporary files)",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; see `samba_rvss.demo.show`."""
    return show.run(arguments.directory, as_json=arguments.json)
