"""How urgent our work is to the kernel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def idle() -> Iterator[None]:
    """Have this thread run and read, for the time of a block, only when nobody else does.

    Who has SCHED_IDLE has the idle class of I/O as well, unless he was given another one
    (include/linux/ioprio.h, task_nice_ioclass()).
    """
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, before, parameter)
