"""What only ZFS has: properties, holds, datasets that are not mounted."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.model import Identity, Mark, Nested
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.properties import COPIED, MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from tests.imaging import make_image
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import mark_of, probe, seen, take

if TYPE_CHECKING:
    from tests.kernel.conftest import ZfsStorage

pytestmark = [
    pytest.mark.parametrize("storage", ["zfs"], indirect=True),
    pytest.mark.vm(seconds=4),
]


def zfs(*words: str) -> str:
    """Run zfs(8)."""
    return run(["zfs", *words], timeout=60)


def properties(dataset: str) -> dict[str, str]:
    """Return those that a clone has to have like its origin."""
    rows = zfs("get", "-H", "-p", "-o", "property,value", ",".join(COPIED), dataset).splitlines()
    return {row.split("\t")[0]: row.split("\t")[1] for row in rows}


def value(dataset: str, name: str) -> str:
    """Return one property."""
    return zfs("get", "-H", "-p", "-o", "value", name, dataset).rstrip("\n")


def pool_of(mark: Mark) -> str:
    """Return the name that the pool of a volume had."""
    return mark.volume.name.partition("/")[0]


def clone_of(mark: Mark) -> str:
    """Return the dataset that is written to during recovery."""
    home = f"{pool_of(mark)}/{HOME}"
    inside = f"{home}/{mark.volume.id}/{mark.id}"
    there = zfs("list", "-H", "-r", "-o", "name", home).splitlines()
    return inside if inside in there else f"{home}/{mark.id}"


def snapshot_of(mark: Mark) -> str:
    """Return the outermost snapshot of an image."""
    return f"{mark.volume.name}@rvss-{mark.id}"


def test_clone_behaves_like_its_origin(storage: "ZfsStorage") -> None:
    """Whatever it is: it does not inherit that from where the clone is."""
    share, inner = storage.volume("vms"), storage.volume("vms/inner")
    outer, nested = storage.dataset(share), storage.dataset(inner)
    wanted = ("acltype=nfsv4", "xattr=on", "aclmode=passthrough", "aclinherit=passthrough-x")
    zfs("set", *wanted, "recordsize=16K", "compression=zstd-7", "dnodesize=1k", outer)
    zfs("set", "acltype=posix", "copies=2", "logbias=throughput", "primarycache=metadata", nested)
    mark = take(storage.provider, share, Nested.INCLUDE)
    home = f"{pool_of(mark)}/{HOME}"
    before = [properties(outer), properties(nested)]
    assert before[0] != before[1] != properties(home)
    assert [properties(f"{home}/{mark.id}"), properties(f"{home}/{mark.id}/1")] == before
    for changed in ("acltype=posix", "primarycache=none"):
        # The first time there is nothing in its container yet, and then there is.
        zfs("set", changed, nested)
        mark = take(storage.provider, inner)
        assert properties(clone_of(mark)) == properties(nested)


def test_clone_has_no_properties_of_the_pool(storage: "ZfsStorage") -> None:
    """What an administrator sets on a pool's root is for his datasets, not for images."""
    share = storage.volume("vms")
    (share / "File").write_text("content")
    pool, dataset = storage.dataset(storage.top), storage.dataset(share)
    zfs("set", "readonly=off", "quota=100M", "reservation=20M", "refreservation=10M", dataset)
    zfs("set", "readonly=on", "sync=disabled", "dedup=on", "com.sun:auto-snapshot=true", pool)
    zfs("set", "sync=always", "dedup=off", "refquota=90M", dataset)
    zfs("set", "quota=600M", pool)
    for sharing in ("sharenfs", "sharesmb"):
        # It is set even where nothing is there that could do it.
        run(["zfs", "set", f"{sharing}=on", pool], timeout=60, allow=frozenset(range(256)))
        assert value(pool, sharing) == "on"
    zfs("set", "sharenfs=off", "sharesmb=off", dataset)
    mark = take(storage.provider, share)
    clone = clone_of(mark)
    limits = ("quota", "refquota", "reservation", "refreservation")
    assert {value(clone, name) for name in limits} == {"0"}
    assert {value(clone, name) for name in ("sharenfs", "sharesmb", "readonly")} == {"off"}
    assert value(clone, "com.sun:auto-snapshot") == "false"
    assert properties(clone) == properties(dataset)
    with seen(storage.provider, mark, writable=True) as image:
        (image / "File").write_text("recovered")
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    for sharing in ("sharenfs", "sharesmb"):
        run(["zfs", "set", f"{sharing}=off", pool], timeout=60, allow=frozenset(range(256)))


