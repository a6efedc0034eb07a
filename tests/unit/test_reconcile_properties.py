"""What holds of every plan, in a world of values that actions change as the verbs would."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from samba_rvss.copies.follow import Step, steps
from samba_rvss.copies.keep import is_due
from samba_rvss.model import (
    Context,
    Foreign,
    Hold,
    Image,
    Inventory,
    Kept,
    Moment,
    Phase,
    SambaCopy,
    SambaSet,
    SambaState,
    Sealed,
    SetState,
    ShadowCopy,
    Whose,
    Worker,
)
from samba_rvss.model import Keep as Keeping
from samba_rvss.reconcile.decision import (
    Action,
    Adopt,
    Amend,
    Attest,
    Clear,
    Delete,
    DeleteDescriptor,
    DeleteSet,
    DeleteShare,
    Destroy,
    Finish,
    Keep,
    MountAgain,
    OnCopy,
    OnImage,
    Plan,
    Seal,
    TakeOver,
    Unmount,
)
from samba_rvss.reconcile.observation import Observation
from samba_rvss.reconcile.plan import plan
from tests.unit.values import (
    EXPOSED,
    NOW,
    OPTIONS,
    SHARE_PATH,
    VOLUME,
    copy_of,
    foreign_of,
    image_of,
    mark_of,
    path_of,
    samba_copy_of,
    sealed_of,
    share_of,
)

T = TypeVar("T")

OURS = frozenset({SHARE_PATH})
HELD = Kept(holds=(Hold(tag="offsite"),))
LONGEST = 73 * 3600.0


def is_backup(copy: ShadowCopy) -> bool:
    """Return whether the ledger counts a copy among the backups."""
    return copy.phase is Phase.KEPT or (copy.phase is Phase.SEALING and copy.ended)


def sealed_as(copy: ShadowCopy, image: Image) -> Image:
    """Return the image of a copy once that is sealed."""
    complete = copy.auto_recovery and not copy.ended
    sealed = Sealed(
        set_id=copy.set_id,
        copy_id=copy.copy_id,
        context=copy.context,
        exposed_share=copy.exposed_share,
        state=SetState.RECOVERED if complete else copy.state,
    )
    mark = replace(image.mark, sealed=image.mark.sealed or sealed)
    return replace(image, read_only=True, mark=mark, remnants=False)


def _may_be_kept(copy: ShadowCopy, image: Image | None) -> bool:
    """Return whether the mark of a copy's image can say that it is a backup."""
    return (
        image is not None
        and image.mark.sealed is not None
        and copy.phase is Phase.KEPT
        and image.mark.volume.key == copy.volume.key
    )


