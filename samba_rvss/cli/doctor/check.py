"""What a check of ``samba-rvss doctor`` is, and how bad what it finds.

Contract: values. A check has one name, one weight and one reason.
"""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad something is that a check found, from the best to the worst."""

    GOOD = "good"
    UNKNOWN = "not told"  # the check could not be made: neither good nor bad
    NOTE = "note"  # worth knowing, and not wrong
    WARNING = "warning"  # it limits what works, or will hurt
    ERROR = "error"  # Remote VSS does not work, or not as it must


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        group: the heading that it stands below.
        severity: of what it finds.
        good: what is so if it finds nothing, without a full stop.
        why: why it matters, unless what is found says more.
        write: what to do, likewise.
    """

    group: str
    severity: Severity
    good: str
    why: str
    write: str


CONF, SAMBA, SHARES, USERS, OURS, MACHINE = GROUPS = (
    "smb.conf",
    "Samba",
    "Shares",
    "Who may take shadow copies",
    "samba-rvss",
    "This machine",
)
"""The headings, in the order in which they are shown."""


def check(group: str, severity: Severity, good: str, why: str, write: str) -> Check:
    """Return a check, by its attributes in their order."""
    return Check(group=group, severity=severity, good=good, why=why, write=write)
