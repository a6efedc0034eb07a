"""Marks as text: what one release wrote, the next ones read."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.model import Mark, Nested, Volume
from samba_rvss.providers.mark import decode, encode

BTRFS = Volume(
    provider="btrfs",
    file_system="0e9d0b7c-0000-4000-8000-000000000001",
    id="257",
    name="vms",
    directory="some where/Ünder\n\t",
    inode=256,
)
ZFS = Volume(
    provider="zfs",
    file_system="a:pool with blanks",
    id="10904942806786661919",
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


def read_by_an_older_daemon(text: str, instance: str, provider: str) -> tuple[Mark, str] | None:
    """Read a mark as the first releases do, which look at its key alone: do not change it."""
    try:
        data = json.loads(text)
        if data["version"] != 1 or data["instance"] != instance:
            return None
        name = data["name"]
        key = data.get("key") or f"{provider}:{name.partition('/')[0]}:"
        kind, _, rest = key.partition(":")
        if kind != provider:
            raise ValueError(key)
        volume = Volume(
            provider=provider,
            file_system=rest.rpartition(":")[0],
            id=key.rpartition(":")[2],
            name=name,
            directory=data["directory"],
            inode=data["inode"],
        )
        mark = Mark(
            id=data["id"],
            share=data["share"],
            share_path=data["share_path"],
            volume=volume,
            created=datetime.fromisoformat(data["created"]),
            nested=Nested(data["nested"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return mark, key


_text = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
_volumes = st.builds(
    Volume,
    provider=st.sampled_from(["btrfs", "zfs"]),
    file_system=st.text("abz09_-.: ", min_size=1, max_size=12),
    id=st.integers(0, 2**64 - 1).map(str) | st.just(""),
    name=_text,
    directory=_text,
    inode=st.integers(0, 2**64 - 1),
)
_marks = st.builds(
    Mark,
    id=_text,
    share=_text,
    share_path=_text,
    volume=_volumes,
    created=st.datetimes(timezones=st.just(UTC)),
    nested=st.sampled_from(Nested),
)


@given(_marks, st.dictionaries(_text.map("x-{}".format), st.none() | st.integers() | _text))
def test_old_and_new_read_each_other(mark: Mark, more: dict[str, object]) -> None:
    """A daemon that is put back reads what the newer one wrote, and what comes later is read."""
    provider = mark.volume.provider
    new = json.loads(encode(mark, "one"))
    old = {key: new[key] for key in json.loads(OLD_BTRFS)}
    key = f"{provider}:{mark.volume.file_system}:{mark.volume.id}"
    for data in (new, {**new, **more}, old, {**old, **more}):
        text = json.dumps(data)
        assert decode(text, "one", provider) == mark
        assert read_by_an_older_daemon(text, "one", provider) == (mark, key)
    assert mark.volume.key == key


def test_what_says_more_is_preferred() -> None:
    data = {**json.loads(encode(mark_of(ZFS), "one")), "key": "zfs:elsewhere:1"}
    assert decode(json.dumps(data), "one", "zfs") == mark_of(ZFS)
    del data["key"]
    assert decode(json.dumps(data), "one", "zfs") == mark_of(ZFS)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"provider": "ext4"},
        {"provider": None},
        {"file_system": 7},
        {"volume_id": 7},
        {"volume_id": None},
    ],
)
def test_new_form_that_cannot_be_read_is_left_alone(change: dict[str, object]) -> None:
    data = {**json.loads(encode(mark_of(ZFS), "one")), **change}
    assert decode(json.dumps(data), "one", "zfs") is None


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
