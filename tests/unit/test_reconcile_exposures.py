"""What is exposed, in a plan: it is as its mark says, or concealed; nothing written is deleted."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from samba_rvss.cli import exposing
from samba_rvss.model import (
    Branch,
    Exposed,
    Foreign,
    Hold,
    Image,
    Inventory,
    Kept,
    Moment,
    SambaState,
    Whose,
)
from samba_rvss.reconcile.decision import (
    Action,
    Conceal,
    DeleteShare,
    Discard,
    Expose,
    Settle,
    Unmount,
)
from samba_rvss.reconcile.observation import Observation
from samba_rvss.reconcile.plan import plan
from tests.unit.test_reconcile_backups import BACKUP, seen
from tests.unit.values import NOW, OPTIONS, image_of, sealed_of

PLACE = "/run/samba-rvss/shared/"
SHARED = Exposed(share="VMs-20240229-235959")
WRITABLE = Exposed(share="VMs-20240229-235959-rw")
PATH, BESIDE = f"{PLACE}VMs/a", f"{PLACE}VMs/b"
HELD = Hold(tag="exposed")
HELD_BESIDE = Hold(tag="writable")


def backup(*holds: Hold, exposed: Exposed | None = None) -> Image:
    """Return the image of a backup."""
    bare = image_of("a", sealed=sealed_of())
    return replace(
        bare, mark=replace(bare.mark, kept=Kept(since=NOW, holds=holds, exposed=exposed))
    )


def branch(exposed: Exposed | None = None, *, ready: bool = True, of: str = "a") -> Image:
    """Return a writable copy of it."""
    bare = image_of("b")
    made = Branch(of=of, ready=ready, exposed=exposed)
    return replace(bare, read_only=False, mark=replace(bare.mark, branch=made))


def look(
    *images: Image,
    shared: dict[str, str] | None = None,
    mounts: tuple[str, ...] = (),
    opened: tuple[str, ...] = (),
    starting: bool = True,
    **more: Any,
) -> Observation:
    """Return an observation."""
    found = seen(BACKUP, images=images, mounts=frozenset(mounts))
    found = replace(found, shared=shared or {}, opened=frozenset(opened), starting=starting)
    return replace(found, **more)


def acts(found: Observation) -> list[type[Action]]:
    """Return what is done, whatever to."""
    return [type(action) for action in plan(found).actions]


AS_IT_IS = look(backup(HELD, exposed=SHARED), shared={SHARED.share: PATH}, mounts=(PATH,))
BOTH = look(
    backup(HELD_BESIDE),
    branch(WRITABLE),
    shared={WRITABLE.share: BESIDE},
    mounts=(BESIDE,),
    opened=(BESIDE,),
)


@pytest.mark.parametrize("found", [AS_IT_IS, BOTH, look(backup(HELD_BESIDE), branch())])
def test_what_is_as_its_mark_says_is_left_alone(found: Observation) -> None:
    assert acts(found) == []
    assert not any(left.wrong for left in plan(found).left_alone)


@pytest.mark.parametrize(
    "found",
    [
        replace(AS_IT_IS, shared={}),
        replace(AS_IT_IS, shared={SHARED.share: PATH, "another": PATH}),
        replace(AS_IT_IS, mounts=frozenset(), directories=frozenset()),
        replace(AS_IT_IS, mounts=frozenset(), directories=frozenset({PATH})),
        replace(AS_IT_IS, mounts=frozenset({PATH, f"{PLACE}VMs/way-G0-O/a"})),
        replace(AS_IT_IS, outdated=frozenset({"a"})),
        replace(BOTH, opened=frozenset()),
        replace(BOTH, shared={}),
    ],
)
def test_what_is_not_as_its_mark_says_is_exposed_again(found: Observation) -> None:
    assert acts(found) == [Expose]


OVER = replace(SHARED, until=NOW - timedelta(seconds=1))


@pytest.mark.parametrize(
    "found",
    [
        replace(AS_IT_IS, unfit={"a": "why"}),
        replace(BOTH, unfit={"b": "why"}),
        look(backup(HELD, exposed=OVER), shared={SHARED.share: PATH}, mounts=(PATH,)),
        look(backup(HELD, exposed=replace(SHARED, ending=True))),
        look(backup(HELD_BESIDE), branch(replace(WRITABLE, until=NOW))),
        look(backup(HELD_BESIDE), branch(replace(WRITABLE, ending=True))),
    ],
)
def test_what_is_over_is_concealed_and_nothing_else(found: Observation) -> None:
    assert acts(found) == [Conceal]


def test_what_will_be_over_is_looked_at_then() -> None:
    until = replace(SHARED, until=NOW + timedelta(minutes=5))
    found = look(backup(HELD, exposed=until), shared={SHARED.share: PATH}, mounts=(PATH,))
    assert acts(found) == []
    assert plan(found).due == 300


def test_a_branch_is_destroyed_only_if_nobody_can_have_written_to_it() -> None:
    begun = look(backup(HELD_BESIDE), branch(WRITABLE, ready=False))
    assert acts(begun) == [Discard]
    assert acts(replace(begun, starting=False)) == []
    part = replace(branch(), complete=False)
    for left in (look(backup(HELD_BESIDE), part), look(backup(), branch(of="x"))):
        assert acts(left) == []
        assert [each.target for each in plan(left).left_alone if each.wrong] == ["b"]
    # Nor is it a shadow copy's, or its backup's, whatever has been lost.
    alone = Observation(
        wall=NOW,
        present=Moment(boot="boot", seconds=1e6),
        options=OPTIONS,
        exposed_directory="/run/samba-rvss/exposed/",
        copies=(),
        inventory=Inventory(file_systems=frozenset({"fs"}), images=(branch(WRITABLE),)),
        samba=SambaState(sets=(), copies=()),
        shares={},
        shared={WRITABLE.share: BESIDE},
        mounts=frozenset({BESIDE}),
        directories=frozenset({BESIDE}),
        opened=frozenset({BESIDE}),
        starting=True,
    )
    assert acts(alone) == []


def test_a_backup_is_held_for_as_long_as_something_is_exposed() -> None:
    assert acts(look(backup(), branch())) == [Settle]
    assert acts(look(backup(HELD_BESIDE))) == [Settle]
    assert acts(look(backup(HELD))) == [Settle]
    strange = Foreign(
        id="x", provider="btrfs", file_system="fs", where="there", whose=Whose.UNKNOWN
    )
    held = look(backup(HELD_BESIDE))
    assert held.inventory is not None
    doubted = replace(held.inventory, foreign=(strange,))
    assert acts(replace(held, inventory=doubted)) == []


def test_a_share_or_a_mount_that_nothing_exposes_goes() -> None:
    stray = look(backup(), shared={"some": PATH}, mounts=(PATH,))
    assert acts(stray) == [Unmount, DeleteShare]
    assert acts(replace(stray, starting=False)) == []
    assert acts(replace(stray, inventory=None)) == []


def test_a_writable_copy_is_shown_after_its_backup() -> None:
    """Also if both were made in one second, so that chance has given it the lower id."""
    first, last = branch(of="c"), replace(backup(exposed=SHARED), id="c")
    assert exposing.of([first, image_of("d"), last]) == [last, first]
