"""Judging what was seen, check by check: pure.

Contract: each check of the catalogue gives at least one finding: that it is good, what is wrong, or
why it could not be made.
"""

from collections.abc import Iterator

from samba_rvss.cli.doctor import judge_server, judge_shares
from samba_rvss.cli.doctor.check import SHARES, Severity
from samba_rvss.cli.doctor.finding import CHECKS, PROBE, Finding, of_error
from samba_rvss.cli.doctor.seen import Seen
from samba_rvss.errors import RvssError

_JUDGES = {**judge_server.JUDGES, **judge_shares.JUDGES}


def judge(seen: Seen) -> list[Finding]:
    """Return what all checks find, in their order."""
    return [finding for name in CHECKS if name != PROBE for finding in _of(name, seen)]


def _of(name: str, seen: Seen) -> Iterator[Finding]:
    found = [
        finding
        for finding in _JUDGES[name](seen)
        if not finding.share or not seen.only or finding.share.lower() == seen.only.lower()
    ]
    yield from found
    if reason := seen.problems.get(name):
        yield _untold(name, reason)
    elif not found:
        reason = _nothing_to_look_at(name, seen)
        yield _untold(name, reason) if reason else _good(name)


def _nothing_to_look_at(name: str, seen: Seen) -> str:
    if CHECKS[name].group == SHARES and name != "ours" and not seen.shares:
        return "there is no share to look at"
    return ""


def unreadable(error: RvssError) -> list[Finding]:
    """Return what is found where smb.conf cannot be read: all else cannot be told."""
    reason = "smb.conf cannot be read"
    others = (name for name in CHECKS if name not in ("configuration", PROBE))
    return [of_error("configuration", error), *(_untold(name, reason) for name in others)]


def _good(name: str) -> Finding:
    return Finding(check=name, severity=Severity.GOOD, what=CHECKS[name].good)


def _untold(name: str, reason: str) -> Finding:
    return Finding(check=name, severity=Severity.UNKNOWN, what=reason)