def write(path: Path, size: int) -> None:
    """Write so many bytes, and find out soon where there is no room for them."""
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size, 1 << 19):
            file.write(os.urandom(1 << 19))
            os.fsync(file.fileno())


def test_dataset_that_has_reached_its_own_quota(storage: "ZfsStorage") -> None:
    """It can be backed up, and recovery has room: the clone is not under that quota."""
    share = storage.volume("vms")
    zfs("set", "refquota=2M", storage.dataset(share))
    with pytest.raises(OSError, match="quota") as caught:
        write(share / "big", 20 << 20)
    assert caught.value.errno == errno.EDQUOT
    storage.sync()
    assert os.statvfs(share).f_bavail == 0
    mark = take(storage.provider, share)
    with seen(storage.provider, mark, writable=True) as image:
        (image / "recovered").write_bytes(os.urandom(4 << 20))


@pytest.mark.vm(seconds=4, long=True)
def test_names_of_files_are_compared_as_in_the_origin(storage: "ZfsStorage") -> None:
    """Its case sensitivity and normalization cannot be set later; they come along."""
    how = {"casesensitivity": "insensitive", "normalization": "formD", "utf8only": "on"}
    share = storage.top / "two  words"
    words = [word for key, text in how.items() for word in ("-o", f"{key}={text}")]
    zfs("create", *words, "-o", f"mountpoint={share}", f"{storage.dataset(storage.top)}/two  words")
    (share / "Ünicode").write_text("content")
    mark = take(storage.provider, share)
    assert {key: value(clone_of(mark), key) for key in how} == how
    with seen(storage.provider, mark) as image:
        assert (image / "u\u0308NICODE").read_text() == "content"
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True)
def test_longest_name(storage: "ZfsStorage") -> None:
    """A snapshot's name may have 255 bytes; what has no room for it is refused in time."""
    pool = storage.dataset(storage.top)
    room = 255 - len("@rvss-20240229T235959Z-01234567")
    longest = f"{pool}/{'n' * (room - len(pool) - 1)}"
    shares = [storage.top / name for name in ("longest", "longer", "outer/longer")]
    outer = f"{pool}/outer"
    zfs("create", "-o", f"mountpoint={storage.top}/outer", outer)
    for share, name in zip(shares, (longest, f"{longest}n"), strict=False):
        zfs("create", "-o", f"mountpoint={share}", name)
    zfs("create", "-o", f"mountpoint={shares[2]}", f"{outer}/{'n' * (room - len(outer))}")
    mark = take(storage.provider, shares[0])
    storage.provider.destroy(mark.volume, mark.id)
    for share, nested in ((shares[1], Nested.REFUSE), (storage.top / "outer", Nested.INCLUDE)):
        with pytest.raises(RvssError, match="too long by 1 bytes") as caught:
            probe(storage.provider, share, nested)
        assert caught.value.problem is Problem.NOT_SUPPORTED
    with pytest.raises(RvssError, match="too long") as caught:
        # The mark, which has the path in it, gets longer when the image is sealed.
        make_image(storage.provider, replace(mark, share_path=f"/{'ü' * 1000}"))
    assert caught.value.problem is Problem.NOT_SUPPORTED
    assert storage.names() == []


def test_nested_datasets_are_of_one_instant(storage: "ZfsStorage") -> None:
    """Also those with a directory's name that is no word of zfs(8)'s tables."""
    share = storage.volume("vms")
    inner = storage.volume("vms/tab\tand line\nin it")
    (inner / "file").write_text("content")
    mark = take(storage.provider, share, Nested.INCLUDE)
    names = [f"{storage.dataset(path)}@rvss-{mark.id}" for path in (share, inner)]
    assert len({value(name, "createtxg") for name in names}) == 1
    with seen(storage.provider, mark) as image:
        assert (image / "tab\tand line\nin it" / "file").read_text() == "content"


