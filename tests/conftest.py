"""What concerns the tests of all floors."""

from functools import cache

from hypothesis import HealthCheck, settings

from samba_rvss.testing.plugin import CAPABILITIES

_zfs = CAPABILITIES["zfs"]


@cache
def _zfs_here() -> str:
    missing = _zfs()
    return (
        f"{missing} (the test machine has ZFS and runs this: tests/run tests/vm)" if missing else ""
    )


CAPABILITIES["zfs"] = _zfs_here

# How fast examples are drawn is a matter of what else the machine does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
