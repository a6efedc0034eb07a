"""What ``samba-rvss doctor`` found, for people and for programs.

Contract: for people, what is wrong stands below its group, a line each with its severity, then why
it matters and what to write; what is good is counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from samba_rvss import output
from samba_rvss.cli.doctor.check import GROUPS, Severity
from samba_rvss.cli.doctor.finding import CHECKS, PROBE, Finding

VERSION = 1
"""Of the shape of what is printed for programs."""

_NAMED = 8
_BAD = (Severity.ERROR, Severity.WARNING, Severity.NOTE)
_NAMES: Mapping[Severity, tuple[str, str]] = {
    Severity.ERROR: ("error", "errors"),
    Severity.WARNING: ("warning", "warnings"),
    Severity.NOTE: ("note", "notes"),
}


def as_data(found: Sequence[Finding]) -> dict[str, Any]:
    """Return all findings as JSON has them."""
    counts = Counter(finding.severity for finding in found)
    return {
        "version": VERSION,
        "worst": max(found, key=lambda f: list(Severity).index(f.severity)).severity.value,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "findings": [
            {
                "check": finding.check,
                "group": CHECKS[finding.check].group,
                "severity": finding.severity.value,
                "share": finding.share or None,
                "what": finding.what,
                "why": finding.why,
                "write": finding.write,
            }
            for finding in found
        ],
    }


def print_json(found: Sequence[Finding]) -> None:
    """Print all findings for programs."""
    output.print_json(as_data(found))


def show(found: Sequence[Finding], *, everything: bool) -> None:
    """Print the findings for people.

    Args:
        found: all of them.
        everything: whether what is good is shown as well.
    """
    output.print_line(summary(found))
    for group in GROUPS:
        shown = [
            finding
            for finding in found
            if CHECKS[finding.check].group == group and _is_shown(finding, everything=everything)
        ]
        if shown:
            output.print_line()
            output.print_line(group)
            for finding in sorted(shown, key=_by_severity):
                _show(finding)
    untold: dict[str, list[str]] = {}
    for finding in found:
        if finding.severity is Severity.UNKNOWN:
            untold.setdefault(finding.what, []).append(finding.check)
    if untold:
        output.print_line()
        output.print_line("Could not be checked, and is neither good nor bad")
        for reason, checks in untold.items():
            names = ", ".join(checks) if len(checks) <= _NAMED else f"{len(checks)} checks"
            output.print_hanging("  ", f"{names}: {reason}")


def summary(found: Sequence[Finding]) -> str:
    """Return the first line: how much is wrong, good, and could not be told."""
    counts = Counter(finding.severity for finding in found)
    bad = [
        f"{counts[severity]} {_NAMES[severity][counts[severity] != 1]}"
        for severity in _BAD
        if counts[severity]
    ]
    told = ", ".join(bad) or "nothing is wrong"
    untold = counts[Severity.UNKNOWN]
    more = f", {untold} could not be made" if untold else ""
    return f"{told}; {counts[Severity.GOOD]} checks are good{more}"


def _is_shown(finding: Finding, *, everything: bool) -> bool:
    if finding.severity is Severity.GOOD:
        return everything or finding.check == PROBE
    return finding.severity in _BAD


def _by_severity(finding: Finding) -> int:
    return -list(Severity).index(finding.severity)


def _show(finding: Finding) -> None:
    where = f"[{finding.share}] " if finding.share else ""
    head = f"  {finding.severity.value:<7}  "
    output.print_hanging(head, f"{finding.check}: {where}{finding.what}")
    if finding.severity in _BAD:
        for name, text in (("why: ", finding.why), ("do:  ", finding.write)):
            if text:
                output.print_hanging(f"{' ' * len(head)}{name}", text)