@pytest.mark.vm(seconds=4, long=True)
def test_more_nested_datasets_than_ten(storage: "ZfsStorage") -> None:
    """A clone's number sorts as text, and a parent must be mounted before what is in it."""
    share = storage.volume("vms")
    names = ["a", "p", *(f"p-{number}" for number in range(8)), "p/q"]
    for name in names:
        (storage.volume(f"vms/{name}") / "file").write_text(name)
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark) as image:
        assert [(image / name / "file").read_text() for name in names] == names
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_images_are_mounted_and_shared_nowhere(storage: "ZfsStorage") -> None:
    mark = take(storage.provider, storage.volume("vms"))
    home = f"{pool_of(mark)}/{HOME}"
    out = zfs("list", "-H", "-r", "-o", "name,mountpoint,canmount,mounted", home)
    assert [row.split("\t") for row in out.splitlines()] == [
        [home, "none", "off", "no"],
        [f"{home}/{mark.volume.id}", "legacy", "off", "no"],
        [f"{home}/{mark.volume.id}/{mark.id}", "legacy", "on", "no"],
    ]
    with seen(storage.provider, mark):
        assert not [m for m in mounttable.mountinfo() if m.source.startswith(f"{home}/")]


WRITER = """
import os, sys
held = [os.open(path, os.O_RDWR) for path in sys.argv[1:]]
print("ready", flush=True)
for line in sys.stdin:
    for file in held:
        try:
            os.pwrite(file, line.encode(), 0)
            print("written", flush=True)
        except OSError as exc:
            print(exc.strerror, flush=True)
"""

CLONE_OF_MOUNT = """
mount --bind "$1" "$2"
mount -o remount,bind,rw "$2"
shift 2
exec "$@"
"""


def test_seal_stops_who_has_a_file_open(storage: "ZfsStorage", rig_directory: Path) -> None:
    """In every mount namespace, through every clone of a mount, also one with a writer of its own.

    The property and the mark that says so come in one transaction group, so that no crash leaves
    one without the other, although zfs(8) fails: it cannot remount what is written to.
    """
    share = storage.volume("vms")
    for path in (share / "file", storage.volume("vms/inner") / "file"):
        path.write_bytes(b"content\n")
    mark = take(storage.provider, share, Nested.INCLUDE)
    said: list[str] = []
    provider = Zfs(Identity(id="one", machine="here"), reached=said.append)
    mounted, clone, inner = (rig_directory / name for name in ("mounted", "clone", "inner"))
    for target in (mounted, clone, inner):
        target.mkdir()
    with ExitStack() as undo:
        for dataset, target in ((clone_of(mark), mounted), (f"{clone_of(mark)}/1", inner)):
            run(["mount", "-t", "zfs", dataset, str(target)], timeout=30)
            undo.callback(mounting.umount, str(target))
        python = [sys.executable, "-ISEc", WRITER]
        unshare = ["unshare", "--mount", "--propagation", "private"]
        bind = ["sh", "-ec", CLONE_OF_MOUNT, "sh", str(mounted), str(clone)]
        writers = [
            [*python, f"{mounted}/file", f"{inner}/file"],
            [*unshare, *python, f"{mounted}/file", f"{inner}/file"],
            [*unshare, *bind, *python, f"{clone}/file"],
        ]
        processes = [undo.enter_context(holder(argv, rig_directory)) for argv in writers]

        def write(text: str) -> set[str]:
            answers = set()
            for process, argv in zip(processes, writers, strict=True):
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{text}\n")
                process.stdin.flush()
                answers |= {process.stdout.readline() for word in argv if word.endswith("/file")}
            return answers

        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert write("written") == {"written\n"}
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
        assert write("too late") == {f"{os.strerror(errno.EROFS)}\n"}
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
        for process in processes:
            process.communicate("")
    assert said == ["seal.snapshot", "seal.renamed", "seal.marked"] * 2
    with seen(provider, mark) as image:
        for path in (image / "file", image / "inner" / "file"):
            assert path.read_bytes() == b"written\n"
    (found,) = provider.inventory().images
    assert (found.read_only, found.mark) == (True, replace(mark, sealed=SEALED))
    history = run(["zpool", "history", "-i", storage.pool], timeout=60).splitlines()
    done = [line for line in history if f" set {clone_of(mark)} " in line]
    closed = [line.split()[1] for line in done if line.endswith(" readonly=1")]
    said_so = [line.split()[1] for line in done if f" {MARK}=" in line and '"sealed": {' in line]
    assert len(closed) == 2
    assert closed == said_so


