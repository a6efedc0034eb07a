"""What every provider promises, on every file system that we know.

The same tests run on each; what differs is in conftest's `Storage`.
"""

import errno
import hashlib
import mmap
import os
import secrets
import socket
import stat
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting
from samba_rvss.kernel.priority import hurry
from samba_rvss.model import Mark, Nested, Volume
from samba_rvss.mounts import Mounts
from samba_rvss.providers import Provider
from samba_rvss.run import run
from tests.imaging import make_image
from tests.kernel.conftest import SEALED

if TYPE_CHECKING:
    from tests.kernel.conftest import BtrfsStorage, Storage

pytestmark = pytest.mark.vm(seconds=4, storage="zfs")

btrfs_only = pytest.mark.parametrize("storage", ["btrfs"], indirect=True)

NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)


def probe(provider: Provider, path: Path, nested: Nested = Nested.REFUSE) -> Volume:
    """Find the volume of a directory that must be on the provider's file system."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        volume = provider.probe(fd, str(path), nested, thorough=True)
    finally:
        os.close(fd)
    assert volume is not None
    return volume


def mark_of(volume: Volume, path: Path, nested: Nested = Nested.REFUSE) -> Mark:
    """Return a mark as create writes it, with an id of its own."""
    return Mark(
        id=f"{NOW:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        share="vms",
        share_path=str(path),
        volume=volume,
        created=NOW,
        nested=nested,
    )


def take(provider: Provider, path: Path, nested: Nested = Nested.REFUSE) -> Mark:
    """Probe a directory and take an image of its volume."""
    volume = probe(provider, path, nested)
    provider.ready(volume)
    mark = mark_of(volume, path, nested)
    make_image(provider, mark)
    return mark


@contextmanager
def seen(provider: Provider, mark: Mark, *, writable: bool = False) -> Iterator[Path]:
    """Return a way to the share's directory in an image.

    It is one that nobody else has, unless there are mounts inside.
    """
    with ExitStack() as undo:
        parts = provider.open(mark.volume, mark.id)
        for _, fd in parts:
            undo.callback(os.close, fd)
        assert parts[0][0] == ""
        if len(parts) == 1:
            if writable:
                mounting.mount_setattr(parts[0][1], clear=mounting.MOUNT_ATTR_RDONLY)
            yield Path(f"/proc/self/fd/{parts[0][1]}")
        else:
            with attached(parts, writable=writable) as path:
                yield path


@contextmanager
def attached(parts: list[tuple[str, int]], *, writable: bool = False) -> Iterator[Path]:
    """Return a path of an image's mounts."""
    with TemporaryDirectory() as directory:
        mounts = Mounts(directory)
        path = mounts.exposed_path("vms", "copy")
        mounts.attach(parts, path)
        try:
            if writable:
                mounts.open(path)
            yield Path(path)
        finally:
            mounts.detach(path)


