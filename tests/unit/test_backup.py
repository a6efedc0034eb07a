"""Backups as people see them: of which parts, how consistent, and what keeps prune off them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from samba_rvss.copies.backup import backups, of_shares
from samba_rvss.model import (
    Context,
    Hold,
    Image,
    Keep,
    Kept,
    Nested,
    Phase,
    SetState,
    ShadowCopy,
    Share,
)
from tests.unit.values import COPY_ID, NOW, SET, copy_of, image_of, sealed_of


def part_of(name: str, share: str = "VMs", phase: Phase = Phase.KEPT) -> ShadowCopy:
    """Return a part of the one set, of two copies."""
    return replace(
        copy_of(name, phase),
        share=share,
        set_id=SET,
        copy_id=COPY_ID,
        state=SetState.RECOVERED,
        set_size=2,
    )


def kept_image(name: str, *tags: str, holds: tuple[Hold, ...] = ()) -> Image:
    """Return the image of such a part."""
    image = image_of(name, sealed=replace(sealed_of(), keep=Keep.RECOVERED))
    kept = Kept(since=NOW, tags=tags, holds=holds)
    return replace(image, mark=replace(image.mark, kept=kept))


PARTS = (part_of("a"), part_of("b", "logs"))
IMAGES = (kept_image("a", "offsite", "seen"), kept_image("b", "seen"))


def test_a_set_is_one_backup() -> None:
    held = kept_image("b", "seen", holds=(Hold(tag="audit"),))
    (found,) = backups(PARTS, {}, (IMAGES[0], held))
    assert (found.shares, found.is_consistent, found.seen) == (("VMs", "logs"), True, True)
    assert found.tags == frozenset({"seen"})
    assert [hold.tag for hold in found.holds] == ["audit"]
    assert not found.damaged
    assert not found.unfinished


@pytest.mark.parametrize(
    ("sizes", "volumes", "size"),
    [((1, 2), "xy", 3), ((0, 0), "xy", 0), ((1, None), "xy", None), ((1, 2), "xx", None)],
    ids=["both", "nothing", "one is not known", "they may share"],
)
def test_the_size_of_all_of_it(
    sizes: tuple[int | None, int | None], volumes: str, size: int | None
) -> None:
    parts = [
        replace(part, volume=replace(part.volume, id=name))
        for part, name in zip(PARTS, volumes, strict=True)
    ]
    images = [replace(image, size=each) for image, each in zip(IMAGES, sizes, strict=True)]
    (found,) = backups(parts, {}, images)
    assert (found.size, found.sizes.get("a")) == (size, sizes[0])


@pytest.mark.parametrize(
    ("parts", "others", "images", "missing"),
    [
        (PARTS[:1], (), IMAGES[:1], "1 of the shares of its set were not kept"),
        (PARTS[:1], (part_of("b", phase=Phase.GONE),), IMAGES[:1], "1 of the shares of its set"),
        ((replace(PARTS[0], set_size=0),), (), IMAGES[:1], "how many shares its set had is not"),
        ((PARTS[0], replace(PARTS[1], state=SetState.EXPOSED)), (), IMAGES, "never said Recovery"),
        ((PARTS[0], replace(PARTS[1], context=Context.NO_WRITERS)), (), IMAGES, "no writers took"),
        (PARTS, (), (IMAGES[0], replace(IMAGES[1], complete=False)), "a part of its image is"),
        (PARTS, (), (IMAGES[0], replace(IMAGES[1], read_only=False)), "made it writable"),
    ],
    ids=["alone", "one is gone", "unknown", "unrecovered", "no writers", "incomplete", "writable"],
)
def test_what_is_not_consistent_says_so(
    parts: tuple[ShadowCopy, ...],
    others: tuple[ShadowCopy, ...],
    images: tuple[Image, ...],
    missing: str,
) -> None:
    (found,) = backups(parts, {SET: others}, images)
    assert missing in found.missing
    assert not found.is_consistent
    assert found.damaged == ("image" in missing or "writable" in missing)


@pytest.mark.parametrize("phase", Phase)
def test_a_set_of_which_a_part_is_to_come_is_unfinished(phase: Phase) -> None:
    if phase is not Phase.KEPT:
        (found,) = backups(PARTS[:1], {SET: (part_of("b", phase=phase),)}, IMAGES[:1])
        assert found.unfinished == (phase not in (Phase.DELETING, Phase.GONE))


def test_what_is_damaged_or_of_the_future_is_no_newest_one() -> None:
    share = Share(name="vms", path="/srv/vms", nested=Nested.REFUSE, backup_warn_age=3600.0)
    found = [
        replace(backups(PARTS, {}, IMAGES)[0], parts=(replace(PARTS[0], created=NOW + shift),))
        for shift in (timedelta(hours=-3), timedelta(hours=-2), timedelta(days=9))
    ]
    found[1] = replace(found[1], damaged=True)
    (of,) = of_shares(found, (share,), NOW)
    assert (of.count, of.newest) == (3, NOW - timedelta(hours=3))
    assert of.is_stale(NOW)
