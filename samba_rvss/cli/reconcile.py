"""``samba-rvss reconcile``: put right what went wrong, or tell what would be done."""

import argparse
import sys
from collections.abc import Iterable

from samba_rvss import output, wire
from samba_rvss.cli.common import Verbs, ask, configuration
from samba_rvss.findings import Fate, Finding

FAILED = 1
LEFT = 3


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "reconcile",
        help="put right what went wrong",
        description="Compare the ledger, images, mounts, shares and Samba's shadow copy sets, and"
        " put right what does not fit. The daemon does so by itself; this asks it to, at once.",
        epilog="Exit status: 0 nothing is left to do, 1 something failed or could not be seen,"
        " 3 something is left: to do (--dry-run), or wrong and for you to mend.",
    )
    how = verb.add_mutually_exclusive_group()
    how.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="tell what would be done and what is left alone, and why; do nothing (needs no"
        " daemon)",
    )
    how.add_argument(
        "--boot",
        action="store_true",
        help="do it without the daemon, before smbd and the daemon start",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Reconcile, or tell what would be done."""
    printer = _Printer(as_json=arguments.json, every=arguments.dry_run)
    if arguments.dry_run:
        _dry_run(arguments, printer)
    elif arguments.boot:
        _boot(arguments, printer)
    else:
        _ask(arguments, printer)
    return printer.finish()


class _Printer:
    """Prints findings as they come, or all of them as JSON in the end.

    Args:
        as_json: whether to print JSON.
        every: whether to print as lines also what is left alone with nothing wrong about it.
    """

    def __init__(self, *, as_json: bool, every: bool) -> None:
        self._as_json = as_json
        self._every = every
        self._findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        self._findings.append(finding)
        if not self._as_json and (self._every or finding.fate is not Fate.LEFT_ALONE):
            output.print_line(as_line(finding))
            if finding.action and not self._every:
                sys.stdout.flush()  # the next finding may take its time

    def finish(self) -> int:
        if self._as_json:
            output.print_json(as_data(self._findings))
        else:
            output.print_line(summary(self._findings))
        return exit_status(self._findings)


def _dry_run(arguments: argparse.Namespace, printer: _Printer) -> None:
    from samba_rvss.cli.look import look
    from samba_rvss.reconcile import report

    with output.progress(output.LOOKING):
        seen = look(configuration(arguments))
    for finding in report.of_plan(seen.plan):
        printer.add(finding)


def _ask(arguments: argparse.Namespace, printer: _Printer) -> None:
    def hear(part: wire.Part) -> None:
        if isinstance(part, Finding):
            printer.add(part)

    ask(configuration(arguments), wire.AdminRequest(verb="reconcile"), hear)


def _boot(arguments: argparse.Namespace, printer: _Printer) -> None:
    import asyncio

    from samba_rvss.daemon import boot
    from samba_rvss.reconcile import report

    decided, _, sealed = asyncio.run(
        boot.reconcile(
            arguments.configfile, lambda outcome: printer.add(report.of_outcome(outcome))
        )
    )
    for finding in report.not_done(decided):
        printer.add(finding)
    if not sealed:
        reason = "a shadow copy could not be sealed yet; the daemon goes on with it"
        printer.add(Finding(fate=Fate.WRONG, reason=reason))


def as_line(finding: Finding) -> str:
    """Return a finding as a line for people."""
    subject = " ".join(word for word in (finding.action, finding.target) if word)
    evidence = f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
    error = f": {finding.error}" if finding.error else ""
    text = ": ".join(part for part in (subject, f"{finding.reason}{evidence}{error}") if part)
    return f"{finding.fate.value}: {text}"


def as_data(findings: Iterable[Finding]) -> dict[str, object]:
    """Return findings as JSON has them."""
    actions, left_alone, problems = [], [], []
    for finding in findings:
        if finding.fate is Fate.UNSEEN:
            problems.append(finding.reason)
        elif finding.action:
            actions.append(
                {
                    "kind": finding.action,
                    "target": finding.target,
                    "reason": finding.reason,
                    "evidence": list(finding.evidence),
                    "outcome": finding.fate.value,
                    "error": finding.error,
                }
            )
        else:
            left_alone.append(
                {
                    "target": finding.target,
                    "reason": finding.reason,
                    "due": finding.due,
                    "wrong": finding.fate is Fate.WRONG,
                }
            )
    return {"actions": actions, "left_alone": left_alone, "problems": problems}


def summary(findings: Iterable[Finding]) -> str:
    """Return how many findings there are, by what became of them."""
    counts = dict.fromkeys(Fate, 0)
    for finding in findings:
        counts[finding.fate] += 1
    said = [f"{count} {fate.value}" for fate, count in counts.items() if count]
    busy = any(count for fate, count in counts.items() if fate is not Fate.LEFT_ALONE)
    return ", ".join(said if busy else ["nothing to do", *said])


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 0, FAILED or LEFT, as the manual says."""
    fates = {finding.fate for finding in findings}
    if fates & {Fate.FAILED, Fate.UNSEEN}:
        return FAILED
    return LEFT if fates & {Fate.TO_DO, Fate.WRONG} else 0