def portrait(top: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that can be told about a tree, by relative path."""
    found: dict[str, tuple[object, ...]] = {}

    def look(path: str, name: str) -> None:
        # The top itself may be a link of /proc.
        status = os.stat(path) if name == "." else os.lstat(path)
        follow = name == "."
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(status.st_mode):
            content = sorted(os.listdir(path))
        found[name] = (
            stat.filemode(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_ino,
            status.st_nlink,
            status.st_size,
            status.st_blocks,
            status.st_rdev,
            content,
            {
                key: os.getxattr(path, key, follow_symlinks=follow)
                for key in os.listxattr(path, follow_symlinks=follow)
            },
        )
        if stat.S_ISDIR(status.st_mode):
            for leaf in os.listdir(path):
                look(f"{path}/{leaf}", leaf if name == "." else f"{name}/{leaf}")

    look(str(top), ".")
    return found


def furnish(top: Path) -> None:
    """Make one of everything that a file system can hold."""
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_bytes(b"content" * 5000)
    (top / "empty").touch()
    (top / "a" / "hard").hardlink_to(top / "a" / "b" / "file")
    (top / "a" / "link").symlink_to("b/file")
    (top / "a" / "dangling").symlink_to("../../../no/such")
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(4 << 20)
        sparse.seek(2 << 20)
        sparse.write(b"in the middle")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(top, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (top / "Ünï cödé\n\t'\"\\").write_text("odd name")
    (top / os.fsdecode(b"not\xffutf-8")).write_text("odd bytes")
    (top / ("n" * 255)).write_text("long name")
    (top / "setuid").write_text("#!/bin/sh\n")
    (top / "setuid").chmod(0o6751)
    os.chown(top / "empty", 12345, 54321)
    (top / "sticky").mkdir(0o700)
    (top / "sticky").chmod(0o1777)
    os.setxattr(top / "empty", "user.dosattrib", b"\0\1\2\xff")
    os.setxattr(top / "empty", "trusted.ours", b"only root")
    os.setxattr(top / "empty", "security.NTACL", b"an ACL of Windows")
    os.setxattr(top / "sticky", "user.large", bytes(3000))
    run(["setfacl", "-m", "u:12345:rwx,g:54321:r--", str(top / "a")], timeout=10)
    run(["setfacl", "-d", "-m", "u:12345:rwx", str(top / "a")], timeout=10)
    os.utime(top / "a" / "b" / "file", ns=(1, 981173106_123456789))
    os.utime(top / "a", ns=(1, 4102444800_000000001))


def settled(storage: "Storage", top: Path) -> dict[str, tuple[object, ...]]:
    """Return a portrait after the file system has decided where everything lies."""
    fd = os.open(top, os.O_RDONLY)
    try:
        storage.sync()
        return portrait(top)
    finally:
        os.close(fd)


def without_ours(facts: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Return a portrait less the place where images are kept, and the size that it adds."""
    rest = {name: fact for name, fact in facts.items() if name.split("/")[0] != ".samba-rvss"}
    names = sorted(name for name in rest if name != "." and "/" not in name)
    return {**rest, ".": (*rest["."][:6], *rest["."][7:9], names, *rest["."][10:])}


# what an image is


def test_image_is_the_volume_at_that_instant(storage: "Storage") -> None:
    share = storage.volume("vms")
    furnish(share)
    before = settled(storage, share)
    mark = take(storage.provider, share)
    (share / "later").write_text("later")
    (share / "a" / "b" / "file").write_bytes(b"changed")
    (share / "fifo").unlink()
    (share / "a").rename(share / "z")
    with seen(storage.provider, mark) as image:
        assert portrait(image) == before


def test_what_was_not_yet_written_out_is_in_the_image(storage: "Storage") -> None:
    share = storage.volume("vms")
    with (share / "open").open("wb", buffering=0) as writer:
        writer.write(b"x" * 100000)
        mark = take(storage.provider, share)
        writer.write(b"y" * 100000)
    with seen(storage.provider, mark) as image:
        assert (image / "open").read_bytes() == b"x" * 100000


def test_image_begins_read_only_without_suid_devices_and_programs(storage: "Storage") -> None:
    share = storage.volume("vms")
    furnish(share)
    mark = take(storage.provider, share)
    with seen(storage.provider, mark) as image:
        with pytest.raises(OSError, match="new") as caught:
            (image / "new").touch()
        assert caught.value.errno == errno.EROFS
    with seen(storage.provider, mark, writable=True) as image:
        flags = os.statvfs(image).f_flag
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOEXEC
        (image / "new").write_text("recovery")
        with pytest.raises(PermissionError):
            (image / "null").read_bytes()
    assert not (share / "new").exists()


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_image_and_volume_do_not_change_each_other(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "disk").write_bytes(b"0" * 65536)
    first, second = take(storage.provider, share), take(storage.provider, share)
    with seen(storage.provider, first, writable=True) as image:
        (image / "disk").write_bytes(b"1" * 65536)
    (share / "disk").write_bytes(b"2" * 65536)
    with seen(storage.provider, first) as image:
        assert (image / "disk").read_bytes() == b"1" * 65536
    with seen(storage.provider, second) as image:
        assert (image / "disk").read_bytes() == b"0" * 65536
    assert (share / "disk").read_bytes() == b"2" * 65536


# where a share may sit


def _top(storage: "Storage", at: Path) -> Path:
    return storage.top


def _directory_of_the_top(storage: "Storage", rig_directory: Path) -> Path:
    (storage.top / "srv" / "vms").mkdir(parents=True)
    return storage.top / "srv" / "vms"


def _volume(storage: "Storage", rig_directory: Path) -> Path:
    return storage.volume("vms")


def _directory(storage: "Storage", rig_directory: Path) -> Path:
    share = storage.volume("vms") / "some where" / "below"
    share.mkdir(parents=True)
    return share


def _nested_volume(storage: "Storage", rig_directory: Path) -> Path:
    storage.volume("outer")
    (storage.top / "outer" / "directory").mkdir()
    return storage.volume("outer/directory/inner")


def _mounted_apart(storage: "Storage", rig_directory: Path) -> Path:
    storage.volume("vms")
    return storage.mount("vms", rig_directory / "apart")


def _bound(storage: "Storage", rig_directory: Path) -> Path:
    below = storage.volume("vms") / "below"
    below.mkdir()
    target = rig_directory / "bound"
    target.mkdir()
    run(["mount", "--bind", str(below), str(target)], timeout=10)
    return target


def _top_out_of_sight(storage: "Storage", rig_directory: Path) -> Path:
    storage.volume("vms")
    share = storage.mount("vms", rig_directory / "apart") / "below"
    share.mkdir()
    storage.hide_top()
    return share


_PLACES: dict[str, tuple[Callable[["Storage", Path], Path], str]] = {
    "top": (_top, ""),
    "directory of the top": (_directory_of_the_top, "srv/vms"),
    "volume": (_volume, ""),
    "directory": (_directory, "some where/below"),
    "nested volume": (_nested_volume, ""),
    "mounted apart": (_mounted_apart, ""),
    "bound": (_bound, "below"),
    "top out of sight": (_top_out_of_sight, "below"),
}


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
@pytest.mark.vm(seconds=4, storage="zfs", place=("directory", "nested volume", "bound"))
@pytest.mark.parametrize("place", _PLACES)
def test_where_a_share_may_sit(storage: "Storage", rig_directory: Path, place: str) -> None:
    """Twice: where the first image is kept must not show in the second."""
    make, directory = _PLACES[place]
    share = make(storage, rig_directory)
    furnish(share)
    first = take(storage.provider, share)
    storage.provider.destroy(first.volume, first.id)
    for _ in range(2):
        before = settled(storage, share)
        mark = take(storage.provider, share)
        assert mark.volume.directory == directory
        with seen(storage.provider, mark) as image:
            assert without_ours(portrait(image)) == without_ours(before)
            assert ".samba-rvss" not in os.listdir(image)
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        storage.provider.destroy(mark.volume, mark.id)
        assert storage.provider.inventory().images == ()


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_images_of_the_top_hold_no_images(storage: "Storage") -> None:
    (storage.top / "file").write_text("content")
    first = take(storage.provider, storage.top)
    second = take(storage.provider, storage.top)
    with seen(storage.provider, second) as image:
        assert os.listdir(image) == ["file"]
    for mark in (first, second):
        storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=0)
