"""Our tests once more, on the kernel, the Samba and the OpenZFS of the test machine.

They are collected here and run there; each is a test of this session, with its own result. Which
they are is in `choice`; SAMBA_RVSS_VM_TESTS in the environment, arguments of pytest, selects
others: then nothing is left out. The machines work while the tests before these run.
"""

import os
import shlex
from collections.abc import Callable

import pytest

from samba_rvss.testing.plugin import CAPABILITIES
from tests.vm import background, choice
from tests.vm.background import CHOSEN, LEFT_OUT

_ANOTHER = 10.0  # seconds that a test of another choice takes


def _chosen(config: pytest.Config) -> dict[str, float]:
    """Return the tests that are to run in the machine, with their seconds; note what is not."""
    if (wanted := os.environ.get("SAMBA_RVSS_VM_TESTS")) is not None:
        found = choice.collect(shlex.split(wanted))
        return {node: takes or _ANOTHER for node, takes in found.items()}
    chosen, config.stash[LEFT_OUT] = choice.chosen(choice.collect(choice.WHOLE))
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every test in the machine, or one that tells why there is none."""
    if "node" in metafunc.fixturenames:
        wanted = not os.environ.get("SAMBA_RVSS_NO_VM") and not CAPABILITIES["vm"]()
        chosen = _chosen(metafunc.config) if wanted else {"all": 0.0}
        metafunc.config.stash[CHOSEN] = chosen
        metafunc.parametrize("node", chosen, ids=list(chosen))


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
