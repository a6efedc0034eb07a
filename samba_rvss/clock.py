"""The time, by the clock and since the boot."""

import time
from datetime import UTC, datetime

from samba_rvss.kernel import processes
from samba_rvss.model import Moment


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def moment() -> Moment:
    """Return the present moment of this boot."""
    return Moment(boot=processes.boot_id(), seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
