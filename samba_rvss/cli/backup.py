"""``samba-rvss backup``, which has verbs of its own."""

from collections.abc import Sequence

from samba_rvss.cli import lazily
from samba_rvss.cli.common import Verbs

VERBS = {
    "kept": ("list", "show"),
    "running.verb": ("run",),
    "listed_files": ("files",),
    "reading": ("exec", "mount", "umount"),
    "exposing": ("expose", "conceal"),
    "manifest": ("manifest", "diff"),
    "verify": ("verify",),
    "find": ("find",),
    "restore": ("restore",),
}
"""Its modules, with the verbs that they add."""


def register(verbs: Verbs, words: Sequence[str] = ()) -> None:
    """Add the verb.

    Args:
        verbs: where to add it.
        words: what follows it; nothing adds all of its verbs.
    """
    verb = verbs.add_parser(
        "backup", help="list and show backups", description="List and show what is kept."
    )
    inner = verb.add_subparsers(metavar="VERB", required=True, dest="backup_verb")
    lazily.register(inner, VERBS, words)
