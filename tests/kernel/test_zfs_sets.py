"""Images of several datasets of one pool, taken at once."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting
from samba_rvss.model import Identity, Mark, Nested, Taken, Whose
from samba_rvss.providers import Provider
from samba_rvss.providers.zfs import batch
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.run import run
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import mark_of, probe, seen, take
from tests.kernel.test_zfs import clone_of, properties, snapshot_of, value, zfs

if TYPE_CHECKING:
    from tests.kernel.conftest import ZfsStorage

pytestmark = [
    pytest.mark.parametrize("storage", ["zfs"], indirect=True),
    pytest.mark.vm(seconds=6),
]

NAMES = ("a", "b", "c")


def marks(storage: "ZfsStorage") -> list[Mark]:
    """Return marks for images of shares, the second of which has another dataset in it."""
    made = []
    for number, name in enumerate(NAMES):
        share = storage.volume(name)
        (share / "file").write_text(name)
        nested = Nested.REFUSE
        if name == "b":
            (storage.volume("b/inner") / "file").write_text("inner")
            nested = Nested.INCLUDE
        volume = probe(storage.provider, share, nested)
        storage.provider.ready(volume)
        mark = mark_of(volume, share, nested)
        made.append(replace(mark, id=f"20240229T235959Z-0000000{number}", share=name))
    return made


@contextmanager
def taken(provider: Provider, wanted: list[Mark]) -> Iterator[dict[str, Taken | RvssError]]:
    """Take images, by the names of their shares; their mounts are let go of."""
    made = provider.create(wanted, math.inf)
    try:
        yield {mark.share: made[mark.id] for mark in wanted}
    finally:
        for each in made.values():
            if isinstance(each, Taken):
                with files.all_opened(fd for _, fd in each.mounts):
                    pass


def groups(storage: "ZfsStorage", mark: Mark) -> set[str]:
    """Return the transaction groups of an image's snapshots."""
    rows = zfs("list", "-H", "-p", "-r", "-t", "snapshot", "-o", "name,createtxg", storage.pool)
    found = [row.split("\t") for row in rows.splitlines()]
    return {group for name, group in found if name.endswith(f"@rvss-{mark.id}")}


def fake(directory: Path, refused: str) -> Command:
    """Return a zfs(8) that refuses what matches a pattern of the shell's."""
    path = run(["sh", "-c", "command -v zfs"], timeout=30).strip()
    script = directory / "zfs"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in {refused})\n'
        f"  echo 'Permission denied' >&2; exit 1;; esac\nexec {path} \"$@\"\n"
    )
    script.chmod(0o755)
    return Command(search=f"{directory}:/usr/sbin:/usr/bin:/sbin:/bin", seconds=20)


def remove(storage: "ZfsStorage", wanted: list[Mark]) -> None:
    """Destroy images, each of which is whole."""
    for mark in wanted:
        assert HOLD in zfs("holds", "-H", snapshot_of(mark)).split("\t")
        storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_all_are_of_one_transaction_group(storage: "ZfsStorage") -> None:
    """Each has a mark of its own, and is held; the clones have what is in the shares."""
    wanted = marks(storage)
    with taken(storage.provider, wanted) as made:
        instants = {each.transid for each in made.values() if isinstance(each, Taken)}
        (instant,) = instants
        assert set().union(*(groups(storage, mark) for mark in wanted)) == {str(instant)}
        for mark in wanted:
            image = made[mark.share]
            assert isinstance(image, Taken)
            for below, fd in image.mounts:
                text = Path(f"/proc/self/fd/{fd}", "file").read_text()
                assert text == (below or mark.share)
            assert json.loads(value(snapshot_of(mark), MARK))["id"] == mark.id
            assert HOLD in zfs("holds", "-H", snapshot_of(mark)).split("\t")
        assert [below for below, _ in made["b"].mounts] == ["", "inner"]  # type: ignore[union-attr]
    inner = f"{storage.dataset(storage.top)}/b/inner@rvss-{wanted[1].id}"
    assert HOLD in zfs("holds", "-H", inner).split("\t")
    found = storage.provider.inventory().images
    assert {image.id for image in found if image.complete} == {mark.id for mark in wanted}
    for mark in wanted:
        storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_one_that_fails_harms_no_other(storage: "ZfsStorage") -> None:
    """Whatever the reason; nothing is left of it, and nothing that is not ours goes."""
    wanted = marks(storage)
    others = snapshot_of(wanted[0])
    zfs("snapshot", others)
    zfs("destroy", storage.dataset(storage.top / "c"))
    inner = storage.dataset(storage.top / "b/inner")
    with taken(storage.provider, wanted) as made:
        for name, reason in (("a", "exists"), ("c", "does not exist")):
            failure = made[name]
            assert isinstance(failure, RvssError)
            assert f"cannot take a shadow copy of {storage.top}/{name}" in failure.message
            assert reason in failure.message
        assert isinstance(made["b"], Taken)
    assert zfs("list", "-H", "-o", "name", others).strip() == others
    (image,) = storage.provider.inventory().images
    assert (image.id, image.complete) == (wanted[1].id, True)
    storage.provider.destroy(wanted[1].volume, wanted[1].id)
    # A part of one: nothing is left of its other parts.
    zfs("snapshot", f"{inner}@rvss-{wanted[1].id}")
    with taken(storage.provider, wanted[1::-1]) as made:
        assert all(isinstance(each, RvssError) for each in made.values())
    for theirs in (others, f"{inner}@rvss-{wanted[1].id}"):
        zfs("destroy", theirs)
    assert storage.names() == []


