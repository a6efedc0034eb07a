"""Our tests once more, on the kernel, the Samba and the OpenZFS of the test machine.

They are collected here and run there, in one job; each is a test of this session, with its own
result. SAMBA_RVSS_VM_TESTS in the environment selects others, by arguments of pytest, and
SAMBA_RVSS_VM_SECONDS is how long they may take.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.testing.plugin import CAPABILITIES, REQUIRE
from tests.vm import inside
from tests.vm.machine import run_job

_ROOT = Path(__file__).resolve().parents[2]
# One of smbtorture's runs: a single one takes the emulated processor more than a minute.
_SELECTION = (
    "tests/unit tests/kernel tests/samba --ignore=tests/unit/test_lint.py"
    " -k 'not test_rpc_fsrvp or inside-operator'"
)
_SECONDS = 5400.0
_LAST_SECONDS = 120.0  # of the machine's life, for its start and for the results
_SHOWN_LINES = 60


def _collect() -> list[str]:
    """Return the node ids of the tests that are to run in the machine."""
    words = shlex.split(os.environ.get("SAMBA_RVSS_VM_TESTS", _SELECTION))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *words],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"pytest {shlex.join(words)}:\n{done.stdout}{done.stderr}", pytrace=False)
    return [line for line in done.stdout.splitlines() if re.match(r"\S+\.py::", line)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every test in the machine, or one that tells why there is none."""
    if "node" in metafunc.fixturenames:
        wanted = not os.environ.get("SAMBA_RVSS_NO_VM") and not CAPABILITIES["vm"]()
        nodes = _collect() if wanted else ["all"]
        metafunc.parametrize("node", nodes, ids=nodes)


@dataclass(kw_only=True)
class Outcome:
    """What came out of the machine."""

    reports: dict[str, list[inside.Report]] = field(default_factory=dict)
    failure: str = ""

    def explain(self) -> str:
        """Return why a test has no result: at length once, since there may be hundreds."""
        failure, self.failure = self.failure, "it did not run, see the first such test"
        return failure


@pytest.fixture(scope="session")
def outcome(request: pytest.FixtureRequest) -> Outcome:
    """Run the tests that this session has selected; it may take a while."""
    found = [getattr(item, "callspec", None) for item in request.session.items]
    nodes = [call.params["node"] for call in found if call and "node" in call.params]
    seconds = float(os.environ.get("SAMBA_RVSS_VM_SECONDS", _SECONDS))
    show = request.config.getoption("capture") == "no"
    try:
        result = run_job(
            _command(nodes, seconds),
            seconds=seconds + _LAST_SECONDS,
            env={REQUIRE: os.environ.get(REQUIRE, "")},
            listen=lambda piece: show and os.write(1, piece),
        )
    except RvssError as exc:
        return Outcome(failure=str(exc))
    lines = result.output.decode("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
    said = f"pytest ended with status {result.status} before this test did; the end of its output:"
    return Outcome(
        reports=inside.read(result.files.get(inside.FILE, b"")), failure="\n".join([said, *lines])
    )


def _command(nodes: Sequence[str], seconds: float) -> list[str]:
    """Return the command for the machine; pytest's last words are where each thread was."""
    return [
        *("timeout", "--foreground", "--signal=ABRT", "--kill-after=10", f"{seconds:g}"),
        *("python3", "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", inside.__name__),
        *nodes,
    ]


@pytest.mark.require("vm")
def test_in_vm(node: str, outcome: Outcome) -> None:
    """Give the result that a test had in the machine."""
    reports = outcome.reports.get(node, [])
    if "teardown" not in {report.phase for report in reports}:
        pytest.fail(outcome.explain(), pytrace=False)
    failed = [report for report in reports if report.outcome == "failed"]
    if failed:
        captured = [f"--- {title} ---\n{text}" for title, text in failed[-1].sections]
        texts = [f"in its {report.phase}:\n{report.text}" for report in failed]
        pytest.fail("\n\n".join([*texts, *captured]), pytrace=False)
    for report in reports:
        if report.outcome == "skipped":
            _skip(report.text)


def _skip(reason: str) -> None:
    reason = f"in the test machine: {reason.removeprefix('Skipped: ')}"
    if {"all", "vm"} & set(os.environ.get(REQUIRE, "").replace(",", " ").split()):
        pytest.fail(f"skipped {reason}", pytrace=False)
    pytest.skip(reason)
