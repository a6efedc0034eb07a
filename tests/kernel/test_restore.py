"""Restoring from backups on real file systems: what comes back, and what a kill leaves."""

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.copies import manifests, reading, restore, restoring
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.restore import Outcome, Wish
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, reflink
from samba_rvss.kernel.mounting import umount
from samba_rvss.manifests import chunks
from samba_rvss.manifests.entry import BEYOND, LIMIT
from samba_rvss.manifests.make import Progress
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.model import ShadowCopy
from samba_rvss.restore import merge, work
from samba_rvss.restore.build import Source
from samba_rvss.restore.plan import Overwrite, State
from samba_rvss.restore.selection import Selection
from samba_rvss.restore.tally import Tally
from samba_rvss.run import run
from tests.kernel.test_manifests import LINE_BREAK, backup, deep, destroy, many, sparse

if TYPE_CHECKING:
    from tests.kernel.conftest import BtrfsStorage, Storage

pytestmark = pytest.mark.vm(seconds=5, storage="zfs")

btrfs_only = pytest.mark.parametrize("storage", ["btrfs"], indirect=True)

GUARD = "guard"
EVERYTHING = Selection()


def restored(
    instance: Instance,
    part: ShadowCopy,
    path: bytes = b"",
    overwrite: Overwrite | None = None,
    wanted: Selection = EVERYTHING,
    reached: Callable[[str], None] = lambda point: None,
    **more: Any,
) -> Outcome:
    """Restore something."""
    wish = Wish(part=part, path=path, wanted=wanted, overwrite=overwrite, **more)
    return restore.restore(instance, wish, Tally(), lambda: GUARD, reached)


def tree_of(top: Path) -> dict[str, tuple[Any, ...]]:
    """Return all of a tree that is to come back, by the paths; hard links are told by groups."""
    found: dict[str, tuple[Any, ...]] = {}
    groups: dict[int, str] = {}
    for path in sorted([top, *top.rglob("*")]):
        name = os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")
        status = path.lstat()
        many = status.st_nlink > 1 and not path.is_dir()
        raw = f"/proc/self/fd/{(fd := os.open(path, os.O_PATH | os.O_NOFOLLOW))}"
        attributes = {each: os.getxattr(raw, each) for each in os.listxattr(raw)}
        os.close(fd)
        found[name] = (
            oct(status.st_mode),
            (status.st_uid, status.st_gid, status.st_rdev),
            status.st_mtime_ns,
            attributes,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
            os.readlink(path) if path.is_symlink() else "",
            groups.setdefault(status.st_ino, name) if many else "",
        )
    return found


def furnish(share: Path) -> None:
    """Make all that a share can hold."""
    (share / "file").write_bytes(b"content")
    os.setxattr(share / "file", "user.DosStream.one:$DATA", b"stream")
    os.setxattr(share / "file", "user.DOSATTRIB", b"attributes")
    os.setxattr(share / "file", "security.NTACL", b"an ACL")
    os.link(share / "file", share / "linked")
    (share / "empty").touch()
    (share / "deep" / "er").mkdir(parents=True)
    (share / "deep" / "er" / "Übung 日本.txt").write_bytes(b"name")
    os.link(share / "file", share / "deep" / "linked as well")
    (share / "link").symlink_to("/etc/passwd")
    os.chown(share / "link", 3, 4, follow_symlinks=False)
    os.mkfifo(share / "fifo")
    os.mknod(share / "device", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(share / "socket"))
    (share / "setuid").write_bytes(b"x")
    os.chown(share / "setuid", 1, 2)
    (share / "setuid").chmod(0o6755)
    sparse(share / "disk", 3 * chunks.SIZE + 5, 1)
    run(["setfacl", "-m", "u:1:r", str(share / "empty")], timeout=30.0)
    run(["setfacl", "-m", "d:u:1:rwx", str(share / "deep")], timeout=30.0)
    for path in (share / "deep" / "er", share / "deep", share):
        os.utime(path, ns=(5, 123_456_789))


