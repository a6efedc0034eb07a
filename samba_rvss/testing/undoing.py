"""A base class for rigs that are made in steps, each with an undo.

Place: below the rigs of this package.
"""

from abc import abstractmethod
from contextlib import ExitStack
from typing import Self

from samba_rvss.closing import Closing


class Undoing(Closing):
    """A context manager that is made in steps, and registers with each step how to undo it.

    The steps are undone in the end, the last first, and at once if a step fails. An undo that fails
    does not stop the others.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()

    @abstractmethod
    def _set_up(self) -> None:
        """Make everything, with an undo in `_undo` for each step."""

    def __enter__(self) -> Self:
        with ExitStack() as guard:
            guard.callback(self.close)
            self._set_up()
            guard.pop_all()
        return self

    def close(self) -> None:
        """Undo what was made."""
        self._undo.close()
