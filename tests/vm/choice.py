"""Which tests run in the test machine: those that bear the mark ``vm``, with their seconds there.

Place: below `test_in_vm`; tests/conftest.py checks the marks of every session with it. Contract: a
mark stands at a test, at a parameter of it (``pytest.param``), or at a module, and says how many
seconds a test takes in the machine, as measured on a host that does little else::

    @pytest.mark.vm(seconds=45)
    @pytest.mark.vm(seconds=45, file_system="zfs", who=("root", "operator"))

``long=True`` says that it runs there only with SAMBA_RVSS_LONG=1. The second one chooses of all the
test's forms only those that have these parameters. Of several marks the nearest that fits counts.
Those of a module are for the tests that have none of their own; ``seconds=0`` leaves a test out
that its module has chosen.

An emulated processor would need two hours for all tests. So what runs there is what another
machine cannot prove: what depends on Samba 4.22, on Python 3.13 or on that kernel, and each
promise once on ZFS. What btrfs does, the tests on the host show.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

MARK = (
    "vm(seconds, long=False, PARAMETER=VALUE, ...): runs in the test machine as well, for so many"
    " seconds; long: only with SAMBA_RVSS_LONG=1; with parameters only in these forms, where a"
    " tuple is for any of its values"
)
_NO_PARAMETERS = ("seconds", "long")
_ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("tests/unit", "tests/kernel", "tests/samba")
"""Arguments of pytest: what could run in the machine."""

_TEST, IDLE = "a test and its seconds: ", "a mark vm that chooses nothing: "


def seconds(item: pytest.Item) -> float | None:
    """Return how many seconds a test takes in the machine, or None if it does not run there.

    Raises:
        pytest.UsageError: a mark says no seconds.
    """
    marks = [mark for mark in _marks(item) if fits(mark, item)]
    if marks and marks[0].kwargs.get("long") and not os.environ.get("SAMBA_RVSS_LONG"):
        return None
    return _seconds(marks[0], item) or None if marks else None


def _marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return the marks that count for a test, the nearest first."""
    own = [mark for mark in item.own_markers if mark.name == "vm"]
    return own or list(item.iter_markers("vm"))


def check(items: Iterable[pytest.Item]) -> None:
    """See that all marks say seconds, those included that choose nothing.

    Raises:
        pytest.UsageError: one does not.
    """
    for item in items:
        for mark in item.iter_markers("vm"):
            _seconds(mark, item)


def _seconds(mark: pytest.Mark, item: pytest.Item) -> float:
    given: Any = mark.kwargs.get("seconds")
    if mark.args or not isinstance(given, int | float) or given < 0:
        said = f"{item.nodeid}: the mark vm says no seconds, as vm(seconds=45) does"
        raise pytest.UsageError(said)
    return float(given)


def fits(mark: pytest.Mark, item: pytest.Item) -> bool:
    """Return whether a test has the parameters that a mark is for."""
    has: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    wanted: dict[str, Any] = {
        name: v for name, v in mark.kwargs.items() if name not in _NO_PARAMETERS
    }
    return all(
        name in has and has[name] in (value if isinstance(value, tuple) else (value,))
        for name, value in wanted.items()
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print what is chosen, for `collect`, which loads this module as a plugin."""
    idle: dict[int, str] = {}
    fitting: set[int] = set()
    for item in session.items:
        print(_TEST + json.dumps([item.nodeid, seconds(item)]))
        for mark in _marks(item):
            idle.setdefault(id(mark), f"{item.nodeid}, {mark.kwargs}")
            fitting |= {id(mark)} if fits(mark, item) else set()
    for number in idle.keys() - fitting:
        print(IDLE + idle[number])


def chosen(found: Mapping[str, float | None]) -> tuple[dict[str, float], int]:
    """Return the tests that run in the machine, with their seconds, and how many do not.

    Args:
        found: as `collect` returns them.
    """
    kept = {node: takes for node, takes in found.items() if takes is not None}
    return kept, len(found) - len(kept)


def collect(words: Sequence[str]) -> dict[str, float | None]:
    """Return the node ids of tests, each with its seconds in the machine.

    Args:
        words: arguments of pytest.

    Raises:
        pytest.fail.Exception: they cannot be collected.
    """
    options = ["--collect-only", "-q", "-s", "-p", __name__]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"pytest {shlex.join(words)}:\n{done.stdout}{done.stderr}", pytrace=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_TEST)]
    return dict(json.loads(line.removeprefix(_TEST)) for line in lines)