def test_another_file_system_is_none_of_ours(storage: "Storage") -> None:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert storage.provider.probe(fd, "/proc", Nested.REFUSE, thorough=True) is None
    finally:
        os.close(fd)


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_shares_of_one_volume_have_one_key(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "a").mkdir()
    other = storage.volume("other")
    one, two = probe(storage.provider, share), probe(storage.provider, share / "a")
    assert one.key == two.key != probe(storage.provider, other).key
    assert one.file_system == two.file_system == probe(storage.provider, other).file_system


@pytest.mark.vm(seconds=0)
def test_a_path_inside_an_image_is_refused(storage: "Storage", rig_directory: Path) -> None:
    share = storage.volume("vms")
    (share / "below").mkdir()
    mark = take(storage.provider, share)
    parts = storage.provider.open(mark.volume, mark.id)
    try:
        with attached(parts) as image, pytest.raises(RvssError) as caught:
            probe(storage.provider, image / "below")
    finally:
        os.close(parts[0][1])
    assert caught.value.problem is Problem.BAD_PATH


# volumes inside volumes


@pytest.mark.vm(seconds=4, storage="zfs", inner="vms/inner name\twith blanks")
@pytest.mark.parametrize(
    "inner",
    ["vms/inner", "vms/deep/er/inner", "vms/inner name\twith blanks"],
)
def test_nested_volumes_are_refused(storage: "Storage", inner: str) -> None:
    share = storage.volume("vms")
    mark = mark_of(probe(storage.provider, share), share)
    (storage.top / inner).parent.mkdir(parents=True, exist_ok=True)
    storage.volume(inner)
    with pytest.raises(RvssError, match=r"subvolume|dataset") as caught:
        probe(storage.provider, share)
    assert caught.value.problem is Problem.NESTED
    assert inner.removeprefix("vms/") in caught.value.message
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark)  # it came between check and create
    assert caught.value.problem is Problem.NESTED
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_volumes_nested_two_deep_are_refused_from_a_directory(storage: "Storage") -> None:
    share = storage.volume("vms") / "directory"
    share.mkdir()
    (share / "below").mkdir()
    storage.volume("vms/directory/below/inner")
    with pytest.raises(RvssError) as caught:
        probe(storage.provider, share)
    assert caught.value.problem is Problem.NESTED


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_volumes_nested_elsewhere_do_not_matter(storage: "Storage") -> None:
    share = storage.volume("vms") / "share"
    share.mkdir()
    (share / "file").write_text("content")
    storage.volume("vms/elsewhere")
    storage.volume("vms/share2")  # its name only begins like the share's
    before = settled(storage, share)
    mark = take(storage.provider, share)
    with seen(storage.provider, mark) as image:
        assert portrait(image) == before


