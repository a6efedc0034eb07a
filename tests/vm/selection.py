"""Which tests run in the test machine, and how they are shared out among several.

Place: data, and pure functions. Who wants another test to run there each time adds a line to
`CHOSEN`. SAMBA_RVSS_VM_TESTS in the environment, arguments of pytest, selects others: then nothing
is left out.
"""

import re
from collections.abc import Sequence

import pytest

# Arguments of pytest: what could run in the machine.
WHOLE = ("tests/unit", "tests/kernel", "tests/samba")

# What runs there, as patterns of node ids, and the seconds that each such test takes, as measured
# on a host that does little else; the first that fits counts. An emulated processor would need
# two hours for all, so each promise is shown once on each file system, and the provider contract
# whole on ZFS, which no other machine has.
CHOSEN = (
    # What depends on Samba 4.22 or Python 3.13.
    (r"tests/unit/test_(conf|fss_state|process|kernel_basic)\.py", 0.5),
    # The provider contract, and what else there is to the ZFS provider.
    (r"tests/kernel/test_(provider|zfs|zfs_suspended)\.py.*(zfs)", 9.0),
    (r"tests/kernel/test_mounts\.py", 1.5),
    # The Samba floor: smbtorture, sealing, authorisation, crash points.
    (r"test_torture\.py::test_rpc_fsrvp\[(zfs-whole|zfs-inside|btrfs-inside)-operator\]", 80.0),
    (r"test_sealing\.py::test_(recovered_copy.*zfs|local_writer.*zfs-open)", 45.0),
    (r"test_access\.py::test_user_.*(zfs|btrfs)", 45.0),
    (r"test_crash\.py::test_crash_during_commit\[plain-.*-create\.image\]", 45.0),
    (r"test_crash\.py::test_crash_between.*\[plain-.*-open\.opened\]", 45.0),
    (r"test_crash\.py::test_crash_after_recovery\[plain-zfs-seal\.closed\]", 45.0),
    (r"test_crash\.py::test_crash_during_deletion\[plain-zfs-delete\.unmounted\]", 45.0),
    # What the client gets, and gets not.
    (r"test_exact\.py::test_everything_is_as_at_the_source\[zfs-inside\]", 60.0),
    (r"test_exact\.py::test_names_in_any_case\[insensitive-zfs\]", 30.0),
    (r"test_nested\.py::test_nested_volumes_go_with_the_share\[zfs-previous\]", 60.0),
    (r"test_reach\.py::test_the_root_of_the_mount_is_the_share", 40.0),
    (r"test_side_by_side\.py::test_samba_does_not_wait.*(zfs)", 60.0),
    # Healing.
    (r"test_repair\.py::test_the_daemon_.*(zfs)", 40.0),
)

# Tests that share what takes long to set up.
TOGETHER = ("tests/samba/test_matrix.py",)

# What makes tests shorter there than they are on a host.
ENVIRONMENT = {"SAMBA_RVSS_ROUNDS": "2", "SAMBA_RVSS_SHARES": "6"}

# Where a session keeps how many were left out.
LEFT_OUT = pytest.StashKey[int]()

# No machine is started for less work than this, in seconds.
_WORTH = 120.0
# What a test of another choice takes.
_ANOTHER = 10.0


def chosen(nodes: Sequence[str]) -> tuple[list[str], int]:
    """Return the nodes that are to run, and how many are left out."""
    kept = [node for node in nodes if _seconds(node) is not None]
    return kept, len(nodes) - len(kept)


def weight(node: str) -> float:
    """Return about how many seconds a test takes."""
    return _seconds(node) or _ANOTHER


def _seconds(node: str) -> float | None:
    return next((seconds for pattern, seconds in CHOSEN if re.search(pattern, node)), None)


def share_out(nodes: Sequence[str], machines: int) -> list[list[str]]:
    """Return each machine's nodes, in their order, so that all take about equally long.

    Args:
        nodes: what to share out.
        machines: the most machines there may be; little work needs but one.
    """
    total = sum(weight(node) for node in nodes)
    machines = min(machines, 1 + int(total / _WORTH))
    loads = [0.0] * machines
    owners: dict[str, int] = {}
    units: dict[str, float] = {}
    for node in nodes:
        units[_unit(node)] = units.get(_unit(node), 0.0) + weight(node)
    for unit in sorted(units, key=units.__getitem__, reverse=True):
        owners[unit] = loads.index(min(loads))
        loads[owners[unit]] += units[unit]
    shares = [[node for node in nodes if owners[_unit(node)] == one] for one in range(machines)]
    return [share for share in shares if share]


def _unit(node: str) -> str:
    """Return what stays together: tests that share something which takes long to set up."""
    return next((name for name in TOGETHER if name in node), node)
