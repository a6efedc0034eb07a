"""What runs in the test machine, and how it is shared out."""

import re
import subprocess
import sys
from pathlib import Path

from tests.vm import selection

_ROOT = Path(__file__).parents[2]


def test_what_is_left_out_is_counted() -> None:
    nodes = ["tests/unit/test_lint.py::test_mypy", "tests/unit/test_conf.py::test_one"]
    assert selection.chosen(nodes) == (nodes[1:], 1)
    assert selection.chosen(nodes[1:]) == (nodes[1:], 0)


def test_every_line_of_the_choice_chooses_something() -> None:
    """A test that was renamed would be left out in silence."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *selection.WHOLE]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=_ROOT)
    nodes = [line for line in done.stdout.splitlines() if "::" in line]
    idle = [
        pattern
        for pattern, _ in selection.CHOSEN
        if not any(re.search(pattern, node) for node in nodes)
    ]
    assert idle == []


def test_what_shares_its_setting_up_stays_together() -> None:
    nodes = [f"tests/samba/test_matrix.py::test_heals[zfs-closed-{n}]" for n in range(30)]
    nodes += [f"tests/samba/test_sets.py::test_{n}[zfs]" for n in range(60)]
    shares = selection.share_out(nodes, 2)
    assert sum(any("test_matrix" in node for node in share) for share in shares) == 1


def test_each_test_runs_once_and_the_machines_have_the_same_to_do() -> None:
    nodes = [f"tests/samba/test_sets.py::test_{n}[zfs]" for n in range(31)]
    nodes += [f"tests/unit/test_run.py::test_{n}" for n in range(200)]
    nodes += ["tests/samba/test_torture.py::test_rpc_fsrvp[whole-root]"]
    shares = selection.share_out(nodes, 2)
    assert sorted(node for share in shares for node in share) == sorted(nodes)
    for share in shares:
        assert share == sorted(share, key=nodes.index)
    loads = [sum(selection.weight(node) for node in share) for share in shares]
    assert max(loads) - min(loads) <= selection.weight("")


def test_little_work_is_one_machine_s() -> None:
    nodes = [f"tests/unit/test_run.py::test_{n}" for n in range(10)]
    assert selection.share_out(nodes, 2) == [nodes]
    assert selection.share_out([], 2) == []