@pytest.mark.parametrize("which", [0, 2])
def test_dataset_that_got_the_name_of_another(storage: "ZfsStorage", which: int) -> None:
    """Of the one that was not checked nothing is kept."""
    wanted = marks(storage)
    dataset = storage.dataset(storage.top / NAMES[which])
    zfs("rename", "-u", dataset, f"{dataset}-before")
    zfs("create", "-o", "mountpoint=none", dataset)
    with taken(storage.provider, wanted) as made:
        for name, each in made.items():
            assert isinstance(each, RvssError if name == NAMES[which] else Taken)
        failure = made[NAMES[which]]
        assert isinstance(failure, RvssError)
        assert failure.problem is Problem.BAD_PATH
    assert zfs("list", "-H", "-t", "snapshot", "-o", "name", dataset) == ""
    for mark in (*wanted[:which], *wanted[which + 1 :]):
        storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.parametrize("refused", ["program", "get"])
def test_what_cannot_be_done_for_all_is_done_for_each(
    storage: "ZfsStorage", tmp_path: Path, refused: str
) -> None:
    """An OpenZFS without such programs; a set of which one share goes away meanwhile."""
    wanted = marks(storage)
    command = fake(tmp_path, rf"{refused}\ *rvss-{wanted[0].id}*rvss-{wanted[2].id}*")
    provider = Zfs(Identity(id="one", machine="here"), command)
    with taken(provider, wanted) as made:
        told = [(mark, made[mark.share]) for mark in wanted]
    # Each by itself may still be in the group of another's: it is told as it is.
    for mark, image in told:
        assert isinstance(image, Taken)
        assert groups(storage, mark) == {str(image.transid)}
    instants = {image.transid for _, image in told if isinstance(image, Taken)}
    assert refused == "program" or len(instants) == 1
    for mark in wanted:
        assert HOLD in zfs("holds", "-H", snapshot_of(mark)).split("\t")
        provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_holds_and_clones_are_made_by_one_program(storage: "ZfsStorage", tmp_path: Path) -> None:
    """None of zfs(8) is for them, but for a clone with nested datasets, which sets properties."""
    wanted = marks(storage)
    inner = f"{storage.dataset(storage.top)}/b/inner@rvss-{wanted[1].id}"
    provider = Zfs(Identity(id="one", machine="here"), fake(tmp_path, r"hold\ *|clone\ [!-]*"))
    with taken(provider, wanted) as made:
        assert all(isinstance(each, Taken) for each in made.values())
    assert HOLD in zfs("holds", "-H", inner).split("\t")
    remove(storage, wanted)


