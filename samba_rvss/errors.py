"""The one error class, and the codes that name what went wrong.

A problem's number is the status byte on both sockets, the exit status of the hook and of
``samba-rvss``, and the entry in samba-rvss(8). Numbers are never reused.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from samba_rvss.text import printable

T = TypeVar("T")
R = TypeVar("R")


class Problem(IntEnum):
    """What went wrong, as administrators, programs and the wire see it."""

    INTERNAL = 1
    USAGE = 2
    CONFIG = 10
    NOT_OURS = 11
    BAD_PATH = 12
    NOT_SUPPORTED = 13
    NESTED = 14
    NO_SPACE = 15
    READ_ONLY = 16
    BUSY = 17
    DEADLINE = 18
    REFUSED = 19
    NOT_FOUND = 20
    BAD_REQUEST = 21
    NO_DAEMON = 22
    SAMBA = 23
    SYSTEM = 24
    TOOL = 25
    NOT_SEALED = 26
    MISSING = 27
    STATE = 28
    LIMIT = 29
    HELD = 30
    DAMAGED = 31


class RvssError(Exception):
    """A known failure: one sentence, and where possible what to do about it.

    Args:
        problem: its code.
        message: one sentence without a full stop, naming the object that it is about.
        hint: what an administrator can do, or an empty string.
    """

    def __init__(self, problem: Problem, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["RvssError"], tuple[object, ...]]:
        return (RvssError, (self.problem, self.message, self.hint))

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message

    def line(self) -> str:
        """Return the error as one printable line, whatever bytes its parts held."""
        return printable(str(self).strip())


def attempted(action: Callable[[T], R], argument: T) -> R | RvssError:
    """Return what an action returns, or the known failure that it raises."""
    try:
        return action(argument)
    except RvssError as exc:
        return exc
