"""Backups in a plan: what keeping left undone is done, what is odd is said, and none is deleted."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from samba_rvss.model import (
    Context,
    Foreign,
    Hold,
    Image,
    Inventory,
    Keep,
    Kept,
    Moment,
    Phase,
    SambaSet,
    SambaState,
    SetState,
    ShadowCopy,
    Whose,
)
from samba_rvss.reconcile.decision import (
    Action,
    Adopt,
    Amend,
    Clear,
    Delete,
    DeleteSet,
    Finish,
    Seal,
    Unmount,
)
from samba_rvss.reconcile.decision import Keep as KeepAction
from samba_rvss.reconcile.observation import Observation
from samba_rvss.reconcile.plan import plan
from tests.unit.values import (
    COPY_ID,
    EXPOSED,
    NOW,
    OPTIONS,
    SET,
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

PRESENT = Moment(boot="this", seconds=1e6)
LONG_AGO = Moment(boot="before", seconds=0.0)
BACKUP = replace(
    copy_of("a", Phase.KEPT, since=LONG_AGO),
    set_id=SET,
    copy_id=COPY_ID,
    exposed_share=share_of(COPY_ID),
    state=SetState.RECOVERED,
    keep=Keep.RECOVERED,
)
_BARE = image_of("a", sealed=sealed_of())
IMAGE = replace(_BARE, mark=replace(_BARE.mark, kept=Kept(since=NOW)))


def seen(
    *copies: ShadowCopy,
    images: tuple[Image, ...] = (IMAGE,),
    foreign: tuple[Foreign, ...] = (),
    there: bool = True,
    unlisted: Mapping[str, str] | None = None,
    mounts: frozenset[str] = frozenset(),
    shares: Mapping[str, str] | None = None,
    gone: frozenset[str] = frozenset(),
) -> Observation:
    """Return an observation of a daemon that starts long after a boot."""
    return Observation(
        wall=NOW,
        present=PRESENT,
        options=OPTIONS,
        exposed_directory=EXPOSED,
        copies=tuple(c for c in copies if c.phase is not Phase.KEPT and not c.ended),
        backups=tuple(c for c in copies if c.phase is Phase.KEPT or c.ended),
        inventory=Inventory(
            file_systems=frozenset({"fs"} if there else ()),
            images=images,
            foreign=foreign,
            unlisted=unlisted or {},
        ),
        mounts=mounts,
        directories=mounts,
        samba=SambaState(sets=(), copies=()),
        shares=shares or {},
        descriptors=frozenset(),
        workers=(),
        connected=frozenset(),
        quiet=1e6,
        gone=dict.fromkeys(gone, VOLUME),
        starting=True,
    )


def acts(found: Observation) -> list[type[Action]]:
    """Return what is done, whatever to."""
    return [type(action) for action in plan(found).actions]


def wrong(found: Observation) -> list[str]:
    """Return what is wrong."""
    return [left.reason for left in plan(found).left_alone if left.wrong]


def test_a_backup_is_left_alone_whatever_its_age() -> None:
    decided = plan(seen(BACKUP))
    assert decided.actions == ()
    assert [(left.wrong, left.due) for left in decided.left_alone] == [(False, None)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (seen(BACKUP, images=(_BARE,)), [Finish]),
        (seen(BACKUP, mounts=frozenset({path_of("a")})), None),
        (seen(BACKUP, shares={share_of(COPY_ID): path_of("a")}), None),
        (seen(BACKUP, images=(replace(IMAGE, remnants=True),)), [Clear]),
        (seen(images=(IMAGE,)), [Adopt]),
    ],
    ids=["mark", "mount", "share", "remnants", "record"],
)
def test_what_was_cut_off_is_finished(
    given: Observation, expected: list[type[Action]] | None
) -> None:
    assert (Finish in acts(given)) if expected is None else (acts(given) == expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (seen(BACKUP, images=(), there=False), "its file system is not there"),
        (
            seen(BACKUP, images=(), there=False, unlisted={"fs": "it stands still"}),
            "cannot be listed: it stands still",
        ),
        (seen(BACKUP, images=(replace(IMAGE, read_only=False),)), "image writable"),
        (seen(BACKUP, images=(replace(IMAGE, complete=False),)), "a part of its image is missing"),
        (
            seen(BACKUP, images=(), foreign=(foreign_of("b", Whose.RENAMED, mark_of("a")),)),
            "its image is not ours any more",
        ),
        (
            seen(
                BACKUP,
                images=(
                    replace(IMAGE, mark=replace(IMAGE.mark, volume=replace(VOLUME, id="257"))),
                ),
            ),
            "its record is of the volume btrfs:fs:256, its image of btrfs:fs:257",
        ),
    ],
    ids=["away", "silent", "writable", "incomplete", "renamed", "another volume"],
)
def test_what_is_odd_is_said_and_nothing_is_done(given: Observation, reason: str) -> None:
    assert acts(given) == []
    assert any(reason in told for told in wrong(given)), wrong(given)


def test_a_backup_whose_image_is_gone_is_recorded_as_lost() -> None:
    (action,) = plan(seen(BACKUP, images=())).actions
    assert isinstance(action, Delete)
    assert action.lost


def test_an_old_record_becomes_what_the_mark_says() -> None:
    """A ledger that was put back from before it was kept, or before it was sealed."""
    for phase in (Phase.OPEN, Phase.SEALED):
        old = replace(BACKUP, phase=phase, since=PRESENT)
        actions = plan(seen(old)).actions
        (amend,) = [action for action in actions if isinstance(action, Amend)]
        assert amend.amended.phase is Phase.KEPT
        assert not any(isinstance(action, Delete) for action in actions)


_HELD = Kept(holds=(Hold(tag="offsite"),))


def test_what_is_held_is_a_backup_even_if_it_was_to_be_deleted() -> None:
    """Whoever deletes looks first; where that could not be, the mark says what is right."""
    image = replace(_BARE, mark=replace(_BARE.mark, kept=_HELD))
    old = replace(BACKUP, phase=Phase.DELETING, keep=Keep.NO)
    actions = plan(seen(old, images=(image,))).actions
    assert [type(action) for action in actions] == [Amend, Finish]
    over = Kept(holds=(Hold(tag="offsite", until=NOW),))
    image = replace(_BARE, mark=replace(_BARE.mark, kept=over))
    assert acts(seen(old, images=(image,))) == [Delete]


def test_what_was_deleted_unseen_and_is_held_is_ours_again() -> None:
    image = replace(_BARE, mark=replace(_BARE.mark, kept=_HELD))
    assert acts(seen(images=(image,), gone=frozenset({"a"}))) == [Adopt]
    odd = seen(images=(replace(image, complete=False),), gone=frozenset({"a"}))
    assert acts(odd) == []
    assert any("came back, held" in told for told in wrong(odd))


def test_what_is_ours_again_keeps_the_set_that_has_it() -> None:
    """It is no backup yet; whichever of the two were done first, the other would be stale."""
    image = replace(_BARE, mark=replace(_BARE.mark, kept=_HELD))
    samba = SambaState(
        sets=(SambaSet(id=SET, state=SetState.EXPOSED, context=Context.AUTO_RECOVERY),),
        copies=(samba_copy_of(path_of("a"), SetState.EXPOSED, Context.AUTO_RECOVERY),),
    )
    given = seen(images=(image,), gone=frozenset({"a"}))
    assert acts(replace(given, samba=samba)) == [Adopt]


@pytest.mark.parametrize(
    ("record", "marked", "kept", "expected"),
    [
        (Keep.NO, Keep.YES, None, Keep.YES),
        (Keep.YES, Keep.NO, None, Keep.YES),
        (Keep.RECOVERED, Keep.NO, None, Keep.RECOVERED),
        (Keep.NO, Keep.NO, _HELD, Keep.YES),
    ],
    ids=["mark", "record", "neither is weaker", "hold"],
)
def test_of_a_record_and_its_mark_the_stronger_wish_counts(
    record: Keep, marked: Keep, kept: Kept | None, expected: Keep
) -> None:
    """A ledger from before 'keep' or 'hold' was said does not have the image deleted."""
    sealed = replace(sealed_of(), keep=marked)
    image = replace(_BARE, mark=replace(_BARE.mark, sealed=sealed, kept=kept))
    for phase in (Phase.SEALED, Phase.OPEN):
        old = replace(BACKUP, phase=phase, keep=record)
        actions = plan(seen(old, images=(image,))).actions
        amended = [action.amended for action in actions if isinstance(action, Amend)]
        assert (amended or [old])[0].keep is expected


@pytest.mark.parametrize(
    ("wish", "boot", "marked", "shown"),
    [
        (Keep.RECOVERED, PRESENT, False, False),
        (Keep.RECOVERED, PRESENT, False, True),
        (Keep.YES, LONG_AGO, False, False),
        (Keep.RECOVERED, LONG_AGO, True, False),
        (Keep.RECOVERED, LONG_AGO, False, False),
    ],
    ids=["this boot", "shown still", "all are kept", "sealed before", "torn"],
)
def test_what_ended_before_it_was_sealed(
    wish: Keep,
    boot: Moment,
    marked: bool,  # noqa: FBT001
    shown: bool,  # noqa: FBT001
) -> None:
    """It is sealed, and never deleted: its client has been told that it is kept."""
    ended = replace(
        BACKUP,
        phase=Phase.SEALING,
        ended=True,
        keep=wish,
        since=boot,
        context=int(Context.AUTO_RECOVERY),
    )
    image = replace(_BARE, read_only=marked)
    if not marked:
        image = replace(image, mark=replace(image.mark, sealed=None))
    mounts = frozenset({path_of("a")}) if shown else frozenset()
    assert acts(seen(ended, images=(image,), mounts=mounts)) == [Unmount, Seal][-1 - 2 * shown :]
    # What clients can reach goes even where the image cannot be seen.
    unseen = seen(ended, images=(), unlisted={"fs": "it stands still"}, there=False, mounts=mounts)
    assert (Finish in acts(unseen)) is shown


@pytest.mark.parametrize(
    ("keep", "state", "kept"),
    [
        (Keep.NO, SetState.RECOVERED, False),
        (Keep.RECOVERED, SetState.RECOVERED, True),
        (Keep.RECOVERED, SetState.EXPOSED, False),
        (Keep.YES, SetState.EXPOSED, True),
    ],
)
def test_what_is_to_be_kept_ends_as_a_backup(keep: Keep, state: SetState, kept: bool) -> None:  # noqa: FBT001
    """As after a boot: its context is not persistent, and its time is over."""
    copy = replace(BACKUP, phase=Phase.SEALED, keep=keep, state=state)
    sealed = replace(sealed_of(Context.AUTO_RECOVERY), state=state, keep=keep)
    image = image_of("a", sealed=sealed)
    found = seen(
        copy,
        images=(image,),
        mounts=frozenset({path_of("a")}),
        shares={share_of(COPY_ID): path_of("a")},
    )
    assert acts(found) == [KeepAction if kept else Delete]


def test_mounted_on_demand_is_no_remnant() -> None:
    directory = "/run/samba-rvss/previous/vms"
    copy = replace(BACKUP, previous_path=f"{directory}/@GMT-2024.02.29-23.59.59")
    looked_into = seen(copy, mounts=frozenset({copy.previous_path}))
    assert plan(replace(looked_into, on_demand=frozenset({directory}))).actions == ()
    # Elsewhere it is what the shadow copy has left that it was.
    assert Finish in [type(action) for action in plan(looked_into).actions]
    # What no backup has there is nobody's.
    stray = seen(replace(copy, previous_path=""), mounts=frozenset({copy.previous_path}))
    stray = replace(stray, on_demand=frozenset({directory}))
    assert [type(action) for action in plan(stray).actions] == [Unmount]


@pytest.mark.parametrize("record", ["its record", "a record that is made anew"])
@pytest.mark.parametrize("twin", ["no other image", "another's image that bears its id"])
def test_what_samba_has_left_of_it_goes_whoever_else_bears_its_id(twin: str, record: str) -> None:
    foreign = foreign_of("b", Whose.INSTANCE, mark_of("a"), "theirs")
    samba = SambaState(
        sets=(SambaSet(id=SET, state=SetState.EXPOSED, context=Context.AUTO_RECOVERY),),
        copies=(samba_copy_of(path_of("a"), SetState.EXPOSED, Context.AUTO_RECOVERY),),
    )
    others = () if twin == "no other image" else (foreign,)
    known = (BACKUP,) if record == "its record" else ()
    found = acts(replace(seen(*known, foreign=others), samba=samba))
    assert found == [*([] if known else [Adopt]), DeleteSet]