@pytest.mark.parametrize("program", ["raise SystemExit(1)", f"{batch._PROGRAM}\n1 / 0"])
def test_without_such_a_program_zfs_makes_them(
    storage: "ZfsStorage", monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """libzfs_core is not there; or it ends with an error, and what it has told was done."""
    wanted = marks(storage)
    monkeypatch.setattr(batch, "_PROGRAM", program)
    with taken(storage.provider, wanted) as made:
        assert all(isinstance(each, Taken) for each in made.values())
    remove(storage, wanted)


def test_such_a_program_that_does_not_end(
    storage: "ZfsStorage", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has done everything, and is given up: nothing is left of that."""
    wanted, done = marks(storage), tmp_path / "done"
    waits = f"open({str(done)!r}, 'w')\nimport time\ntime.sleep(600)\n"
    monkeypatch.setattr(batch, "_PROGRAM", f"{batch._PROGRAM}\n{waits}")
    provider = Zfs(Identity(id="one", machine="here"), fake(tmp_path, "nothing"))
    with taken(provider, wanted) as made:
        for each in made.values():
            assert isinstance(each, RvssError)
            assert each.problem is Problem.TOOL
            assert each.message.endswith("of 4 snapshots were not there within 20 s")
    assert done.exists()
    assert storage.names() == []


def test_one_goes_away_before_it_is_held(
    storage: "ZfsStorage", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are held and cloned all the same."""
    wanted = marks(storage)
    goes = f"import subprocess\nsubprocess.run(['zfs', 'destroy', {snapshot_of(wanted[0])!r}])\n"
    monkeypatch.setattr(batch, "_PROGRAM", goes + batch._PROGRAM)
    with taken(storage.provider, wanted) as made:
        failure = made[wanted[0].share]
        assert isinstance(failure, RvssError)
        assert failure.problem is Problem.NOT_FOUND
    remove(storage, wanted[1:])


def test_two_shares_of_one_dataset(storage: "ZfsStorage") -> None:
    """ZFS takes one snapshot of a dataset in a transaction group, and one more in the next."""
    share = storage.volume("vms")
    volume = probe(storage.provider, share)
    wanted = [
        replace(mark_of(volume, share), id=f"20240229T235959Z-0000000{number}", share=name)
        for number, name in enumerate(NAMES)
    ]
    with taken(storage.provider, wanted) as made:
        for mark in wanted:
            image = made[mark.share]
            assert isinstance(image, Taken)
            assert groups(storage, mark) == {str(image.transid)}
    assert len({group for mark in wanted for group in groups(storage, mark)}) == len(NAMES)
    for mark in wanted:
        storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_container_follows_its_origin_and_backups_do_not(storage: "ZfsStorage") -> None:
    """A backup has its properties itself, wherever it is moved; a copy keeps those that it had."""
    provider, share = storage.provider, storage.volume("vms")
    dataset = storage.dataset(share)
    zfs("set", "acltype=nfsv4", "recordsize=128K", dataset)
    mark = take(provider, share)
    clone = clone_of(mark)
    container = clone.rpartition("/")[0]
    with seen(provider, mark, writable=True) as image:
        (image / "recovered").write_text("by recovery")
    zfs("set", "acltype=posix", "recordsize=16K", dataset)
    provider.ready(mark.volume)
    assert (value(clone, "acltype"), value(container, "acltype")) == ("nfsv4", "nfsv4")
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    provider.keep(mark.volume, mark.id)
    provider.ready(mark.volume)
    assert (value(container, "acltype"), value(container, "recordsize")) == ("posix", "16384")
    assert (value(clone, "acltype"), value(clone, "recordsize")) == ("nfsv4", "131072")
    assert properties(clone_of(take(provider, share))) == properties(dataset)
    moved = f"{storage.pool}/moved"
    zfs("rename", "-u", clone, moved)
    assert (value(moved, "acltype"), value(moved, "setuid")) == ("nfsv4", "off")
    assert value(moved, "canmount") == "noauto"
    (found,) = [each for each in provider.inventory().foreign if each.id == mark.id]
    assert found.whose is Whose.RENAMED


def test_a_mount_that_is_read_only_does_not_seal(
    storage: "ZfsStorage", rig_directory: Path
) -> None:
    """zfs(8) says of a dataset that is mounted so that it is read-only, whatever it is."""
    mark = take(storage.provider, storage.volume("vms"))
    run(["mount", "-t", "zfs", "-o", "ro", clone_of(mark), str(rig_directory)], timeout=30)
    try:
        assert value(clone_of(mark), "readonly") == "on"
        (found,) = storage.provider.inventory().images
        assert not found.read_only
    finally:
        mounting.umount(str(rig_directory))
    storage.provider.destroy(mark.volume, mark.id)


def test_containers_of_datasets_that_are_gone(storage: "ZfsStorage") -> None:
    """They go when another one is made; one with something in it stays, and what is not ours."""
    first = take(storage.provider, storage.volume("a"))
    other = take(storage.provider, storage.volume("b"))
    home = clone_of(first).rsplit("/", 2)[0]
    theirs = f"{home}/1234"
    zfs("create", theirs)
    for mark in (first, other):
        storage.provider.destroy(mark.volume, mark.id)
    zfs("destroy", first.volume.name)
    take(storage.provider, storage.volume("c"))
    there = zfs("list", "-H", "-d", "1", "-o", "name", home).split()
    assert f"{home}/{first.volume.id}" not in there
    assert {f"{home}/{other.volume.id}", theirs} <= set(there)
