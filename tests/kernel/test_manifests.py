"""Manifests of backups on real file systems: what is in them, what is taken over, what is told."""

import hashlib
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies import manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import chunks
from samba_rvss.manifests.diff import Change, How, changes
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.entry import LIMIT, UNLISTED, Entry, Kind
from samba_rvss.manifests.make import Progress, fill
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.subset import WHOLE, parse
from samba_rvss.manifests.verify import Difference, compare
from samba_rvss.model import Nested, Phase, ShadowCopy
from samba_rvss.run import run
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import take

if TYPE_CHECKING:
    from tests.kernel.conftest import BtrfsStorage, Storage

pytestmark = pytest.mark.vm(seconds=5, storage="zfs")

btrfs_only = pytest.mark.parametrize("storage", ["btrfs"], indirect=True)

LINE_BREAK = b"line\nbreak \xff"
LATER = timedelta(minutes=10)  # of a backup: what was written before it is old enough
SOON = timedelta(minutes=1)  # a write may have begun before it, and ended after it


def backup(
    instance: Instance, storage: "Storage", share: Path, later: timedelta = LATER
) -> ShadowCopy:
    """Make a backup of a directory that says that it was made some minutes after it was."""
    mark = take(storage.provider, share, Nested.INCLUDE)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
    part = ShadowCopy(
        id=mark.id,
        share=share.name,
        share_path=str(share),
        volume=mark.volume,
        created=datetime.now(UTC) + later,
        phase=Phase.KEPT,
        path=f"/{mark.id}",
        set_id=mark.id,
    )
    instance.ledger.add(part, "create")
    return part


def made(instance: Instance, part: ShadowCopy, *, anew: bool = False) -> manifests.About:
    """Make a manifest."""
    return manifests.make(instance, part, Progress(), anew=anew)


def entries(instance: Instance, part: ShadowCopy) -> dict[bytes, Entry]:
    """Return what a manifest has, by the paths."""
    with Manifest(manifests.path(instance.config, part.id), part.id) as manifest:
        return {entry.path: entry for entry in manifest.entries()}


