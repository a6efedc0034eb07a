"""What reconciling found, as values, which go over admin.sock and are printed by commands."""

from dataclasses import dataclass
from enum import Enum


class Fate(Enum):
    """What becomes of something that reconciling found."""

    TO_DO = "to do"
    DONE = "done"
    BEGUN = "begun"  # a seal, which goes on until it succeeds
    FAILED = "failed"
    STALE = "not needed any more"  # when its turn came; or in use, and tried again
    LEFT_ALONE = "left alone"
    WRONG = "wrong"  # left alone, and for an administrator to mend
    UNSEEN = "not seen"  # it could not be observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that reconciling did, would do, left alone or could not see.

    Attributes:
        action: what is done about it; empty if nothing is.
        target: id of a copy, an image or a set, a path, or the name of a share; may be empty.
        reason: why, without a full stop.
        evidence: what was seen that proves the reason.
        error: why it failed.
        due: for what is left alone: in how many seconds that may change; None if time alone
            changes nothing.
    """

    fate: Fate
    reason: str
    target: str = ""
    action: str = ""
    evidence: tuple[str, ...] = ()
    error: str = ""
    due: float | None = None
