"""What the checks of ``samba-rvss doctor`` find, as values that say why it matters.

Contract: pure. What is found says what is wrong and what to write; where it says less, its check
says the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from samba_rvss.cli.doctor.check import GROUPS, Check, Severity
from samba_rvss.cli.doctor.server_checks import OF_SERVER
from samba_rvss.cli.doctor.share_checks import OF_SHARES
from samba_rvss.errors import RvssError
from samba_rvss.model import Advice

CHECKS: Mapping[str, Check] = dict(
    sorted({**OF_SERVER, **OF_SHARES}.items(), key=lambda item: GROUPS.index(item[1].group))
)
"""All checks by name, in the order in which they are shown."""

PROBE = "probe"
"""The check that is made on request only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        what: what is wrong, without a full stop.
        why: why that matters.
        write: what to write or to do.
        share: the share that it is about; empty if it is about none alone.
    """

    check: str
    severity: Severity
    what: str
    why: str = ""
    write: str = ""
    share: str = ""


def of_advice(advice: Advice, severity: Severity | None = None) -> Finding:
    """Return what some advice says, with the check's own words where it says nothing."""
    return found(
        advice.check,
        advice.what,
        why=advice.why,
        write=advice.write,
        share=advice.share,
        severity=severity,
    )


def of_error(
    check: str, error: RvssError, share: str = "", severity: Severity | None = None
) -> Finding:
    """Return a refusal as what a check found."""
    return found(check, error.message, write=error.hint, share=share, severity=severity)


def of_line(check: str, line: str, severity: Severity | None = None) -> Finding:
    """Return a sentence that has its remedy behind the last colon."""
    what, colon, write = line.rpartition(": ")
    if not colon or what.endswith("]"):  # only the share's name is before it
        what, write = line, ""
    return found(check, what, write=write, severity=severity)


def found(
    check: str,
    what: str,
    *,
    why: str = "",
    write: str = "",
    share: str = "",
    severity: Severity | None = None,
) -> Finding:
    """Return what a check found, with its own words for what is empty."""
    known = CHECKS[check]
    return Finding(
        check=check,
        severity=severity or known.severity,
        what=what,
        why="" if severity is Severity.GOOD else why or known.why,
        write="" if severity is Severity.GOOD else write or known.write,
        share=share,
    )
