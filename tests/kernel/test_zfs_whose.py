"""Whose an image on ZFS is, and where: others' are named and never touched."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity, Mark, Nested, Whose
from samba_rvss.providers import Provider
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from tests.imaging import make_image
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import mark_of, probe, seen, take
from tests.kernel.test_zfs import clone_of, snapshot_of, value, zfs

if TYPE_CHECKING:
    from tests.kernel.conftest import ZfsStorage

pytestmark = [
    pytest.mark.parametrize("storage", ["zfs"], indirect=True),
    pytest.mark.vm(seconds=8),
]


def zpool(*words: str) -> str:
    """Run zpool(8)."""
    return run(["zpool", *words], timeout=60)


def everything(pool: str) -> list[str]:
    """Return all that is in a pool, with holds, marks and what can be written to."""
    columns = f"name,origin,userrefs,readonly,{MARK}"
    return zfs("list", "-H", "-p", "-r", "-t", "all", "-o", columns, pool).splitlines()


def named(provider: Provider) -> dict[str, Whose]:
    """Return what a provider says of what is not its own."""
    return {image.where: image.whose for image in provider.inventory().foreign}


def refuses(provider: Provider, mark: Mark) -> None:
    """Expect that nothing is done with an image."""
    verbs = (
        lambda: provider.open(mark.volume, mark.id),
        lambda: provider.seal(mark.volume, mark.id, SEALED, opened=True),
        lambda: provider.destroy(mark.volume, mark.id),
    )
    for verb in verbs:
        with pytest.raises(RvssError) as caught:
            verb()
        assert caught.value.problem is Problem.BAD_PATH, caught.value


def test_instances_and_machines_leave_each_others_images_alone(storage: "ZfsStorage") -> None:
    """The same paths do not make two instances one, nor one id two machines."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    providers = {
        who: Zfs(Identity(id=who[0], machine=who[1], run_directory="/run/one"))
        for who in (("one", "here"), ("two", "here"), ("one", "there"))
    }
    marks = {who: take(provider, share, Nested.INCLUDE) for who, provider in providers.items()}
    providers["one", "there"].seal(
        marks["one", "there"].volume, marks["one", "there"].id, SEALED, opened=True
    )
    before = everything(storage.pool)
    assert sum(HOME in row for row in before) == 2 + 3 * 2  # with the container
    for who, provider in providers.items():
        inventory = provider.inventory()
        assert [image.mark.id for image in inventory.images] == [marks[who].id]
        theirs = {image.id: image for image in inventory.foreign}
        assert len(inventory.foreign) == len(theirs) == 2
        for other, mark in marks.items():
            if other != who:
                found = theirs[mark.id]
                whose = Whose.INSTANCE if other[0] != who[0] else Whose.MACHINE
                said = (found.whose, found.instance, found.machine, found.where)
                assert said == (whose, *other, snapshot_of(mark))
                sealed = SEALED if other == ("one", "there") else None
                assert found.mark == replace(mark, sealed=sealed)
                assert found.read_only == bool(sealed)
                refuses(provider, mark)
    assert everything(storage.pool) == before
    for who, provider in providers.items():
        provider.destroy(marks[who].volume, marks[who].id)
    assert storage.names() == []


