"""Marks as text: what one release wrote, the next ones read."""

import json
from datetime import UTC, datetime

import pytest

from samba_rvss.model import Mark, Nested, Volume
from samba_rvss.providers.mark import decode, encode

BTRFS = Volume(
    provider="btrfs",
    file_system="0e9d0b7c-0000-4000-8000-000000000001",
    key="btrfs:0e9d0b7c-0000-4000-8000-000000000001:257",
    name="vms",
    directory="some where/Ünder\n\t",
    inode=256,
)
ZFS = Volume(
    provider="zfs",
    file_system="a:pool with blanks",
    key="zfs:a:pool with blanks:10904942806786661919",
    name="a:pool with blanks/vms",
    directory="",
    inode=34,
)


def mark_of(volume: Volume) -> Mark:
    """Return a mark with everything in it."""
    return Mark(
        id="20240229T235959Z-01234567",
        share="vms",
        share_path="/srv/vms",
        volume=volume,
        created=datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
        nested=Nested.INCLUDE,
    )


@pytest.mark.parametrize("volume", [BTRFS, ZFS])
def test_mark_is_read_as_it_was_written(volume: Volume) -> None:
    mark = mark_of(volume)
    text = encode(mark, "one")
    assert text.isascii()
    assert text.isprintable()
    assert decode(text, "one", volume.provider) == mark
    assert decode(text.encode(), "one", volume.provider) == mark


def test_marks_of_others_are_none() -> None:
    text = encode(mark_of(ZFS), "one")
    assert decode(text, "two", "zfs") is None
    assert decode(text, "one", "btrfs") is None


OLD_BTRFS = (
    '{"version": 1, "instance": "one", "id": "20240229T235959Z-01234567", "share": "vms",'
    ' "share_path": "/srv/vms", "key": "btrfs:0e9d0b7c-0000-4000-8000-000000000001:257",'
    ' "name": "vms", "directory": "a", "inode": 256, "created": "2024-02-29T23:59:59+00:00",'
    ' "nested": "refuse"}'
)
OLD_ZFS = (
    '{"version": 1, "instance": "one", "id": "20240229T235959Z-01234567", "share": "vms",'
    ' "share_path": "/srv/vms", "name": "tank/vms", "directory": "a", "inode": 34,'
    ' "created": "2024-02-29T23:59:59+00:00", "nested": "include"}'
)


def test_forms_that_were_written_before() -> None:
    """These texts are on disks: do not change them."""
    btrfs, zfs = decode(OLD_BTRFS, "one", "btrfs"), decode(OLD_ZFS, "one", "zfs")
    assert btrfs is not None
    assert zfs is not None
    assert (btrfs.volume.file_system, btrfs.volume.key) == (BTRFS.file_system, BTRFS.key)
    assert (zfs.volume.file_system, zfs.volume.key) == ("tank", "zfs:tank:")
    assert (btrfs.nested, zfs.nested) == (Nested.REFUSE, Nested.INCLUDE)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"id": None, "created": None},
        {"name": 7, "key": None},
        {"nested": "sometimes"},
        {"key": "ext4:1:2"},
    ],
)
def test_what_cannot_be_read_is_left_alone(change: dict[str, object]) -> None:
    text = json.dumps({**json.loads(OLD_ZFS), **change})
    assert decode(text, "one", "zfs") is None


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "7", '"text"', "{}"])
def test_what_is_no_mark_is_left_alone(text: str) -> None:
    assert decode(text, "one", "zfs") is None
