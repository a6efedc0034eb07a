"""Room for one more shadow copy: what is refused, and what is said before it hurts."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from samba_rvss.copies import room
from samba_rvss.copies.room import Space
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, Share
from samba_rvss.samba.options import OPTIONS
from tests.unit.values import copy_of

MIB = 1 << 20
SHARE = Share(name="vms", path="/srv/vms", maximum_copies=4, minimum_free=100 * MIB)
PLENTY = Space(free=1000 * MIB, size=10_000 * MIB)


def refused(function: Callable[..., None], share: Share, *arguments: object) -> RvssError:
    """Return what is refused."""
    with pytest.raises(RvssError) as caught:
        function(share, *arguments)
    return caught.value


def test_many_copies() -> None:
    room.refuse_many(SHARE, 3)
    error = refused(room.refuse_many, SHARE, 4)
    assert error.problem is Problem.LIMIT
    assert "[vms] has 4 shadow copies, and 'rvss:maximum copies' allows 4" in error.message
    room.refuse_many(replace(SHARE, maximum_copies=0), 100_000)
    assert room.warning(SHARE, 2, PLENTY) == ""
    assert "3 of at most 4 shadow copies" in room.warning(SHARE, 3, PLENTY)


@pytest.mark.parametrize(
    ("share", "floor"),
    [
        (SHARE, 100 * MIB),
        (replace(SHARE, minimum_free=0, minimum_free_percent=2.5), 250 * MIB),
        (replace(SHARE, minimum_free_percent=2.5), 250 * MIB),
        (replace(SHARE, minimum_free_percent=0.5), 100 * MIB),
    ],
)
def test_little_space(share: Share, floor: int) -> None:
    room.refuse_full(share, replace(PLENTY, free=floor))
    error = refused(room.refuse_full, share, replace(PLENTY, free=floor - 1))
    assert error.problem is Problem.NO_SPACE
    assert f"'rvss:minimum free' wants {floor // MIB}.0 MiB" in error.message
    assert room.warning(share, 0, replace(PLENTY, free=2 * floor)) == ""
    assert "free on its file system" in room.warning(share, 0, replace(PLENTY, free=2 * floor - 1))


def test_no_floor_is_no_floor() -> None:
    share = replace(SHARE, minimum_free=0)
    room.refuse_full(share, replace(PLENTY, free=0))
    assert room.warning(share, 0, replace(PLENTY, free=0)) == ""


def test_backups_that_hold_space_are_named() -> None:
    full = RvssError(Problem.NO_SPACE, "it is full", "free some space")
    kept = [
        replace(copy_of(name, Phase.KEPT), share_path=path, set_id=of)
        for name, path, of in (("a", SHARE.path, "1"), ("b", "/srv/logs", "1"), ("c", "/", "2"))
    ]
    assert "kept backups, 2 of them" in room.explained(full, SHARE, kept).line()
    assert room.explained(full, SHARE, kept[1:]) is full
    other = RvssError(Problem.BUSY, "it is busy")
    assert room.explained(other, SHARE, kept) is other


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("maximum copies", "0", 0),
        ("maximum copies", " 250 ", 250),
        ("minimum free", "0", 0),
        ("minimum free", "4096", 4096),
        ("minimum free", "1.5 G", 3 << 29),
        ("minimum free", "20MiB", 20 * MIB),
        ("minimum free", "2 t", 2 << 40),
        ("minimum free percent", "5 %", 5.0),
        ("minimum free percent", "0.5", 0.5),
    ],
)
def test_values(option: str, text: str, value: float) -> None:
    assert OPTIONS[option].parse(text) == value


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("maximum copies", "-1"),
        ("maximum copies", "many"),
        ("minimum free", "5 %"),
        ("minimum free", "1 X"),
        ("minimum free percent", "100"),
        ("minimum free percent", "-5"),
    ],
)
def test_wrong_values(option: str, text: str) -> None:
    with pytest.raises(ValueError, match="wanted"):
        OPTIONS[option].parse(text)