def test_copies_by_hand_are_named_and_left_alone(storage: "ZfsStorage") -> None:
    """Each kind of copy that zfs(8) makes, of an image of which nothing else is wrong."""
    share, other = storage.volume("vms"), storage.volume("other")
    storage.volume("vms/inner")
    (share / "file").write_text("content")
    mark, pool = take(storage.provider, share, Nested.INCLUDE), storage.pool
    dataset, leaf = mark.volume.name, f"rvss-{mark.id}"
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    raw = f"{MARK}={value(snapshot_of(mark), MARK)}"

    zfs("create", f"{dataset}/copied")
    theirs = {
        f"{dataset}@by-hand": Whose.RENAMED,
        f"{storage.dataset(other)}@{leaf}": Whose.RENAMED,
        f"{dataset}/copied@{leaf}": Whose.RENAMED,  # where a nested one would be
    }
    for name in theirs:
        zfs("snapshot", "-o", raw, name)
    zfs("snapshot", f"{clone_of(mark)}@sent")
    for sent, name in ((snapshot_of(mark), "received"), (f"{clone_of(mark)}@sent", "kept")):
        run(["sh", "-c", f"zfs send -p {sent} | zfs receive -u {pool}/{name}"], timeout=60)
    theirs[f"{pool}/received@{leaf}"] = theirs[f"{pool}/kept"] = Whose.CLONE
    run(
        ["sh", "-c", f"zfs send -p {snapshot_of(mark)} | zfs receive -u {pool}/{HOME}/it"],
        timeout=60,
    )
    theirs[f"{pool}/{HOME}/it@{leaf}"] = Whose.CLONE
    zfs("create", "-p", f"{pool}/{HOME}/theirs/too")
    theirs[f"{pool}/{HOME}/theirs"] = theirs[f"{pool}/{HOME}/it"] = Whose.UNKNOWN
    zfs("create", "-o", raw, f"{pool}/set")
    theirs[f"{pool}/set"] = Whose.RENAMED
    before = [row for row in everything(pool) if row.partition("\t")[0] in theirs]
    zfs("snapshot", "-r", f"{pool}@daily")  # these inherit the mark of a clone
    (image,) = storage.provider.inventory().images
    assert (image.mark, image.read_only) == (replace(mark, sealed=SEALED), True)
    assert named(storage.provider) == theirs
    storage.provider.destroy(mark.volume, mark.id)
    assert named(storage.provider) == theirs
    assert [row for row in everything(pool) if row.partition("\t")[0] in theirs] == before


def test_images_of_which_a_part_was_renamed_or_exchanged(storage: "ZfsStorage") -> None:
    """They are no longer what their marks say, and stay as they are."""
    share, other, third = (storage.volume(name) for name in ("vms", "other", "third"))
    provider, pool = storage.provider, storage.pool
    snapshot, clone, exchanged, fine = (take(provider, share) for _ in range(4))
    promoted = take(provider, third)
    for mark in (snapshot, clone, promoted):
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
    zfs("rename", snapshot_of(snapshot), "@rvss-renamed")
    zfs("rename", clone_of(clone), f"{pool}/renamed")
    zfs("promote", clone_of(promoted))
    zfs("destroy", clone_of(exchanged))
    zfs("snapshot", f"{storage.dataset(other)}@theirs")
    zfs("clone", f"{storage.dataset(other)}@theirs", clone_of(exchanged))

    inventory = provider.inventory()
    images = {image.id: (image.complete, image.read_only) for image in inventory.images}
    assert images == {exchanged.id: (False, False), fine.id: (True, False)}
    where = f"{snapshot.volume.name}@rvss-renamed"
    assert named(provider) == {
        where: Whose.RENAMED,
        snapshot_of(clone): Whose.RENAMED,
        f"{clone_of(promoted)}@rvss-{promoted.id}": Whose.RENAMED,
        clone_of(promoted): Whose.RENAMED,
        clone_of(exchanged): Whose.UNKNOWN,
    }
    kept = {image.where: image for image in inventory.foreign if image.read_only}
    assert {where, snapshot_of(clone)} <= kept.keys()
    assert [kept[name].mark for name in (where, snapshot_of(clone))] == [
        replace(mark, sealed=SEALED) for mark in (snapshot, clone)
    ]
    before = everything(pool)
    refuses(provider, snapshot)
    refuses(provider, promoted)
    with pytest.raises(RvssError, match=f"{pool}/renamed is a clone of") as caught:
        provider.destroy(clone.volume, clone.id)
    assert caught.value.problem is Problem.BUSY
    verbs = (
        lambda: provider.open(exchanged.volume, exchanged.id),
        lambda: provider.seal(exchanged.volume, exchanged.id, SEALED, opened=True),
    )
    for verb in verbs:
        with pytest.raises(RvssError) as caught:
            verb()
        assert caught.value.problem is Problem.BAD_PATH
    assert everything(pool) == before
    provider.destroy(exchanged.volume, exchanged.id)
    provider.destroy(fine.volume, fine.id)
    gone = (exchanged.id, fine.id)
    rest = [row for row in before if not any(f"@rvss-{name}\t" in row for name in gone)]
    assert everything(pool) == [row for row in rest if clone_of(fine) not in row]


