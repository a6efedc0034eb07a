"""A supervisor for a program whose processes make themselves daemons.

Place: below the rigs; it runs as a program of its own, in a fresh interpreter that inherits nothing
from the caller. Contract: it is a child subreaper, so that whatever its program started becomes its
child in the end. It ends all of that when its standard input closes, also if that is because the
caller was killed, and it ends itself when all of it has been reaped.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from samba_rvss.kernel.processes import descendants

ROOT = str(Path(__file__).resolve().parents[2])
"""What has to be readable where it runs, besides Python."""

_PROGRAM = (
    f"import sys; sys.path.insert(0, {ROOT!r});"
    " from samba_rvss.testing.supervisor import supervise; supervise()"
)


def supervised(argv: Sequence[str]) -> list[str]:
    """Return the command line that runs a program under a supervisor.

    Exit status: 0 all has ended, 1 the program had ended by itself, 2 something is left.
    """
    return [sys.executable, "-ISE", "-c", _PROGRAM, *argv]


def supervise() -> None:
    """Run argv as a child until standard input closes, then end all that came from it."""
    child_ended = False

    def reap() -> bool:
        """Reap what has ended; return whether nothing is left."""
        nonlocal child_ended
        try:
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                child_ended = child_ended or pid == child
        except ChildProcessError:
            return True
        return False

    def end(number: signal.Signals, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        again = 0.0
        while not reap():
            now = time.monotonic()
            if now > deadline:
                return False
            if now >= again:
                again = now + 1
                for pid in descendants(os.getpid()):
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        continue
            time.sleep(0.005)
        return True

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0):  # linux/prctl.h, PR_SET_CHILD_SUBREAPER
        sys.exit(3)
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    child = os.posix_spawn(
        sys.argv[1],
        sys.argv[1:],
        os.environ,
        file_actions=[null],
        setsigdef=[signal.SIGINT, signal.SIGTERM],
    )
    while not child_ended and not select.select([0], [], [], 0.1)[0]:
        reap()
    cut_off = child_ended
    done = end(signal.SIGTERM, 5) or end(signal.SIGKILL, 5)
    sys.exit((1 if cut_off else 0) if done else 2)
