"""Marks as text: what one release wrote, the next ones read."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.model import (
    Branch,
    Exposed,
    Hold,
    Identity,
    Keep,
    Kept,
    Mark,
    Nested,
    Sealed,
    SetState,
    Volume,
    Whose,
)
from samba_rvss.providers.mark import BARE, Marked, decode, encode

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


OURS = Identity(id="0" * 32, machine="a machine", run_directory="/run/samba-rvss")


def found(text: str | bytes, provider: str) -> Marked:
    """Return a mark that can be read."""
    marked = decode(text, provider)
    assert marked is not None
    return marked


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
@pytest.mark.parametrize("state", [None, SetState.RECOVERED])
def test_mark_is_read_as_it_was_written(volume: Volume, state: SetState | None) -> None:
    sealed = Sealed(
        set_id="{set}", copy_id="{copy}", context=0x400009, exposed_share="vms@{copy}", state=state
    )
    when = datetime(2026, 12, 31, tzinfo=UTC)
    kept = Kept(since=when, tags=("a", "b"), holds=(Hold(tag="c"), Hold(tag="d", until=when)))
    known = replace(sealed, uid=1000, shares=3, keep=Keep.RECOVERED)
    exposed = Exposed(share="Архив-1", account="DOM\\hv$", uid=7, until=when, ending=True)
    bare = mark_of(volume)
    for mark in (
        bare,
        replace(bare, sealed=sealed),
        replace(bare, sealed=replace(known, transid=1 << 40, taken=when)),
        replace(bare, sealed=replace(known, transid=0, taken=when)),
        replace(bare, sealed=known, kept=Kept()),
        replace(bare, sealed=known, kept=kept),
        replace(bare, sealed=known, kept=replace(kept, exposed=exposed)),
        replace(bare, branch=Branch(of="image")),
        replace(bare, branch=Branch(of="image", ready=True, exposed=exposed)),
    ):
        text = encode(mark, OURS, {"parts": [["a", 1]]})
        assert text.isascii()
        assert text.isprintable()
        for raw in (text, text.encode()):
            assert found(raw, volume.provider) == Marked(
                mark=mark,
                instance=OURS.id,
                machine=OURS.machine,
                more={"parts": [["a", 1]]},
            )
        assert found(encode(mark, OURS), volume.provider).more == {}


def test_mark_that_older_daemons_leave_alone() -> None:
    """They know the first version and no other."""
    text = encode(mark_of(ZFS), OURS, {"snapshots": 1}, version=BARE)
    assert json.loads(text)["version"] != json.loads(encode(mark_of(ZFS), OURS))["version"] == 1
    read = found(text, "zfs")
    assert (read.mark, read.more) == (mark_of(ZFS), {"snapshots": 1})


def test_marks_of_other_file_systems_are_none() -> None:
    assert decode(encode(mark_of(ZFS), OURS), "btrfs") is None


NAMED = Identity(id="0" * 32, machine="a machine", name="pair", run_directory="/run/samba-rvss")


@pytest.mark.parametrize(
    ("identity", "instance", "machine", "whose"),
    [
        (OURS, "0" * 32, "a machine", Whose.OURS),
        (OURS, "0" * 32, "", Whose.MACHINE),
        (OURS, "0" * 32, "a second", Whose.MACHINE),
        (OURS, "1" * 32, "a machine", Whose.INSTANCE),
        (OURS, "name:pair", "", Whose.INSTANCE),
        (OURS, "/run/samba-rvss", "", Whose.FORMER),
        (OURS, "/run/samba-rvss", "a machine", Whose.INSTANCE),
        (OURS, "/run/another", "", Whose.INSTANCE),
        (OURS, "", "", Whose.INSTANCE),
        (NAMED, "name:pair", "", Whose.OURS),
        (NAMED, "name:pair", "a machine", Whose.INSTANCE),
        (NAMED, "name:another", "", Whose.INSTANCE),
        (NAMED, "0" * 32, "a machine", Whose.OURS),
        (NAMED, "0" * 32, "a second", Whose.MACHINE),
        (Identity(id=""), "", "", Whose.INSTANCE),
        (Identity(id="", machine="a machine"), "", "a machine", Whose.INSTANCE),
        (Identity(id="", run_directory="/run/x"), "/run/x", "", Whose.FORMER),
    ],
)
def test_whose_an_image_is(identity: Identity, instance: str, machine: str, whose: Whose) -> None:
    assert identity.whose(instance, machine) is whose


def test_what_we_write_is_ours() -> None:
    for identity in (OURS, NAMED):
        marked = found(encode(mark_of(ZFS), identity), "zfs")
        assert identity.whose(marked.instance, marked.machine) is Whose.OURS


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
    btrfs, zfs = found(OLD_BTRFS, "btrfs").mark, found(OLD_ZFS, "zfs").mark
    assert {found(OLD_BTRFS, "btrfs").instance, found(OLD_ZFS, "zfs").instance} == {"one"}
    assert found(OLD_BTRFS, "btrfs").machine == found(OLD_ZFS, "zfs").machine == ""
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
    new = json.loads(encode(mark, Identity(id="one")))
    old = {key: new[key] for key in json.loads(OLD_BTRFS)}
    key = f"{provider}:{mark.volume.file_system}:{mark.volume.id}"
    for data in (new, {**new, **more}, old, {**old, **more}):
        text = json.dumps(data)
        assert found(text, provider).mark == mark
        assert read_by_an_older_daemon(text, "one", provider) == (mark, key)
    assert mark.volume.key == key


def test_what_says_more_is_preferred() -> None:
    data = {**json.loads(encode(mark_of(ZFS), OURS)), "key": "zfs:elsewhere:1"}
    assert found(json.dumps(data), "zfs").mark == mark_of(ZFS)
    del data["key"]
    assert found(json.dumps(data), "zfs").mark == mark_of(ZFS)


_SEALED = {"set_id": "", "copy_id": "", "context": 0, "exposed_share": "", "state": None}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"provider": "ext4"},
        {"provider": None},
        {"file_system": 7},
        {"volume_id": 7},
        {"volume_id": None},
        {"instance": 7},
        {"machine": None},
        {"sealed": {"state": 5}},
        {"sealed": "yes"},
        {"sealed": {**_SEALED, "context": 1 << 32}},
        {"sealed": {**_SEALED, "context": float("inf")}},
        {"share": None},
        {"share_path": 7},
        {"directory": ["a"]},
        {"inode": "34"},
        {"created": "2024-02-29T23:59:59"},
        {"more": ["parts"]},
    ],
)
def test_new_form_that_cannot_be_read_is_left_alone(change: dict[str, object]) -> None:
    data = {**json.loads(encode(mark_of(ZFS), OURS)), **change}
    assert decode(json.dumps(data), "zfs") is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"id": None, "created": None},
        {"name": 7, "key": None},
        {"nested": "sometimes"},
        {"key": "ext4:1:2"},
    ],
)
def test_what_cannot_be_read_is_left_alone(change: dict[str, object]) -> None:
    text = json.dumps({**json.loads(OLD_ZFS), **change})
    assert decode(text, "zfs") is None


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "7", '"text"', "{}", pytest.param("[" * 8000, id="deep")]
)
def test_what_is_no_mark_is_left_alone(text: str) -> None:
    assert decode(text, "zfs") is None
