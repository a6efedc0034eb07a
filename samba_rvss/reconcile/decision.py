"""What reconciling can decide, as values: what to do, what to leave alone, and why.

Place: below planning, which makes them, and below `apply`, `report` and the commands, which read
them. Nothing here judges.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from samba_rvss.model import Image, Moment, SambaCopy, SetState, ShadowCopy


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(ABC):
    """One thing to do, and why.

    Attributes:
        verb: what is done, in a word or two.
        reason: a sentence without a full stop.
        evidence: what was seen that proves the reason.
    """

    verb: ClassVar[str]

    reason: str
    evidence: tuple[str, ...] = ()

    @property
    @abstractmethod
    def target(self) -> str:
        """Id of a copy, an image or a set, a path, or the name of a share."""

    @property
    def samba_ids(self) -> str:
        """Samba's ids of what has another one in `target`, in brackets; empty if it has none."""
        return ""

    def describe(self) -> str:
        """Return the action as a line for people."""
        return f"{self.verb} {self.target}{self.samba_ids}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCopy(Action):
    """Something to do with a shadow copy.

    Attributes:
        copy: as it was seen; when it is no longer so, nothing is done.
    """

    copy: ShadowCopy

    @property
    def target(self) -> str:
        """The copy's id."""
        return self.copy.id

    @property
    def samba_ids(self) -> str:
        """See `Action`."""
        return self.copy.samba_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class OnImage(Action):
    """Something to do with an image alone."""

    image: Image

    @property
    def target(self) -> str:
        """The image's id."""
        return self.image.id

    @property
    def samba_ids(self) -> str:
        """See `Action`."""
        return self.image.mark.samba_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class OnShare(Action):
    """Something to do with an exposed share, by its name."""

    share: str

    @property
    def target(self) -> str:
        """The share's name."""
        return self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmount(Action):
    """Take away a recovery mount, or the directory that is left of it."""

    verb = "unmount"
    path: str

    @property
    def target(self) -> str:
        """The mount's path."""
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver(OnImage):
    """Put our identity into a mark of the first form, whose image the ledger has."""

    verb = "take over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest(OnImage):
    """Have the mark of a sealed image say that recovery is complete, as Samba has said since.

    Attributes:
        image: with the mark as it becomes.
    """

    verb = "attest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend(OnCopy):
    """Amend the record of a copy to what its image's mark proves.

    Attributes:
        amended: the record as it becomes.
    """

    verb = "amend record"
    amended: ShadowCopy


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(OnCopy):
    """Delete a shadow copy.

    Attributes:
        believes: the states of its set in srv_fss.tdb in which it may be deleted, None if the set
            is not there; empty if the set does not matter.
        lost: whether it has no image any more, and none is destroyed.
    """

    verb = "delete"
    believes: tuple[SetState | None, ...] = ()
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(Delete):
    """End a shadow copy as a backup: its share and its mounts go, its sealed image stays."""

    verb = "keep as backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(OnCopy):
    """Have the mark of a backup say that it is one; take away what it had as a shadow copy."""

    verb = "finish keeping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroy(OnImage):
    """Destroy an image."""

    verb = "destroy image"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnExposed(OnImage):
    """Something to do with an image that is a share by its mark: a backup's, or a branch.

    Attributes:
        backup: the record of the backup that it is, or is beside; None if there is none.
    """

    backup: ShadowCopy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(OnExposed):
    """See that an image is the share that its mark says.

    Attributes:
        anew: whether the share is there, and is to be made anew.
    """

    verb = "expose"
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conceal(OnExposed):
    """Take away the share of an image; the image stays."""

    verb = "conceal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard(OnExposed):
    """Destroy a branch that was never whole, and that nobody can have written to."""

    verb = "destroy image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(OnCopy):
    """See that a backup is held while it is exposed, or has a branch, and no longer."""

    verb = "settle holds of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt(OnImage):
    """Write the lost record of an image anew, and mount it.

    Attributes:
        path: where Samba has it, empty if Samba does not have it.
    """

    verb = "adopt"
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountAgain(OnCopy):
    """Mount a copy again where it is not mounted."""

    verb = "mount again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal(OnCopy):
    """Begin to seal a copy; the watcher goes on with it for as long as it takes.

    What one that has ended still has for clients is taken away first.

    Attributes:
        known: what srv_fss.tdb says of it, None if nothing; the ledger may not have that yet.
    """

    known: SambaCopy | None = None
    verb = "seal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear(OnCopy):
    """Remove what recovery wrote to and is no part of the sealed image."""

    verb = "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteShare(OnShare):
    """Remove an exposed share from Samba's registry, with its security descriptor.

    Attributes:
        of_backup: whether it is that of a backup, or of a branch.
    """

    verb = "remove share"
    of_backup: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteDescriptor(OnShare):
    """Remove the security descriptor of a share that does not exist."""

    verb = "remove security descriptor"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSet(Action):
    """Remove a set from srv_fss.tdb.

    Attributes:
        set_id: Samba's id of it.
        state: the state that it was seen in; in another it stays.
        idle: whether it may be removed only while nobody is connected to an rpcd_fsrvp.
    """

    verb = "remove set"
    set_id: str
    state: SetState
    idle: bool = False

    @property
    def target(self) -> str:
        """The set's id."""
        return self.set_id


ORDER: tuple[type[Action], ...] = (
    TakeOver,
    Attest,
    Amend,
    Conceal,
    Unmount,
    Keep,
    Finish,
    Delete,
    Destroy,
    Discard,
    Adopt,
    MountAgain,
    Seal,
    Clear,
    DeleteShare,
    DeleteDescriptor,
    Expose,
    Settle,
    DeleteSet,
)
"""Every kind of action, in the order in which they are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """Something that is left as it is, and why.

    Attributes:
        due: in how many seconds that may change by time alone; None if it cannot.
        wrong: whether it is not as it should be, but nothing can or may be done about it.
    """

    target: str
    reason: str
    due: float | None = None
    wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, what to leave alone, and what is unaccounted for since when.

    Attributes:
        actions: in the order in which they are done.
        left_alone: what is not touched.
        findings: what is unaccounted for, by name, and since when.
        problems: why something could not be seen.
    """

    actions: tuple[Action, ...]
    left_alone: tuple[LeftAlone, ...]
    findings: dict[str, Moment]
    problems: tuple[str, ...] = ()

    @property
    def due(self) -> float | None:
        """In how many seconds to look again, or None if only an event can change anything."""
        return min((left.due for left in self.left_alone if left.due is not None), default=None)
