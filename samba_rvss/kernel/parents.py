"""A process that is told when the one that started it ends."""

import os
import signal

from samba_rvss.kernel.libc import checked, libc

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_at_end(number: signal.Signals, parent: int) -> None:
    """Have the kernel send us a signal when the thread ends that started this process (prctl(2)).

    Args:
        number: which signal.
        parent: the pid that our parent had; if that has ended already, the signal comes at once.

    Raises:
        OSError: the kernel refuses.
    """
    checked(libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
