"""``samba-rvss doctor``: what is wrong, why it matters and what to write; on request, a self-test.

Place: observe → judge → show. Nothing is changed but by ``--probe``, which takes a shadow copy and
removes it again. It works without the daemon and without Samba, and says what cannot be told then.
"""

import argparse
from typing import TYPE_CHECKING

from samba_rvss.cli.common import Verbs
from samba_rvss.errors import Problem, RvssError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from samba_rvss.cli.doctor.finding import Finding
    from samba_rvss.samba.conf import Config

ERRORS, WARNINGS = 1, 3
"""The exit statuses for what a check finds: an error, or nothing worse than a warning."""

PROBE_SECONDS = 900.0
"""Longer than a self-test takes, which removes what it took whoever interrupts it."""


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "doctor",
        help="check everything, and tell what to write where something is wrong",
        description="Check all that an administrator can get wrong, and say of each thing what is"
        " wrong, why it matters and what to write.",
        epilog="Exit status: 0 nothing is wrong, 3 there are warnings, 1 there are errors.",
    )
    verb.add_argument("share", nargs="?", metavar="SHARE", help="of the shares, this one only")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--all", action="store_true", help="show what is good as well")
    verb.add_argument(
        "--probe",
        action="store_true",
        help="take a shadow copy of the share at the end, and remove it again",
    )
    verb.add_argument(
        "--user",
        metavar="USER",
        help="with --probe, take it through Samba as this user; the password is asked for",
    )
    verb.add_argument(
        "--authentication-file",
        metavar="FILE",
        help="with --probe, take it as the user that this file names, as smbclient(1) has it",
    )
    verb.add_argument(
        "--use-krb5-ccache",
        metavar="CCACHE",
        help="with --probe, take it with the Kerberos ticket in this cache, as kinit(1) makes it",
    )
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Check everything; return the exit status by the worst that was found."""
    from samba_rvss.cli.doctor import report

    named = (arguments.user, arguments.authentication_file, arguments.use_krb5_ccache)
    if not arguments.probe and any(named):
        raise RvssError(
            Problem.USAGE, "a user is for --probe", "add --probe, or leave the user out"
        )
    if len(list(filter(None, named))) > 1:
        raise RvssError(Problem.USAGE, "several users are named for --probe", "name one")
    found = examine(arguments)
    if arguments.json:
        report.print_json(found)
    else:
        report.show(found, everything=arguments.all)
    return status(found)


def examine(arguments: argparse.Namespace) -> "list[Finding]":
    """Return what all checks find, in the order of the checks.

    Raises:
        RvssError: NOT_FOUND if there is no such share; USAGE if what is to be probed is not clear.
    """
    from contextlib import closing

    from samba_rvss.cli.doctor import judge, observe, probe
    from samba_rvss.cli.doctor.finding import PROBE, of_error
    from samba_rvss.samba import conf
    from samba_rvss.samba.process import SambaProcess

    trial: probe.Trial | RvssError | None = None
    with closing(SambaProcess()) as samba:
        try:
            config = samba.call(conf.load, arguments.configfile)
        except RvssError as exc:
            return judge.unreadable(exc)
        only = _only(config, arguments.share)
        if arguments.probe:
            try:
                trial = probe.plan(config, arguments)
            except RvssError as exc:
                if exc.problem is not Problem.NOT_OURS:
                    raise
                trial = exc
        seen = observe.observe(config, samba, only)
    found = judge.judge(seen)
    if isinstance(trial, RvssError):
        found.append(of_error(PROBE, trial, only))
    elif trial is not None:
        found += probe.run(config, trial, seen.server)
    return found


def status(found: "Iterable[Finding]") -> int:
    """Return the exit status for what was found; what could not be told is neither good nor bad."""
    from samba_rvss.cli.doctor.check import Severity

    severities = {finding.severity for finding in found}
    if Severity.ERROR in severities:
        return ERRORS
    return WARNINGS if Severity.WARNING in severities else 0


def _only(config: "Config", share: str | None) -> str:
    """Return the share that alone is meant, by its name in smb.conf; empty if all are.

    Raises:
        RvssError: NOT_FOUND if there is no such share.
    """
    if share is None:
        return ""
    for section in config.sections:
        if section.name.lower() == share.lower():
            return section.name
    raise RvssError(
        Problem.NOT_FOUND, f"there is no share {share} in {config.file}", "see 'samba-rvss shares'"
    )