def test_sealing_that_was_killed(storage: "ZfsStorage") -> None:
    """The mark says that an image is sealed when it is, and not before."""
    share = storage.volume("vms")
    (share / "file").write_text("content")
    storage.volume("vms/inner")
    for point in ("seal.snapshot", "seal.marked"):
        mark = take(storage.provider, share, Nested.INCLUDE)
        with seen(storage.provider, mark, writable=True) as image:
            (image / "file").write_text("recovered")
        child = os.fork()
        if child == 0:
            try:
                seal_until(point, mark)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        (found,) = storage.provider.inventory().images
        sealed = SEALED if point == "seal.marked" else None
        assert (found.complete, found.read_only) == (True, bool(sealed))
        assert found.mark == replace(mark, sealed=sealed)
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        (found,) = storage.provider.inventory().images
        assert (found.read_only, found.mark.sealed) == (True, SEALED)
        with seen(storage.provider, mark) as image:
            assert (image / "file").read_text() == "recovered"
        storage.provider.destroy(mark.volume, mark.id)


def seal_until(point: str, mark: Mark) -> None:
    """Seal an image, and be killed at a point."""

    def reached(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    provider = Zfs(Identity(id="one", machine="here"), reached=reached)
    provider.seal(mark.volume, mark.id, SEALED, opened=True)


def test_part_that_does_not_inherit_is_not_called_sealed(storage: "ZfsStorage") -> None:
    share = storage.volume("vms")
    storage.volume("vms/inner")
    mark = take(storage.provider, share, Nested.INCLUDE)
    zfs("set", "readonly=off", f"{clone_of(mark)}/1")
    with pytest.raises(RvssError, match="zfs inherit readonly") as caught:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert caught.value.problem is Problem.NOT_SEALED
    (found,) = storage.provider.inventory().images
    assert (found.read_only, found.mark.sealed) == (False, None)
    zfs("inherit", "readonly", f"{clone_of(mark)}/1")
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    # What somebody has put into it is no part of it.
    zfs("create", "-o", "readonly=off", f"{clone_of(mark)}/theirs")
    (found,) = storage.provider.inventory().images
    assert (found.read_only, found.mark.sealed) == (True, SEALED)


def test_others_cannot_destroy_the_snapshot(storage: "ZfsStorage") -> None:
    share, inner = storage.volume("vms"), storage.volume("vms/inner")
    mark = take(storage.provider, share, Nested.INCLUDE)
    snapshots = [f"{storage.dataset(path)}@rvss-{mark.id}" for path in (share, inner)]
    for snapshot in snapshots:
        assert HOLD in zfs("holds", "-H", snapshot).split("\t")
        with pytest.raises(RvssError, match=r"clone|hold|busy"):
            zfs("destroy", snapshot)
    zfs("hold", "somebody", snapshots[1])
    with pytest.raises(RvssError, match="'somebody'") as caught:
        storage.provider.destroy(mark.volume, mark.id)
    assert caught.value.problem is Problem.BUSY
    assert mark.volume.name in caught.value.message
    assert [image.complete for image in storage.provider.inventory().images] == [True]
    zfs("release", "somebody", snapshots[1])
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True)
@pytest.mark.parametrize("inner", ["vms/tab\tand line\nin it"])
def test_dataset_that_is_not_mounted_is_refused(storage: "ZfsStorage", inner: str) -> None:
    """Its files belong into the share, and nothing else tells that they are missing."""
    share = storage.volume("vms")
    missing = storage.dataset(storage.volume(inner))
    storage.volume("vms2")
    zfs("unmount", missing)
    for nested in Nested:
        with pytest.raises(RvssError, match=missing) as caught:
            probe(storage.provider, share, nested)
        assert caught.value.problem is Problem.BAD_PATH
    zfs("set", "canmount=noauto", missing)
    take(storage.provider, share)