def test_nested_volumes_can_be_included(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "deep").mkdir()
    inner = storage.volume("vms/deep/inner")
    innermost = storage.volume("vms/deep/inner/most")
    beside = storage.volume("vms/beside")
    for volume in (share, inner, innermost, beside):
        (volume / "file").write_text(volume.name)
    os.utime(share / "deep", ns=(1, 981173106_123456789))
    before = settled(storage, share)
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        after = portrait(image)
        assert after.keys() == before.keys()
        for name in before:
            # an image of a volume has an inode number of its own where it hangs
            assert after[name][:4] == before[name][:4], name
            assert after[name][9:] == before[name][9:], name
        for name in ("file", "deep/inner/file", "deep/inner/most/file", "beside/file"):
            (image / name).write_text("recovered")
    assert (innermost / "file").read_text() == "most"

    (found,) = storage.provider.inventory().images
    assert (found.complete, found.read_only) == (True, False)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    (found,) = storage.provider.inventory().images
    assert (found.complete, found.read_only) == (True, True)
    with seen(storage.provider, mark, writable=True) as image:
        for name in ("file", "deep/inner/file", "deep/inner/most/file", "beside/file"):
            with pytest.raises(OSError, match="file") as caught:
                (image / name).write_text("too late")
            assert caught.value.errno == errno.EROFS
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []
    assert storage.parts() == ["vms", "vms/beside", "vms/deep/inner", "vms/deep/inner/most"]


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_included_volumes_are_those_below_the_share(storage: "Storage") -> None:
    share = storage.volume("vms") / "share"
    share.mkdir()
    storage.volume("vms/share/inner")
    storage.volume("vms/elsewhere")
    parts = len(storage.parts())
    mark = take(storage.provider, share, Nested.INCLUDE)
    assert len(storage.parts()) == parts + 2
    with seen(storage.provider, mark) as image:
        assert os.listdir(image) == ["inner"]
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


# sealing


def test_after_seal_nothing_can_be_opened_for_writing(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "file").write_text("content")
    (share / "directory").mkdir()
    mark = take(storage.provider, share)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    changes: list[Callable[[Path], object]] = [
        lambda image: (image / "file").open("ab"),
        lambda image: (image / "new").touch(),
        lambda image: (image / "file").unlink(),
        lambda image: (image / "directory").rmdir(),
        lambda image: (image / "file").rename(image / "other"),
        lambda image: (image / "file").chmod(0o600),
        lambda image: os.chown(image / "file", 1, 1),
        lambda image: os.truncate(image / "file", 0),
        lambda image: os.utime(image / "file"),
        lambda image: os.setxattr(image / "file", "user.x", b""),
        lambda image: (image / "hard").hardlink_to(image / "file"),
    ]
    before = portrait(share)
    with seen(storage.provider, mark, writable=True) as image:
        for change in changes:
            with pytest.raises(OSError, match="Read-only") as caught:
                change(image)
            assert caught.value.errno == errno.EROFS
        assert portrait(image) == before


