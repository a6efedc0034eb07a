"""Shadow copies as the ledger has them, and what happened to them."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from samba_rvss.model.keeping import Keep
from samba_rvss.model.samba import Context, SetState
from samba_rvss.model.shares import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time that setting the clock does not move: seconds since a boot.

    Attributes:
        boot: the kernel's id of that boot (random(4), boot_id); empty if it is not known.
        seconds: since that boot, time in suspension included (clock_gettime(2), CLOCK_BOOTTIME).
    """

    boot: str
    seconds: float


UNKNOWN = Moment(boot="", seconds=0.0)


class Phase(Enum):
    """How far a shadow copy has come, as the ledger has it."""

    CREATING = "creating"  # intent written; image and mounts may or may not exist
    TAKEN = "taken"  # image exists, recovery mount read-only, path handed to Samba
    OPEN = "open"  # recovery mount writable: auto-recovery is running
    SEALING = "sealing"  # recovery is complete; being made read-only for good
    SEALED = "sealed"  # verified: nothing can change it any more
    KEPT = "kept"  # a backup: for Samba it is gone, and its sealed image stays
    DELETING = "deleting"  # being removed
    GONE = "gone"  # removed; the record stays as history


ENDED = (Phase.KEPT, Phase.DELETING, Phase.GONE)
"""What is no shadow copy any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCopy:
    """The record of a shadow copy in the ledger.

    ``set_id``, ``copy_id``, ``context``, ``exposed_share`` and ``state`` are Samba's, and not known
    before the set has been committed. ``since`` is when phase or state last changed.

    Attributes:
        adopted: whether its record was made anew from its image's mark: then an administrator or
            Samba may have it deleted, and never a timer.
        lost: of one that is gone: whether its image vanished without our deleting it.
        keep: whether it becomes a backup when it ends.
        ended: whether its client has deleted it before it was sealed: it is sealed and kept, and
            what Samba says does not matter any more.
        set_size: how many shadow copies Samba has seen in its set; 0 if that is not known.
        transid: see `samba_rvss.model.Taken`.
        taken: when its image had been taken; None if that is not known.
    """

    id: str
    share: str
    share_path: str
    volume: Volume
    created: datetime
    phase: Phase
    path: str
    previous_path: str = ""
    uid: int = -1
    set_id: str = ""
    copy_id: str = ""
    context: int = 0
    exposed_share: str = ""
    state: SetState | None = None
    since: Moment = UNKNOWN
    adopted: bool = False
    lost: bool = False
    keep: Keep = Keep.NO
    ended: bool = False
    set_size: int = 0
    transid: int = 0
    taken: datetime | None = None

    @property
    def auto_recovery(self) -> bool:
        """Whether the client asked for a writable copy until RecoveryComplete."""
        return bool(self.context & Context.AUTO_RECOVERY)

    @property
    def samba_ids(self) -> str:
        """Samba's ids of the copy and its set, for a line that has ours; empty if not known."""
        return f" ({self.copy_id} of {self.set_id})" if self.copy_id else ""

    @property
    def title(self) -> str:
        """Its share and its ids, ours and as far as they are known Samba's, for a line of a log."""
        return f"[{self.share}] {self.id}{self.samba_ids}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it is mounted: for Samba, and for Previous Versions if the share has them."""
        return tuple(path for path in (self.path, self.previous_path) if path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a shadow copy, or to a set alone.

    ``copy`` and ``set_id`` are empty where they are not known or do not apply. ``duration`` is in
    seconds, or None where nothing was measured.
    """

    time: datetime
    copy: str
    set_id: str
    share: str
    what: str
    uid: int
    duration: float | None
    detail: str
