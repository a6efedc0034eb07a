"""``samba-rvss keep``, ``hold``, ``release`` and ``tag``: what is kept, and for whom.

The daemon does it. Whatever names a part of a backup, or of a shadow copy set, means all of it.
"""

import argparse
from datetime import date, datetime, timedelta
from datetime import time as clock_time

from samba_rvss import output, wire
from samba_rvss.cli.common import BACKUP_ID, Verbs, ask_each, configuration, open_ledger, whole_set
from samba_rvss.clock import now
from samba_rvss.copies.holds import require_tag
from samba_rvss.errors import Problem, RvssError

_TAG = "manual"


def register(verbs: Verbs) -> None:
    """Add the verbs."""
    _add(verbs, "keep", "have a shadow copy become a backup when it ends")
    verb = _add(verbs, "hold", "see that a backup is not deleted")
    verb.add_argument("--tag", default=_TAG, help=f"who holds it, or what for (default: {_TAG})")
    verb.add_argument("--until", metavar="DATE", default="", help="until when, that day included")
    verb = _add(verbs, "release", "release a hold; nothing is deleted")
    verb.add_argument("--tag", default=_TAG, help=f"which one (default: {_TAG})")
    verb = verbs.add_parser("tag", help="give a backup a tag", description="Give a backup a tag.")
    verb.add_argument("copy", metavar="ID", help=BACKUP_ID)
    verb.add_argument("tag", metavar="TAG")
    verb.set_defaults(function=run_change)


def _add(verbs: Verbs, name: str, what: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    verb.add_argument("copy", nargs="+", metavar="ID", help=BACKUP_ID)
    verb.set_defaults(function=run_change)
    return verb


def run_change(arguments: argparse.Namespace) -> int:
    """Keep, hold, release or tag; each failure is reported and none stops the rest."""
    config = configuration(arguments)
    tag = getattr(arguments, "tag", "")
    tag = tag and require_tag(tag)
    until = day_end(getattr(arguments, "until", ""))
    words = [arguments.copy] if isinstance(arguments.copy, str) else arguments.copy
    status = 0
    for word in words:
        try:
            with open_ledger(config) as ledger:
                copies = whole_set(ledger, word)
        except RvssError as exc:
            output.print_error(exc.line())
            status = status or int(exc.problem)
            continue
        requests = [
            wire.AdminRequest(verb=arguments.verb, copy=copy.id, tag=tag, until=until)
            for copy in copies
        ]
        failures = ask_each(config, requests)
        if arguments.verb == "release" and len(failures) < len(requests):
            # Part of it may have been released before.
            failures = [each for each in failures if each.problem is not Problem.NOT_FOUND]
        for failure in failures:
            output.print_error(failure.line())
            status = status or int(failure.problem)
    return status


def day_end(text: str) -> str:
    """Return the end of a day, or a time, as the daemon reads it; empty if there is none.

    Raises:
        RvssError: USAGE if it is neither, or over.
    """
    if not text:
        return ""
    try:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            time = datetime.fromisoformat(text).astimezone()
        else:
            time = datetime.combine(day + timedelta(days=1), clock_time()).astimezone()
    except (ValueError, OverflowError):
        raise RvssError(
            Problem.USAGE, f"{text!r} is no date", "such as 2027-01-31 or 2027-01-31T18:00"
        ) from None
    if time <= now():
        raise RvssError(Problem.USAGE, f"{text} is over")
    return time.isoformat()