def test_what_is_open_before_the_seal_does_not_reach_the_image(storage: "Storage") -> None:
    """Whoever holds a file open, through whatever mount: it is refused, or leads elsewhere."""
    share, inner = storage.volume("vms"), storage.volume("vms/inner")
    for directory in (share, inner):
        (directory / "disk").write_bytes(b"recovered")
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image, ExitStack() as undo:
        held = [
            undo.enter_context((image / name / "disk").open("r+b", buffering=0))
            for name in (".", "inner")
        ]
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        with seen(storage.provider, mark) as sealed:
            before = portrait(sealed)
        for file in held:
            with suppress(OSError):
                file.write(b"TOO LATE!")
                os.fsync(file.fileno())
            with suppress(OSError):
                os.truncate(file.fileno(), 0)
            with suppress(OSError):
                os.fchmod(file.fileno(), 0o777)
    storage.provider.clear(mark.volume, mark.id)
    with seen(storage.provider, mark) as sealed:
        assert portrait(sealed) == before
        assert (sealed / "inner" / "disk").read_bytes() == b"recovered"
    (found,) = [each for each in storage.provider.inventory().images if each.id == mark.id]
    assert (found.mark.sealed, found.complete, found.read_only) == (SEALED, True, True)


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_a_sealed_image_can_be_mounted_again(storage: "Storage") -> None:
    """As for Previous Versions: beside the mounts that it has."""
    share = storage.volume("vms")
    (share / "file").write_text("content")
    mark = take(storage.provider, share)
    with seen(storage.provider, mark) as before:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        with seen(storage.provider, mark) as after:
            assert (before / "file").read_text() == (after / "file").read_text() == "content"
    with seen(storage.provider, mark) as first, seen(storage.provider, mark) as second:
        assert (first / "file").read_text() == (second / "file").read_text() == "content"


def test_a_sealed_image_that_was_mounted_anew_can_be_sealed_again(storage: "Storage") -> None:
    """As when sealing was cut off and the mount was lost: it goes on after it is mounted."""
    mark = take(storage.provider, storage.volume("vms"))
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    with seen(storage.provider, mark):
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)


def test_seal_makes_durable_what_recovery_wrote(storage: "Storage", rig_directory: Path) -> None:
    share = storage.volume("vms")
    (share / "disk").write_bytes(bytes(1 << 20))
    (share / "gone").touch()
    mark = take(storage.provider, share)
    recovered = secrets.token_bytes(1 << 20)
    with seen(storage.provider, mark, writable=True) as image:
        (image / "disk").write_bytes(recovered)
        (image / "new").write_bytes(recovered)
        (image / "gone").unlink()
    early = None
    if storage.forgets:
        (rig_directory / "early").mkdir()
        early = storage.after_power_loss(mark.id, rig_directory / "early")
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    late = storage.after_power_loss(mark.id, rig_directory)
    assert sorted(os.listdir(late)) == ["disk", "new"]
    assert (late / "disk").read_bytes() == recovered
    assert (late / "new").read_bytes() == recovered
    if early is not None:
        lost = not (early / "new").exists() or (early / "new").read_bytes() != recovered
        assert lost, "without sealing it is not: else this test shows nothing"


def test_what_was_written_through_a_mapping_stays(storage: "Storage") -> None:
    """When the image is sealed it may be in memory only, of a file that nobody has open."""
    share, inner = storage.volume("vms"), storage.volume("vms/inner")
    for directory in (share, inner):
        (directory / "disk").write_bytes(bytes(8192))
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        for disk in (image / "disk", image / "inner" / "disk"):
            with disk.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
                mapping[4000:4009] = b"recovered"
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
        before = portrait(image)
    with seen(storage.provider, mark) as image:
        for disk in (image / "disk", image / "inner" / "disk"):
            assert disk.read_bytes()[4000:4009] == b"recovered"
        assert portrait(image) == before


@pytest.mark.vm(seconds=4, storage="zfs", place="nested")
@pytest.mark.parametrize("place", ["volume", "top", "nested"])
def test_an_image_is_durable_when_create_returns(
    storage: "Storage", rig_directory: Path, place: str
) -> None:
    share = storage.top if place == "top" else storage.volume("vms")
    where = storage.volume("vms/inner") if place == "nested" else share
    content = secrets.token_bytes(300000)
    (where / "file").write_bytes(content)
    mark = take(storage.provider, share, Nested.INCLUDE)
    image = storage.after_power_loss(mark.id, rig_directory)
    assert (image / where.relative_to(share) / "file").read_bytes() == content


# removing


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_destroy_can_be_repeated(storage: "Storage") -> None:
    share = storage.volume("vms")
    furnish(share)
    mark = take(storage.provider, share)
    other = take(storage.provider, share)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    for _ in range(3):
        storage.provider.destroy(mark.volume, mark.id)
        assert storage.names() == [other.id]
    with pytest.raises(RvssError) as caught:
        storage.provider.open(mark.volume, mark.id)
    assert caught.value.problem is Problem.NOT_FOUND
    with pytest.raises(RvssError) as caught:
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    assert caught.value.problem is Problem.NOT_FOUND
    storage.provider.destroy(other.volume, other.id)
    assert storage.names() == []
    assert storage.parts() == ["vms"]


