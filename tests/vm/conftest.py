"""The floor of the test machine: the capability ``vm``, the machines, and how to leave them out.

SAMBA_RVSS_NO_VM=1 in the environment (``tests/run --no-vm``) skips what would start one.
"""

import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from samba_rvss.testing.leftovers import ASIDE
from samba_rvss.testing.plugin import CAPABILITIES, REQUIRE
from tests.vm import background, boots, image, selection

NO_VM = "SAMBA_RVSS_NO_VM"
# How long a machine's tests may take. Machines at once: each keeps one processor busy.
_SECONDS = 4500.0
_MACHINES = min(2, os.cpu_count() or 1)
# What makes tests shorter there than they are on a host.
_SHORTER = {"SAMBA_RVSS_ROUNDS": "2", "SAMBA_RVSS_SHARES": "6"}

# What judges the part `boots.REBOOT`.
_REBOOTED = ("test_reboot.py", "test_package.py", "test_upgrade.py")
collect_ignore = [] if boots.LONG else ["test_upgrade.py"]

CAPABILITIES["vm"] = cache(image.missing)

_running = pytest.StashKey[dict[str, background.Background]]()
_guard = pytest.StashKey[ExitStack]()
_booting = pytest.StashKey[boots.Booting]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what was to be left out; not even SAMBA_RVSS_REQUIRE asks for it then."""
    needs = {name for marker in item.iter_markers("require") for name in marker.args}
    if os.environ.get(NO_VM) and "vm" in needs:
        pytest.skip(f"left out, because {NO_VM} is set (tests/run --no-vm)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Wait for the machines last."""
    waiting = ("test_in_vm.py", *_REBOOTED, "test_power.py")
    items.sort(key=lambda item: item.path.name in waiting)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the machines, before the first test of any floor, with what of theirs is to run."""
    if session.config.option.collectonly or os.environ.get(NO_VM) or CAPABILITIES["vm"]():
        return
    calls = [getattr(item, "callspec", None) for item in session.items]
    nodes = [call.params["node"] for call in calls if call and "node" in call.params]
    takes = session.config.stash.get(background.CHOSEN, {})
    left_out = session.config.stash.get(background.LEFT_OUT, 0)
    if left_out:
        _say(
            session.config,
            f"left out of the test machine: {left_out} tests that run here or take it too long"
            " (SAMBA_RVSS_VM_TESTS=tests/samba runs others)",
        )
    shares = selection.share_out({node: takes[node] for node in nodes}, _MACHINES)
    seconds = float(os.environ.get("SAMBA_RVSS_VM_SECONDS", _SECONDS))
    env = {REQUIRE: _required(), **_SHORTER}
    running = session.config.stash[_running] = {}
    guard = session.config.stash[_guard] = ExitStack()

    def new() -> Path:
        return Path(guard.enter_context(tempfile.TemporaryDirectory(prefix="samba-rvss-vm-")))

    for share in shares:
        directory = new()
        _say(session.config, f"a test machine starts, for {len(share)} tests: {directory}/output")
        started = background.start(share, directory, seconds=seconds, env=env)
        guard.callback(started.end)
        running.update(dict.fromkeys(share, started))
    if parts := _parts(session.items):
        directory = new()
        _say(session.config, f"a machine starts that boots again and again: {directory}/output")
        booting = session.config.stash[_booting] = boots.start(parts, directory)
        ASIDE.add(booting.process.pid)
        guard.callback(booting.end)


def _parts(items: Sequence[pytest.Item]) -> list[str]:
    """Return what the machine that boots again and again has to do."""
    names = [item.path.name for item in items]
    losses = [
        str(item.callspec.params["number"])
        for item in items
        if isinstance(item, pytest.Function) and item.path.name == "test_power.py"
    ]
    return [*([boots.REBOOT] if set(_REBOOTED) & set(names) else []), *losses]


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the machines."""
    if guard := config.stash.get(_guard, None):
        guard.close()


def _required() -> str:
    """Return what nothing may be skipped for in a machine: it has all that there is."""
    words = os.environ.get(REQUIRE, "").replace(",", " ").split()
    return "all zfs syncoid" if {"all", "vm"} & set(words) else shlex.join(words)


def _say(config: pytest.Config, text: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(text)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Let a test take as long as it took in its machine, not as long as it was waited for."""
    for name, seconds in report.user_properties:
        if name == background.SECONDS and report.when == "call":
            report.duration = float(str(seconds))


@pytest.fixture
def machine(node: str, request: pytest.FixtureRequest) -> background.Background:
    """The machine in which a test runs."""
    return request.config.stash[_running][node]


@pytest.fixture(scope="session")
def booting(request: pytest.FixtureRequest) -> boots.Booting:
    """The machines that reboot and lose their power."""
    return request.config.stash[_booting]
