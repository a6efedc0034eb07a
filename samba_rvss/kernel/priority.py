"""How urgent our work is to the kernel."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFERRED, _GIVING_WAY = -10, 10


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


def nice() -> int:
    """Return the calling thread's nice value: each thread has its own (sched(7))."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def set_nice(value: int) -> bool:
    """Give the calling thread a nice value; return whether that is permitted."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), value)
    except OSError:
        return False
    return True


def prefer() -> bool:
    """Have the calling thread, and all that it starts, run rather than others.

    For a process with a thread that hurries (`hurry`): whichever of its threads holds the
    interpreter's lock must get a processor, or the other one waits for it.

    Returns:
        Whether that is permitted.
    """
    return set_nice(min(_PREFERRED, nice()))


def give_way() -> None:
    """Have the calling thread, and all that it starts, let others go first, whoever started it.

    Not idle: what is to be ended takes long to end then where others keep the processors busy.
    """
    set_nice(max(_GIVING_WAY, nice()))


@contextmanager
def like_others() -> Iterator[None]:
    """Have what this thread starts in a block be preferred to nobody."""
    before = nice()
    set_nice(max(before, 0))
    try:
        yield
    finally:
        set_nice(before)


def put_among_others(pid: int) -> None:
    """Have a program that this thread has started be preferred to nobody.

    Unlike `like_others`, this keeps the thread itself preferred: while it holds the interpreter's
    lock, others wait for it.

    Args:
        pid: its number; it has not been waited for.
    """
    with suppress(OSError):
        usual = os.getpriority(os.PRIO_PROCESS, pid)
        os.setpriority(os.PRIO_PROCESS, pid, max(usual, 0))


def hurry(flags: int = 0) -> None:
    """Have the calling thread run before all others, where that is permitted.

    It needs CAP_SYS_NICE (sched(7)). It is for threads that do little at a time.

    Args:
        flags: SCHED_RESET_ON_FORK if threads and programs that it starts must not hurry as well.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | flags, os.sched_param(1))
    except OSError:
        set_nice(-20)


class Urgency:
    """Whether a thread hurries, for a thread that does not always."""

    def __init__(self) -> None:
        self._is_urgent = False
        self._usual = 0

    def set(self, *, wanted: bool) -> None:
        """Have the calling thread, but nothing that it starts, hurry; or work as usual again."""
        if wanted is self._is_urgent:
            return
        self._is_urgent = wanted
        if wanted:
            self._usual = nice()
            hurry(os.SCHED_RESET_ON_FORK)
            return
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        set_nice(self._usual)
