"""The command ``samba-rvss``: a module for a verb, or for some that belong together.

Only that of the verb that is given is loaded; it adds its parser and a function.

`main` parses, calls, and turns a known failure into one sentence and its problem's exit status.
An unknown failure keeps its traceback.
"""

import argparse
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from samba_rvss import __version__, output
from samba_rvss.cli import apart, lazily
from samba_rvss.errors import Problem, RvssError

VERBS = {
    "daemon": ("daemon",),
    "status": ("status",),
    "watch": ("watch",),
    "listing": ("list", "show"),
    "events": ("events",),
    "shares": ("shares",),
    "check": ("check",),
    "setup": ("setup",),
    "doctor": ("doctor",),
    "backup": ("backup",),
    "changing": ("keep", "hold", "release", "tag"),
    "prune": ("prune",),
    "delete": ("delete",),
    "reconcile": ("reconcile",),
    "adopt": ("adopt",),
    "metrics": ("metrics",),
    "notify": ("notify",),
    "demo": ("demo",),
}
"""The modules, with the verbs that they add."""

_VERB = "VERB"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        told, meant = message, ""
        wrong = re.match(rf"argument {_VERB}: invalid choice: '(.*?)' ", message)
        if wrong is not None:
            told = f"there is no command {wrong[1]}"
            verbs = next(a for a in self._actions if isinstance(a, argparse._SubParsersAction))
            close = difflib.get_close_matches(wrong[1], verbs.choices, n=1)
            meant = f"'{self.prog} {close[0]}' may be meant; " if close else ""
        elif message == f"the following arguments are required: {_VERB}":
            told = "a command is missing"
        raise RvssError(Problem.USAGE, told, f"{meant}see '{self.prog} --help'")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args is None or "--" not in args or self.get_default("command") is None:
            return super().parse_known_args(args, namespace)
        # What follows is another program's: argparse would take a second "--" out of it.
        end = args.index("--")
        found, unknown = super().parse_known_args(args[:end], namespace)
        found.command = args[end + 1 :]
        return found, unknown


def parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        argv: what it is to parse. If its verb is certain, the parser has the verbs of that one's
            module only; of None it is the parser of the whole command.
    """
    top: argparse.ArgumentParser = _Parser(
        prog="samba-rvss",
        description="Remote VSS shadow copies for Samba on btrfs and ZFS.",
        epilog="Exit status: 0 done, 2 wrong usage, others as samba-rvss(8) lists them.",
    )
    top.add_argument("--version", action="version", version=f"samba-rvss {__version__}")
    _add_configfile(top)
    top.set_defaults(looks=False, probe=False, apart=False)
    verbs = top.add_subparsers(metavar=_VERB, required=True, dest="verb")
    lazily.register(verbs, VERBS, _given(argv or ()))
    return top


def _add_configfile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s",
        "--configfile",
        metavar="FILE",
        default="",
        help="the smb.conf of the instance (default: Samba's own)",
    )


def _given(argv: Sequence[str]) -> Sequence[str]:
    """Return the words from the verb on; none where other options come before it."""
    before = _Parser(add_help=False)
    _add_configfile(before)
    before.add_argument("words", nargs=argparse.REMAINDER)
    try:
        found, others = before.parse_known_args(argv)
    except RvssError:  # the whole command's parser says it better
        return ()
    words: Sequence[str] = found.words
    return () if others else words


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    if argv is None and sys.getfilesystemencoding() != "utf-8":
        # Samba's names are UTF-8, whatever the locale says; no locale has a variable for that.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - ourselves again
    output.prepare()
    return _told(partial(_begin, argv))


def _require_words(argv: Sequence[str]) -> None:
    """Refuse an empty argument: it is a variable that a script has not set, and no choice.

    Taken for an option that is not given, it would change what is done: ``backup verify --against
    ""`` would read the backup in place of the copy. What follows ``--`` may be another program's.

    Raises:
        RvssError: USAGE.
    """
    before = ""
    for word in takewhile(lambda word: word != "--", argv):
        option, sign, value = word.partition("=")
        if not word or (word.startswith("--") and sign and not value):
            what = option or (before if before.startswith("-") else "")
            raise RvssError(
                Problem.USAGE,
                f"{what} has an empty value" if what else "an argument is empty",
                "leave it out, or see whether the variable that it comes from is set",
            )
        before = word


def _begin(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    _require_words(words)
    arguments = parser(words).parse_args(words)
    if os.geteuid() != 0:
        raise RvssError(Problem.REFUSED, "only root may use samba-rvss", "try sudo")
    command = partial(arguments.function, arguments)
    arguments.apart = argv is None and arguments.looks
    if arguments.apart:
        return apart.run(partial(_told, command), _patience(arguments))
    status: int = command()
    return status


def _patience(arguments: argparse.Namespace) -> float:
    """Return for how many seconds a command may go on once it is interrupted."""
    if not arguments.probe:
        return apart.SECONDS
    from samba_rvss.cli.doctor import PROBE_SECONDS

    return PROBE_SECONDS


def _told(command: Callable[[], int]) -> int:
    """Return the exit status of a command, after telling why it failed if it did."""
    try:
        status = command()
        sys.stdout.flush()
    except RvssError as exc:
        output.print_error(exc.line())
        return int(exc.problem)
    except KeyboardInterrupt:
        output.print_error("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception:  # noqa: BLE001 - it is told whole, but for what a terminal would obey
        output.print_traceback(traceback.format_exc())
        return int(Problem.INTERNAL)
    return status
