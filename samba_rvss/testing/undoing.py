"""What every rig that is made in steps has in common: each step has an undo.

Place: below the rigs of this package.
"""

from abc import abstractmethod
from contextlib import ExitStack
from typing import Self

from samba_rvss.closing import Closing


class Undoing(Closing):
    """A context manager whose making registers, step by step, how each step is undone.

    What was made is undone in the end, the last step first, and at once if a later step fails;
    one that cannot be undone keeps none of the others from being undone.
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
