"""How many descriptors a test's process has open."""

import os
import threading

from samba_rvss.mounts.covering import LETTING_GO
from samba_rvss.testing.waiting import wait_until


def count() -> int:
    """Return how many are open, once all that was mounted is let go of: nobody else waits for it.

    Raises:
        AssertionError: that took too long.
    """
    wait_until(
        "all is let go of",
        lambda: all(thread.name != LETTING_GO for thread in threading.enumerate()),
    )
    return len(os.listdir("/proc/self/fd"))