@dataclass(frozen=True)
class SimulatedWorld:
    """Everything that there is; what is done to it makes another one."""

    seconds: float
    wall: datetime
    copies: dict[str, ShadowCopy]
    images: dict[str, Image]
    mounts: frozenset[str]
    shares: dict[str, str]
    descriptors: frozenset[str]
    sets: dict[str, SambaSet]
    members: dict[str, tuple[SambaCopy, ...]]
    workers: tuple[Worker, ...]
    gone: frozenset[str] = frozenset()
    findings: dict[str, Moment] = field(default_factory=dict)
    connected: frozenset[str] = frozenset()
    quiet: float = 0.0
    foreign: tuple[Foreign, ...] = ()
    lost: frozenset[str] = frozenset()

    def present(self) -> Moment:
        """Return the time."""
        return Moment(boot="this", seconds=self.seconds)

    def samba(self) -> SambaState:
        """Return srv_fss.tdb."""
        copies = tuple(copy for name in self.sets for copy in self.members[name])
        return SambaState(sets=tuple(self.sets.values()), copies=copies)

    def known(self) -> dict[str, SambaCopy]:
        """Return what srv_fss.tdb says, by path."""
        return {copy.path: copy for copy in self.samba().copies if copy.path}

    def observe(self, *, starting: bool = False) -> Observation:
        """Look at everything."""
        return Observation(
            wall=self.wall,
            present=self.present(),
            options=OPTIONS,
            exposed_directory=EXPOSED,
            share_paths=OURS,
            copies=tuple(c for c in self.copies.values() if not is_backup(c)),
            backups=tuple(c for c in self.copies.values() if is_backup(c)),
            gone={**dict.fromkeys(self.gone, VOLUME), **dict.fromkeys(self.lost)},
            history=frozenset(c.exposed_share.lower() for c in self.copies.values())
            | {share_of(name).lower() for name in self.gone},
            instances=frozenset({"ours"}),
            inventory=Inventory(
                file_systems=frozenset({"fs"}),
                images=tuple(self.images.values()),
                foreign=self.foreign,
            ),
            mounts=self.mounts,
            directories=self.mounts,
            samba=self.samba(),
            shares=dict(self.shares),
            descriptors=self.descriptors,
            workers=self.workers,
            connected=self.connected,
            quiet=self.quiet,
            findings=dict(self.findings),
            starting=starting,
        )

    def later(self, seconds: float) -> "SimulatedWorld":
        """Let time pass in which nobody does anything."""
        return replace(
            self,
            seconds=self.seconds + seconds,
            wall=self.wall + timedelta(seconds=seconds),
            quiet=self.quiet + seconds,
        )

    # what the verbs do

    def changed(self, copy: ShadowCopy, **values: object) -> "SimulatedWorld":
        """Change a row of the ledger."""
        new = replace(copy, since=self.present(), **values)  # type: ignore[arg-type]
        return replace(self, copies={**self.copies, copy.id: new})

    def without_share(self, share: str) -> "SimulatedWorld":
        """Remove a share and its descriptor."""
        return replace(
            self,
            shares={name: path for name, path in self.shares.items() if name != share},
            descriptors=self.descriptors - {share.lower()},
        )

    def hidden(self, copy: ShadowCopy) -> "SimulatedWorld":
        """Take away what clients can reach of a copy."""
        world = self.without_share(copy.exposed_share)
        shares = {k: v for k, v in world.shares.items() if v != copy.path}
        return replace(world, mounts=self.mounts - {copy.path}, shares=shares)

    def with_image(self, image: Image) -> "SimulatedWorld":
        """Put an image in the place of one that is there."""
        return replace(self, images={**self.images, image.id: image})

    def without_image(self, name: str) -> "SimulatedWorld":
        """Destroy an image."""
        return replace(self, images={k: v for k, v in self.images.items() if k != name})

    def apply(self, action: Action) -> "SimulatedWorld":
        """Do one thing, unless it is not called for any more (`reconcile.apply`)."""
        if isinstance(action, OnCopy) and self.copies.get(action.copy.id) != action.copy:
            return self
        if isinstance(action, Delete) and action.believes:
            known = self.known().get(action.copy.path)
            if (known.state if known else None) not in action.believes:
                return self
        if isinstance(action, Adopt | Destroy) and action.image.id in self.copies:
            return self
        match action:
            case TakeOver(image=image):
                return self.with_image(replace(image, former=False))
            case Attest(image=image):
                return self.with_image(image)
            case Amend(copy=copy, amended=amended):
                world = replace(self, copies={**self.copies, copy.id: amended})
                if amended.phase is Phase.KEPT:
                    return world
                return replace(world, mounts=self.mounts | {copy.path})
            case Clear(copy=copy):
                return self.with_image(replace(self.images[copy.id], remnants=False))
            case Delete(copy=copy, lost=True):
                world = self.without_share(copy.exposed_share)
                left = {k: v for k, v in self.copies.items() if k != copy.id}
                world = replace(world, copies=left, lost=self.lost | {copy.id})
                return replace(world, mounts=self.mounts - {copy.path})
            case Keep(copy=copy) | Finish(copy=copy):
                world = self.hidden(copy)
                if isinstance(action, Finish) and not _may_be_kept(copy, self.images.get(copy.id)):
                    return world
                image = self.images[copy.id]
                kept = replace(image.mark.kept or Kept(), since=NOW)
                remnants = image.remnants and isinstance(action, Finish)
                mark = replace(image.mark, kept=kept)
                world = world.with_image(replace(image, mark=mark, remnants=remnants))
                if copy.phase is Phase.KEPT:
                    return world
                return world.changed(copy, phase=Phase.KEPT)
            case Delete(copy=copy):
                world = self.without_image(copy.id).without_share(copy.exposed_share)
                return replace(
                    world,
                    copies={k: v for k, v in self.copies.items() if k != copy.id},
                    gone=self.gone | {copy.id},
                    mounts=self.mounts - {copy.path},
                )
            case MountAgain(copy=copy):
                world = replace(self, mounts=self.mounts | {copy.path})
                if copy.phase is Phase.OPEN:
                    return world.changed(copy, phase=Phase.TAKEN)
                return world
            case Seal(copy=copy):
                if copy.ended:
                    return self.hidden(copy).changed(copy, phase=Phase.SEALING)
                return self.changed(copy, phase=Phase.SEALING)
            case Destroy(image=image):
                return self.without_image(image.id)
            case Adopt(image=image):
                created, sealed = image.mark.created, image.mark.sealed
                phase = Phase.SEALED if sealed else Phase.TAKEN
                phase = Phase.KEPT if image.mark.is_backup else phase
                copy = copy_of(image.id, phase, created=created, since=self.present())
                copy = replace(copy, adopted=phase is not Phase.KEPT)
                if sealed:
                    copy = replace(
                        copy,
                        set_id=sealed.set_id,
                        copy_id=sealed.copy_id,
                        context=sealed.context,
                        exposed_share=sealed.exposed_share,
                        state=sealed.state,
                        keep=image.mark.wish(self.wall),
                    )
                if phase is Phase.KEPT:
                    shares = {k: v for k, v in self.shares.items() if v != copy.path}
                    world = replace(self, shares=shares, mounts=self.mounts - {copy.path})
                    world = world.without_share(copy.exposed_share)
                    world = replace(world, lost=self.lost - {copy.id}, gone=self.gone - {copy.id})
                    world = world.with_image(replace(image, remnants=False))
                    return replace(world, copies={**self.copies, copy.id: copy})
                world = replace(self, mounts=self.mounts | {copy.path})
                world = replace(world, lost=self.lost - {copy.id}, gone=self.gone - {copy.id})
                if sealed:
                    world = world.with_image(replace(image, remnants=False))
                return replace(world, copies={**self.copies, copy.id: copy})
            case Unmount(path=path):
                return replace(self, mounts=self.mounts - {path})
            case DeleteShare(share=share):
                return self.without_share(share)
            case DeleteDescriptor(share=share):
                return replace(self, descriptors=self.descriptors - {share})
            case DeleteSet(set_id=set_id, idle=idle):
                if idle and any(worker.clients != 0 for worker in self.workers):
                    return self
                paths = {copy.path for copy in self.members.get(set_id, ())}
                living = [c for c in self.copies.values() if not is_backup(c)]
                if any(copy.path in paths for copy in living):
                    return self
                sets = {k: v for k, v in self.sets.items() if k != set_id}
                return replace(self, sets=sets, workers=())
        raise AssertionError(action)

    def settle(self) -> "SimulatedWorld":
        """Let the watcher follow srv_fss.tdb, and seal what is to be sealed."""
        world = self
        for name, seen in self.known().items():
            copy = next((own for own in world.copies.values() if own.path == name), None)
            if copy is None:
                continue
            due = steps(copy, seen)
            if Step.LEARN in due:
                world = world.changed(
                    copy,
                    set_id=seen.set_id,
                    copy_id=seen.copy_id,
                    context=seen.context,
                    exposed_share=seen.exposed_share,
                    state=seen.state,
                )
                copy = world.copies[copy.id]
            if Step.OPEN in due and copy.path in world.mounts:
                world = world.changed(copy, phase=Phase.OPEN)
            if Step.SEAL in due:
                world = world.changed(copy, phase=Phase.SEALING, state=seen.state)
        for copy in world.copies.values():
            if copy.phase is Phase.SEALING and copy.id in world.images:
                image = sealed_as(copy, world.images[copy.id])
                if copy.ended:
                    if image.mark.volume.key == copy.volume.key and image.complete:
                        kept = replace(image.mark.kept or Kept(), since=NOW)
                        mark = replace(image.mark, kept=kept)
                        world = world.with_image(replace(image, mark=mark))
                        world = world.changed(copy, phase=Phase.KEPT)
                    continue
                world = world.with_image(image)
                state = image.mark.sealed.state if image.mark.sealed else None
                world = world.changed(copy, phase=Phase.SEALED, state=state)
        return world

    def reconcile(self, *, starting: bool = False) -> tuple["SimulatedWorld", Plan]:
        """Observe, plan, apply, and let the watcher do its part."""
        decided = plan(self.observe(starting=starting))
        world = self
        for action in decided.actions:
            world = world.apply(action)
        return replace(world, findings=decided.findings).settle(), decided

    def at_rest(self) -> "SimulatedWorld":
        """Reconcile, in no time, until there is nothing to do."""
        world = self
        for _ in range(5):
            world, decided = world.reconcile()
            if not decided.actions:
                return world
        raise AssertionError(decided)


