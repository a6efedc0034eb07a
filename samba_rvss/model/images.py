"""Images: what their marks say, whose they are, and what a look at file systems finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from samba_rvss.model.exposing import Branch, Exposed
from samba_rvss.model.keeping import Keep, Kept
from samba_rvss.model.samba import SetState
from samba_rvss.model.shares import Nested, Volume


class Whose(Enum):
    """Whose an image is, by its mark and by where it was found."""

    OURS = "ours"
    FORMER = "of the first form"  # its mark has nothing but a run directory, which is ours
    INSTANCE = "another instance's"
    MACHINE = "another machine's"
    CLONE = "made on another file system"
    RENAMED = "renamed or copied"
    UNKNOWN = "without a mark that can be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which instance on which machine: what marks say of whose an image is.

    Attributes:
        id: the instance's, random and made once; empty if there is none yet.
        machine: a hash made from the machine's id; empty if the machine has none.
        name: ``rvss:instance``; with it, marks bear the name, and are ours on every machine.
        run_directory: what marks of the first form have in the place of an id.
    """

    id: str
    machine: str = ""
    name: str = ""
    run_directory: str = ""

    @property
    def signature(self) -> tuple[str, str]:
        """The instance and the machine that our marks bear."""
        return (f"name:{self.name}", "") if self.name else (self.id, self.machine)

    def whose(self, instance: str, machine: str) -> Whose:
        """Return whose an image is, given the instance and the machine that its mark bears."""
        if instance and (instance, machine) == self.signature:
            return Whose.OURS
        if self.id and instance == self.id:
            return Whose.OURS if machine == self.machine else Whose.MACHINE
        if self.run_directory and instance == self.run_directory and not machine:
            return Whose.FORMER
        return Whose.INSTANCE


NOBODY = Identity(id="")
"""Of an instance that has never run: no image is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a mark says once its image is sealed: that it is, and what Samba said of the copy.

    Attributes:
        state: of its set: RECOVERED, or that of a set without AUTO_RECOVERY when it was sealed.
        uid: the client's user; -1 if it is not known.
        shares: how many shadow copies the set had; 0 if that is not known.
        keep: whether it becomes a backup when it ends.
        transid: see `Taken`.
        taken: when it had been taken; None if that is not known, nor ``transid``.
    """

    set_id: str
    copy_id: str
    context: int
    exposed_share: str
    state: SetState | None
    uid: int = -1
    shares: int = 0
    keep: Keep = Keep.NO
    transid: int = 0
    taken: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What we write on every image: enough to make its record in the ledger anew.

    ``sealed`` proves that the image is sealed, whatever the ledger says; ``kept`` is for sealed
    ones alone. One with a ``branch`` is no shadow copy's, and never sealed.
    """

    id: str
    share: str
    share_path: str
    volume: Volume
    created: datetime
    nested: Nested = Nested.REFUSE
    sealed: Sealed | None = None
    kept: Kept | None = None
    branch: Branch | None = None

    @property
    def exposed(self) -> Exposed | None:
        """That it is a share; None if it is not."""
        of = self.branch or self.kept
        return of.exposed if of else None

    @property
    def samba_ids(self) -> str:
        """Samba's ids of the copy and its set, for a line that has ours; empty if not known."""
        sealed = self.sealed
        return f" ({sealed.copy_id} of {sealed.set_id})" if sealed and sealed.copy_id else ""

    @property
    def is_backup(self) -> bool:
        """Whether its shadow copy has ended, and the image stays."""
        return self.kept is not None and self.kept.since is not None

    def wish(self, present: datetime) -> Keep:
        """Return whether its shadow copy is to be kept; one that is held is."""
        if self.kept is not None and self.kept.holding(present):
            return Keep.YES
        return self.sealed.keep if self.sealed else Keep.NO


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An image that was taken just now.

    Attributes:
        mounts: what `samba_rvss.providers.Provider.open` returns; the descriptors are the caller's.
        transid: the transaction of its file system, on ZFS the transaction group, in which all of
            it was taken; 0 if that was not one. What was taken in the same one is of one instant.
        at: when it had been taken.
    """

    mounts: list[tuple[str, int]]
    transid: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A point-in-time copy of a volume that is ours, as found by listing.

    Attributes:
        id: its name, the same as in its mark.
        complete: false if its creation was cut off, or a part of it is missing.
        empty: whether nothing of it exists any more but its mark.
        read_only: true only if every part of it is read-only.
        former: whether its mark is of the first form: then only the ledger tells that it is ours.
        remnants: whether something is left that `samba_rvss.providers.Provider.clear` removes.
        size: how many bytes come free with it; None if nobody has asked, or that is not known.
    """

    id: str
    provider: str
    mark: Mark
    complete: bool
    read_only: bool
    former: bool = False
    remnants: bool = False
    empty: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """An image that is not provably ours: it is reported, and never touched.

    Attributes:
        id: what it is called.
        file_system: where it was found; where it was made stands in its mark.
        where: what an administrator finds it by.
        whose: never OURS.
        instance: what its mark bears; empty if it has no mark that can be read.
        machine: the same.
        mark: None if it has none that can be read.
        read_only: whether every part of it is read-only.
    """

    id: str
    provider: str
    file_system: str
    where: str
    whose: Whose
    instance: str = ""
    machine: str = ""
    mark: Mark | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The images that were found, and the file systems on which they could be listed.

    An image that is not here may still exist on a file system that is not here.

    Attributes:
        foreign: what is there and is not ours.
        unlisted: file systems that could not be listed, and why.
        homeless: those listed that have no place for images at all.
        former_names: what older records and marks call a file system, and its identity of today.
    """

    file_systems: frozenset[str]
    images: tuple[Image, ...]
    foreign: tuple[Foreign, ...] = ()
    unlisted: Mapping[str, str] = field(default_factory=dict)
    homeless: frozenset[str] = frozenset()
    former_names: Mapping[str, str] = field(default_factory=dict)

    def present(self, volume: Volume) -> Volume:
        """Return a volume with the identity of today of its file system."""
        name = volume.file_system
        return replace(volume, file_system=self.former_names.get(name, name))


NOTHING = Inventory(file_systems=frozenset(), images=())
"""Of file systems that could not be looked at."""