@pytest.mark.vm(seconds=0)
def test_destroy_where_nothing_ever_was(storage: "Storage") -> None:
    share = storage.volume("vms")
    storage.provider.destroy(probe(storage.provider, share), "20240229T235959Z-00000000")
    assert storage.names() == []


@btrfs_only  # a dataset cannot be destroyed before its clones
def test_destroy_outlives_its_volume(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "file").write_text("content")
    mark = take(storage.provider, share)
    run(["btrfs", "subvolume", "delete", str(share)], timeout=30)
    with seen(storage.provider, mark) as image:
        assert (image / "file").read_text() == "content"
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_destroy_while_a_file_is_open(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "file").write_text("content")
    mark = take(storage.provider, share)
    with seen(storage.provider, mark) as image, (image / "file").open() as reader:
        if storage.destroys_what_is_open:
            storage.provider.destroy(mark.volume, mark.id)
        else:
            with pytest.raises(RvssError) as caught:
                storage.provider.destroy(mark.volume, mark.id)
            assert caught.value.problem is Problem.BUSY
        assert reader.read() == "content"
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


# failing


def test_full_file_system(storage: "Storage") -> None:
    """Whatever can be made is whole; whatever fails leaves nothing, and room helps."""
    share = storage.volume("vms")
    (share / "file").write_bytes(b"content" * 1000)
    volume = probe(storage.provider, share)
    first = take(storage.provider, share)
    storage.fill()
    made = [first.id]
    refused = 0
    while refused < 3:
        mark = mark_of(volume, share)
        problem = None
        try:
            make_image(storage.provider, mark)
        except RvssError as exc:
            problem = exc.problem
        if problem is None:
            made.append(mark.id)
        else:
            assert problem is Problem.NO_SPACE
            refused += 1
        assert sorted(storage.names()) == sorted(made)
    assert all(image.complete for image in storage.provider.inventory().images)
    for name in made:
        storage.provider.destroy(volume, name)
    assert storage.names() == []
    (storage.top / "filler").unlink()
    storage.sync()
    take(storage.provider, share)


@btrfs_only
def test_quota_group_limit(storage: "BtrfsStorage") -> None:
    share = storage.volume("vms")
    volume = probe(storage.provider, share)
    first = take(storage.provider, share)
    storage.limit()
    for _ in range(3):
        with pytest.raises(RvssError) as caught:
            make_image(storage.provider, mark_of(volume, share))
        assert caught.value.problem is Problem.NO_SPACE
        assert storage.names() == [first.id]
    storage.unlimit()
    take(storage.provider, share)


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_read_only_file_system_stays_read_only(storage: "Storage") -> None:
    share = storage.volume("vms")
    first = take(storage.provider, share)
    mark = mark_of(first.volume, share)
    storage.set_read_only(read_only=True)
    try:
        verbs: list[Callable[[], object]] = [
            lambda: probe(storage.provider, share),
            lambda: make_image(storage.provider, mark),
            lambda: storage.provider.seal(first.volume, first.id, SEALED, opened=True),
            lambda: storage.provider.destroy(first.volume, first.id),
        ]
        for verb in verbs:
            with pytest.raises(RvssError) as caught:
                verb()
            assert caught.value.problem is Problem.READ_ONLY
            assert storage.is_read_only()
        with seen(storage.provider, first) as image:
            assert os.listdir(image) == []
        assert [image.id for image in storage.provider.inventory().images] == [first.id]
        assert storage.is_read_only()
    finally:
        storage.set_read_only(read_only=False)
    assert not storage.is_read_only()
    assert storage.names() == [first.id]
    make_image(storage.provider, mark)


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_read_only_mount_of_a_writable_file_system(storage: "Storage", rig_directory: Path) -> None:
    """An administrator may share read-only what others write: that is no reason to refuse."""
    (storage.volume("vms") / "file").write_text("content")
    share = storage.mount("vms", rig_directory / "apart")
    run(["mount", "-o", "remount,bind,ro", str(share)], timeout=10)
    mark = take(storage.provider, share)
    with seen(storage.provider, mark, writable=True) as image:
        (image / "file").write_text("recovered")
    assert os.statvfs(share).f_flag & os.ST_RDONLY
    assert not storage.is_read_only()