def test_all_comes_back_as_it_was(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    """By reflink on btrfs, and copied on ZFS; compared with the image, and with a manifest."""
    share = storage.volume("vms")
    furnish(share)
    # Not UTF-8: a dataset with utf8only would not take it.
    Path(os.fsdecode(os.fsencode(share) + b"/" + LINE_BREAK)).write_bytes(b"odd")
    os.utime(share, ns=(5, 123_456_789))
    before = tree_of(share)
    part = backup(instance, storage, share)
    storage.volume("elsewhere")
    target = storage.mount("elsewhere", rig_directory / "elsewhere")
    found = restored(instance, part, directory=str(target))
    assert found.where == str(target / "vms")
    assert not found.by_manifest
    # Through another mount nothing gets rights that it has in its share.
    told = dict(found.tally.notes.names)
    assert set(told) == {b"setuid", b"device"}
    assert found.tally.faults.names == []
    after = tree_of(target / "vms")
    assert after["setuid"][0] == oct(0o100755)
    assert "device" not in after
    expected = {name: value for name, value in before.items() if name not in ("setuid", "device")}
    assert {name: after[name] for name in expected} == expected
    with pytest.raises(RvssError) as refused:
        restored(instance, part, directory=str(target))
    assert refused.value.problem is Problem.BAD_PATH
    # The way to its own place is another.
    manifests.make(instance, part, Progress(), anew=True)
    for path in (b"deep", b"setuid", b"device", b"link", b"disk", b"file"):
        found = restored(instance, part, path)
        assert found.tally.faults.names == []
        assert found.by_manifest
        made = Path(found.where)
        assert made.parent == share
        name = path.decode()
        again = tree_of(made)
        if path == b"deep":
            below = {f"deep/{each}".removesuffix("/."): value for each, value in again.items()}
            assert {n: v[:-1] for n, v in below.items()} == {n: before[n][:-1] for n in below}
        else:
            assert again["."][:-1] == before[name][:-1]
    disk = restored(instance, part, b"disk")
    assert Path(disk.where).name == f"disk.restored-{part.id.partition('-')[0]}-2"
    assert os.stat(disk.where).st_blocks == os.stat(share / "disk").st_blocks
    how = (disk.tally.shared, disk.tally.copied)
    assert how == ((1, 0) if instance.providers[0].name == "btrfs" else (0, 1))
    links = restored(instance, part, b"file").tally.notes.names
    assert links == [(b"file", "2 of its 3 names (hard links) are not restored with it")]
    assert [each for each in os.listdir(share) if each.startswith(work.PREFIX.decode())] == []
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_part_of_a_share_elsewhere(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    """What is wanted, and the way to it as it was; where nothing is, nothing is made."""
    share = storage.volume("vms")
    (share / "deep" / "er").mkdir(parents=True)
    (share / "deep" / "notes[1].txt").write_bytes(b"1")
    (share / "other").mkdir(mode=0o710)
    share.chmod(0o750)
    os.utime(share, ns=(5, 123_456_789))
    part = backup(instance, storage, share)
    target = rig_directory / "elsewhere"
    target.mkdir()
    before = tree_of(share)
    for wanted in (Selection(["nothing"]), Selection(exclude=["*"], include=["*"])):
        for dry_run in (True, False):
            found = restored(
                instance, part, b"", None, wanted, directory=str(target), dry_run=dry_run
            )
            assert (found.where, found.tally.faults.names, list(target.iterdir())) == ("", [], [])
            assert found.tally.states[State.RESTORED] == 0
    found = restored(instance, part, b"", None, Selection(["NOTES[1].txt"]), directory=str(target))
    assert (found.where, found.tally.faults.names) == (str(target / "vms"), [])
    names = (".", "deep", "deep/notes[1].txt")
    assert tree_of(target / "vms") == {name: before[name] for name in names}
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_where_nothing_can_be_made_nothing_is_left(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    share = storage.volume("vms")
    (share / "file").write_bytes(b"1")
    part = backup(instance, storage, share)
    target = rig_directory / "elsewhere"
    target.mkdir()
    run(["mount", "--bind", str(target), str(target)], timeout=30.0)
    run(["mount", "-o", "remount,bind,ro", str(target)], timeout=30.0)
    try:
        with pytest.raises(RvssError) as refused:
            restored(instance, part, b"file", directory=str(target))
    finally:
        umount(str(target))
    assert refused.value.problem is Problem.READ_ONLY
    assert os.listdir(f"{instance.config.state_directory}/restores") == []
    target.rmdir()
    assert restored(instance, part, b"file").warnings == ()
    destroy(instance, part)


def merged(
    instance: Instance,
    part: ShadowCopy,
    share: Path,
    overwrite: Overwrite,
    path: bytes = b"",
    wanted: Selection = EVERYTHING,
    *,
    dry_run: bool = False,
    reached: Callable[[str], None] = lambda point: None,
) -> Tally:
    """Restore something in its own place."""
    tally = Tally()
    with manifests.opened(instance, part) as image, ExitStack() as closing:
        root = os.open(share, os.O_RDONLY | os.O_DIRECTORY)
        closing.callback(os.close, root)
        config = instance.config
        manifest = None
        if manifests.exists(config, part.id):
            manifest = closing.enter_context(Manifest(manifests.path(config, part.id), part.id))
        merge.merge(
            Source(root=image, wanted=wanted, trusted=True, tally=tally),
            merge.Target(
                root=root,
                state=config.state_directory,
                overwrite=overwrite,
                dry_run=dry_run,
                in_use=lambda device, inode: False,
                manifest=manifest,
                reached=reached,
            ),
            path,
        )
    return tally


def changes(tally: Tally) -> dict[bytes, str]:
    """Return what became of names, by the names."""
    return dict(tally.changes.names)


@pytest.mark.parametrize("gone", ["before", "zafter", "before/below"])
def test_a_name_that_is_gone_is_the_file_again_that_others_are(
    instance: Instance, storage: "Storage", gone: str
) -> None:
    """Wherever a file system lists it: before others, after them, or in what is gone itself."""
    share = storage.volume("vms")
    path = share / gone
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"one")  # its directory lists it first
    os.link(path, share / "file")
    (share / "deep").mkdir()
    os.link(path, share / "deep" / "linked")
    before = tree_of(share)
    part = backup(instance, storage, share)
    run(["rm", "-r", str(share / gone.partition("/")[0])], timeout=30.0)
    told = merged(instance, part, share, Overwrite.IF_CHANGED)
    assert changes(told) == {b"": "updated", os.fsencode(gone.partition("/")[0]): "restored"}
    assert {name: each[-1] for name, each in tree_of(share).items()} == {
        name: each[-1] for name, each in before.items()
    }


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_directory_that_is_made_meanwhile_is_told(instance: Instance, storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "first").write_bytes(b"1")  # it is listed first
    (share / "second").mkdir()
    (share / "second" / "file").write_bytes(b"2")
    part = backup(instance, storage, share)
    run(["rm", "-r", str(share / "first"), str(share / "second")], timeout=30.0)

    def reached(point: str) -> None:
        if point == "restore.made":
            (share / "second").mkdir(exist_ok=True)

    told = merged(instance, part, share, Overwrite.IF_CHANGED, reached=reached)
    assert [path for path, _ in told.faults.names] == [b"second"]
    assert merged(instance, part, share, Overwrite.IF_CHANGED).faults.names == []
    assert (share / "second" / "file").read_bytes() == b"2"
    destroy(instance, part)


def test_in_its_own_place(instance: Instance, storage: "Storage", rig_directory: Path) -> None:
    """What is missing and what is different, and nothing else; whatever users have put there."""
    share = storage.volume("vms")
    furnish(share)
    before = tree_of(share)
    part = backup(instance, storage, share)
    assert changes(merged(instance, part, share, Overwrite.IF_CHANGED)) == {}
    assert tree_of(share) == before
    outside = rig_directory / "outside"
    outside.mkdir()
    (outside / "er").mkdir()
    same = os.stat(share / "disk")
    with (share / "disk").open("r+b") as disk:  # other content, and nothing else to be seen of it
        disk.seek(2 * chunks.SIZE)
        disk.write(b"X")
    os.utime(share / "disk", ns=(same.st_atime_ns, same.st_mtime_ns))
    (share / "fifo").unlink()
    (share / "empty").chmod(0o600)
    run(["rm", "-r", str(share / "deep")], timeout=30.0)
    (share / "deep").symlink_to(outside)
    (share / "setuid").unlink()
    (share / "setuid").mkdir()
    (share / "new").write_bytes(b"new")
    os.utime(share, ns=(5, 123_456_789))
    present = tree_of(share)
    expected = {
        b"disk": "updated",
        b"fifo": "restored",
        b"empty": "updated",
        b"deep": "updated",
        b"setuid": "in the way",
    }
    told = merged(instance, part, share, Overwrite.IF_CHANGED, dry_run=True)
    assert changes(told) == expected
    assert tree_of(share) == present
    assert changes(merged(instance, part, share, Overwrite.NEVER))[b"fifo"] == "restored"
    assert stat.S_ISFIFO((share / "fifo").lstat().st_mode)
    (share / "fifo").unlink()
    with (share / "disk").open("rb"):
        told = merged(instance, part, share, Overwrite.IF_CHANGED, b"disk")
        assert changes(told) == {b"disk": "in use"}
    told = merged(instance, part, share, Overwrite.ALWAYS, wanted=Selection(["FIFO", "er/*"]))
    assert changes(told) == {b"fifo": "restored"}
    told = merged(instance, part, share, Overwrite.IF_CHANGED)
    assert [path for path, _ in told.faults.names] == [b"setuid"]
    after = tree_of(share)
    assert after.pop("new")[4] == b"new"
    assert list((outside / "er").iterdir()) == []
    (share / "setuid").rmdir()
    (share / "new").unlink()
    assert changes(merged(instance, part, share, Overwrite.IF_CHANGED))[b"setuid"] == "restored"
    assert tree_of(share) == before
    told = merged(instance, part, share, Overwrite.ALWAYS)
    assert tree_of(share) == before
    assert told.states[State.UPDATED] == len([share, *share.rglob("*")])
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_is_damaged_replaces_nothing(instance: Instance, storage: "Storage") -> None:
    share = storage.volume("vms")
    sparse(share / "disk", 3 * chunks.SIZE + 5, 1)
    part = backup(instance, storage, share)
    manifests.make(instance, part, Progress(), anew=True)
    with closing(sqlite3.connect(manifests.path(instance.config, part.id))) as database:
        database.execute("UPDATE chunk SET digests = zeroblob(length(digests))")
        database.commit()
    (share / "disk").write_bytes(b"present")
    told = merged(instance, part, share, Overwrite.ALWAYS)
    assert (share / "disk").read_bytes() == b"present"
    assert {path for path, _ in told.faults.names} == {b"disk"}
    found = restored(instance, part, b"disk")
    assert Path(found.where).stat().st_size == 3 * chunks.SIZE + 5
    assert found.tally.faults.count > 0
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_volumes_in_it_and_no_room(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    share = storage.volume("vms")
    (storage.volume("vms/deep") / "file").write_bytes(os.urandom(2 << 20))
    part = backup(instance, storage, share)
    found = restored(instance, part)
    assert found.where == f"{share}.restored-{part.id.partition('-')[0]}"
    assert found.tally.notes.names == [(b"deep", "it was a volume of its own, and is a directory")]
    same = (Path(found.where) / "deep" / "file").read_bytes()
    assert same == (share / "deep" / "file").read_bytes()
    (share / "deep" / "file").write_bytes(b"present")  # in a volume of its own
    assert changes(merged(instance, part, share, Overwrite.ALWAYS))[b"deep/file"] == "updated"
    assert (share / "deep" / "file").read_bytes() == same
    small = rig_directory / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], timeout=10.0)
    with pytest.raises(RvssError) as refused:
        restored(instance, part, directory=str(small))
    assert refused.value.problem is Problem.NO_SPACE
    assert list(small.iterdir()) == []
    run(["mount", "-o", "remount,size=64m", str(small)], timeout=10.0)
    found = restored(instance, part, directory=str(small))
    assert (found.tally.faults.names, found.tally.shared, found.tally.copied) == ([], 0, 1)
    assert (small / "vms" / "deep" / "file").read_bytes() == same
    umount(str(small))
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_how_data_is_written_comes_back(instance: Instance, storage: "Storage") -> None:
    """Files that are written in place are so again, or their data could not be shared."""
    share = storage.volume("vms")
    for name in ("in place", "plain"):
        (share / name).touch()
        with (share / name).open("r+b") as file:
            if name == "in place":
                reflink.set_flags(file.fileno(), reflink.flags(file.fileno()) | reflink.NOCOW)
            file.write(os.urandom(1 << 20))
    part = backup(instance, storage, share)
    found = restored(instance, part)
    assert (found.tally.shared, found.tally.copied) == (2, 0)
    for name in ("in place", "plain"):
        with (Path(found.where) / name).open("rb") as file:
            is_in_place = bool(reflink.flags(file.fileno()) & reflink.NOCOW)
        assert is_in_place == (name == "in place")
    destroy(instance, part)


@pytest.mark.vm(seconds=0)
@btrfs_only
def test_kills_leave_nothing_by_halves(
    instance: Instance, storage: "BtrfsStorage", rig_directory: Path
) -> None:
    """At each named point: what has its name is whole, and the next one clears what is left."""
    share = storage.volume("vms")
    for name in ("directory/one", "directory/two", "file"):
        (share / name).parent.mkdir(exist_ok=True)
        (share / name).write_bytes(b"before")
    part = backup(instance, storage, share)
    state = Path(instance.config.state_directory)
    for how, path in (("beside", b"directory"), ("in place", b"file")):
        for step in range(len(restore.POINTS)):
            (share / "file").write_bytes(b"present")
            words = [str(step), how, os.fsdecode(path), part.id, str(share), str(state)]
            words += [storage.identity.id, f"{rig_directory}/ledger.db"]
            argv = [sys.executable, "-m", "tests.kernel.killed_restore", *words]
            done = subprocess.run(argv, cwd=Path(__file__).parents[2], check=False, timeout=60)
            assert done.returncode == -signal.SIGKILL
            is_last = step == len(restore.POINTS) - 1
            assert (share / "file").read_bytes() in (b"present", b"before")
            names = {name for name in os.listdir(share) if name.startswith("directory.")}
            for name in names:
                assert sorted(os.listdir(share / name)) == ["one", "two"]
            assert bool(names) == (how == "in place" or is_last)
            left = [name for name in os.listdir(share) if name.startswith(".rvss-restore-")]
            assert len(left) == 1
            assert os.stat(share / left[0]).st_mode & 0o777 == 0o700
            removed, failed = work.clear(str(state))
            assert (removed, failed) == ([str(share / left[0])], [])
            assert not (share / left[0]).exists()
            assert list((state / "restores").iterdir()) == []
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_is_not_ours_stays(instance: Instance, storage: "Storage") -> None:
    """A user puts something of his in the place of what a killed restore has left."""
    share = storage.volume("vms")
    state = instance.config.state_directory
    parent = os.open(share, os.O_RDONLY | os.O_DIRECTORY)
    with work.Work(state, parent):
        assert work.clear(state) == ([], [])  # somebody works there
        (token,) = os.listdir(f"{state}/restores")
        record = Path(state, "restores", token)
        told = record.read_bytes()
    os.close(parent)
    assert os.listdir(share) == os.listdir(record.parent) == []
    place = share / f".rvss-restore-{token}"
    for owner in (0, 1):
        record.write_bytes(told)
        place.mkdir(0o700, exist_ok=True)
        os.chown(place, owner, owner)
        (place / "file").write_bytes(b"a user's")
        assert work.clear(state) == ([], [])
        assert (place / "file").read_bytes() == b"a user's"
        assert not record.exists()


@pytest.mark.vm(seconds=5, long=True, storage="zfs")
def test_no_backup_meanwhile(instance: Instance, storage: "Storage") -> None:
    """Neither is one begun, nor is one deleted; a shadow copy that a client takes is told of."""
    share = storage.volume("vms")
    part = backup(instance, storage, share)
    config, volume = instance.config, part.volume
    assert not restoring.is_under_way(config, volume)
    with restoring.restoring(config, volume):
        assert restoring.is_under_way(config, volume)
        for refused in (restoring.undisturbed(config, volume), reading.barred(instance, part)):
            with pytest.raises(RvssError) as told, refused:
                pass
            assert told.value.problem is Problem.BUSY
    with restoring.undisturbed(config, volume), restoring.undisturbed(config, volume):
        with pytest.raises(RvssError) as told, restoring.restoring(config, volume):
            pass
        assert told.value.problem is Problem.BUSY
    with reading.barred(instance, part):
        pass
    destroy(instance, part)


@pytest.mark.vm(seconds=5, long=True, storage="zfs")
def test_no_backup_of_what_is_around_meanwhile(instance: Instance, storage: "Storage") -> None:
    """What is restored into a nested volume is in a backup of the outer one as well."""
    share = storage.volume("vms")
    (share / "file").write_bytes(b"content")
    inner = storage.volume("vms/inner")
    other = storage.volume("vms/other")
    part = backup(instance, storage, share)
    config, volume = instance.config, part.volume
    seen = []

    def reached(point: str) -> None:
        if point != "restore.built":
            return
        seen.append(restoring.is_under_way(config, volume))
        for refused in (restoring.undisturbed(config, volume), reading.barred(instance, part)):
            with pytest.raises(RvssError, match="being restored into") as told, refused:
                pass
            assert told.value.problem is Problem.BUSY
        if len(seen) == 1:  # whoever restores into another one is not in the way
            restored(instance, part, b"file", directory=str(other), reached=reached)

    restored(instance, part, b"file", directory=str(inner), reached=reached)
    assert seen == [True, True]
    assert (inner / "file").exists()
    assert (other / "file").exists()
    with (
        restoring.undisturbed(config, volume),
        pytest.raises(RvssError, match="with what is nested in it"),
    ):
        restored(instance, part, b"file", directory=str(inner))
    destroy(instance, part)


@pytest.mark.vm(seconds=5, long=True, storage="zfs")
def test_deep_trees(instance: Instance, storage: "Storage") -> None:
    """Deeper than Python recurses, and deeper than a path is long."""
    share = storage.volume("vms")
    top = os.open(share, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=top)
        below = os.open("deep", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    part = backup(instance, storage, share)
    found = restored(instance, part, b"deep")
    assert found.tally.states[State.RESTORED] == 1500
    assert found.tally.faults.names == []
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_more_attributes_than_can_be_listed(instance: Instance, storage: "Storage") -> None:
    """What protects the file comes back; what does not is told, and replaces nothing."""
    share = storage.volume("vms")
    many(share / "file")
    (share / "file").write_bytes(b"content")
    os.setxattr(share / "file", "security.NTACL", b"an ACL")
    os.setxattr(share / "file", "user.DOSATTRIB", b"hidden")
    part = backup(instance, storage, share)
    found = restored(instance, part, b"file")
    why = [what for _, what in found.tally.faults.names]
    assert why == [
        "of its extended attributes, more than the kernel lists, it has few here",
        "metadata: xattrs",
    ]
    assert Path(found.where).read_bytes() == b"content"
    assert set(os.listxattr(found.where)) == {"security.NTACL", "user.DOSATTRIB"}
    tally = merged(instance, part, share, Overwrite.IF_CHANGED, b"file")
    assert tally.states[State.UNCHANGED] == 1
    (share / "file").write_bytes(b"another")
    tally = merged(instance, part, share, Overwrite.IF_CHANGED, b"file")
    assert (share / "file").read_bytes() == b"another"
    assert "it is not restored, and what is there stays" in [w for _, w in tally.faults.names]
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_lies_deep_comes_back_in_its_place(instance: Instance, storage: "Storage") -> None:
    """Also where the first that is missing is in a directory that no path leads to."""
    share = storage.volume("vms")
    name = b"/".join([b"d" * 250] * 20 + [b"file"])
    with deep(share, 20) as inner, files.opened(os.open("file", os.O_CREAT, dir_fd=inner)):
        pass
    with deep(share, LIMIT // 251 + 3):
        pass
    part = backup(instance, storage, share)
    with deep(share, 20) as inner:
        os.unlink("file", dir_fd=inner)
        tally = merged(instance, part, share, Overwrite.IF_CHANGED)
        states = {name: "restored", name.removesuffix(b"/file"): "updated", b"": "updated"}
        assert changes(tally) == states
        assert stat.S_ISREG(os.stat("file", dir_fd=inner).st_mode)
    assert [what for _, what in tally.faults.names] == [BEYOND]
    for path in (name, name.removesuffix(b"/file")):
        with pytest.raises(RvssError, match="more than 4095 bytes") as refused:
            restored(instance, part, path)
        assert refused.value.problem is Problem.BAD_PATH
    found = restored(instance, part, name, directory=str(share))
    assert found.tally.faults.names == []
    assert os.path.exists(share / "file")
    assert merged(instance, part, share, Overwrite.ALWAYS, name).states[State.UPDATED] == 1
    destroy(instance, part)
