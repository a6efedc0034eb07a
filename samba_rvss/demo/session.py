"""Running a function in a session of its own, so that a signal ends it between two steps.

Place: below `show`. Contract: a signal takes effect where `Signals.look` is called and nowhere
else, so that whatever was begun is cleared away.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal has asked for the end."""


class Signals:
    """A context manager: signals are noted, raised where `look` is called, and passed on.

    Attributes:
        number: the last signal's, or 0.
        heir: a pidfd of the process that signals are passed on to, or -1.
    """

    def __init__(self) -> None:
        self.number = 0
        self.heir = -1

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def look(self) -> None:
        """Raise Interrupted if there was a signal."""
        if self.number:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.hand_on()

    def hand_on(self) -> None:
        """Send the last signal to the heir."""
        if self.number and self.heir >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.heir, self.number)


def in_session(function: Callable[[Signals], int]) -> int:
    """Run a function in a process and a session of its own, and pass signals on to it.

    A terminal's Ctrl-C reaches all processes in the foreground: without a session, it would end the
    very programs that clear away, and samba-rvss before its Samba.

    Returns:
        In the new process: what the function returned. Here: the exit status of that process, or
        128 and the number of the signal that ended it. An exception of the function is raised in
        the new process.
    """
    with Signals() as signals:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.setsid()
            return function(signals)
        signals.heir = os.pidfd_open(child)
        try:
            signals.hand_on()
            _, status = os.waitpid(child, 0)
        finally:
            os.close(signals.heir)
            signals.heir = -1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
