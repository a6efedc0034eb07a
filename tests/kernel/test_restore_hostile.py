"""Restoring where users rename and swap things meanwhile, and what is told of it and done."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies import restoring
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import volume_of
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, reflink, renaming
from samba_rvss.kernel.mounting import umount
from samba_rvss.manifests import tree
from samba_rvss.restore import place, work
from samba_rvss.restore.plan import Overwrite
from samba_rvss.restore.selection import Selection
from samba_rvss.run import run
from tests.kernel.test_manifests import backup, destroy
from tests.kernel.test_restore import btrfs_only, changes, merged, restored

if TYPE_CHECKING:
    from tests.kernel.conftest import Storage

pytestmark = pytest.mark.vm(seconds=2, storage="zfs")


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_place_to_work_in_is_nobody_elses(
    instance: Instance, storage: "Storage", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user puts a directory of root's, which he may rename, where one has just been made."""
    share = storage.volume("vms")
    (share / "roots").mkdir()
    (share / "roots").chmod(0o755)
    (share / "roots" / "file").write_bytes(b"root's")
    mkdir = os.mkdir

    def swapped(path: "str | bytes", mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        name = os.fsencode(path)
        if name.startswith(work.PREFIX):
            renaming.exchange(files.AT_FDCWD, os.fsencode(share / "roots"), dir_fd or 0, name)

    monkeypatch.setattr(os, "mkdir", swapped)
    parent = os.open(share, files.DIRECTORY)
    with files.opened(parent), pytest.raises(RvssError, match="another directory"):
        work.Work(instance.config.state_directory, parent).close()
    monkeypatch.undo()
    work.clear(instance.config.state_directory)
    (found,) = share.glob("*/file")
    assert found.read_bytes() == b"root's"
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o755


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_is_swapped_meanwhile_is_given_back(
    instance: Instance, storage: "Storage", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user saves a file by renaming while it is replaced, and renames what he finds then."""
    share = storage.volume("vms")
    (share / "file").write_bytes(b"looked at")
    exchange = renaming.exchange
    (share / "saved").write_bytes(b"saved meanwhile")

    def raced(source: int, old: bytes, target: int, new: bytes) -> None:
        if (share / "saved").exists():
            (share / "saved").rename(share / "file")
            exchange(source, old, target, new)
            (share / "file").rename(share / "moved")
        else:
            exchange(source, old, target, new)

    with (
        files.opened(os.open(share, files.DIRECTORY)) as around,
        work.Work(instance.config.state_directory, around) as works,
    ):
        name = works.name()
        with files.opened(os.open(name, os.O_CREAT | os.O_RDWR, 0o600, dir_fd=works.fd)):
            pass
        monkeypatch.setattr(renaming, "exchange", raced)
        expected = os.stat(share / "file")
        with pytest.raises(OSError, match="meanwhile"):
            place.replace(works, name, around, b"file", expected)
    assert (share / "file").read_bytes() == b"saved meanwhile"


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_how_new_files_are_written_comes_back(instance: Instance, storage: "Storage") -> None:
    """A directory whose new files are to be written in place, and one that is beside such."""
    share = storage.volume("vms")
    for name in ("in place", "plain"):
        (share / name).mkdir()
    with files.opened(os.open(share / "in place", files.DIRECTORY)) as fd:
        reflink.set_flags(fd, reflink.flags(fd) | reflink.NOCOW)
    part = backup(instance, storage, share)
    found = restored(instance, part)
    for name in ("in place", "plain"):
        with files.opened(os.open(Path(found.where) / name, files.DIRECTORY)) as fd:
            assert bool(reflink.flags(fd) & reflink.NOCOW) == (name == "in place")
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_why_there_is_no_place_to_work_in(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    """Where nothing can be made, that is what is told."""
    share = storage.volume("vms")
    (share / "file").write_bytes(b"content")
    part = backup(instance, storage, share)
    target = rig_directory / "target"
    target.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(target)], timeout=10.0)
    try:
        with pytest.raises(RvssError) as refused:
            restored(instance, part, directory=str(target))
        assert refused.value.problem is Problem.READ_ONLY
    finally:
        umount(str(target))
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_two_names_that_are_one_in_the_target(
    instance: Instance, storage: "Storage", monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where case does not count: the second is told, and the first stays."""
    share = storage.volume("vms")
    (share / "file").write_bytes(b"content")
    part = backup(instance, storage, share)
    names = tree.names
    monkeypatch.setattr(tree, "names", lambda found: [n for n in names(found) for _ in range(2)])
    found = restored(instance, part)
    assert (b"file", "it is not restored: File exists") in found.tally.faults.names
    assert (Path(found.where) / "file").read_bytes() == b"content"
    monkeypatch.undo()
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_was_left_where_nothing_is_now(instance: Instance, storage: "Storage") -> None:
    """It is found again once the directory has its name again, or is mounted again."""
    share = storage.volume("vms")
    state = Path(instance.config.state_directory)
    (share / "here").mkdir()
    parent = os.open(share / "here", files.DIRECTORY)
    with files.opened(parent), work.Work(str(state), parent):
        (record,) = (state / "restores").iterdir()
        told, (left,) = record.read_bytes(), (share / "here").iterdir()
        mark = os.getxattr(left, work.MARK)
    record.write_bytes(told)
    left.mkdir(0o700)
    os.setxattr(left, work.MARK, mark)
    (share / "here").rename(share / "there")
    removed, (failed,) = work.clear(str(state))
    assert removed == []
    assert str(record) in failed
    (share / "there").rename(share / "here")
    assert work.clear(str(state)) == ([str(left)], [])
    assert not record.exists()


def test_what_is_only_told_is_what_is_done(instance: Instance, storage: "Storage") -> None:
    """A directory of which nothing is wanted is not made, and is not said to be."""
    share = storage.volume("vms")
    for name in ("one/disk.vhdx", "two/text", "three/four/disk.vhdx"):
        (share / name).parent.mkdir(parents=True)
        (share / name).write_bytes(b"content")
    part = backup(instance, storage, share)
    run(["rm", "-r", *(str(share / name) for name in ("one", "two", "three"))], timeout=10.0)
    wanted = Selection(["*.vhdx"])
    told = merged(instance, part, share, Overwrite.NEVER, wanted=wanted, dry_run=True)
    assert changes(told) == {b"one": "restored", b"three": "restored"}
    done = merged(instance, part, share, Overwrite.NEVER, wanted=wanted)
    assert changes(done) == changes(told)
    assert sorted(os.listdir(share)) == ["one", "three"]
    destroy(instance, part)


def test_long_names_beside(instance: Instance, storage: "Storage") -> None:
    """What is behind the last dot of a name may be longer than there is room for."""
    share = storage.volume("vms")
    names = [b"a" * 255, b"a." + b"x" * 253, b"a" * 250 + b".vhdx"]
    for name in names:
        (share / os.fsdecode(name)).write_bytes(name)
    part = backup(instance, storage, share)
    for name in names:
        assert Path(restored(instance, part, name).where).read_bytes() == name
    destroy(instance, part)


def test_no_backup_of_what_is_around_meanwhile(instance: Instance, storage: "Storage") -> None:
    """Who restores into a volume in a share keeps backups of the share from being begun."""
    share = storage.volume("vms")
    nested = storage.volume("vms/deep")
    (nested / "file").write_bytes(b"content")
    part = backup(instance, storage, share)
    with files.opened(os.open(nested, files.DIRECTORY)) as fd:
        inner = volume_of(fd, str(nested), instance.providers)
    assert inner is not None
    seen = []

    def reached(point: str) -> None:
        both = (part.volume, inner)
        seen.append([restoring.is_under_way(instance.config, volume) for volume in both])

    restored(instance, part, b"deep/file", reached=reached)
    assert seen
    assert all(seen[0])
    destroy(instance, part)