@btrfs_only  # only root makes datasets
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_what_others_could_have_made_is_not_used(storage: "BtrfsStorage", how: str) -> None:
    share = storage.volume("vms")
    volume = probe(storage.provider, share)
    storage.untrusted_home(how)
    names, parts = storage.names(), storage.parts()
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark_of(volume, share))
    assert caught.value.problem in {Problem.BAD_PATH, Problem.SYSTEM}
    assert (storage.names(), storage.parts()) == (names, parts)
    assert storage.provider.inventory().images == ()


# what may happen between check and create


def _removed(share: Path) -> None:
    share.rmdir()


def _renamed(share: Path) -> None:
    share.rename(share.with_name("elsewhere"))


def _replaced(share: Path) -> None:
    share.rename(share.with_name("elsewhere"))
    share.mkdir()


def _linked(share: Path) -> None:
    share.rename(share.with_name("elsewhere"))
    (share.parent / "secret").mkdir()
    share.symlink_to("secret")


def _linked_to_itself(share: Path) -> None:
    share.rename(share.with_name("elsewhere"))
    share.symlink_to("elsewhere")


def _parent_linked(share: Path) -> None:
    share.parent.rename(share.parent.with_name("away"))
    share.parent.symlink_to("away")


def _file(share: Path) -> None:
    share.rmdir()
    share.touch()


@pytest.mark.vm(seconds=4, long=True, storage="zfs", change=_linked)
@pytest.mark.vm(seconds=4, storage="zfs", change=_replaced)
@pytest.mark.parametrize(
    "change",
    [_removed, _renamed, _replaced, _linked, _linked_to_itself, _parent_linked, _file],
)
def test_directory_that_is_no_longer_the_share(
    storage: "Storage", change: Callable[[Path], None]
) -> None:
    """What is not the directory that was checked is never shown, and no image of it stays."""
    share = storage.volume("vms") / "parent" / "share"
    share.mkdir(parents=True)
    mark = mark_of(probe(storage.provider, share), share)
    change(share)
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark)
    assert caught.value.problem is Problem.BAD_PATH
    assert storage.names() == []


def test_volume_that_was_removed(storage: "Storage") -> None:
    """Another one of its name is not the one that was checked."""
    share = storage.volume("vms")
    mark = mark_of(probe(storage.provider, share), share)
    storage.remove("vms")
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark)
    storage.volume("vms")
    with pytest.raises(RvssError) as caught:
        make_image(storage.provider, mark)
    assert caught.value.problem in {Problem.BAD_PATH, Problem.SYSTEM}
    assert storage.names() == []
    assert probe(storage.provider, share).key != mark.volume.key


@btrfs_only  # a dataset that is renamed is mounted elsewhere, and refused
def test_volume_that_was_renamed(storage: "Storage") -> None:
    """It is still the one that was checked."""
    share = storage.volume("vms")
    (share / "file").write_text("content")
    mark = mark_of(probe(storage.provider, share), share)
    share.rename(storage.top / "elsewhere")
    (storage.volume("vms") / "file").write_text("another")
    make_image(storage.provider, mark)
    with seen(storage.provider, mark) as image:
        assert (image / "file").read_text() == "content"


# finding


def test_inventory_finds_what_was_made(storage: "Storage") -> None:
    share = storage.volume("vms")
    below = share / "a"
    below.mkdir()
    marks = [take(storage.provider, share), take(storage.provider, below)]
    storage.provider.seal(marks[0].volume, marks[0].id, SEALED, opened=True)
    marks[0] = replace(marks[0], sealed=SEALED)
    inventory = storage.provider.inventory()
    assert marks[0].volume.file_system in inventory.file_systems
    assert {image.id: image.mark for image in inventory.images} == {m.id: m for m in marks}
    assert {image.id: image.read_only for image in inventory.images} == {
        marks[0].id: True,
        marks[1].id: False,
    }
    assert all(image.complete for image in inventory.images)
    storage.take_away()
    gone = storage.provider.inventory()
    assert marks[0].volume.file_system not in gone.file_systems
    assert gone.images == ()


def test_what_is_not_ours_is_neither_seen_nor_touched(storage: "Storage") -> None:
    share = storage.volume("vms")
    foreign = storage.foreign()
    theirs = take(storage.other, share)
    ours = take(storage.provider, share)
    parts = storage.parts()
    assert [image.id for image in storage.provider.inventory().images] == [ours.id]
    assert [image.id for image in storage.other.inventory().images] == [theirs.id]
    for name in [*foreign, theirs.id]:
        with pytest.raises(RvssError):
            storage.provider.destroy(ours.volume, name)
    assert storage.parts() == parts
    assert storage.names() == sorted([*foreign, theirs.id, ours.id])
    storage.provider.destroy(ours.volume, ours.id)
    storage.other.destroy(theirs.volume, theirs.id)
    assert storage.names() == foreign