def verified(
    instance: Instance, part: ShadowCopy, against: Path | None = None
) -> dict[bytes, Difference]:
    """Return what is different, by the paths."""
    with Manifest(manifests.path(instance.config, part.id), part.id) as manifest:
        if against is None:
            with manifests.opened(instance, part) as root:
                found = list(compare(manifest, root, Progress()))
        else:
            root = os.open(against, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = list(compare(manifest, root, Progress(), elsewhere=True))
            finally:
                os.close(root)
    return {each.path: each for each in found}


def destroy(instance: Instance, *parts: ShadowCopy) -> None:
    """Remove the images of backups."""
    for part in parts:
        instance.provider(part.volume).destroy(part.volume, part.id)


def sparse(path: Path, size: int, *written: int) -> None:
    """Make a file of so many bytes with data in the chunks of these numbers."""
    with path.open("wb") as file:
        file.truncate(size)
        for number in written:
            file.seek(number * chunks.SIZE)
            file.write(b"data of chunk %d" % number)


def test_all_that_a_tree_can_hold(instance: Instance, storage: "Storage") -> None:
    """Hostile names, kinds that must not be opened, attributes, holes, links, nested volumes."""
    share = storage.volume("vms")
    nested = storage.volume("vms/deep")
    (nested / "file").write_bytes(b"nested")
    (share / "file").write_bytes(b"content")
    os.setxattr(share / "file", "user.DosStream.one", b"stream")
    os.setxattr(share / "file", "security.NTACL", b"an ACL")
    (share / "empty").touch()
    os.link(share / "file", share / "linked")
    (share / "link").symlink_to("/etc/passwd")
    (share / "out").symlink_to("..")
    os.mkfifo(share / "fifo")
    os.mknod(share / "device", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(share / "socket"))
    (Path(os.fsdecode(os.fsencode(share) + b"/" + LINE_BREAK))).write_bytes(b"odd")
    sparse(share / "disk", 3 * chunks.SIZE + 5, 1)
    run(["setfacl", "-m", "u:1:r", str(share / "empty")], timeout=30.0)
    part = backup(instance, storage, share)
    about = made(instance, part)
    assert (about.unreadable, about.reused) == (0, 0)
    found = entries(instance, part)
    kinds = {path: entry.kind.value for path, entry in found.items()}
    assert kinds == {
        b"": "d",
        b"deep": "d",
        b"deep/file": "f",
        b"device": "c",
        b"disk": "f",
        b"empty": "f",
        b"fifo": "p",
        b"file": "f",
        LINE_BREAK: "f",
        b"link": "l",
        b"linked": "f",
        b"out": "l",
        b"socket": "s",
    }
    assert found[b"link"].target == b"/etc/passwd"
    assert found[b"device"].device == os.makedev(1, 3)
    file = found[b"file"]
    assert file.digest == found[b"linked"].digest == hashlib.sha256(b"content").digest()
    assert file.inode == found[b"linked"].inode
    assert file.acl
    assert file.xattrs
    assert found[b"empty"].acl
    assert not found[b"empty"].xattrs
    assert found[b"empty"].digest == hashlib.sha256().digest()
    content = (share / "disk").read_bytes()
    pieces = [content[at : at + chunks.SIZE] for at in range(0, len(content), chunks.SIZE)]
    digests = [hashlib.sha256(piece).digest() for piece in pieces]
    told = [bytes([0] * 7 + [number]) + digests[number] for number in (1, 3)]  # 0 and 2 are zeroes
    assert found[b"disk"].digest == hashlib.sha256(b"".join(told)).digest()
    assert about.size == len(b"nested" + b"content" * 2 + b"odd") + len(content)
    with Manifest(manifests.path(instance.config, part.id), part.id) as manifest:
        assert list(manifest.runs(found[b"disk"])) == [(1, b"".join(digests[1:]))]
    assert verified(instance, part) == {}
    assert os.stat(manifests.path(instance.config, part.id)).st_mode & 0o777 == 0o600
    destroy(instance, part)


def test_what_has_not_changed_is_not_read_again(instance: Instance, storage: "Storage") -> None:
    share = storage.volume("vms")
    size = 2 * chunks.SIZE
    for name in ("same", "touched", "attributes"):
        sparse(share / name, size, 0, 1)
    for name in ("written", "back", "gone"):
        (share / name).write_bytes(b"before")
    first = backup(instance, storage, share)
    assert made(instance, first).reused == 0
    (share / "written").write_bytes(b"after")
    stamp = os.stat(share / "back")
    (share / "back").write_bytes(b"AFTER!")  # as long as it was, and as old as it seems
    os.utime(share / "back", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.utime(share / "touched")
    os.setxattr(share / "attributes", "user.one", b"new")
    (share / "gone").unlink()
    (share / "new").write_bytes(b"new")
    second = backup(instance, storage, share)
    about = made(instance, second)
    assert about.reused == 1
    assert verified(instance, second) == {}
    paths = [manifests.path(instance.config, part.id) for part in (first, second)]
    with Manifest(paths[0], first.id) as before, Manifest(paths[1], second.id) as after:
        found = list(changes(before, after))
        assert list(changes(after, after)) == []
    assert found == [
        Change(path=b"attributes", how=How.METADATA, fields=("xattrs",)),
        Change(path=b"back", how=How.CONTENT, size=6),
        Change(path=b"gone", how=How.REMOVED, size=6),
        Change(path=b"new", how=How.ADDED, size=3),
        Change(path=b"touched", how=How.METADATA, fields=("mtime",)),
        Change(path=b"written", how=How.CONTENT, size=5),
    ]
    assert made(instance, second, anew=True).reused == 0
    # What was changed shortly before a backup has to be read.
    early = backup(instance, storage, share, SOON)
    assert made(instance, early).reused == 0
    destroy(instance, first, second, early)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_is_nested_is_read_again(instance: Instance, storage: "Storage") -> None:
    """Anybody can put another snapshot in its place, whose files have what a stat(2) tells."""
    share = storage.volume("vms")
    (storage.volume("vms/deep") / "file").write_bytes(b"nested")
    (share / "file").write_bytes(b"content")
    first, second = (backup(instance, storage, share) for _ in range(2))
    made(instance, first)
    assert made(instance, second).reused == 1
    assert entries(instance, first)[b"deep/file"] == entries(instance, second)[b"deep/file"]
    destroy(instance, first, second)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_damage_is_named(instance: Instance, storage: "Storage", rig_directory: Path) -> None:
    """In a copy elsewhere: each thing that can be different, and what is the same is not told."""
    share = storage.volume("vms")
    for name in ("bytes", "short", "mode", "missing", "kind", "same"):
        sparse(share / name, 3 * chunks.SIZE, 0, 2)
    (share / "link").symlink_to("here")
    (share / "directory").mkdir()
    part = backup(instance, storage, share)
    made(instance, part)
    copy = rig_directory / "copy"
    run(["cp", "-a", "--sparse=always", str(share), str(copy)], timeout=60.0)
    assert verified(instance, part, copy) == {}
    with (copy / "bytes").open("r+b") as file:
        file.seek(2 * chunks.SIZE + 3)
        file.write(b"X")
    os.truncate(copy / "short", 5)
    (copy / "mode").chmod(0o777)
    (copy / "missing").unlink()
    (copy / "kind").unlink()
    os.mkfifo(copy / "kind")
    (copy / "link").unlink()
    (copy / "link").symlink_to("there")
    shutil.rmtree(copy / "directory")
    (copy / "directory").symlink_to("/etc")  # whose files are none of the share's
    (copy / "extra").touch()
    run(["touch", "-r", str(share), str(copy)], timeout=30.0)
    for name in ("bytes", "short"):
        run(["touch", "-r", str(share / name), str(copy / name)], timeout=30.0)
    run(["touch", "-h", "-r", str(share / "link"), str(copy / "link")], timeout=30.0)
    offset = 2 * chunks.SIZE
    detail = f"1 of its 3 chunks, at byte {offset}"
    assert verified(instance, part, copy) == {
        each.path: each
        for each in (
            Difference(path=b"bytes", what="content", detail=detail, offset=offset),
            Difference(path=b"short", what="content", detail="it has 5 bytes, and had 12582912"),
            Difference(path=b"mode", what="metadata", detail="mode"),
            Difference(path=b"missing", what="missing"),
            Difference(path=b"kind", what="content", detail="it is a fifo, and was a file"),
            Difference(path=b"link", what="content", detail="it leads elsewhere"),
            Difference(
                path=b"directory", what="content", detail="it is a link, and was a directory"
            ),
            Difference(path=b"extra", what="extra"),
        )
    }
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_subset_reads_a_part_of_it(instance: Instance, storage: "Storage") -> None:
    """All parts together are everything; metadata is compared in any case."""
    share = storage.volume("vms")
    for number in range(40):
        (share / f"file{number}").write_bytes(b"content")
    part = backup(instance, storage, share)
    made(instance, part)
    reads = []
    for chosen in (WHOLE, parse("1/3"), parse("2/3"), parse("3/3")):
        progress = Progress()
        with (
            Manifest(manifests.path(instance.config, part.id), part.id) as manifest,
            manifests.opened(instance, part) as root,
        ):
            assert list(compare(manifest, root, progress, chosen)) == []
        assert progress.entries == 41
        reads.append(progress.read)
    assert reads[0] == sum(reads[1:]) == 280
    assert all(0 < read < 280 for read in reads[1:])
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_terabyte_of_nothing(instance: Instance, storage: "Storage") -> None:
    """Holes cost neither time nor memory; only what is there is read."""
    share = storage.volume("vms")
    sparse(share / "disk", 1 << 40, 0, (1 << 40) // chunks.SIZE - 1)
    part = backup(instance, storage, share)
    assert made(instance, part).size == 1 << 40
    assert verified(instance, part) == {}
    path = manifests.path(instance.config, part.id)
    with Manifest(path, part.id) as manifest:
        found = manifest.get(b"disk")
        assert found is not None
        runs = [(first, len(digests)) for first, digests in manifest.runs(found)]
        assert runs == [(0, chunks.LENGTH), ((1 << 40) // chunks.SIZE - 1, chunks.LENGTH)]
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_cannot_be_listed_or_opened_is_named(instance: Instance, storage: "Storage") -> None:
    """A path that is too long for the kernel stops nothing; nor does a time in 30,000 years.

    Whoever has made such ones keeps nobody from reading them, and keeps no alarm up.
    """
    share = storage.volume("vms")
    os.utime(share, ns=(0, (1 << 40) * 10**9))
    levels = LIMIT // 251 + 3
    with deep(share, levels) as last, deep(share, 20) as inner:
        for fd in (last, inner):
            with files.opened(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) as file:
                os.write(file, b"content")
    (share / "z").write_bytes(b"z")
    part = backup(instance, storage, share)
    about = made(instance, part)
    told = (about.entries, about.files, about.unreadable, about.left_out)
    assert told == (1 + LIMIT // 251 + 1 + 2, 2, 0, 1)
    assert verified(instance, part) == {}
    inside = b"/".join([b"d" * 250] * 20 + [b"file"])
    assert entries(instance, part)[inside].digest == hashlib.sha256(b"content").digest()
    with deep(share, 20) as inner:
        with files.opened(os.open("file", os.O_WRONLY, dir_fd=inner)) as file:
            os.write(file, b"CONTENT")
        os.rename("file", "other", src_dir_fd=inner, dst_dir_fd=inner)
        os.link("other", "file", src_dir_fd=inner, dst_dir_fd=inner)
    found = {path: each.what for path, each in verified(instance, part, share).items()}
    name = inside.removesuffix(b"file")
    assert found[inside] == "content"
    assert found[name + b"other"] == "extra"
    assert len(found) == 2 + 1  # and the mtime of the directory
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_one_inode_number_in_several_volumes(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    """Files of two snapshots of one subvolume are not one file, whatever their numbers say."""
    share = storage.volume("vms")
    one = storage.volume("vms/one")
    for name in ("a", "b", "c"):
        os.makedirs(one / name)
    (one / "a" / "file").write_bytes(b"content")
    (one / "b" / "file").hardlink_to(one / "a" / "file")
    run(["btrfs", "subvolume", "snapshot", str(one), str(share / "two")], timeout=30.0)
    part = backup(instance, storage, share)
    made(instance, part)
    assert {entry.volume for entry in entries(instance, part).values()} == {0, 1, 2}
    target = rig_directory / "copy"
    run(["cp", "-a", str(share), str(target)], timeout=30.0)
    assert verified(instance, part, target) == {}
    copied = target / "two" / "b" / "file"
    copied.unlink()
    copied.hardlink_to(target / "one" / "a" / "file")
    os.utime(copied.parent, ns=(0, (share / "two" / "b").stat().st_mtime_ns))
    found = verified(instance, part, target)
    why = "it is the same file as one/a/file, and was the same as two/a/file"
    assert {path: each.detail for path, each in found.items()} == {b"two/b/file": why}
    shutil.rmtree(target)
    run(["btrfs", "subvolume", "delete", str(share / "two")], timeout=30.0)
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_more_attributes_than_can_be_listed(instance: Instance, storage: "Storage") -> None:
    """Users choose how many there are: that is told once, and ACLs are compared."""
    share = storage.volume("vms")
    many(share / "file")
    with pytest.raises(OSError, match="too long"):
        os.listxattr(share / "file")
    os.setxattr(share / "file", "security.NTACL", b"an ACL")
    part = backup(instance, storage, share)
    about = made(instance, part)
    assert (about.unreadable, about.left_out) == (0, 1)
    with Manifest(manifests.path(instance.config, part.id), part.id) as manifest:
        (told,) = manifest.faults()
    assert (told.path, told.xattrs, told.fault) == (b"file", UNLISTED, "")
    assert len(told.acl) == hashlib.sha256().digest_size
    assert verified(instance, part) == {}
    assert verified(instance, part, share) == {}
    os.setxattr(share / "file", "security.NTACL", b"another")
    assert verified(instance, part, share)[b"file"].detail == "acl"
    (share / "file").unlink()
    (share / "file").touch()
    assert "xattrs" in verified(instance, part, share)[b"file"].detail
    destroy(instance, part)


def many(path: Path) -> None:
    """Make a file with more extended attributes than listxattr(2) tells."""
    path.touch()
    for number in range(300):
        os.setxattr(path, f"user.{number:0250}", b"x")


@contextmanager
def deep(top: Path, levels: int) -> Iterator[int]:
    """Have a descriptor of a directory that so many are above; those that are missing are made."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        with suppress(FileExistsError):
            os.mkdir("d" * 250, dir_fd=fd)
        below = os.open("d" * 250, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    with files.opened(fd):
        yield fd


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_killed_at_any_moment(
    instance: Instance, storage: "BtrfsStorage", rig_directory: Path
) -> None:
    """The next attempt goes on; nothing half is taken for whole; nothing keeps the backup."""
    share = storage.volume("vms")
    for number in range(3):
        (share / f"file{number}").write_bytes(b"content")
    sparse(share / "disk", 2 * chunks.SIZE, 1)
    part = backup(instance, storage, share)
    directory = instance.config.run_directory

    def killed_at(step: int) -> bool:
        words = [
            str(step),
            "manifest",
            storage.identity.id,
            f"{rig_directory}/ledger.db",
            directory,
        ]
        argv = [sys.executable, "-m", "tests.kernel.cut_off", *words]
        done = subprocess.run(argv, cwd=Path(__file__).parents[2], check=False, timeout=60)
        assert done.returncode in (0, -signal.SIGKILL)
        return done.returncode != 0

    for step in range(1, 2000, 9):
        killed = killed_at(step)
        if manifests.exists(instance.config, part.id):
            assert verified(instance, part) == {}
            manifests.forget(instance.config, part.id)
        if not killed:
            break
    assert 40 < step < 1000
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_an_interrupted_one_goes_on_where_it_was(instance: Instance, storage: "Storage") -> None:
    """What stands in the draft is not read again, to the chunk; and there is one maker."""
    share = storage.volume("vms")
    sparse(share / "disk", 300 * chunks.SIZE, 0, 299)
    (share / "file").write_bytes(b"content")
    part = backup(instance, storage, share)
    made(instance, part)
    right = entries(instance, part)
    whole = Path(manifests.path(instance.config, part.id))
    with Manifest(str(whole), part.id) as manifest:
        first, digests = next(manifest.runs(right[b"disk"]))
    whole.unlink()
    mark = hashlib.sha256(b"as if it had been read").digest()
    with Draft(str(whole.with_suffix(".partial")), part.id) as draft:
        for entry in right.values():
            draft.add(replace(entry, digest=mark), done=entry.path == b"file")
        draft.add_chunks(b"disk", first, digests)
        with pytest.raises(RvssError, match="already") as refused:
            made(instance, part)
        assert refused.value.problem is Problem.BUSY
    assert not manifests.exists(instance.config, part.id)
    made(instance, part)
    found = entries(instance, part)
    assert found[b"file"].digest == mark
    assert found[b"disk"] == right[b"disk"]
    made(instance, part, anew=True)
    assert entries(instance, part) == right
    destroy(instance, part)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_a_damaged_manifest_is_named_and_made_again(instance: Instance, storage: "Storage") -> None:
    share = storage.volume("vms")
    for number in range(300):
        (share / f"file{number}").write_bytes(b"content")
    first = backup(instance, storage, share)
    made(instance, first)
    path = Path(manifests.path(instance.config, first.id))
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    with pytest.raises(RvssError, match="--anew") as refused:
        entries(instance, first)
    assert refused.value.problem is Problem.STATE
    # Nothing is taken from it, and it stops nobody.
    second = backup(instance, storage, share)
    assert made(instance, second).unreadable == 0
    made(instance, first, anew=True)
    assert verified(instance, first) == {}
    assert entries(instance, first)[b"file0"].kind is Kind.FILE
    destroy(instance, first, second)


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_stands_for_a_subvolume_has_no_times(
    storage: "BtrfsStorage", rig_directory: Path
) -> None:
    """A snapshot has an empty directory there, which the kernel dates whenever it meets it."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    words = ["btrfs", "subvolume", "snapshot", "-r", str(share), str(storage.top / "snapshot")]
    run(words, timeout=30.0)
    manifest = manifest_of(storage.top / "snapshot", rig_directory / "x")
    storage.hide_top()
    again = storage.mount("snapshot", rig_directory / "again")
    with closing(manifest):
        assert manifest.has(b"inner")
        assert different(manifest, again) == []


@btrfs_only
@pytest.mark.vm(seconds=0)
def test_what_the_disk_has_lost_is_named(storage: "BtrfsStorage", rig_directory: Path) -> None:
    """A block that fails its checksum: that chunk of that file is told, and the rest is read."""
    share = storage.volume("vms")
    lost = os.urandom(64 << 10)
    for name in ("before", "sick", "well"):
        sparse(share / name, 3 * chunks.SIZE, 0, 2)
    with (share / "sick").open("r+b") as file:
        file.seek(chunks.SIZE + 100)
        file.write(lost)
    manifest = manifest_of(share, rig_directory / "x")
    storage.hide_top()
    with storage.fs.image.open("r+b") as device, mmap.mmap(device.fileno(), 0) as content:
        content[content.find(lost) + 5000] ^= 1
    again = storage.mount("vms", rig_directory / "again")
    with closing(manifest):
        (told,) = different(manifest, again)
    assert (told.path, told.what, told.offset) == (b"sick", "unreadable", chunks.SIZE)
    with closing(manifest_of(again, rig_directory / "y")) as other:
        found = {entry.path: entry for entry in other.entries()}
        assert [entry.path for entry in other.faults()] == [b"sick"]
    assert found[b"sick"].fault.endswith(f"at byte {chunks.SIZE}")
    assert found[b"well"].digest == found[b"before"].digest != b""


def manifest_of(directory: Path, path: Path) -> Manifest:
    """Return the manifest of a directory."""
    with Draft(f"{path}.partial", "x") as draft:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fill(draft, root, None, Progress())
        finally:
            os.close(root)
        draft.complete({}, f"{path}.db")
    return Manifest(f"{path}.db", "x")


def different(manifest: Manifest, directory: Path) -> list[Difference]:
    """Return what is different in a directory."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return list(compare(manifest, root, Progress()))
    finally:
        os.close(root)