def test_pools_are_known_by_guid(storage: "ZfsStorage", rig_directory: Path) -> None:
    """Whatever they are called; also where the kernel does not tell their guids (OpenZFS 2.1)."""
    provider = Zfs(Identity(id="one", machine="here"))
    another = Zfs(Identity(id="one", machine="here"), Command(kstat="/nowhere"))
    share, old, new = storage.volume("vms"), storage.pool, f"{storage.pool}-2"
    plain = storage.volume("plain")
    probed = mark_of(probe(provider, plain), plain)
    (storage.volume("vms/inner") / "file").write_text("content")
    mark, cut_off, last = (take(provider, share, Nested.INCLUDE) for _ in range(3))
    guid = guid_of(old)
    assert mark.volume.file_system == guid
    zfs("destroy", "-r", clone_of(cut_off))
    copies = rig_directory / "copies"
    copies.mkdir()
    zpool("export", old)
    run(["cp", "--sparse=always", f"{rig_directory}/pool.img", str(copies)], timeout=60)
    # A copy of it, block by block, gets its name, and it gets another one.
    zpool("import", "-d", str(copies), "-o", "cachefile=none", "-N", old)
    try:
        zpool("reguid", old)
        zpool("import", "-d", str(rig_directory), "-o", "cachefile=none", old, new)
        storage.pool = new
        before = everything(old)
        inventory = provider.inventory()
        assert {guid, guid_of(old), old, new} <= inventory.file_systems
        assert {image.id for image in inventory.images} == {mark.id, cut_off.id, last.id}
        copied = {image.where: (image.whose, image.file_system) for image in inventory.foreign}
        clone = (Whose.CLONE, guid_of(old))
        assert copied == {snapshot_of(made): clone for made in (mark, cut_off, last)}
        with seen(provider, mark, writable=True) as image:
            assert (image / "inner" / "file").read_text() == "content"
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
        assert another.inventory() == provider.inventory()
        another.destroy(mark.volume, mark.id)
        provider.destroy(cut_off.volume, cut_off.id)
        assert storage.names() == [last.id]
        with pytest.raises(RvssError, match=f"the pool of {old}/plain is {new}") as caught:
            make_image(provider, probed)
        assert caught.value.problem is Problem.BAD_PATH
        assert take(provider, share, Nested.INCLUDE).volume.name == f"{new}/vms"
        assert everything(old) == before
    finally:
        zpool("destroy", "-f", old)
    # Nor is it the same pool when it has another guid.
    zpool("reguid", new)
    before = everything(new)
    inventory = provider.inventory()
    assert inventory.images == ()
    assert {image.whose for image in inventory.foreign} == {Whose.CLONE}
    assert guid not in inventory.file_systems
    with pytest.raises(RvssError, match=f"the pool {guid} is not imported") as caught:
        provider.destroy(last.volume, last.id)
    assert caught.value.problem is Problem.NOT_FOUND
    assert everything(new) == before


def guid_of(pool: str) -> str:
    """Return a pool's guid."""
    return zpool("get", "-H", "-o", "value", "guid", pool).strip()


def test_claim(storage: "ZfsStorage") -> None:
    """Cut off anywhere, it can be claimed again, and until then the image is another's."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    mark = take(storage.other, share, Nested.INCLUDE)
    storage.other.seal(mark.volume, mark.id, SEALED, opened=True)
    whole = Zfs(Identity(id="one", machine="here"))
    (found,) = whole.inventory().foreign
    assert found.mark == replace(mark, sealed=SEALED)
    for steps in range(3):
        cut_off = Zfs(Identity(id="one", machine="here"), _Few(left=[steps]))
        with pytest.raises(RvssError, match="enough"):
            cut_off.claim(found.mark)
        inventory = whole.inventory()
        assert inventory.images == ()
        assert inventory.foreign == (found,)
    whole.claim(found.mark)
    inventory = whole.inventory()
    assert inventory.foreign == ()
    assert [(image.mark, image.read_only) for image in inventory.images] == [(found.mark, True)]
    assert [image.id for image in storage.other.inventory().foreign] == [mark.id]
    refuses(storage.other, mark)
    whole.destroy(mark.volume, mark.id)
    assert storage.names() == []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Few(Command):
    """zfs(8) that sets properties only so many times."""

    left: list[int]

    def __call__(self, *words: str) -> str:
        if words[0] == "set":
            if self.left[0] == 0:
                raise RvssError(Problem.SYSTEM, "enough")
            self.left[0] -= 1
        return Command.__call__(self, *words)
