"""What concerns the tests of all floors."""

import signal
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from samba_rvss.testing.plugin import CAPABILITIES
from tests.vm import choice

_zfs = CAPABILITIES["zfs"]


@cache
def _zfs_here() -> str:
    missing = _zfs()
    return (
        f"{missing} (the test machine has ZFS and runs this: tests/run tests/vm)" if missing else ""
    )


CAPABILITIES["zfs"] = _zfs_here

# What is started in the background by a shell ignores it, and so would all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast examples are drawn is a matter of what else the machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody can walk to, as pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="rvss-test-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``vm``."""
    config.addinivalue_line("markers", choice.MARK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See that the markers ``vm`` are whole."""
    choice.check(items)


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Let the summary tell each reason for skipping once, where pytest has a line for each test."""
    skipped: dict[str, list[Any]] = {}
    for report in config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", []):
        skipped.setdefault(report.longrepr[2], []).append(report)
    for reason, reports in skipped.items():
        if len({report.longrepr[:2] for report in reports}) > 1:
            files = sorted({report.longrepr[0] for report in reports})
            where = files[0] if len(files) == 1 else f"{len(files)} files"
            for report in reports:
                report.longrepr = (where, None, reason)
