"""How tests are shared out among several test machines.

Place: data, and a pure function. Which tests they are is in `choice`, and at the tests.
"""

from collections.abc import Mapping

# Tests that share what takes long to set up.
TOGETHER = ("tests/samba/test_matrix.py",)

# No machine is started for less work than this, in seconds.
_WORTH = 120.0


def share_out(seconds: Mapping[str, float], machines: int) -> list[list[str]]:
    """Return each machine's nodes, in their order, so that all take about equally long.

    Args:
        seconds: what to share out, by its node ids, and how long each takes.
        machines: the most machines there may be; little work needs but one.
    """
    machines = min(machines, 1 + int(sum(seconds.values()) / _WORTH))
    loads = [0.0] * machines
    owners: dict[str, int] = {}
    units: dict[str, float] = {}
    for node, takes in seconds.items():
        units[_unit(node)] = units.get(_unit(node), 0.0) + takes
    for unit in sorted(units, key=units.__getitem__, reverse=True):
        owners[unit] = loads.index(min(loads))
        loads[owners[unit]] += units[unit]
    shares = [[node for node in seconds if owners[_unit(node)] == n] for n in range(machines)]
    return [share for share in shares if share]


def _unit(node: str) -> str:
    """Return what stays together: tests that share something which takes long to set up."""
    return next((name for name in TOGETHER if name in node), node)
