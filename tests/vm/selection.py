"""Which tests run in the test machine, and how they are shared out among several.

Place: data, and two pure functions. Who adds a test below `WHOLE` needs to do nothing; who adds a
long one says so in `LONG`. SAMBA_RVSS_VM_TESTS in the environment, arguments of pytest, selects
others: then nothing is left out.
"""

import re
from collections.abc import Sequence

import pytest

# Arguments of pytest.
WHOLE = ("tests/unit", "tests/kernel", "tests/samba")

# What is left out of it, as patterns of node ids, and why. The session says how many these are.
LEFT_OUT = {
    r"tests/unit/test_lint\.py": "linters see the same text everywhere",
}

# Where a session keeps how many were left out, by reason.
LEFT_OUT_COUNTS = pytest.StashKey[dict[str, int]]()

# No machine is started for less work than this, in seconds.
_WORTH = 120.0

# Seconds that a test takes there, as measured; the first pattern that fits counts.
LONG = (
    (r"test_rpc_fsrvp", 75.0),
    (r"tests/samba/test_gate\.py", 40.0),
    (r"tests/samba/test_demo\.py", 15.0),
    (r"tests/samba/.*\[.*zfs", 12.0),
    (r"tests/samba/", 7.0),
    (r"tests/kernel/.*zfs", 6.0),
    (r"tests/kernel/", 1.5),
    (r"", 0.2),
)


def without_left_out(nodes: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Return the nodes that are to run, and for each reason how many are left out."""
    kept, counts = [], dict.fromkeys(LEFT_OUT.values(), 0)
    for node in nodes:
        reasons = [why for pattern, why in LEFT_OUT.items() if re.match(pattern, node)]
        if reasons:
            counts[reasons[0]] += 1
        else:
            kept.append(node)
    return kept, {why: count for why, count in counts.items() if count}


def weight(node: str) -> float:
    """Return about how many seconds a test takes."""
    return next(seconds for pattern, seconds in LONG if re.search(pattern, node))


def share_out(nodes: Sequence[str], machines: int) -> list[list[str]]:
    """Return each machine's nodes, in their order, so that all take about equally long.

    Args:
        nodes: what to share out.
        machines: the most machines there may be; little work needs but one.
    """
    total = sum(weight(node) for node in nodes)
    machines = min(machines, 1 + int(total / _WORTH))
    loads = [0.0] * machines
    owners = {}
    for node in sorted(nodes, key=weight, reverse=True):
        owners[node] = loads.index(min(loads))
        loads[owners[node]] += weight(node)
    shares = [[node for node in nodes if owners[node] == number] for number in range(machines)]
    return [share for share in shares if share]
