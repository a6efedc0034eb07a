"""What reconciling decides: the specification, as a table, one row a situation.

A row begins with a copy that is as it should be (sealed, recovered, served) and says only what is
different; `does` and `leaves` are everything that the plan says of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from samba_rvss.model import (
    Context,
    Foreign,
    Inventory,
    Moment,
    Phase,
    SambaSet,
    SambaState,
    Sealed,
    SetState,
    ShadowCopy,
    Volume,
    Worker,
)
from samba_rvss.reconcile.decision import (
    ORDER,
    Action,
    Adopt,
    Delete,
    DeleteDescriptor,
    DeleteSet,
    DeleteShare,
    Destroy,
    MountAgain,
    OnCopy,
    Plan,
    Seal,
    Unmount,
)
from samba_rvss.reconcile.observation import Observation
from samba_rvss.reconcile.plan import plan
from tests.unit.values import (
    COPY_ID,
    EXPOSED,
    NOW,
    OPTIONS,
    SET,
    SHARE_PATH,
    VOLUME,
    copy_of,
    image_of,
    path_of,
    samba_copy_of,
    sealed_of,
    share_of,
)

PRESENT = Moment(boot="this boot", seconds=1_000_000.0)
BEFORE = Moment(boot="the boot before", seconds=5_000_000.0)
A = "20240229T235900Z-0123abcd"
PATH = path_of(A)
PREVIOUS = "/run/samba-rvss/previous/vms/@GMT-2024.02.29-23.59.00"
SHARE = share_of(COPY_ID)
ARCHIVE = SHARE.replace("VMs", "αρχειοσ")  # Python would end it with another sigma
UNREADABLE = "unreadable"
ABSENT = "absent"
YEAR = 365.25 * 24 * 3600
RECOVERY = int(Context.AUTO_RECOVERY)
PERSISTENT = RECOVERY | Context.PERSISTENT
FOR_EVER = PERSISTENT | Context.NO_AUTO_RELEASE


def ago(seconds: float) -> Moment:
    """Return a moment of this boot."""
    return Moment(boot=PRESENT.boot, seconds=PRESENT.seconds - seconds)


@dataclass(frozen=True, kw_only=True)
class Given:
    """One copy and everything around it.

    Attributes:
        phase: None if the ledger does not know it.
        since: when its phase or state changed last.
        age: by the clock, in seconds.
        known: whether set, copy and share are in the ledger.
        learned: the state in the ledger; None is the one that srv_fss.tdb has.
        image: "read-only", "writable", "incomplete", "empty" or none.
        listed: whether its file system is there; None if images cannot be listed at all.
        state: of its set in srv_fss.tdb, ABSENT or UNREADABLE.
        served: whether its exposed share exists; None if the registry cannot be read.
        found: the findings of the look before.
        tdb: all of srv_fss.tdb, if it is not as `state` says.
        adopted: whether its record was made anew.
        sealed: what the image's mark says of its being sealed.
        former: whether the image's mark is of the first form.
        remnants: whether something of the recovery is left.
        volume: the volume that the image's mark names.
        foreign: what is on the file systems and is not ours.
        unlisted: file systems that could not be listed, and why.
        names: former names of file systems.
    """

    phase: Phase | None = Phase.SEALED
    since: Moment = field(default_factory=lambda: ago(60))
    age: float = 100
    known: bool = True
    learned: SetState | None = None
    context: int = RECOVERY
    image: str = "read-only"
    listed: bool | None = True
    state: SetState | str = SetState.RECOVERED
    previous: bool = False
    mounts: frozenset[str] | None = frozenset({PATH})
    opened: frozenset[str] | None = frozenset({PATH})
    homeless: frozenset[str] = frozenset()
    directories: frozenset[str] | None = frozenset({PATH})
    served: bool | None = True
    shares: Mapping[str, str] = field(default_factory=dict)
    descriptors: frozenset[str] | None = frozenset({SHARE.lower()})
    history: frozenset[str] = frozenset({SHARE.lower()})
    gone: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()
    workers: tuple[Worker, ...] | None = (Worker(pid=7, clients=1),)
    connected: frozenset[str] | None = frozenset()
    quiet: float | None = 10 * YEAR
    abandoned: frozenset[str] = frozenset()
    tdb: SambaState | None = None
    found: Mapping[str, float] = field(default_factory=dict)
    starting: bool = False
    adopted: bool = False
    sealed: Sealed | None = None
    former: bool = False
    remnants: bool = False
    volume: Volume = VOLUME
    foreign: tuple[Foreign, ...] = ()
    unlisted: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def copy(self) -> ShadowCopy | None:
        """Return the ledger's row."""
        if self.phase is None:
            return None
        state = self.learned or (self.state if isinstance(self.state, SetState) else None)
        created = NOW - timedelta(seconds=self.age)
        copy = copy_of(A, self.phase, created=created, since=self.since)
        previous = PREVIOUS if self.previous else ""
        copy = replace(copy, previous_path=previous, adopted=self.adopted)
        if not self.known:
            return copy
        return replace(
            copy,
            set_id=SET,
            copy_id=COPY_ID,
            context=self.context,
            exposed_share=SHARE,
            state=state,
        )

    def inventory(self) -> Inventory | None:
        """Return what is on the file systems."""
        if self.listed is None:
            return None
        image = image_of(
            A,
            NOW - timedelta(seconds=self.age),
            complete=self.image not in ("incomplete", "empty"),
            read_only=self.image == "read-only",
            sealed=self.sealed,
        )
        mark = replace(image.mark, volume=self.volume)
        image = replace(image, mark=mark, former=self.former, remnants=self.remnants)
        image = replace(image, empty=self.image == "empty")
        return Inventory(
            file_systems=frozenset({"fs"} if self.listed else {"another"}),
            images=(image,) if self.image else (),
            foreign=self.foreign,
            unlisted=self.unlisted,
            homeless=self.homeless,
            former_names=self.names,
        )

    def samba(self) -> SambaState | None:
        """Return srv_fss.tdb."""
        if self.tdb is not None:
            return self.tdb
        if self.state == UNREADABLE:
            return None
        if not isinstance(self.state, SetState):
            return SambaState(sets=(), copies=())
        return state_of(self.state, self.context, PATH)

    def seen(self) -> Observation:
        """Return the observation."""
        copy = self.copy()
        shares = {SHARE: PATH} if self.served else {}
        return Observation(
            wall=NOW,
            present=PRESENT,
            instances=frozenset({"ours"}),
            options=OPTIONS,
            exposed_directory=EXPOSED,
            share_paths=frozenset({SHARE_PATH}),
            copies=(copy,) if copy else (),
            gone=dict.fromkeys(self.gone, VOLUME),
            history=self.history,
            changing=self.changing,
            inventory=self.inventory(),
            mounts=self.mounts,
            opened=self.opened,
            directories=self.directories,
            samba=self.samba(),
            shares=None if self.served is None else {**shares, **self.shares},
            descriptors=self.descriptors,
            workers=self.workers,
            connected=self.connected,
            quiet=self.quiet,
            abandoned=self.abandoned,
            findings={name: ago(seconds) for name, seconds in self.found.items()},
            starting=self.starting,
        )


