"""The plan that brings ledger, images and mounts into one state: pure, so it can be a table."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.model import Image, Inventory, Mark, Phase, ShadowCopy, Volume
from samba_rvss.reconcile import Action, Kind, Observation, plan

NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
MOUNTED, UNMOUNTED = "mounted", "not mounted"
HEALTHY = (Phase.TAKEN, Phase.OPEN, Phase.SEALING, Phase.SEALED)


def volume_on(file_system: str) -> Volume:
    """Return a volume of a file system."""
    return Volume(
        provider="btrfs",
        file_system=file_system,
        key=f"btrfs:{file_system}:256",
        name="vms",
        directory="",
        inode=256,
    )


def copy_of(
    name: str, phase: Phase, *, file_system: str = "fs", previous: bool = False
) -> ShadowCopy:
    """Return a record of the ledger."""
    return ShadowCopy(
        id=name,
        share="vms",
        share_path="/srv/vms",
        volume=volume_on(file_system),
        created=NOW,
        phase=phase,
        path=f"/run/exposed/vms/{name}",
        previous_path=f"/run/previous/vms/@GMT-{name}" if previous else "",
    )


def image_of(
    name: str, *, file_system: str = "fs", complete: bool = True, read_only: bool = False
) -> Image:
    """Return what an inventory found."""
    mark = Mark(
        id=name,
        share="vms",
        share_path="/srv/vms",
        volume=volume_on(file_system),
        created=NOW,
    )
    return Image(id=name, provider="btrfs", mark=mark, complete=complete, read_only=read_only)


def paths_of(copy: ShadowCopy) -> set[str]:
    """Return where a copy is to be mounted."""
    return {path for path in (copy.path, copy.previous_path) if path}


def observed(
    copies: Iterable[ShadowCopy] = (),
    images: Iterable[Image] = (),
    *,
    mounts: Iterable[str] = (),
    directories: Iterable[str] = (),
    gone: Iterable[str] = (),
    listed: Iterable[str] = ("fs",),
) -> Observation:
    """Return an observation; where something is mounted there is a directory."""
    return Observation(
        copies=tuple(copies),
        gone=frozenset(gone),
        inventory=Inventory(file_systems=frozenset(listed), images=tuple(images)),
        mounts=frozenset(mounts),
        directories=frozenset(directories) | frozenset(mounts),
    )


def told(actions: list[Action]) -> list[tuple[Kind, str]]:
    """Return what would be done to what."""
    return [(action.kind, action.target) for action in actions]


# one copy: phase, its image ("" for none), mounted: what is done
ONE = [
    # Healthy copies are left alone, whatever their phase.
    (Phase.TAKEN, "complete", MOUNTED, None),
    (Phase.OPEN, "complete", MOUNTED, None),
    (Phase.SEALING, "complete", MOUNTED, None),
    (Phase.SEALED, "complete", MOUNTED, None),
    # Their mounts can be made anew: a reboot takes them away.
    (Phase.TAKEN, "complete", UNMOUNTED, Kind.REMOUNT),
    (Phase.OPEN, "complete", UNMOUNTED, Kind.REMOUNT),
    (Phase.SEALING, "complete", UNMOUNTED, Kind.REMOUNT),
    (Phase.SEALED, "complete", UNMOUNTED, Kind.REMOUNT),
    # Their images cannot.
    (Phase.TAKEN, "", MOUNTED, Kind.LOST),
    (Phase.OPEN, "", UNMOUNTED, Kind.LOST),
    (Phase.SEALED, "", MOUNTED, Kind.LOST),
    (Phase.TAKEN, "incomplete", UNMOUNTED, Kind.LOST),
    # What was cut off while being made was never handed to Samba.
    (Phase.CREATING, "", UNMOUNTED, Kind.DELETE),
    (Phase.CREATING, "incomplete", UNMOUNTED, Kind.DELETE),
    (Phase.CREATING, "complete", UNMOUNTED, Kind.DELETE),
    (Phase.CREATING, "complete", MOUNTED, Kind.DELETE),
    # What was cut off while being removed is removed.
    (Phase.DELETING, "complete", MOUNTED, Kind.DELETE),
    (Phase.DELETING, "incomplete", UNMOUNTED, Kind.DELETE),
    (Phase.DELETING, "", UNMOUNTED, Kind.DELETE),
]


@pytest.mark.parametrize(("phase", "image", "mounted", "kind"), ONE)
def test_one_copy(phase: Phase, image: str, mounted: str, kind: Kind | None) -> None:
    copy = copy_of("a", phase, previous=True)
    images = [image_of("a", complete=image == "complete")] if image else []
    mounts = paths_of(copy) if mounted == MOUNTED else set()
    expected = [] if kind is None else [(kind, "a")]
    assert told(plan(observed([copy], images, mounts=mounts))) == expected


@pytest.mark.parametrize("phase", HEALTHY)
def test_one_of_two_mounts_is_missing(phase: Phase) -> None:
    copy = copy_of("a", phase, previous=True)
    seen = observed([copy], [image_of("a")], mounts=[copy.path])
    assert told(plan(seen)) == [(Kind.REMOUNT, "a")]


@pytest.mark.parametrize("phase", HEALTHY)
def test_absence_is_proven_only_where_everything_was_listed(phase: Phase) -> None:
    """A file system that is not mounted now may still hold the image."""
    copy = copy_of("a", phase, file_system="away")
    assert plan(observed([copy])) == []
    assert plan(observed([copy], mounts=paths_of(copy))) == []


# an image that no record accounts for: whether it was deleted, complete: what is done
@pytest.mark.parametrize(
    ("gone", "complete", "kind"),
    [
        (False, True, Kind.ADOPT),
        (False, False, Kind.DESTROY),
        # A deletion that was not on disk when the machine lost its power.
        (True, True, Kind.DESTROY),
        (True, False, Kind.DESTROY),
    ],
)
def test_image_without_a_record(gone: bool, complete: bool, kind: Kind) -> None:  # noqa: FBT001
    seen = observed(images=[image_of("a", complete=complete)], gone=["a"] if gone else [])
    assert told(plan(seen)) == [(kind, "a")]


def test_mounts_and_directories_without_a_copy() -> None:
    mount, directory = "/run/exposed/vms/a", "/run/previous/vms/@GMT-b"
    seen = observed(mounts=[mount], directories=[directory])
    assert told(plan(seen)) == [(Kind.UNMOUNT, mount), (Kind.UNMOUNT, directory)]


def test_directory_of_a_copy_that_goes_is_its_own_deletion_s() -> None:
    copy = copy_of("a", Phase.DELETING, previous=True)
    seen = observed([copy], directories=paths_of(copy))
    assert told(plan(seen)) == [(Kind.DELETE, "a")]


def test_every_action_says_why() -> None:
    seen = observed(
        [copy_of("a", Phase.CREATING), copy_of("b", Phase.SEALED), copy_of("c", Phase.OPEN)],
        [image_of("c"), image_of("d"), image_of("e", complete=False)],
        mounts=["/run/exposed/vms/x"],
    )
    assert sorted(action.describe() for action in plan(seen)) == [
        "adopt d: the ledger does not know it",
        "delete a: its creation was cut off",
        "destroy e: its creation was cut off",
        "lost b: its image does not exist any more",
        "remount c: it is not mounted",
        "unmount /run/exposed/vms/x: no shadow copy belongs to it",
    ]


def test_nothing_at_all() -> None:
    assert plan(observed()) == []
    assert plan(observed(listed=())) == []


# for everything that there can be

_names = st.sampled_from([f"n{number}" for number in range(6)])
_file_systems = st.sampled_from(["fs", "away"])


@st.composite
def worlds(draw: st.DrawFn, *, away: bool = True) -> Observation:
    """Anything that could be found, as long as images are found where they can be listed."""
    file_systems = {name: draw(_file_systems) if away else "fs" for name in draw(st.sets(_names))}
    phases = st.sampled_from([phase for phase in Phase if phase is not Phase.GONE])
    copies = [
        copy_of(name, draw(phases), file_system=one, previous=draw(st.booleans()))
        for name, one in file_systems.items()
    ]
    images = [
        image_of(name, complete=draw(st.booleans()), read_only=draw(st.booleans()))
        for name in draw(st.sets(_names))
        if file_systems.get(name, "fs") == "fs"
    ]
    gone = draw(st.sets(_names)) - file_systems.keys()
    everywhere = [path for name in ("n0", "n1", "n2", "n3", "other") for path in _places(name)]
    mounts = draw(st.sets(st.sampled_from(everywhere)))
    directories = draw(st.sets(st.sampled_from(everywhere)))
    return observed(copies, images, mounts=mounts, directories=directories, gone=gone)


def _places(name: str) -> tuple[str, str]:
    return (f"/run/exposed/vms/{name}", f"/run/previous/vms/@GMT-{name}")


@given(worlds())
def test_only_what_is_ours_is_a_target(seen: Observation) -> None:
    copies = {copy.id for copy in seen.copies}
    images = {image.id for image in seen.inventory.images}
    for action in plan(seen):
        if action.kind is Kind.UNMOUNT:
            assert action.target in seen.mounts | seen.directories
        elif action.kind in (Kind.ADOPT, Kind.DESTROY):
            assert action.image is not None
            assert action.target == action.image.id in images - copies
        else:
            assert action.copy is not None
            assert action.target == action.copy.id in copies


@given(worlds())
def test_nothing_is_done_twice(seen: Observation) -> None:
    targets = [action.target for action in plan(seen)]
    assert len(targets) == len(set(targets))


@given(worlds())
def test_a_healthy_copy_is_left_alone(seen: Observation) -> None:
    whole = {image.id for image in seen.inventory.images if image.complete}
    actions = plan(seen)
    for copy in seen.copies:
        if copy.phase in HEALTHY and copy.id in whole and paths_of(copy) <= seen.mounts:
            assert copy.id not in {action.target for action in actions}
            assert not paths_of(copy) & {action.target for action in actions}


@given(worlds())
def test_no_image_goes_that_a_living_copy_has(seen: Observation) -> None:
    """Only what is incomplete, or was to go anyway, is destroyed."""
    whole = {image.id for image in seen.inventory.images if image.complete}
    ends = (Kind.DELETE, Kind.DESTROY, Kind.LOST)
    for action in plan(seen):
        if action.kind in ends and action.target in whole:
            was_going = action.copy is not None and action.copy.phase not in HEALTHY
            assert was_going or action.target in seen.gone


@given(worlds())
def test_what_is_on_a_file_system_that_is_away_is_not_given_up(seen: Observation) -> None:
    away = {copy.id for copy in seen.copies if copy.volume.file_system == "away"}
    for action in plan(seen):
        if action.target in away and action.copy is not None:
            assert action.kind is Kind.DELETE
            assert action.copy.phase not in HEALTHY


@dataclass
class World:
    """What reconciling works on, as a model."""

    copies: dict[str, ShadowCopy]
    images: dict[str, Image]
    mounts: set[str]
    directories: set[str]
    gone: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, seen: Observation) -> "World":
        return cls(
            copies={copy.id: copy for copy in seen.copies},
            images={image.id: image for image in seen.inventory.images},
            mounts=set(seen.mounts),
            directories=set(seen.directories),
            gone=set(seen.gone),
        )

    def observe(self) -> Observation:
        return observed(
            self.copies.values(),
            self.images.values(),
            mounts=self.mounts,
            directories=self.directories,
            gone=self.gone,
        )

    def _detach(self, paths: Iterable[str]) -> None:
        self.mounts -= set(paths)
        self.directories -= set(paths)

    def _attach(self, copy: ShadowCopy) -> None:
        assert self.images[copy.id].complete
        self.mounts |= paths_of(copy)
        self.directories |= paths_of(copy)

    def apply(self, action: Action) -> None:
        """Do what `reconcile.apply` does."""
        match action.kind:
            case Kind.DELETE | Kind.LOST:
                copy = self.copies.pop(action.target)
                self.images.pop(copy.id, None)
                self._detach(paths_of(copy))
                self.gone.add(copy.id)
            case Kind.REMOUNT:
                copy = self.copies[action.target]
                phase = Phase.TAKEN if copy.phase is Phase.OPEN else copy.phase
                self.copies[copy.id] = replace(copy, phase=phase)
                self._attach(copy)
            case Kind.ADOPT:
                image = self.images[action.target]
                phase = Phase.SEALING if image.read_only else Phase.TAKEN
                copy = copy_of(image.id, phase)
                self.copies[copy.id] = copy
                self._attach(copy)
            case Kind.DESTROY:
                del self.images[action.target]
            case Kind.UNMOUNT:
                self._detach([action.target])


@given(worlds(away=False))
def test_once_carried_out_nothing_is_left_to_do(seen: Observation) -> None:
    world = World.of(seen)
    for action in plan(seen):
        world.apply(action)
    assert plan(world.observe()) == []


@given(worlds(away=False), st.data())
def test_cut_off_anywhere_it_ends_in_the_same_state(seen: Observation, data: st.DataObject) -> None:
    """A crash after any of the actions: a second run does the rest, and nothing else."""
    straight = World.of(seen)
    actions = plan(seen)
    for action in actions:
        straight.apply(action)
    crashed = World.of(seen)
    for action in actions[: data.draw(st.integers(0, len(actions)))]:
        crashed.apply(action)
    for action in plan(crashed.observe()):
        crashed.apply(action)
    assert crashed == straight
