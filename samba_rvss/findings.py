"""What reconciling found, as values: what goes over admin.sock and what commands print."""

from dataclasses import dataclass
from enum import Enum


class Fate(Enum):
    """What becomes of something that reconciling found."""

    TO_DO = "to do"
    DONE = "done"
    BEGUN = "begun"
    FAILED = "failed"
    STALE = "not needed any more"
    LEFT_ALONE = "left alone"
    WRONG = "wrong"
    UNSEEN = "not seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that reconciling did, would do, left alone or could not see.

    Attributes:
        action: what is done about it; empty if nothing is.
        target: id of a copy, an image or a set, a path, or the name of a share; may be empty.
        reason: why, without a full stop.
        evidence: what was seen that says so.
        error: why it failed.
        due: in how many seconds it may be otherwise, of what is left alone.
    """

    fate: Fate
    reason: str
    target: str = ""
    action: str = ""
    evidence: tuple[str, ...] = ()
    error: str = ""
    due: float | None = None