NAMES = ("a", "b", "c")
FOREIGN = "/srv/theirs/.snapshots/1"
_boots = st.sampled_from(["this", "before"])
_contexts = st.sampled_from(
    [
        0,
        int(Context.AUTO_RECOVERY),
        int(Context.PERSISTENT),
        int(Context.AUTO_RECOVERY | Context.PERSISTENT | Context.NO_AUTO_RELEASE),
    ]
)
_ages = st.sampled_from([1.0, 100.0, 299.0, 301.0, 1799.0, 1801.0, LONGEST, 10 * LONGEST])


STRANGERS = ("f", "g")
_foreign = st.builds(
    tuple,
    st.lists(
        st.builds(
            foreign_of,
            st.sampled_from(STRANGERS),
            st.sampled_from([whose for whose in Whose if whose not in (Whose.OURS, Whose.FORMER)]),
            st.none() | st.builds(mark_of, st.sampled_from([*NAMES, *STRANGERS])),
            st.sampled_from(["ours", "theirs"]),
        ),
        max_size=2,
        unique_by=lambda foreign: foreign.id,
    ),
)


@st.composite
def worlds(draw: st.DrawFn) -> SimulatedWorld:
    """Draw a world in which anything may be there or not."""
    seconds = 1e7
    sets = {
        name: SambaSet(id=name, state=draw(st.sampled_from(SetState)), context=draw(_contexts))
        for name in ("s", "t")
        if draw(st.booleans())
    }
    members: dict[str, list[SambaCopy]] = {name: [] for name in sets}
    copies: dict[str, ShadowCopy] = {}
    images: dict[str, Image] = {}
    mounts, shares, descriptors, gone = set(), {}, set(), set()

    def belongs(name: str, path: str, share_path: str) -> str:
        of = draw(st.sampled_from([*sets, ""]))
        if of:
            state, context = sets[of].state, sets[of].context
            members[of].append(
                samba_copy_of(path, state, context, set_id=of, copy_id=name, share_path=share_path)
            )
        return of

    for name in NAMES:
        created = NOW - timedelta(seconds=draw(_ages))
        since = Moment(boot=draw(_boots), seconds=seconds - draw(_ages))
        of = belongs(name, path_of(name), SHARE_PATH)
        row = draw(st.sampled_from(["none", "gone", *["row"] * 4]))
        if row == "row":
            phase = draw(st.sampled_from([p for p in Phase if p is not Phase.GONE]))
            copy = copy_of(name, phase, created=created, since=since)
            if draw(st.booleans()):
                copy = replace(
                    copy,
                    set_id=of or "lost",
                    copy_id=name,
                    context=sets[of].context if of else draw(_contexts),
                    exposed_share=share_of(name),
                    state=draw(st.none() | st.sampled_from(SetState)),
                )
            if phase is not Phase.CREATING:
                copy = replace(copy, adopted=draw(st.sampled_from([True, False, False])))
                copy = replace(copy, keep=draw(st.sampled_from(Keeping)))
            if phase is Phase.SEALING and draw(st.booleans()):
                states = st.sampled_from([SetState.EXPOSED, SetState.RECOVERED])
                wishes = st.sampled_from([Keeping.RECOVERED, Keeping.YES])
                copy = replace(copy, ended=True, state=draw(states), keep=draw(wishes))
            copies[name] = copy
        elif row == "gone":
            gone.add(name)
        if draw(st.sampled_from([True, True, False])):
            complete = draw(st.sampled_from([True, True, True, False]))
            read_only = draw(st.booleans())
            image = image_of(name, created, complete=complete, read_only=read_only)
            if read_only and draw(st.booleans()):
                states = st.sampled_from([None, SetState.EXPOSED, SetState.RECOVERED])
                sealed = replace(
                    sealed_of(draw(_contexts), draw(states)),
                    set_id=of or "lost",
                    copy_id=name,
                    exposed_share=share_of(name),
                )
                kept = draw(st.sampled_from([None, None, Kept(), Kept(since=NOW), HELD]))
                image = replace(image, mark=replace(image.mark, sealed=sealed, kept=kept))
            if draw(st.sampled_from([True, *[False] * 5])):
                volume = replace(VOLUME, id="257")
                image = replace(image, mark=replace(image.mark, volume=volume))
            images[name] = replace(
                image,
                former=draw(st.sampled_from([True, *[False] * 5])),
                remnants=draw(st.booleans()),
            )
        if draw(st.booleans()):
            mounts.add(path_of(name))
        if draw(st.booleans()):
            shares[share_of(name)] = path_of(name)
        if draw(st.booleans()):
            descriptors.add(share_of(name).lower())
    # Somebody else's.
    if draw(st.booleans()):
        belongs("x", draw(st.sampled_from(["", FOREIGN])), "/srv/theirs")
        shares[share_of("x")] = FOREIGN
        descriptors.add(share_of("x").lower())
    found = [f"copy {n}" for n in NAMES] + [f"image {n}" for n in NAMES] + ["set s", "set t"]
    found += [f"mount {path_of(n)}" for n in NAMES] + [f"share {share_of(n)}" for n in NAMES]
    found += [f"security {share_of(n).lower()}" for n in NAMES]
    return SimulatedWorld(
        seconds=seconds,
        wall=NOW,
        copies=copies,
        images=images,
        mounts=frozenset(mounts),
        shares=shares,
        descriptors=frozenset(descriptors),
        sets=sets,
        members={name: tuple(some) for name, some in members.items()},
        workers=draw(
            st.sampled_from(
                [(), (Worker(pid=1, clients=0),), (Worker(pid=1, clients=1),)],
            )
        ),
        gone=frozenset(gone),
        findings={
            name: Moment(boot=draw(_boots), seconds=seconds - draw(_ages))
            for name in draw(st.lists(st.sampled_from(found), max_size=4, unique=True))
        },
        connected=frozenset({share_of("a")} if draw(st.booleans()) else ()),
        quiet=draw(_ages),
        foreign=draw(_foreign),
    )


