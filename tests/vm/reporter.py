"""What pytest loads inside the test machine: it writes down each report as soon as it is made.

So that results outlive a test that hangs, or a pytest that is killed; JUnit's file is only written
at the end.
"""

import json
import os
from dataclasses import asdict, dataclass

import pytest

FILE = "reports"  # in $JOB_RESULTS; a line of JSON for each


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one of a test's three phases.

    Attributes:
        outcome: ``passed``, ``failed`` or ``skipped``; passed for a failure that was expected.
        seconds: how long it took, by the emulated machine's clock.
        text: a failure's traceback, a skip's reason.
        sections: what was captured of a failure, as pairs of title and text.
    """

    node: str
    phase: str
    outcome: str
    seconds: float
    text: str = ""
    sections: list[tuple[str, str]]


def read(content: bytes) -> dict[str, list[Report]]:
    """Return each test's reports; a last line that was not finished is passed over."""
    found: dict[str, list[Report]] = {}
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        report = Report(**json.loads(line))
        found.setdefault(report.node, []).append(report)
    return found


def _report(made: pytest.TestReport) -> Report:
    text, outcome = made.longreprtext, str(made.outcome)
    if hasattr(made, "wasxfail"):
        outcome = "passed" if outcome == "skipped" else outcome
    if isinstance(made.longrepr, tuple):
        text = made.longrepr[2]  # a skip's, after file and line
    return Report(
        node=made.nodeid,
        phase=str(made.when),
        outcome=outcome,
        seconds=made.duration,
        text=text,
        sections=made.sections if outcome == "failed" else [],
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a report down."""
    path = os.path.join(os.environ["JOB_RESULTS"], FILE)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(_report(report))) + "\n")
