"""What runs in the test machine, and how it is shared out."""

from tests.vm import selection


def test_what_is_left_out_is_counted() -> None:
    nodes = ["tests/unit/test_lint.py::test_mypy", "tests/unit/test_run.py::test_one"]
    kept, counts = selection.without_left_out(nodes)
    assert kept == nodes[1:]
    assert list(counts.values()) == [1]
    assert selection.without_left_out(kept) == (kept, {})


def test_each_test_runs_once_and_the_machines_have_the_same_to_do() -> None:
    nodes = [f"tests/samba/test_sets.py::test_{n}[zfs]" for n in range(31)]
    nodes += [f"tests/unit/test_run.py::test_{n}" for n in range(200)]
    nodes += ["tests/samba/test_torture.py::test_rpc_fsrvp[whole-root]"]
    shares = selection.share_out(nodes, 2)
    assert sorted(node for share in shares for node in share) == sorted(nodes)
    for share in shares:
        assert share == sorted(share, key=nodes.index)
    loads = [sum(selection.weight(node) for node in share) for share in shares]
    assert max(loads) - min(loads) < 1


def test_little_work_is_one_machine_s() -> None:
    nodes = [f"tests/unit/test_run.py::test_{n}" for n in range(10)]
    assert selection.share_out(nodes, 2) == [nodes]
    assert selection.share_out([], 2) == []
