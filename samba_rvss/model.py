"""The values that everything else speaks of. Nothing here acts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, IntEnum, IntFlag


class Nested(Enum):
    """What to do with volumes nested below a share (``rvss:nested``)."""

    REFUSE = "refuse"
    INCLUDE = "include"


class Writers(Enum):
    """Whom an exposed share lets write during recovery, as its base share's settings call for."""

    ANYBODY = "anybody"  # 'read only = no'
    LISTED = "listed"  # 'read only = yes' and a 'write list': those in it
    CLIENT = "client"  # 'read only = yes' alone: the user who asked for the shadow copy
    UNKNOWN = "unknown"  # the same, where Samba does not say who that is: nobody


class SetState(IntEnum):
    """State of a shadow copy set in srv_fss.tdb.

    Source: Samba, source3/rpc_server/fss/srv_fss_private.h, enum fss_sc_state.
    """

    STARTED = 0
    ADDED = 1
    CREATING = 2
    COMMITTED = 3
    EXPOSED = 4
    RECOVERED = 5


class Context(IntFlag):
    """Attributes of a shadow copy set's context (MS-FSRVP 2.2.2.2)."""

    PERSISTENT = 0x00000001
    NO_AUTO_RECOVERY = 0x00000002
    NO_AUTO_RELEASE = 0x00000008
    NO_WRITERS = 0x00000010
    AUTO_RECOVERY = 0x00400000
    FILE_SHARE = 0x04000000


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
    DELETING = "deleting"  # being removed
    GONE = "gone"  # removed; the record stays as history


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of smb.conf that is ours: its shell_snap commands call this instance's hook.

    Attributes:
        writers: who may recover a shadow copy.
        write_list: its ``write list``, as smb.conf has it.
        named: the parameters in which Samba puts the share's name, with the name in them.
        obstacle: why Samba never calls the hook, or cannot expose a copy; empty if it does both.
        forced: the setting that makes the hook's user another than the client's; empty if none.
        shadow: the options of vfs_shadow_copy2 that are in effect, without ``shadow:``, and their
            values.
        maximum_copies, minimum_free, minimum_free_percent: see samba-rvss(8); bytes, per cent.
    """

    name: str
    path: str
    nested: Nested = Nested.REFUSE
    previous_versions: bool = False
    vfs_objects: tuple[str, ...] = ()
    writers: Writers = Writers.CLIENT
    write_list: str = ""
    named: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""
    forced: str = ""
    shadow: tuple[tuple[str, str], ...] = ()
    maximum_copies: int = 0
    minimum_free: int = 0
    minimum_free_percent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A btrfs subvolume or a ZFS dataset, and where in it a share sits.

    Attributes:
        provider: name of the provider that knows it.
        file_system: identity of the btrfs file system (its UUID) or of the pool.
        id: the volume's own identity in it, as text: a subvolume's id, a dataset's guid; empty
            if it comes from one of the first marks on ZFS, which had none.
        name: the volume as an administrator knows it (subvolume path, dataset).
        directory: the share's directory inside the volume, relative; empty for its root.
        inode: inode number of that directory, the same in every image of the volume.
    """

    provider: str
    file_system: str
    id: str
    name: str
    directory: str
    inode: int

    @property
    def key(self) -> str:
        """The whole identity as one word, for locks and for what is shown: nobody parses it."""
        return f"{self.provider}:{self.file_system}:{self.id}"


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
    """

    set_id: str
    copy_id: str
    context: int
    exposed_share: str
    state: SetState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What we write on every image: enough to make its record in the ledger anew.

    ``sealed`` proves that the image is sealed, whatever the ledger says.
    """

    id: str
    share: str
    share_path: str
    volume: Volume
    created: datetime
    nested: Nested = Nested.REFUSE
    sealed: Sealed | None = None


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
    """

    id: str
    provider: str
    mark: Mark
    complete: bool
    read_only: bool
    former: bool = False
    remnants: bool = False
    empty: bool = False


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCopy:
    """The record of a shadow copy in the ledger.

    ``set_id``, ``copy_id``, ``context``, ``exposed_share`` and ``state`` are Samba's, and not known
    before the set has been committed. ``since`` is when phase or state last changed.

    Attributes:
        adopted: whether its record was made anew from its image's mark: then an administrator or
            Samba may have it deleted, and never a timer.
        lost: of one that is gone: whether its image vanished without our deleting it.
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

    @property
    def auto_recovery(self) -> bool:
        """Whether the client asked for a writable copy until RecoveryComplete."""
        return bool(self.context & Context.AUTO_RECOVERY)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaCopy:
    """A shadow copy in srv_fss.tdb, with the state of its set."""

    set_id: str
    copy_id: str
    share: str
    share_path: str
    path: str
    exposed_share: str
    is_exposed: bool
    state: SetState
    context: int
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaSet:
    """A shadow copy set in srv_fss.tdb."""

    id: str
    state: SetState
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaState:
    """All of srv_fss.tdb as one consistent reading."""

    sets: tuple[SambaSet, ...]
    copies: tuple[SambaCopy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A living rpcd_fsrvp of this Samba.

    Attributes:
        clients: how many connections it serves, or None if Samba did not say.
        started: when it was started, in seconds since this boot.
        holds: ids of the sets that it is known to have in memory.
    """

    pid: int
    clients: int | None
    started: float = 0.0
    holds: frozenset[str] = frozenset()
