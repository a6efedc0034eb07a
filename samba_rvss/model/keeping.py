"""What is kept: whether a share's shadow copies become backups, and what a backup's mark says.

A backup is the sealed image of a shadow copy that has ended: no share, no mount, nothing copied.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from samba_rvss.backups.selection import Selection
from samba_rvss.model.exposing import Exposed


class Keep(Enum):
    """Which sealed shadow copies become backups when they end (``rvss:keep``)."""

    NO = "no"
    RECOVERED = "recovered"  # those whose client said RecoveryComplete
    YES = "yes"  # the others too

    @property
    def strength(self) -> int:
        """The higher, the more is kept."""
        return list(Keep).index(self)


def strongest(*wishes: Keep) -> Keep:
    """Return the wish that keeps the most."""
    return max(wishes, key=lambda wish: wish.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold, as zfs-hold(8) means it: what has one is not deleted; releasing deletes nothing.

    Attributes:
        tag: who holds it, or what for.
        until: when it ends by itself; None if never.
    """

    tag: str
    until: datetime | None = None

    def is_over(self, present: datetime) -> bool:
        """Return whether it holds no more."""
        return self.until is not None and self.until <= present


class Consistency(Enum):
    """In which state the files in a backup are."""

    APPLICATION = "application"  # the application, or who speaks for it, has made them consistent
    CRASH = "crash"  # as after a crash


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The run of a managed backup that a backup came of.

    Attributes:
        name: that of its definition.
        consistency: what was proven, whatever was asked for.
        files, veto: which files it is about, as `samba_rvss.backups.selection.Selection` has them.
    """

    name: str
    consistency: Consistency
    files: tuple[str, ...] = ()
    veto: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """Which files it is about."""
        return Selection(files=self.files, veto=self.veto)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an image's mark says of it as a backup.

    Attributes:
        since: when its shadow copy ended; None if that has not.
        tags: in the order of the alphabet; so are the holds.
        exposed: that it is a read-only share; None if it is not.
        run: which run it came of; None if another client took it.
    """

    since: datetime | None = None
    tags: tuple[str, ...] = ()
    holds: tuple[Hold, ...] = ()
    exposed: Exposed | None = None
    run: Run | None = None

    def holding(self, present: datetime) -> tuple[Hold, ...]:
        """Return the holds that are not over."""
        return tuple(hold for hold in self.holds if not hold.is_over(present))
