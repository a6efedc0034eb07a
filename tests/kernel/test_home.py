"""The home of images that are files and directories, on a file system that has no subvolumes."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Mark, Volume
from samba_rvss.providers import home
from samba_rvss.providers.home import MARK, NAME, Home
from samba_rvss.run import run

pytestmark = pytest.mark.require("root")


def mark_of(name: str) -> Mark:
    """Return a mark."""
    volume = Volume(provider="plain", file_system="fs", id="7", name="vms", directory="", inode=256)
    created = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    return Mark(id=name, share="vms", share_path="/srv/vms", volume=volume, created=created)


def make(top: int, name: str) -> None:
    """Make a home as the simplest provider would."""
    os.mkdir(name, dir_fd=top)


def state(place: int) -> bool | None:
    """Tell of an image that is one file whether it is read-only."""
    try:
        return not os.stat("image", dir_fd=place).st_mode & stat.S_IWUSR
    except FileNotFoundError:
        return None


def destroy(place: int, name: str) -> None:
    """Destroy such an image."""
    os.unlink(name, dir_fd=place)


class Plain:
    """A tmpfs whose root is the top level.

    Attributes:
        path: where it is mounted.
        top: the same as a descriptor.
    """

    def __init__(self, path: Path, top: int) -> None:
        self.path = path
        self.top = top

    def home(self, instance: str = "one") -> AbstractContextManager[Home]:
        """Open the home, made if need be."""
        return home.opened(self.top, "plain", instance, make)

    def take(self, name: str, instance: str = "one") -> None:
        """Take an image."""
        with self.home(instance) as ours, files.opened(ours.make(mark_of(name))) as place:
            os.close(os.open("image", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=place))


@pytest.fixture
def plain(rig_directory: Path) -> Iterator[Plain]:
    """A file system without images."""
    path = rig_directory / "plain"
    path.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(path)], timeout=10)
    try:
        with files.opened(os.open(path, files.DIRECTORY)) as top:
            yield Plain(path, top)
    finally:
        run(["umount", str(path)], timeout=10)


def test_what_was_made_is_found_and_removed(plain: Plain) -> None:
    for name in ("b", "a"):
        plain.take(name)
    (plain.path / NAME / "a" / "image").chmod(0o400)
    with plain.home() as ours:
        os.close(ours.make(mark_of("c")))
        found = ours.images(state)
        assert [(image.id, image.complete, image.read_only) for image in found] == [
            ("a", True, True),
            ("b", True, False),
            ("c", False, False),
        ]
        assert [image.mark for image in found] == [mark_of(name) for name in "abc"]
        assert {image.provider for image in found} == {"plain"}
        for name in ("a", "c", "a", "never"):
            ours.remove(name, destroy)
    assert os.listdir(plain.path / NAME) == ["b"]


def test_a_place_is_made_once(plain: Plain) -> None:
    plain.take("a")
    with plain.home() as ours, pytest.raises(FileExistsError):
        ours.make(mark_of("a"))
    assert os.listdir(plain.path / NAME / "a") == ["image"]


def test_a_place_that_cannot_be_marked_is_not_left(plain: Plain) -> None:
    long = "x" * (64 << 10)  # linux/limits.h, XATTR_SIZE_MAX
    mark = mark_of("a")
    with plain.home(long) as ours, pytest.raises(OSError, match=os.strerror(errno.E2BIG)):
        ours.make(mark)
    assert os.listdir(plain.path / NAME) == []


def test_what_is_not_ours_is_neither_seen_nor_touched(plain: Plain) -> None:
    plain.take("ours")
    plain.take("theirs", "two")
    there = plain.path / NAME
    (there / "file").touch()
    (there / "link").symlink_to("ours")
    (there / "filled").mkdir()
    (there / "filled" / "image").touch()
    (there / "garbled").mkdir()
    os.setxattr(there / "garbled", MARK, b"no JSON")
    (there / "mounted").mkdir()
    run(["mount", "-t", "tmpfs", "none", str(there / "mounted")], timeout=10)
    try:
        with plain.home() as ours:
            assert [image.id for image in ours.images(state)] == ["ours"]
            for name in ("theirs", "file", "link", "filled", "garbled", "mounted"):
                with pytest.raises((RvssError, OSError)) as caught:
                    ours.remove(name, destroy)
                if isinstance(caught.value, RvssError):
                    assert caught.value.problem is Problem.BAD_PATH
    finally:
        run(["umount", str(there / "mounted")], timeout=10)
    left = ["file", "filled", "garbled", "link", "mounted", "ours", "theirs"]
    assert sorted(os.listdir(there)) == left
    assert os.listdir(there / "theirs") == ["image"]


def test_a_place_that_was_cut_off_before_its_mark_goes(plain: Plain) -> None:
    plain.take("a")
    (plain.path / NAME / "cut off").mkdir()
    with plain.home() as ours:
        ours.remove("cut off", destroy)
    assert os.listdir(plain.path / NAME) == ["a"]


def test_a_home_is_made_once_and_closed_to_others(plain: Plain) -> None:
    with pytest.raises(FileNotFoundError), home.opened(plain.top, "plain", "one"):
        pass
    for _ in range(2):
        with plain.home():
            assert stat.S_IMODE((plain.path / NAME).stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_what_others_could_have_made_is_not_used(plain: Plain, how: str) -> None:
    there = plain.path / NAME
    if how == "link":
        (plain.path / "elsewhere").mkdir(0o700)
        there.symlink_to("elsewhere")
    else:
        there.mkdir(0o755 if how == "mode" else 0o700)
    if how == "owner":
        os.chown(there, 1, 0)
    with pytest.raises((RvssError, OSError)) as caught, plain.home():
        pass
    if isinstance(caught.value, RvssError):
        assert caught.value.problem is Problem.BAD_PATH
    assert isinstance(caught.value, RvssError) == (how != "link")
