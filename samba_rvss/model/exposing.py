"""What is exposed: a backup, or a writable image that was made from one, as a share of Samba's."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """That an image is a share, as its mark says it.

    Attributes:
        share: the share's name.
        account: the only one that may connect; empty if all may whom the base share lets.
        uid: that account's; it counts, not the name. -1 without an account.
        until: when it ends by itself; None if never.
        ending: whether it is being taken away.
    """

    share: str
    account: str = ""
    uid: int = -1
    until: datetime | None = None
    ending: bool = False

    def is_over(self, present: datetime) -> bool:
        """Return whether its time is over."""
        return self.until is not None and self.until <= present


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """That an image is a writable one beside a backup, as its mark says it.

    Attributes:
        of: the id of the backup's image.
        ready: whether it lives: before, nobody can have written to it, and when that is taken back,
            it is to be deleted with what was written.
        exposed: that it is a share; None if it is concealed.
    """

    of: str
    ready: bool = False
    exposed: Exposed | None = None