@pytest.mark.vm(seconds=4, long=True)
def test_nested_dataset_of_elsewhere_cannot_be_included(storage: "ZfsStorage") -> None:
    share = storage.volume("vms")
    storage.volume("other")
    storage.mount("other", share / "inner")
    with pytest.raises(RvssError) as caught:
        take(storage.provider, share, Nested.INCLUDE)
    assert caught.value.problem is Problem.NESTED
    assert storage.names() == []


def test_image_of_a_dataset_that_was_renamed(storage: "ZfsStorage") -> None:
    share, inner = storage.volume("vms"), storage.volume("vms/inner")
    (inner / "file").write_text("content")
    mark = take(storage.provider, share, Nested.INCLUDE)
    zfs("rename", mark.volume.name, f"{pool_of(mark)}/renamed")
    zfs("rename", storage.dataset(inner), f"{pool_of(mark)}/away")
    # And now once more, while we look.
    busy = _Renaming(renames=[[f"{pool_of(mark)}/away", f"{pool_of(mark)}/again"]])
    (found,) = Zfs(Identity(id="one", machine="here"), busy).inventory().images
    assert busy.renames == []
    assert found.mark == mark
    with seen(storage.provider, mark) as image:
        assert (image / "inner" / "file").read_text() == "content"
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renaming(Command):
    """zfs(8), with somebody who renames datasets before snapshots are listed."""

    renames: list[list[str]]

    def __call__(self, *words: str) -> str:
        if "snapshot" in words and self.renames:
            Command.__call__(self, "rename", *self.renames.pop())
        return Command.__call__(self, *words)


@pytest.mark.vm(seconds=4, long=True)
def test_create_cut_off_before_its_dataset_was_renamed(storage: "ZfsStorage") -> None:
    """There is no clone to tell where the snapshot is; its dataset's guid does."""
    share = storage.volume("vms")
    mark = take(storage.provider, share)
    zfs("destroy", clone_of(mark))
    zfs("rename", mark.volume.name, f"{pool_of(mark)}/renamed")
    storage.volume("vms")
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_dataset_that_was_replaced_or_renamed_is_refused(storage: "ZfsStorage") -> None:
    """It is not where the share is any more."""
    share, moved = storage.volume("vms"), f"{storage.dataset(storage.top)}/moved"
    mark = mark_of(probe(storage.provider, share), share)
    zfs("rename", mark.volume.name, moved)
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark)
    assert caught.value.problem is Problem.NOT_FOUND
    zfs("create", "-o", f"mountpoint={share}-2", mark.volume.name)
    with pytest.raises(RvssError, match="not the dataset that was checked") as caught:
        make_image(storage.provider, mark)
    assert caught.value.problem is Problem.BAD_PATH
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True)
def test_marks_of_the_first_forms(storage: "ZfsStorage") -> None:
    """They name a pool, or not even that; text that is no mark is no trouble."""
    share = storage.volume("vms")
    # In those times clones were in no containers, which are for the volumes of shares.
    marks = [mark_of(probe(storage.provider, share), share) for _ in range(2)]
    for mark in marks:
        make_image(storage.provider, mark)
    lacks: tuple[tuple[str, ...], ...] = ((), ("key", "provider", "file_system", "volume_id"))
    for mark, missing in zip(marks, lacks, strict=True):
        data = json.loads(value(snapshot_of(mark), MARK))
        data |= {"instance": "/run/one", "file_system": storage.pool}
        data["key"] = f"zfs:{storage.pool}:{mark.volume.id}"
        for name in ("machine", "sealed", *missing):
            del data[name]
        for name in (snapshot_of(mark), clone_of(mark)):
            zfs("set", f"{MARK}={json.dumps(data)}", name)
    zfs("snapshot", "-o", f"{MARK}=a\tb\nc\n\n{snapshot_of(mark)}", f"{storage.pool}@text")
    inventory = storage.provider.inventory()
    assert {storage.pool, marks[0].volume.file_system} <= inventory.file_systems
    found = {image.id: image.mark.volume for image in inventory.images if image.former}
    named = [replace(mark.volume, file_system=storage.pool) for mark in marks]
    assert found == {marks[0].id: named[0], marks[1].id: replace(named[1], id="")}
    assert storage.other.inventory().images == ()
    storage.provider.claim(replace(marks[0], volume=named[0]))
    for image in storage.provider.inventory().images:
        assert image.former == (image.id == marks[1].id)
        assert image.mark == (
            replace(marks[1], volume=found[image.id]) if image.former else marks[0]
        )
        with seen(storage.provider, image.mark):
            storage.provider.seal(image.mark.volume, image.id, SEALED, opened=True)
        storage.provider.destroy(image.mark.volume, image.id)
    assert storage.names() == []


