"""Our tests once more, on the kernel, the Samba and the OpenZFS of the test machine.

They are collected here and run there; each is a test of this session, with its own result. Which
they are is in `selection`; the machines work while the tests before these run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from samba_rvss.testing.plugin import CAPABILITIES
from tests.vm import background, selection

_ROOT = Path(__file__).resolve().parents[2]


def _collect(config: pytest.Config) -> list[str]:
    """Return the node ids of the tests that are to run in the machine; note what is left out."""
    wanted = os.environ.get("SAMBA_RVSS_VM_TESTS")
    words = list(selection.WHOLE) if wanted is None else shlex.split(wanted)
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
    nodes = [line for line in done.stdout.splitlines() if re.match(r"\S+\.py::", line)]
    if wanted is not None:
        return nodes
    kept, config.stash[selection.LEFT_OUT] = selection.chosen(nodes)
    return kept


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every test in the machine, or one that tells why there is none."""
    if "node" in metafunc.fixturenames:
        wanted = not os.environ.get("SAMBA_RVSS_NO_VM") and not CAPABILITIES["vm"]()
        nodes = _collect(metafunc.config) if wanted else ["all"]
        metafunc.parametrize("node", nodes, ids=nodes)


@pytest.mark.require("vm")
def test_in_vm(
    node: str,
    machine: background.Background,
    record_property: Callable[[str, object], None],
) -> None:
    """Give the result that a test had in the machine; it is waited for."""
    reports = machine.reports(node)
    if not reports:
        pytest.fail(machine.explain(), pytrace=False)
    record_property(background.SECONDS, sum(report.seconds for report in reports))
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
    if {"all", "vm"} & set(os.environ.get("SAMBA_RVSS_REQUIRE", "").replace(",", " ").split()):
        pytest.fail(f"skipped {reason}", pytrace=False)
    pytest.skip(reason)