@pytest.mark.vm(seconds=4, storage="zfs", nested=Nested.INCLUDE)
@pytest.mark.parametrize("nested", [Nested.REFUSE, Nested.INCLUDE])
def test_create_that_was_cut_off_can_be_destroyed(storage: "Storage", nested: Nested) -> None:
    """Wherever it was: before the mark, before the image, in the middle of it."""
    share = storage.volume("vms")
    mark = take(storage.provider, share, nested)
    unmarked, incomplete = storage.cut_off(mark)
    found = {image.id: image.complete for image in storage.provider.inventory().images}
    assert found == {mark.id: True, **dict.fromkeys(incomplete, False)}
    for name in (*unmarked, *incomplete):
        storage.provider.destroy(mark.volume, name)
    assert storage.names() == [mark.id]


# cost


@pytest.mark.vm(seconds=0)
def test_two_images_in_one_second(storage: "Storage") -> None:
    share = storage.volume("vms")
    marks = [take(storage.provider, share) for _ in range(2)]
    assert marks[0].created == marks[1].created
    assert storage.names() == sorted(mark.id for mark in marks)


def test_creates_side_by_side(storage: "Storage") -> None:
    shares = [storage.volume(f"vms{number}") for number in range(4)]
    failures: list[BaseException] = []
    made: list[str] = []

    def work(share: Path) -> None:
        try:
            for _ in range(max(1, storage.many // 100)):
                mark = take(storage.provider, share)
                storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
                made.append(mark.id)
                mark = take(storage.provider, share)
                storage.provider.destroy(mark.volume, mark.id)
        except BaseException as exc:  # noqa: BLE001 - it is told below, by the test's own thread
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert storage.names() == sorted(made)


@pytest.mark.vm(seconds=4, long=True, storage="zfs")
def test_cost_does_not_grow_with_the_number_of_images(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "file").write_text("content")
    seconds = []
    for _ in range(storage.many):
        started = time.perf_counter()
        take(storage.provider, share)
        seconds.append(time.perf_counter() - started)
    fifth = storage.many // 5
    first, last = (statistics.median(part) * 1000 for part in (seconds[:fifth], seconds[-fifth:]))
    started = time.perf_counter()
    assert len(storage.provider.inventory().images) == storage.many
    listing = (time.perf_counter() - started) * 1000
    print(f"create: {first:.1f} ms at first, {last:.1f} ms at last; a listing {listing:.0f} ms")
    assert last < 5 * first + 20


@contextmanager
def ticking() -> Iterator[list[float]]:
    """Let a thread run all the time; the list gets its largest gap in seconds.

    This thread, what it starts, and the other one run before all else that the machine does.
    """
    hurry()
    ended = threading.Event()
    largest: list[float] = []

    def tick() -> None:
        hurry()
        gap, last = 0.0, time.perf_counter()
        while not ended.is_set():
            time.sleep(0.001)
            present = time.perf_counter()
            gap, last = max(gap, present - last), present
        largest.append(gap)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.vm(seconds=0)
def test_the_interpreter_runs_on_meanwhile(storage: "Storage") -> None:
    """Whatever takes long is not waited for with the interpreter's lock held."""
    share = storage.volume("vms")
    # A host that stands still for a moment does so once; a lock that is held is held each time.
    assert any(_runs_on(storage.provider, share) for _ in range(3))


def _runs_on(provider: Provider, share: Path) -> bool:
    (share / "dirty").write_bytes(secrets.token_bytes(1 << 20) * 200)
    with ticking() as gap:
        started = time.perf_counter()
        mark = take(provider, share)
        created = time.perf_counter() - started
        with seen(provider, mark, writable=True) as image:
            (image / "dirty").write_bytes(bytes(100 << 20))
        started = time.perf_counter()
        provider.seal(mark.volume, mark.id, SEALED, opened=True)
        sealed = time.perf_counter() - started
        provider.destroy(mark.volume, mark.id)
    print(f"create {created * 1000:.0f} ms, seal {sealed * 1000:.0f} ms, gap {gap[0] * 1000:.0f}")
    # Emulated machines stutter by themselves.
    return gap[0] < max(0.05, created / 4)
