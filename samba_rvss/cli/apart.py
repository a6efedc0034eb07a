"""Running a command in a process that nobody has to wait for.

A thread that hangs in the kernel keeps its process until the disk answers, whatever that process
does, and with it whoever waits for its end. So a command that looks at file systems does it in a
child: that hands its exit status on, lets go of standard input and output, and is left. Where the
command is ended before that, so is the child.
"""

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

SECONDS = 1.0
"""For how long a command that is interrupted may go on, if nothing else is said."""

_INTERRUPTED = 130
_INTERRUPTION = (signal.SIGINT,)


def run(command: Callable[[], int], patience: float = SECONDS) -> int:
    """Run a command in a child, and return its exit status as soon as it is known.

    Args:
        command: returns the exit status; no other thread may run yet.
        patience: for how many seconds it may go on when it is interrupted, which it hears itself.
            Who interrupts it again waits no longer.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    alive, life = os.pipe2(os.O_CLOEXEC)
    # It waits until both of us are ready for it, and is none of the thread's.
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTION)
    child = os.fork()
    if not child:
        os.close(ours)
        os.close(life)
        Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        _be_child(command, theirs)
    os.close(alive)
    os.close(theirs)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTION)
        told = os.read(ours, 1)
        if told:
            _reap(child)
            return told[0]
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:  # the child has been interrupted as well, and says so
        with suppress(KeyboardInterrupt):
            select.select([ours], [], [], patience)  # its status, or its end
            _reap(child)
        return _INTERRUPTED
    ended = os.waitstatus_to_exitcode(status)
    return ended if ended >= 0 else 128 - ended


def _end_with_parent(alive: int) -> None:
    """End this process when its parent has, whatever ended that: nobody wants it to go on."""
    os.read(alive, 1)
    os._exit(_INTERRUPTED)


def _be_child(command: Callable[[], int], told: int) -> None:
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTION)
        status = command()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.write(told, bytes([status]))
        os._exit(status)


def _reap(child: int) -> None:
    """Wait for the end of a child that has no thread which hangs."""
    pidfd = os.pidfd_open(child)
    if select.select([pidfd], [], [], SECONDS)[0]:
        os.waitpid(child, 0)
    os.close(pidfd)