def state_of(
    state: SetState, context: int, *paths: str, share_path: str = SHARE_PATH
) -> SambaState:
    """Return srv_fss.tdb with one set."""
    return SambaState(
        sets=(SambaSet(id=SET, state=state, context=context),),
        copies=tuple(samba_copy_of(path, state, context, share_path=share_path) for path in paths),
    )


@dataclass(frozen=True, kw_only=True)
class Does:
    """An action: what is done to what, a part of its reason, and what it rests on."""

    kind: type[Action]
    reason: str
    target: str = A
    believes: tuple[SetState | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """Something that is left."""

    reason: str
    target: str = A
    due: float | None = None
    wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A situation and everything that is said of it."""

    title: str
    given: Given
    does: tuple[Does, ...] = ()
    leaves: tuple[Leaves, ...] = ()


def row(title: str, given: Given, *said: Does | Leaves) -> Row:
    """Return a row of the table."""
    return Row(
        title=title,
        given=given,
        does=tuple(due for due in said if isinstance(due, Does)),
        leaves=tuple(thing for thing in said if isinstance(thing, Leaves)),
    )


def delete(reason: str, *believes: SetState | None) -> Does:
    """The copy goes; what srv_fss.tdb must still say then."""
    return Does(kind=Delete, reason=reason, believes=believes)


def seal(reason: str) -> Does:
    """It is sealed, again."""
    return Does(kind=Seal, reason=reason)


def goes(reason: str = "no shadow copy of it is left", *believes: SetState) -> Does:
    """The set goes."""
    return Does(kind=DeleteSet, reason=reason, target=SET, believes=believes or None)


def lives(seconds: float, why: str = f"its set {SET} is recovered") -> Leaves:
    """It is left, for its age."""
    return Leaves(reason=f"{why}; it has {seconds:.0f} s left", due=seconds)


EVIDENCE = Leaves(
    reason="its image is read-only, though its record says that recovery is not complete",
    wrong=True,
)
REMOUNT = Does(kind=MountAgain, reason="it is not mounted")
HEALTHY = lives(72 * 3600 - 60)
NOT_SERVED = "its exposed share was removed"
UNKNOWN_REASON = "neither srv_fss.tdb nor a share has it"
BUSY = (Worker(pid=7, clients=0), Worker(pid=8, clients=1))
# It read what it knows from the file.
NEWER = (Worker(pid=8, clients=1, started=math.inf),)
# It has it in memory: it can have no other set in progress.
HOLDER = (Worker(pid=7, clients=0), Worker(pid=8, clients=1, holds=frozenset({SET})))
IDLE = (Worker(pid=7, clients=0), Worker(pid=8, clients=0))
SILENT_WORKER = (Worker(pid=7, clients=None),)
TAKEN = Given(phase=Phase.TAKEN, image="writable", served=False, state=SetState.COMMITTED)
MADE = Given(phase=Phase.CREATING, image="writable")
OPEN = Given(phase=Phase.OPEN, image="writable", state=SetState.EXPOSED)
# Samba has forgotten it, its share works: after a reboot, or after "rm srv_fss.tdb".
FORGOTTEN = Given(state=ABSENT)
REBOOTED = Given(state=ABSENT, since=BEFORE, mounts=frozenset(), directories=frozenset())
# A Commit that failed at another share, or whose client has vanished.
HALF = replace(TAKEN, state=ABSENT, known=False, descriptors=frozenset())
# A set was erased from srv_fss.tdb by another worker.
LOST = Given(phase=Phase.OPEN, image="writable", state=ABSENT, learned=SetState.EXPOSED)

ONE_COPY = [
    row("as it should be", Given(), HEALTHY),
    row(
        "somebody works on it",
        Given(phase=Phase.DELETING, changing=frozenset({A})),
        Leaves(reason="something is being done with it", due=300),
    ),
    # being made and being removed
    row(
        "being made",
        Given(phase=Phase.CREATING, since=ago(10), image="", state=ABSENT, known=False),
        Leaves(reason="it is being created", due=40),
    ),
    *(
        row(title, given, delete("its creation was cut off"))
        for title, given in {
            "made for too long": replace(MADE, since=ago(50)),
            "made before the machine was started": replace(MADE, since=BEFORE),
            "made before we were started": replace(MADE, since=ago(1), starting=True),
        }.items()
    ),
    row("half removed", Given(phase=Phase.DELETING), delete("its deletion was cut off")),
    row(
        "half removed, and its file system is away",
        Given(phase=Phase.DELETING, image="", listed=False),
        delete("its deletion was cut off"),
    ),
    # its image
    row(
        "file system is away",
        Given(image="", listed=False),
        Leaves(reason="its file system is not there (fs)", wrong=True),
    ),
    row(
        "images cannot be listed",
        Given(listed=None, mounts=frozenset()),
        Leaves(reason="the images cannot be listed", wrong=True),
    ),
    row(
        "images cannot be listed, and it may be that one was sealed",
        Given(listed=None, phase=Phase.CREATING, starting=True),
        Leaves(reason="the images cannot be listed", wrong=True),
    ),
    row(
        "its file system has no home of images any more",
        Given(image="", homeless=frozenset({"fs"})),
        Leaves(reason="there is no home of images on its file system", wrong=True),
    ),
    row(
        "it was being made when the machine went down, before the first home was there for certain",
        Given(image="", homeless=frozenset({"fs"}), phase=Phase.CREATING, starting=True),
        delete("its creation was cut off"),
    ),
    row("image is away", Given(image=""), delete("its image does not exist any more")),
    row(
        "all of the sealed image is gone but its mark",
        Given(image="empty", sealed=sealed_of()),
        delete("its image does not exist any more"),
    ),
    row(
        "a part of the sealed image is gone",
        Given(image="incomplete", sealed=sealed_of()),
        Leaves(reason="a part of its image is missing", wrong=True),
    ),
    row("image is incomplete", Given(image="incomplete"), delete("its image is not complete")),
    # its mounts
    row("not mounted", Given(mounts=frozenset()), REMOUNT, HEALTHY),
    row("no Previous Versions", Given(previous=True), REMOUNT, HEALTHY),
    row(
        "both are mounted",
        Given(previous=True, mounts=frozenset({PATH, PREVIOUS})),
        HEALTHY,
    ),
    row("whether it is mounted cannot be told", Given(mounts=None), HEALTHY),
    row(
        "not mounted while it is open",
        replace(OPEN, mounts=frozenset()),
        REMOUNT,
        Leaves(reason="is exposed; its timer has 1740 s left", due=1740),
    ),
    row(
        "closed while it is to be open",
        replace(OPEN, opened=frozenset()),
        replace(REMOUNT, reason="it is to be open for recovery, and somebody has closed it"),
        Leaves(reason="is exposed; its timer has 1740 s left", due=1740),
    ),
    row(
        "whether it is open cannot be told",
        replace(OPEN, opened=None),
        Leaves(reason="is exposed; its timer has 1740 s left", due=1740),
    ),
    row(
        "not mounted, and sealed, but writable",
        Given(mounts=frozenset(), image="writable"),
        REMOUNT,
        seal("it was sealed"),
        HEALTHY,
    ),
    # sealed, but not closed
    row("sealed, but writable", Given(image="writable"), seal("it was sealed"), HEALTHY),
    row(
        "srv_fss.tdb cannot be read",
        Given(state=UNREADABLE),
        Leaves(reason="srv_fss.tdb cannot be read", wrong=True),
    ),
    row(
        "srv_fss.tdb cannot be read: it can be sealed and mounted all the same",
        Given(state=UNREADABLE, image="writable"),
        seal("it was sealed"),
        Leaves(reason="srv_fss.tdb cannot be read", wrong=True),
    ),
    # committed, not exposed: MS-FSRVP gives 180 s
    row(
        "committed",
        replace(TAKEN, since=ago(100)),
        Leaves(reason=f"its set {SET} is committed; its timer has 200 s left", due=200),
    ),
    row(
        "committed, and then silence",
        replace(TAKEN, since=ago(300)),
        delete("silent for 300 s before RecoveryComplete", SetState.COMMITTED),
    ),
    row(
        "its client has come back meanwhile, and exposed it",
        replace(OPEN, since=ago(20), abandoned=frozenset({SET}), workers=HOLDER, quiet=0),
        Leaves(reason=f"its set {SET} is exposed; its timer has 1780 s left", due=1780),
    ),
    row(
        "another share of its set is still being copied",
        replace(TAKEN, state=SetState.CREATING, since=ago(100)),
        Leaves(reason="is creating; its timer has 200 s left", due=200),
    ),
    # exposed: 1800 s
    row(
        "exposed",
        replace(OPEN, since=ago(1700)),
        Leaves(reason=f"its set {SET} is exposed; its timer has 100 s left", due=100),
    ),
    row(
        "exposed, and then silence",
        replace(OPEN, since=ago(1800)),
        delete("silent for 1800 s before RecoveryComplete", SetState.EXPOSED),
    ),
    row(
        "sealed at once, for nobody may write; exposed, and then silence",
        Given(state=SetState.EXPOSED, context=0, since=ago(1800)),
        delete("silent for 1800 s before RecoveryComplete", SetState.EXPOSED),
    ),
    row(
        "its client went on while we did not run: its time begins when that is learned",
        replace(OPEN, learned=SetState.COMMITTED, since=ago(1800)),
        Leaves(reason=f"its set {SET} is exposed; its timer has 1800 s left", due=1800),
    ),
    row(
        "committed while we did not run",
        replace(TAKEN, known=False, since=ago(1800), descriptors=frozenset()),
        Leaves(reason=f"its set {SET} is committed; its timer has 300 s left", due=300),
    ),
    row(
        "exposed before the machine was started, in a lock directory that outlived it",
        replace(OPEN, since=BEFORE),
        delete("started before its recovery was", SetState.EXPOSED),
    ),
    row(
        "exposed, and somebody removed its share just now",
        replace(OPEN, served=False),
        Leaves(reason=f"{NOT_SERVED}; it has 300 s left", due=300),
    ),
    row(
        "exposed, somebody removed its share, and the timer ends first",
        replace(OPEN, served=False, since=ago(1700), descriptors=frozenset()),
        Leaves(reason=f"{NOT_SERVED}; it has 300 s left", due=100),
    ),
    row(
        "exposed, and somebody removed its share",
        replace(OPEN, served=False, found={f"copy {A}": 300}, descriptors=frozenset()),
        delete(NOT_SERVED, SetState.EXPOSED),
    ),
    row(
        "exposed, and the registry cannot be read",
        replace(OPEN, served=None),
        Leaves(reason="its timer has 1740 s left", due=1740),
    ),
    # recovered
    *(
        row(
            f"recovered, but {phase.value}",
            Given(phase=phase, image="writable"),
            seal("its recovery is complete"),
        )
        for phase in (Phase.TAKEN, Phase.OPEN)
    ),
    row(
        "its sealing was cut off",
        Given(phase=Phase.SEALING, image="writable"),
        seal("its sealing was cut off"),
    ),
    *(
        row(
            f"recovered, but {phase.value} when the machine was started anew",
            Given(phase=phase, image="writable", since=BEFORE, learned=SetState.EXPOSED),
            delete("the machine was started before it was sealed", SetState.RECOVERED),
        )
        for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
    ),
    row(
        "its sealing was cut off after its image was made read-only",
        Given(phase=Phase.SEALING),
        seal("its sealing was cut off"),
    ),
    row(
        "recovered, and somebody removed its share just now",
        Given(served=False, descriptors=frozenset()),
        Leaves(reason=f"{NOT_SERVED}; it has 300 s left", due=300),
    ),
    row(
        "recovered, and somebody removed its share",
        Given(served=False, descriptors=frozenset(), found={f"copy {A}": 301}),
        delete(NOT_SERVED, SetState.RECOVERED),
    ),
    row("recovered, and the registry cannot be read", Given(served=None), HEALTHY),
    # old
    row(
        "too old, and nobody is connected",
        Given(age=73 * 3600, since=ago(72 * 3600)),
        delete("it is older than 259200 s", SetState.RECOVERED),
    ),
    row(
        "too old, and somebody is connected",
        Given(age=73 * 3600, since=ago(72 * 3600), connected=frozenset({SHARE.upper()})),
        Leaves(reason="it is too old, but somebody is connected", due=300),
    ),
    row(
        "too old, and who is connected cannot be told",
        Given(age=73 * 3600, since=ago(72 * 3600), connected=None),
        Leaves(reason="too old, but who is connected cannot be told", due=300, wrong=True),
    ),
    row("the clock jumped", Given(age=10 * YEAR), HEALTHY),
    row("the clock jumped back", Given(age=-YEAR), lives(72 * 3600 + YEAR)),
    row(
        "old since before the machine was started",
        Given(age=73 * 3600, since=BEFORE),
        delete("it is older than 259200 s", SetState.RECOVERED),
    ),
    row(
        "old, and without end",
        Given(age=10 * YEAR, since=ago(YEAR / 100), context=FOR_EVER),
        Leaves(reason="lives until it is deleted"),
    ),
    # srv_fss.tdb does not have it
    row("forgotten by Samba", FORGOTTEN, lives(72 * 3600 - 60, "its share still works")),
    row(
        "forgotten by Samba, and the registry cannot be read",
        replace(FORGOTTEN, served=None),
        lives(72 * 3600 - 60, "its share still works"),
    ),
    row(
        "forgotten by Samba, too old",
        replace(FORGOTTEN, age=73 * 3600, since=ago(72 * 3600)),
        delete("it is older than 259200 s", None),
    ),
    row(
        "its record was lost, and Samba has forgotten it: its context is not known",
        replace(FORGOTTEN, known=False, age=YEAR, since=ago(YEAR / 100)),
        Leaves(reason="lives until it is deleted"),
    ),
    row(
        "forgotten by Samba, and not served any more since just now",
        replace(FORGOTTEN, served=False, descriptors=frozenset()),
        Leaves(reason=f"{UNKNOWN_REASON}; it has 300 s left", due=300),
    ),
    row(
        "forgotten by Samba, and not served any more",
        replace(FORGOTTEN, served=False, descriptors=frozenset(), found={f"copy {A}": 300}),
        delete(UNKNOWN_REASON, None),
    ),
    row(
        "being unaccounted for before the machine was started does not count",
        replace(REBOOTED, served=False, descriptors=frozenset()),
        Leaves(reason=f"{UNKNOWN_REASON}; it has 300 s left", due=300),
        REMOUNT,
    ),
    row(
        "its sealing was cut off, and Samba has forgotten it",
        replace(FORGOTTEN, phase=Phase.SEALING),
        seal("its sealing was cut off"),
    ),
    # after a reboot
    row(
        "after a reboot: persistent",
        replace(REBOOTED, context=PERSISTENT),
        lives(72 * 3600 - 100, "its context is persistent"),
        REMOUNT,
    ),
    row(
        "after a reboot: persistent, too old",
        replace(REBOOTED, context=PERSISTENT, age=73 * 3600),
        delete("it is older than 259200 s", None),
    ),
    row(
        "after a reboot: persistent, without end",
        replace(REBOOTED, context=FOR_EVER, age=YEAR),
        Leaves(reason="lives until it is deleted"),
        REMOUNT,
    ),
    row(
        "after a reboot: not persistent",
        REBOOTED,
        delete("its context is not persistent", None),
    ),
    row(
        "after a reboot: its record was lost before, and its context with it",
        replace(REBOOTED, known=False),
        Leaves(reason="its context is not known any more", wrong=True),
        REMOUNT,
    ),
    *(
        row(
            f"after a reboot: {phase.value}",
            replace(REBOOTED, phase=phase, image="writable", context=PERSISTENT),
            delete("the machine was started before its recovery was complete", None),
        )
        for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
    ),
    *(
        row(
            f"after a reboot: sealed at once, for nobody may write, and {state.name.lower()}",
            replace(REBOOTED, context=Context.PERSISTENT, learned=state),
            delete("the machine was started before its recovery was complete", None),
        )
        for state in (SetState.COMMITTED, SetState.EXPOSED)
    ),
    row(
        "after a reboot: sealed at once, for nobody may write, and recovered",
        replace(REBOOTED, context=Context.PERSISTENT, learned=SetState.RECOVERED),
        lives(72 * 3600 - 100, "its context is persistent"),
        REMOUNT,
    ),
    row(
        "after a reboot: persistent, recovered, and its sealing was cut off",
        replace(REBOOTED, phase=Phase.SEALING, learned=SetState.RECOVERED, context=PERSISTENT),
        seal("its sealing was cut off"),
        REMOUNT,
    ),
    row(
        "after a reboot: not persistent, recovered, and its sealing was cut off",
        replace(REBOOTED, phase=Phase.SEALING, learned=SetState.RECOVERED),
        delete("its context is not persistent", None),
    ),
    row(
        "after a reboot: its record was lost before, and its sealing was cut off",
        replace(REBOOTED, phase=Phase.SEALING, known=False),
        seal("its sealing was cut off"),
        REMOUNT,
    ),
    row(
        "after a reboot: persistent, being sealed from the beginning, and not recovered",
        replace(
            REBOOTED, phase=Phase.SEALING, learned=SetState.EXPOSED, context=int(Context.PERSISTENT)
        ),
        EVIDENCE,
        REMOUNT,
    ),
    # taken, and no set has it
    row(
        "no set has it, perhaps not yet",
        replace(HALF, since=ago(100)),
        Leaves(reason="its Commit failed or was cut off, perhaps; it has 200 s left", due=200),
    ),
    row(
        "no set has it",
        replace(HALF, since=ago(300)),
        delete("its Commit failed or was cut off", None),
    ),
    row(
        "no set has it, but more shares are being copied",
        replace(HALF, since=ago(400), quiet=10),
        Leaves(reason="it has 290 s left", due=290),
    ),
    # srv_fss.tdb has lost its set; a worker may have it
    row(
        "no set has it, and clients are never silent for long: no Commit lasts that long",
        replace(HALF, since=ago(1800), quiet=10),
        delete("its Commit failed or was cut off", None),
    ),
    row(
        "no set has it, and whether clients do anything is not known",
        replace(HALF, since=ago(400), quiet=None),
        Leaves(reason="its Commit failed or was cut off, perhaps", due=300),
    ),
    row(
        "its set was lost, and other clients are never silent for long",
        replace(LOST, since=ago(1800), quiet=10),
        delete("srv_fss.tdb has lost its set", None),
    ),
    row(
        "its set was lost, but a worker may have it",
        replace(LOST, since=ago(1700)),
        Leaves(reason="srv_fss.tdb has lost its set, perhaps; it has 100 s left", due=100),
    ),
    row(
        "its set was lost, and whether a worker has it cannot be told",
        replace(LOST, since=ago(1700), workers=None),
        Leaves(reason="srv_fss.tdb has lost its set, perhaps; it has 100 s left", due=100),
    ),
    row(
        "its set was lost, and then silence",
        replace(LOST, since=ago(1800)),
        delete("srv_fss.tdb has lost its set", None),
    ),
    row(
        "its set was lost, and no worker lives",
        replace(LOST, since=ago(300), workers=()),
        delete("its Commit failed or was cut off", None),
    ),
]

NOBODY = Given(phase=None, state=ABSENT, served=False, image="", descriptors=frozenset())
BARE = replace(NOBODY, mounts=frozenset(), directories=frozenset())
STRAY = f"{EXPOSED}vms/20230101T000000Z-ffffffff"
PLACE = Does(kind=Unmount, reason="no shadow copy belongs to it", target=PATH)
ADOPT = Does(kind=Adopt, reason="the ledger does not know it")


def waits(reason: str, target: str) -> Leaves:
    """It has been unaccounted for since now."""
    return Leaves(reason=f"{reason}; it has 300 s left", target=target, due=300)


NO_COPY = [
    row("nothing", BARE),
    # images
    row("an image of nobody: the ledger was lost", replace(BARE, image="read-only"), ADOPT),
    row(
        "its share and mounts are left to it",
        Given(phase=None, state=ABSENT),
        ADOPT,
    ),
    row(
        "its set is left to it",
        Given(phase=None, workers=()),
        ADOPT,
    ),
    row(
        "its Previous Versions get a new place",
        Given(phase=None, mounts=frozenset({PATH, PREVIOUS}), starting=True),
        ADOPT,
        replace(PLACE, target=PREVIOUS),
    ),
    row(
        "an image that was deleted: the machine lost its power",
        replace(BARE, image="read-only", gone=frozenset({A})),
        Does(kind=Destroy, reason="it was deleted and came back"),
    ),
    row(
        "half an image, at the start",
        replace(BARE, image="incomplete", starting=True),
        Does(kind=Destroy, reason="its creation was cut off"),
    ),
    row(
        "half an image, perhaps being made",
        replace(BARE, image="incomplete"),
        waits("its creation was cut off", A),
    ),
    row(
        "half an image, for long",
        replace(BARE, image="incomplete", found={f"image {A}": 300}),
        Does(kind=Destroy, reason="its creation was cut off"),
    ),
    row("an image that is being made", replace(BARE, image="read-only", changing=frozenset({A}))),
    # mounts
    row("a stray mount, perhaps being made", NOBODY, waits(PLACE.reason, PATH)),
    row("a stray mount, for long", replace(NOBODY, found={f"mount {PATH}": 300}), PLACE),
    row("a stray mount, at the start", replace(NOBODY, starting=True), PLACE),
    row(
        "a stray directory",
        replace(NOBODY, mounts=frozenset(), starting=True),
        PLACE,
    ),
    row(
        "a stray mount, and directories cannot be seen",
        replace(NOBODY, directories=None, starting=True),
        PLACE,
    ),
    row("nothing of it can be seen", replace(NOBODY, directories=None, mounts=None)),
    row(
        "a stray mount, but its image may be there",
        replace(NOBODY, listed=None, starting=True, found={f"mount {PATH}": 1000}),
        Leaves(reason="but the images cannot be listed", target=PATH, wrong=True),
    ),
    row(
        "a mount of a copy that was removed; images cannot be listed",
        replace(NOBODY, listed=None, starting=True, gone=frozenset({A})),
        PLACE,
    ),
    # exposed shares
    row(
        "a share of nobody, but its image may be there",
        replace(BARE, served=True, listed=None, found={f"share {SHARE}": 1000}),
        Leaves(reason="but the images cannot be listed", target=SHARE, wrong=True),
    ),
    row(
        "a share of a copy that was removed; images cannot be listed",
        replace(
            BARE,
            served=True,
            listed=None,
            gone=frozenset({A}),
            found={f"share {SHARE}": 300},
        ),
        Does(kind=DeleteShare, reason="its shadow copy does not exist", target=SHARE),
    ),
    *(
        row(f"a share of nobody, {when}", given, waits("its shadow copy does not exist", SHARE))
        for when, given in {
            "perhaps new": replace(BARE, served=True, descriptors=frozenset({SHARE.lower()})),
            "at the start": replace(BARE, served=True, starting=True),
        }.items()
    ),
    row(
        "a share of nobody, for long",
        replace(BARE, served=True, found={f"share {SHARE}": 300}),
        Does(kind=DeleteShare, reason="its shadow copy does not exist", target=SHARE),
    ),
    row(
        "a share of somebody else's shadow copy",
        replace(
            BARE,
            shares={SHARE: "/srv/.snapshots/1"},
            descriptors=frozenset({SHARE.lower()}),
            found={f"share {SHARE}": 1000},
        ),
    ),
    row(
        "the registry cannot be read",
        replace(BARE, served=None, descriptors=frozenset({SHARE.lower()})),
    ),
    # security descriptors
    row(
        "a descriptor of nobody",
        replace(BARE, descriptors=frozenset({SHARE.lower()})),
        waits("its share does not exist", SHARE.lower()),
    ),
    row(
        "a descriptor of nobody, for long",
        replace(
            BARE, descriptors=frozenset({SHARE.lower()}), found={f"security {SHARE.lower()}": 300}
        ),
        Does(
            kind=DeleteDescriptor,
            reason="its share does not exist",
            target=SHARE.lower(),
        ),
    ),
    row(
        "a descriptor of a share that we never had",
        replace(
            BARE,
            descriptors=frozenset({SHARE.lower()}),
            history=frozenset(),
            found={f"security {SHARE.lower()}": 1000},
        ),
    ),
    row(
        "a descriptor whose name Samba has put into lower case, and not as Python does",
        replace(
            BARE,
            descriptors=frozenset({ARCHIVE}),
            history=frozenset({ARCHIVE.replace("αρχειοσ", "ΑΡΧΕΙΟΣ")}),
            found={f"security {ARCHIVE}": 300},
        ),
        Does(kind=DeleteDescriptor, reason="its share does not exist", target=ARCHIVE),
    ),
    row("descriptors cannot be read", replace(BARE, descriptors=None)),
]

# A set of which nothing is left, by what stands in srv_fss.tdb.
LEFT = replace(BARE, state=SetState.COMMITTED, workers=())
LONG = {f"set {SET}": 300.0}
SETS = [
    row(
        "a set of nobody, perhaps being written",
        replace(LEFT, state=SetState.RECOVERED),
        waits("no shadow copy of it is left", SET),
    ),
    row(
        "a set of nobody, perhaps being written, in the way of others",
        LEFT,
        Leaves(reason="no shadow copy of it is left; it has 30 s left", target=SET, due=30),
    ),
    *(
        row(
            f"a set of nobody, for long, {state.name.lower()}",
            replace(LEFT, state=state, found=LONG),
            goes("no shadow copy of it is left", state),
        )
        for state in SetState
    ),
    row("a set of nobody, at the start", replace(LEFT, starting=True), goes()),
    row("workers are idle", replace(LEFT, starting=True, workers=IDLE), goes()),
    row(
        "a client is connected to one",
        replace(LEFT, state=SetState.EXPOSED, found=LONG, workers=BUSY, quiet=10),
        Leaves(reason="a client is connected to its worker", target=SET, due=1790),
    ),
    row(
        "a client may be connected",
        replace(LEFT, state=SetState.EXPOSED, found=LONG, workers=SILENT_WORKER, quiet=10),
        Leaves(reason="a client is connected to its worker", target=SET, due=1790),
    ),
    row(
        "a client is connected, and for how long it has been silent is not known",
        replace(LEFT, state=SetState.EXPOSED, found=LONG, workers=BUSY, quiet=None),
        Leaves(reason="a client is connected to its worker", target=SET, due=1800),
    ),
    row(
        "a client is connected, and the set is in the way of others",
        replace(LEFT, found={f"set {SET}": 10.0}, workers=NEWER, quiet=1),
        Leaves(reason="to its worker; it has 20 s left", target=SET, due=5),
    ),
    row(
        "a client asks again and again, and the set is in its way",
        replace(LEFT, found={f"set {SET}": 30.0}, workers=NEWER, quiet=1),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row(
        "the same, but its worker is so old that it may have another set in progress",
        replace(LEFT, found={f"set {SET}": 30.0}, workers=BUSY, quiet=1),
        Leaves(reason="to its worker; it has 1770 s left", target=SET, due=5),
    ),
    row(
        "the same, and nobody has got past it for as long as a client may be silent",
        replace(LEFT, found={f"set {SET}": 1800.0}, workers=BUSY, quiet=1),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row("a client is connected, but silent", replace(LEFT, found=LONG, workers=BUSY), goes()),
    row(
        "a client is connected and may be at work",
        replace(LEFT, state=SetState.ADDED, found=LONG, workers=BUSY, quiet=1),
        Leaves(reason="a client is connected to its worker", target=SET, due=5),
    ),
    row(
        "a client is connected and has been at work for too long",
        replace(LEFT, state=SetState.ADDED, found={f"set {SET}": 1800}, workers=BUSY, quiet=1),
        goes("no shadow copy of it is left", SetState.ADDED),
    ),
    row(
        "whether a worker has it cannot be told",
        replace(LEFT, found=LONG, workers=None),
        Leaves(reason="whether a worker has it in memory cannot be told", target=SET, wrong=True),
    ),
    row(
        "a set of nobody, but an image of it may be there",
        replace(LEFT, found=LONG, listed=None),
        Leaves(reason="but the images cannot be listed", target=SET, wrong=True),
    ),
    row(
        "its last copy goes now",
        replace(TAKEN, since=ago(300), workers=()),
        delete("silent for 300 s", SetState.COMMITTED),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row(
        "its client has gone while others ask",
        replace(TAKEN, since=ago(20), abandoned=frozenset({SET}), workers=HOLDER, quiet=0),
        delete("its client has gone, and others are refused", SetState.COMMITTED),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row(
        "its last copy has gone, and the set could not be removed with it",
        replace(LEFT, gone=frozenset({A})),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row(
        "its last copy goes, and Samba has not written that yet",
        replace(LEFT, gone=frozenset({A}), workers=BUSY, quiet=0),
        Leaves(reason="a client is connected to its worker", target=SET, due=5),
    ),
    row(
        "the same, and its worker has it in memory",
        replace(LEFT, gone=frozenset({A}), workers=HOLDER, quiet=0),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
    row(
        "its worker has it in memory, but its copies may not be known yet",
        replace(LEFT, found={f"set {SET}": 10.0}, workers=HOLDER, quiet=0),
        Leaves(reason="to its worker; it has 20 s left", target=SET, due=5),
    ),
    row(
        "its worker has it in memory, and its client may be at work",
        replace(LEFT, state=SetState.ADDED, found=LONG, workers=HOLDER, quiet=0),
        Leaves(reason="to its worker; it has", target=SET, due=5),
    ),
    row(
        "a copy of it is being removed",
        replace(TAKEN, phase=Phase.DELETING, workers=()),
        delete("its deletion was cut off"),
        goes("no shadow copy of it is left", SetState.COMMITTED),
    ),
]


# A set that was not committed yet when another one's step had the whole file written: its copies
# have no path. Until it is gone, every worker that starts refuses every other set.
def written_along(state: SetState, *paths: str, of: str = "/srv/vms") -> Given:
    """Return such a set; no worker lives."""
    return replace(BARE, workers=(), tdb=state_of(state, 0, *paths, share_path=of))


NOT_OURS = "and not of our shares alone"
BEGUN = [
    *(
        row(f"{title}, since now", given, waits("no shadow copy of it is left", SET))
        for title, given in {
            "only started": written_along(SetState.STARTED),
            "of a share of ours": written_along(SetState.ADDED, ""),
            "of two shares of ours": written_along(SetState.ADDED, "", ""),
            "its Commit failed at the second share": written_along(SetState.ADDED, PATH, ""),
        }.items()
    ),
    *(
        row(f"{title}, for long", replace(given, found=LONG), goes())
        for title, given in {
            "only started": written_along(SetState.STARTED),
            "of a share of ours": written_along(SetState.ADDED, ""),
            "its Commit failed at the second share": written_along(SetState.ADDED, PATH, ""),
        }.items()
    ),
    row(
        "only started, at the start",
        replace(written_along(SetState.STARTED), starting=True),
        goes(),
    ),
    row(
        "a client is connected: it is perhaps going on with it",
        replace(written_along(SetState.ADDED, ""), found=LONG, workers=BUSY, quiet=10),
        Leaves(reason="a client is connected to its worker", target=SET, due=5),
    ),
    *(
        row(
            f"of somebody else's share, {state.name.lower()}",
            replace(written_along(state, path, of="/srv/theirs"), found=LONG),
            Leaves(reason=f"it is {state.name.lower()} {NOT_OURS}", target=SET, wrong=True),
        )
        for state, path in {
            SetState.ADDED: "",
            SetState.COMMITTED: "/srv/theirs/.snapshots/1",
        }.items()
    ),
    row(
        "somebody else's, exposed: it blocks nobody",
        replace(
            written_along(SetState.EXPOSED, "/srv/theirs/.snapshots/1", of="/srv/theirs"),
            found=LONG,
        ),
        Leaves(reason=NOT_OURS, target=SET, wrong=True),
    ),
    row(
        "somebody else's, recovered",
        replace(
            written_along(SetState.RECOVERED, "/srv/theirs/.snapshots/1", of="/srv/theirs"),
            found=LONG,
        ),
    ),
    row(
        "of our share and of somebody else's, which has been copied",
        replace(written_along(SetState.COMMITTED, PATH, "/srv/theirs/.snapshots/1"), found=LONG),
        Leaves(reason=NOT_OURS, target=SET, wrong=True),
    ),
]


def _rests_on(action: Action) -> tuple[SetState | None, ...]:
    """Return what srv_fss.tdb must still say when an action is done."""
    match action:
        case Delete(believes=believes):
            return believes
        case DeleteSet(state=state):
            return (state,)
    return ()


def said(decided: Plan, expected: Row, *, sets: bool) -> None:
    """Compare everything that a plan says with a row."""
    actions = [action for action in decided.actions if sets or not isinstance(action, DeleteSet)]
    actions.sort(key=lambda action: (action.verb, action.target, action.reason))
    does = sorted(expected.does, key=lambda due: (due.kind.verb, due.target, due.reason))
    assert [(type(action), action.target) for action in actions] == [
        (due.kind, due.target) for due in does
    ]
    for action, due in zip(actions, does, strict=True):
        assert due.reason in action.reason
        if due.believes is not None:
            assert _rests_on(action) == due.believes
        ids = action.samba_ids
        assert action.describe() == f"{action.verb} {action.target}{ids}: {action.reason}"
        if isinstance(action, OnCopy):
            assert (action.copy.copy_id in ids, action.copy.set_id in ids) == (True, True)
    left_alone = sorted(decided.left_alone, key=lambda left: (left.target, left.reason))
    leaves = sorted(expected.leaves, key=lambda thing: (thing.target, thing.reason))
    assert [left.target for left in left_alone] == [thing.target for thing in leaves]
    for left, thing in zip(left_alone, leaves, strict=True):
        assert thing.reason in left.reason
        assert left.wrong == thing.wrong
        assert left.due == pytest.approx(thing.due)
    dues = [thing.due for thing in expected.leaves if thing.due is not None]
    assert decided.due == pytest.approx(min(dues) if dues else None)


def test_actions_are_done_in_this_order() -> None:
    assert [kind.verb for kind in ORDER] == [
        "take over",
        "attest",
        "amend record",
        "conceal",
        "unmount",
        "keep as backup",
        "finish keeping",
        "delete",
        "destroy image",
        "destroy image",
        "adopt",
        "mount again",
        "seal",
        "clear",
        "remove share",
        "remove security descriptor",
        "expose",
        "settle holds of",
        "remove set",
    ]


@pytest.mark.parametrize("case", ONE_COPY, ids=lambda case: case.title)
def test_one_copy(case: Row) -> None:
    """What becomes of its set is another table's."""
    said(plan(case.given.seen()), case, sets=False)


@pytest.mark.parametrize("case", [*NO_COPY, *SETS, *BEGUN], ids=lambda case: case.title)
def test_what_belongs_to_no_copy(case: Row) -> None:
    said(plan(case.given.seen()), case, sets=True)


@pytest.mark.parametrize(
    ("state", "copies", "goes"),
    [
        (SetState.STARTED, (), True),
        (SetState.ADDED, ("/srv/vms",), True),
        (SetState.ADDED, ("/srv/vms", "/srv/other"), False),
        (SetState.COMMITTED, (), False),
    ],
)
def test_sets_before_commit(state: SetState, copies: tuple[str, ...], goes: bool) -> None:  # noqa: FBT001
    """They have no copies, or such as have no path; then their shares say whose they are."""
    seen = replace(LEFT, found=LONG).seen()
    whole = state_of(state, RECOVERY, *("" for _ in copies))
    named = [replace(one, share_path=path) for one, path in zip(whole.copies, copies, strict=True)]
    samba = replace(whole, copies=tuple(named))
    decided = plan(replace(seen, samba=samba, share_paths=frozenset({"/srv/vms"})))
    assert [type(action) for action in decided.actions] == [DeleteSet] * goes
    assert [left.wrong for left in decided.left_alone] == [True] * (not goes)