_property = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def told(actions: Iterable[Action]) -> set[tuple[type[Action], str]]:
    """Return what is done to what."""
    return {(type(action), action.target) for action in actions}


def proper(world: SimulatedWorld, copy: ShadowCopy) -> bool:
    """Return whether Samba can reach a copy, in the state in which it should be."""
    known, image = world.known().get(copy.path), world.images.get(copy.id)
    if known is None or image is None or not image.complete or copy.since.boot != "this":
        return False
    served = world.shares.get(share_of(copy.id)) == copy.path and copy.path in world.mounts
    elapsed = world.seconds - copy.since.seconds
    if known.state is SetState.RECOVERED:
        young = min(elapsed, (world.wall - copy.created).total_seconds()) < OPTIONS.maximum_age
        in_use = bool(known.context & Context.NO_AUTO_RELEASE) or young
        return served and copy.phase is Phase.SEALED and image.read_only and in_use
    if known.state is SetState.EXPOSED:
        automatic = bool(known.context & Context.AUTO_RECOVERY)
        phase = Phase.OPEN if automatic else Phase.SEALED
        closed = automatic or image.read_only
        return served and copy.phase is phase and closed and elapsed < OPTIONS.recovery_timeout
    return False


# properties


@_property
@given(worlds(), st.booleans())
def test_what_does_not_bear_our_mark_is_left(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    for action in plan(world.observe(starting=starting)).actions:
        assert action.target not in (share_of("x"), share_of("x").lower(), FOREIGN)
        if isinstance(action, DeleteSet):
            for copy in world.members[action.target]:
                assert copy.path.startswith(EXPOSED) or copy.share_path in OURS
        elif isinstance(action, DeleteShare):
            assert world.shares[action.target].startswith(EXPOSED)
        elif isinstance(action, Unmount):
            assert action.target.startswith(EXPOSED)
        elif isinstance(action, DeleteDescriptor):
            assert action.target in world.observe().history
        else:
            assert action.target in NAMES


@_property
@given(worlds(), st.booleans())
def test_what_is_not_provably_ours_is_left(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    """Neither others' images, nor what has another volume than its record, nor what names them."""
    decided = plan(world.observe(starting=starting))
    strange = {foreign.id for foreign in world.foreign}
    strange |= {foreign.mark.id for foreign in world.foreign if foreign.mark}
    told_of = {left.target for left in decided.left_alone}
    assert {foreign.id for foreign in world.foreign} <= told_of
    for action in decided.actions:
        name = action.target.rpartition("/")[2].rpartition("@")[2].strip("{}")
        image = world.images.get(name)
        if isinstance(action, OnImage):
            assert image is not None
            said = replace(action.image.mark, sealed=image.mark.sealed)
            assert image == replace(action.image, mark=said)
            assert image.former == isinstance(action, TakeOver)
            if isinstance(action, TakeOver | Attest):
                assert world.copies[name].volume.key == image.mark.volume.key
            else:
                assert image is action.image
            if image is not action.image:  # nothing but Samba's word is new in its mark
                assert image.mark.sealed is not None
                recovered = replace(image.mark.sealed, state=SetState.RECOVERED)
                assert action.image.mark.sealed == recovered != image.mark.sealed
            if isinstance(action, Destroy) and name in world.gone:
                assert image.mark.volume.key == VOLUME.key
        elif isinstance(action, OnCopy) and image is not None:
            if isinstance(action, Finish):
                continue  # what clients can reach goes, whosever the image is
            assert image.mark.volume.key == world.copies[name].volume.key
        elif name in strange - world.gone - world.copies.keys():
            assert isinstance(action, DeleteSet | DeleteDescriptor)


@_property
@given(worlds(), st.booleans())
def test_no_time_deletes_what_was_adopted(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    adopted = {
        copy.id: world.images.get(copy.id)
        for copy in world.copies.values()
        if copy.adopted and copy.phase is not Phase.DELETING and not copy.ended
    }
    for seconds in (0.0, 400.0, 2000.0, 10 * LONGEST):
        before = world.later(seconds)
        world, decided = before.reconcile(starting=starting)
        for action in decided.actions:
            if isinstance(action, Delete | Destroy) and action.target in adopted:
                assert isinstance(action, Delete)
                known = before.known().get(action.copy.path)
                image = before.images.get(action.target)
                # What Samba still has to recover ends as its set does.
                unrecovered = known is not None and known.state is not SetState.RECOVERED
                sealed = action.copy.phase is Phase.SEALED or image is None or image.read_only
                assert action.lost or (unrecovered and not sealed)
        adopted |= {
            copy.id: None for copy in world.copies.values() if copy.adopted and not copy.ended
        }


@_property
@given(worlds(), st.booleans())
def test_no_backup_is_removed(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    """Nor does a sealed copy that is to be kept go in another way than as a backup."""
    for seconds in (0.0, 400.0, 2000.0, 10 * LONGEST):
        before = world.later(seconds)
        world, decided = before.reconcile(starting=starting)
        for action in decided.actions:
            if not isinstance(action, Delete | Destroy | MountAgain | Seal | Adopt):
                continue
            copy, image = before.copies.get(action.target), before.images.get(action.target)
            if copy is not None and copy.phase is Phase.KEPT:
                assert isinstance(action, Delete)
                assert action.lost
                assert image is None or image.mark.volume.key != copy.volume.key
            elif copy is not None and is_backup(copy) and isinstance(action, Delete):
                assert action.lost
            elif copy is not None and is_due(copy) and isinstance(action, Delete):
                assert isinstance(action, Keep) or image is None or not image.complete


@_property
@given(worlds(), st.booleans())
def test_what_is_held_stays(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    """Whatever the record says, even that it is being deleted."""
    for seconds in (0.0, 400.0, 2000.0, 10 * LONGEST):
        before = world.later(seconds)
        world, decided = before.reconcile(starting=starting)
        for action in decided.actions:
            image = before.images.get(action.target)
            if image is None or not image.complete or image.mark.kept != HELD:
                continue
            assert not isinstance(action, Destroy)
            if isinstance(action, Delete) and not isinstance(action, Keep):
                assert image.mark.volume.key != action.copy.volume.key


@_property
@given(worlds(), st.booleans())
def test_no_record_beats_a_sealed_image(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    """Whatever the record of an unsealed copy says, it becomes the record of a sealed one."""
    decided = plan(world.observe(starting=starting))
    for action in decided.actions:
        if not isinstance(action, Delete) or action.copy.phase is Phase.DELETING:
            continue
        image = world.images.get(action.target)
        if image is not None and image.mark.sealed:
            assert action.copy.phase is Phase.SEALED
        elif image is not None and image.read_only and image.complete:
            assert action.copy.phase in (Phase.SEALED, Phase.SEALING) or action.believes != (None,)


@_property
@given(worlds(), st.booleans())
def test_what_samba_serves_as_it_should_be_is_left(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    actions = plan(world.observe(starting=starting)).actions
    # These change a mark or a record, and nothing that a client can see.
    touched = {
        action.target
        for action in actions
        if not isinstance(action, TakeOver | Attest)
        and not (isinstance(action, Amend) and action.copy.phase is Phase.SEALED)
    }
    for copy in world.copies.values():
        if proper(world, copy):
            known = world.known()[copy.path]
            assert touched.isdisjoint(
                {copy.id, copy.path, share_of(copy.id), share_of(copy.id).lower(), known.set_id}
            )


@_property
@given(worlds(), st.booleans())
def test_once_applied_nothing_is_left_to_do(world: SimulatedWorld, starting: bool) -> None:  # noqa: FBT001
    after, _ = world.reconcile(starting=starting)
    if after.workers != world.workers:
        after, _ = after.reconcile()  # with a worker goes what it alone may have known
    if any(isinstance(action, Attest) for action in plan(after.observe()).actions):
        after, decided = after.reconcile()  # what the watcher has learned of what was adopted
        assert all(isinstance(action, Attest) for action in decided.actions)
    assert told(plan(after.observe()).actions) == set()


@_property
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(world: SimulatedWorld, random: Random) -> None:
    seen = world.observe()
    decided = plan(seen)

    def shuffled(values: tuple[T, ...]) -> tuple[T, ...]:
        some = list(values)
        random.shuffle(some)
        return tuple(some)

    assert seen.samba is not None
    assert seen.inventory is not None
    another = plan(
        replace(
            seen,
            copies=shuffled(seen.copies),
            samba=SambaState(
                sets=shuffled(seen.samba.sets),
                copies=shuffled(seen.samba.copies),
            ),
            inventory=replace(seen.inventory, images=shuffled(seen.inventory.images)),
            shares=dict(shuffled(tuple((seen.shares or {}).items()))),
        )
    )
    assert set(another.actions) == set(decided.actions)
    assert set(another.left_alone) == set(decided.left_alone)
    assert another.findings == decided.findings
    one = other = world
    for action in decided.actions:
        one = one.apply(action)
    # What is known of images comes first, because everything else rests on it (see `ORDER`).
    first = tuple(action for action in decided.actions if isinstance(action, _KNOWN))
    for action in (*first, *shuffled(decided.actions[len(first) :])):
        other = other.apply(action)
    # What the others made stale is done in the next round.
    assert one.settle().at_rest() == other.settle().at_rest()


@_property
@given(worlds(), st.randoms(use_true_random=False), st.booleans())
def test_what_was_cut_off_converges(
    world: SimulatedWorld,
    random: Random,
    restarted: bool,  # noqa: FBT001
) -> None:
    """Some actions, then a crash before anything was noted: in the end nothing is left over."""
    for action in plan(world.observe()).actions:
        if random.random() < 0.5:
            world = world.apply(action)
    # Nobody comes back; whoever is connected goes, and workers with them.
    world = replace(world.settle(), workers=(), connected=frozenset())
    starting = restarted
    for _ in range(40):
        world, decided = world.reconcile(starting=starting)
        starting = False
        if not decided.actions:
            if decided.due is None:
                break
            world = world.later(decided.due + 1)
    else:
        pytest.fail(f"never at rest: {decided}")
    wrong = {left.target for left in decided.left_alone if left.wrong}
    for copy in world.copies.values():
        if copy.id in wrong:
            continue
        if copy.phase is Phase.KEPT:
            assert copy.path not in world.mounts
            assert copy.path not in world.shares.values()
            assert world.images[copy.id].mark.is_backup
            continue
        assert copy.phase is Phase.SEALED
        assert copy.path in world.mounts
        image = world.images[copy.id]
        assert image.complete
        assert image.read_only
        # What lives for ever is meant to.
        context = world.known()[copy.path].context if copy.path in world.known() else copy.context
        assert context & Context.NO_AUTO_RELEASE or not copy.set_id or copy.adopted
    paths = {copy.path for copy in world.copies.values()} | {path_of(name) for name in wrong}
    strangers = {foreign.mark.id if foreign.mark else foreign.id for foreign in world.foreign}
    paths |= {path_of(name) for name in strangers}
    assert world.images.keys() ^ world.copies.keys() <= wrong
    assert world.mounts <= paths
    assert {path for path in world.shares.values() if path != FOREIGN} <= paths
    assert world.gone & world.images.keys() <= wrong
    for name, one in world.sets.items():
        some = world.members[name]
        theirs = any(c.path not in paths and not c.path.startswith(EXPOSED) for c in some)
        alive = any(c.path in paths for c in some)
        assert theirs or alive or (not some and one.state >= SetState.COMMITTED)


_SOURCES = ("inventory", "mounts", "directories", "samba", "shares", "descriptors", "workers")
# What would be removed, were all seen or time another, may be mounted, sealed and rid of what is no
# part of it instead; what a copy that has ended still shows is taken away in any case.
_HARMLESS: set[type[Action]] = {MountAgain, Seal, Clear, Finish}
_KNOWN = (TakeOver, Attest, Amend)  # what is known of images comes first
_RESTS_ON: dict[str, set[type[Action]]] = {
    "inventory": {Destroy, Adopt, MountAgain, Seal},
    "mounts": {MountAgain},
    "samba": {DeleteSet},
    "shares": {DeleteShare, DeleteDescriptor},
    "descriptors": {DeleteDescriptor},
    "workers": {DeleteSet},
}


def _is_of_backup(world: SimulatedWorld, action: Action) -> bool:
    """Return whether something is removed that only a shadow copy has, and a backup never."""
    ended = {copy.path for copy in world.copies.values() if is_backup(copy)}
    match action:
        case Unmount(path=path):
            return path in ended
        case DeleteShare(share=share):
            return world.shares[share] in ended
        case DeleteSet(set_id=set_id):
            return any(copy.path in ended for copy in world.members[set_id])
    return False


@_property
@given(worlds(), st.booleans(), st.sets(st.sampled_from([*_SOURCES, "connected", "quiet"])))
def test_what_cannot_be_seen_makes_it_cautious(
    world: SimulatedWorld,
    starting: bool,  # noqa: FBT001
    blind: set[str],
) -> None:
    """What is missing never brings a removal that would not have been called for with it."""
    seen = world.observe(starting=starting)
    missing = dict.fromkeys(blind)
    assert blind <= {one.name for one in fields(Observation)}
    decided = plan(replace(seen, **missing))  # type: ignore[arg-type]
    removals = [
        action
        for action in decided.actions
        if type(action) not in _HARMLESS and not _is_of_backup(world, action)
    ]
    assert told(removals) <= told(plan(seen).actions)
    for name in blind:
        assert not any(type(action) in _RESTS_ON.get(name, ()) for action in decided.actions)
    if "samba" in blind:
        for action in decided.actions:
            assert not (isinstance(action, Delete) and action.believes)
            assert not isinstance(action, DeleteSet)
    if "connected" in blind:
        assert not any("older than" in action.reason for action in decided.actions)


@_property
@given(worlds(), st.sampled_from([-1, 1]))
def test_a_clock_that_jumps_removes_nothing_of_this_boot(
    world: SimulatedWorld, direction: int
) -> None:
    jumped = replace(world, wall=world.wall + direction * timedelta(days=3652))
    before = told(plan(world.observe()).actions)
    known = world.known()
    for kind, target in told(plan(jumped.observe()).actions) - before:
        assert kind in {Delete, Keep, DeleteSet} | _HARMLESS
        if kind in (Delete, Keep):
            copy = world.copies[target]
            # or its record says less than its image, and becomes that of a sealed copy first
            assert copy.phase is Phase.SEALED or world.images[target].mark.sealed
            assert copy.path not in known or known[copy.path].state is SetState.RECOVERED
            elapsed = world.seconds - copy.since.seconds
            assert copy.since.boot != "this" or elapsed >= OPTIONS.maximum_age


@_property
@given(worlds())
def test_who_writes_is_never_cut_off_early(world: SimulatedWorld) -> None:
    """Before its time is up, an unrecovered copy goes only if its image or share has gone."""
    known = world.known()
    for action in plan(world.observe()).actions:
        copy = world.copies.get(action.target) if isinstance(action, Delete) else None
        if copy is None or copy.phase is not Phase.OPEN or copy.path not in known:
            continue
        image = world.images.get(copy.id)
        assume(image is not None and image.complete and copy.since.boot == "this")
        if "share was removed" not in action.reason:
            assert world.seconds - copy.since.seconds >= OPTIONS.grace
        if known[copy.path].state is SetState.EXPOSED and share_of(copy.id) in world.shares:
            assert world.seconds - copy.since.seconds >= OPTIONS.recovery_timeout
