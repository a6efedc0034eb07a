"""What reconciling can decide, as values: what to do, what to leave, and why.

Whoever plans makes them; whoever applies, reports or prints them needs to know nothing else of
planning. Nothing here judges.
"""

from dataclasses import dataclass
from enum import Enum

from samba_rvss.model import Image, Moment, SetState, ShadowCopy


class Kind(Enum):
    """What can be done about a finding, in the order in which it is done."""

    UNMOUNT = "unmount"
    DELETE = "delete"
    DESTROY = "destroy image"
    ADOPT = "adopt"
    REMOUNT = "mount again"
    SEAL = "seal"
    UNSHARE = "remove share"
    FORGET_SECURITY = "remove security descriptor"
    FORGET_SET = "remove set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, and why.

    Attributes:
        target: id of a copy, an image or a set, a path, or the name of a share.
        reason: a sentence without a full stop.
        evidence: what was seen that says so.
        copy: the shadow copy as it was seen; when it is no longer so, nothing is done.
        image: the image, where no copy accounts for it.
        believes: if not empty, the states of the set in srv_fss.tdb that the action rests on; None
            is a set that is not there.
        idle: whether it rests on nobody being connected to an rpcd_fsrvp.
    """

    kind: Kind
    target: str
    reason: str
    evidence: tuple[str, ...] = ()
    copy: ShadowCopy | None = None
    image: Image | None = None
    believes: tuple[SetState | None, ...] = ()
    idle: bool = False

    def describe(self) -> str:
        """Return the action as a line for people."""
        return f"{self.kind.value} {self.target}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something that is left as it is, and why.

    Attributes:
        due: in how many seconds it may be otherwise, if nothing happens.
        wrong: whether it is not as it should be, but nothing can or may be done about it.
    """

    target: str
    reason: str
    due: float | None = None
    wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, what to leave, and what is unaccounted for since when.

    Attributes:
        actions: in the order in which they are done.
        findings: what is unaccounted for, by name.
        problems: why something could not be seen.
    """

    actions: tuple[Action, ...]
    kept: tuple[Kept, ...]
    findings: dict[str, Moment]
    problems: tuple[str, ...] = ()

    @property
    def due(self) -> float | None:
        """In how many seconds to look again, or None if only an event can change anything."""
        return min((one.due for one in self.kept if one.due is not None), default=None)
