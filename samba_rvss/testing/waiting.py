"""Waiting for something that others do, within a time.

Place: for all tests; it stands on nothing.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    what: str | Callable[[], object],
    look: Callable[[], T],
    seconds: float = 60.0,
    *,
    pause: float = 0.02,
) -> T:
    """Look until there is something, and return it.

    Args:
        what: what is waited for, in the words of the failure; or a function that is called for
            them when it has failed.
        look: returns a false value for as long as there is nothing.
        seconds: for how long; the default is for an emulated machine.
        pause: seconds between two looks.

    Raises:
        AssertionError: there was nothing in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {said}")
        time.sleep(pause)
    return found