def test_create_cut_off_between_its_clones(storage: "ZfsStorage") -> None:
    """The mark of a clone with others inside comes last."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    mark = take(storage.provider, share, Nested.INCLUDE)
    clone = f"{pool_of(mark)}/{HOME}/{mark.id}"
    zfs("inherit", "org.samba-rvss:mark", clone)
    assert [image.complete for image in storage.provider.inventory().images] == [False]
    zfs("destroy", f"{clone}/1")
    assert [image.complete for image in storage.provider.inventory().images] == [False]
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True)
def test_path_in_the_snapshot_directory_is_refused(storage: "ZfsStorage") -> None:
    share = storage.volume("vms")
    mark = take(storage.provider, share)
    path = share / ".zfs" / "snapshot" / f"rvss-{mark.id}"
    os.listdir(path)  # it is mounted by looking
    with pytest.raises(RvssError) as caught:
        probe(storage.provider, path)
    assert caught.value.problem is Problem.BAD_PATH
    mounting.umount(str(path))


# encryption


def test_encrypted_datasets(storage: "ZfsStorage", rig_directory: Path) -> None:
    """With their keys they are as any other; without, each refusal says so."""
    key = rig_directory / "key"
    key.write_text("correct horse")
    pool, share = storage.dataset(storage.top), storage.top / "secret"
    words = ["-o", "encryption=on", "-o", "keyformat=passphrase", "-o", f"keylocation=file://{key}"]
    zfs("create", *words, "-o", f"mountpoint={share}", f"{pool}/secret")
    zfs("create", *words, f"{pool}/secret/inner")
    (share / "file").write_text("content")
    (share / "inner" / "file").write_text("content")
    mark = take(storage.provider, share, Nested.INCLUDE)
    assert value(clone_of(mark), "encryption") != "off"
    with seen(storage.provider, mark, writable=True) as image:
        for name in ("file", "inner/file"):
            assert (image / name).read_text() == "content"
            (image / name).write_text("recovered")

    zfs("unmount", f"{pool}/secret/inner")
    zfs("unload-key", f"{pool}/secret/inner")
    for nested in Nested:
        with pytest.raises(RvssError, match="its key is not loaded") as caught:
            probe(storage.provider, share, nested)
        assert caught.value.problem is Problem.BAD_PATH
    with pytest.raises(RvssError, match=r"the key of .*/1 is not loaded") as caught:
        storage.provider.open(mark.volume, mark.id)
    assert caught.value.problem is Problem.BUSY

    zfs("unmount", f"{pool}/secret")
    zfs("unload-key", f"{pool}/secret")
    with pytest.raises(RvssError, match="its key is not loaded") as caught:
        probe(storage.provider, storage.top, Nested.INCLUDE)
    # What recovery has flushed may be in an intent log that was not replayed since a boot.
    with pytest.raises(RvssError, match=r"the key of .* is not loaded") as caught:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert caught.value.problem is Problem.BUSY
    (found,) = storage.provider.inventory().images
    assert (found.read_only, found.mark.sealed) == (False, None)
    zfs("load-key", "-r", f"{pool}/secret")
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    with seen(storage.provider, mark) as image:
        assert (image / "inner" / "file").read_text() == "recovered"
    zfs("unload-key", "-r", f"{pool}/secret")
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


# what keeps an image


def fails_to_destroy(storage: "ZfsStorage", mark: Mark, match: str) -> None:
    """Expect one sentence that names who keeps an image."""
    with pytest.raises(RvssError, match=match) as caught:
        storage.provider.destroy(mark.volume, mark.id)
    assert caught.value.problem is Problem.BUSY


def is_not_free(storage: "ZfsStorage", mark: Mark, match: str) -> None:
    """Expect that a deletion is not even begun."""
    with pytest.raises(RvssError, match=match) as caught:
        storage.provider.require_free(mark.volume, mark.id)
    assert caught.value.problem is Problem.HELD


def test_what_others_do_with_an_image_is_reported_and_not_forced(storage: "ZfsStorage") -> None:
    share = storage.volume("vms")
    (share / "big").write_bytes(os.urandom(8 << 20))
    storage.sync()
    mark, another = take(storage.provider, share), take(storage.provider, share)
    snapshot, pool = snapshot_of(mark), storage.pool

    zfs("create", f"{clone_of(mark)}/theirs")
    fails_to_destroy(storage, mark, f"put {clone_of(mark)}/theirs into it")
    zfs("destroy", f"{clone_of(mark)}/theirs")

    # Recursive snapshots of a pool take clones too, whatever their properties say.
    zfs("snapshot", "-r", f"{pool}@daily")
    zfs("hold", "somebody", f"{clone_of(mark)}@daily")
    fails_to_destroy(storage, mark, f"holds {clone_of(mark)}@daily as 'somebody'")
    is_not_free(storage, mark, "'somebody'")
    zfs("release", "somebody", f"{clone_of(mark)}@daily")
    zfs("clone", f"{clone_of(mark)}@daily", f"{pool}/theirs")
    fails_to_destroy(storage, mark, f"clones of {clone_of(mark)}@daily")
    is_not_free(storage, mark, f"clones of {clone_of(mark)}@daily")
    assert HOLD in zfs("holds", "-H", snapshot).split("\t")
    zfs("destroy", f"{pool}/theirs")

    zfs("clone", snapshot, f"{pool}/theirs")
    with subprocess.Popen(["zfs", "send", snapshot], stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None
            sender.stdout.read(1000)
            fails_to_destroy(storage, mark, rf"zfs \(pid {sender.pid}\) works on {snapshot}")
            storage.provider.destroy(another.volume, another.id)
        finally:
            sender.kill()
    fails_to_destroy(storage, mark, f"{pool}/theirs is a clone of {snapshot}")
    assert [image.id for image in storage.provider.inventory().images] == [mark.id]
    zfs("destroy", f"{pool}/theirs")
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


HOLDER = """
import os, sys
held = os.open("file", os.O_RDONLY)
print("ready", flush=True)
sys.stdin.read()
"""


def holder(argv: list[str], directory: Path) -> "subprocess.Popen[str]":
    """Start a process in a directory, with which we can talk."""
    return subprocess.Popen(
        argv, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.vm(seconds=4, long=True)
def test_who_keeps_a_file_open_is_named(storage: "ZfsStorage", rig_directory: Path) -> None:
    """Also through a mount that is nowhere any more, or in another namespace only."""
    share = storage.volume("vms") / "below"
    share.mkdir()
    (share / "file").write_text("content")
    mark = take(storage.provider, share)
    argv = [sys.executable, "-ISEc", HOLDER]
    with seen(storage.provider, mark) as image, ExitStack() as undo:
        target = rig_directory / "mounted"
        target.mkdir()
        run(["mount", "-t", "zfs", clone_of(mark), str(target)], timeout=30)
        words = ["unshare", "--mount", "--propagation", "private", *argv]
        elsewhere = undo.enter_context(holder(words, target / "below"))
        lazily = undo.enter_context(holder(argv, image))
        for process in (elsewhere, lazily):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        mounting.umount(str(target))
        fails_to_destroy(storage, mark, rf"python3\S* \(pid {lazily.pid}\) has /file open")
        lazily.communicate("")
        fails_to_destroy(storage, mark, rf"\(pid {elsewhere.pid}\) has {target}/below/file open")
        fails_to_destroy(storage, mark, f"mounted at {target} for pid {elsewhere.pid}")
        elsewhere.communicate("")
        fails_to_destroy(storage, mark, f"{clone_of(mark)}")  # ourselves
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True)
def test_destroy_waits_a_little_for_who_lets_go(storage: "ZfsStorage") -> None:
    mark = take(storage.provider, storage.volume("vms"))
    ((_, part),) = storage.provider.open(mark.volume, mark.id)
    timer = threading.Timer(0.5, os.close, (part,))
    timer.start()
    try:
        storage.provider.destroy(mark.volume, mark.id)
    finally:
        timer.join()
    assert storage.names() == []
