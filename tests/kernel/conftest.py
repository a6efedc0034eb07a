"""One file system and its provider, as the provider contract needs them.

A new provider gets a `Rig` of its own and a line in RIGS; the tests stay as they are.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from samba_rvss import kernel
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs import HOME, MARK, Btrfs
from samba_rvss.run import run
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.plugin import require

_SECONDS = 60.0


class Rig(Protocol):
    """A file system with one outermost volume, and what a test does to it from outside.

    Attributes:
        top: where the outermost volume is mounted; writable, mode 0755.
        provider: the provider under test, of one instance.
        other: the same kind of provider, of another instance.
    """

    top: Path
    provider: Provider
    other: Provider

    def volume(self, name: str) -> Path:
        """Make a volume by its path from the top, "outer/inner" for a nested one."""

    def mount(self, name: str, target: Path) -> Path:
        """Mount a volume at one more place."""

    def hide_top(self) -> None:
        """Take the outermost volume's own mount away; what `mount` made stays."""

    def fill(self) -> None:
        """Write until there is no room for anything."""

    def limit(self) -> None:
        """Limit by quota what images may use, to less than one needs."""

    def unlimit(self) -> None:
        """Take the quota away."""

    def set_read_only(self, *, read_only: bool) -> None:
        """Remount the whole file system."""

    def is_read_only(self) -> bool:
        """Return whether the file system as a whole, not a mount of it, is read-only."""

    def after_power_loss(self, image: str, target: Path) -> Path:
        """Return what an image would hold if the machine lost its power now."""

    def names(self) -> list[str]:
        """Return the names of all that the providers keep on the file system."""

    def parts(self) -> list[str]:
        """Return the names of all volumes and images that exist, deleted ones excepted."""

    def foreign(self) -> list[str]:
        """Put things that bear no mark of ours where images are kept; return their names."""

    def untrusted_home(self, how: str) -> None:
        """Put what others could have made ("owner", "mode" or "link") in our place."""


class BtrfsRig:
    """btrfs on a loop device; see `Rig`."""

    def __init__(self, file_system: LoopBtrfs) -> None:
        self._fs = file_system
        self.top = file_system.path
        self.provider: Provider = Btrfs("one")
        self.other: Provider = Btrfs("two")

    def volume(self, name: str) -> Path:
        """See `Rig`."""
        return self._fs.subvolume(name)

    def mount(self, name: str, target: Path) -> Path:
        """See `Rig`."""
        return self._fs.mount(target, subvol=f"/{name}")

    def hide_top(self) -> None:
        """See `Rig`."""
        kernel.umount(str(self.top))

    def fill(self) -> None:
        """See `Rig`."""
        size = 1 << 20
        with (self.top / "filler").open("wb", buffering=0) as filler:
            while size >= 4096:
                try:
                    filler.write(bytes(size))
                    os.fsync(filler.fileno())
                except OSError:
                    size //= 4
        os.sync()

    def limit(self) -> None:
        """See `Rig`."""
        self._quota("enable", str(self.top))
        run(
            ["btrfs", "qgroup", "limit", "1K", str(self.top / HOME)],
            timeout=_SECONDS,
        )

    def unlimit(self) -> None:
        """See `Rig`."""
        self._quota("disable", str(self.top))

    def _quota(self, *words: str) -> None:
        run(["btrfs", "quota", *words], timeout=_SECONDS)

    def set_read_only(self, *, read_only: bool) -> None:
        """See `Rig`."""
        how = "ro" if read_only else "rw"
        run(["mount", "-o", f"remount,{how}", str(self.top)], timeout=_SECONDS)

    def is_read_only(self) -> bool:
        """See `Rig`."""
        mounts = [mount for mount in kernel.mountinfo() if mount.source == self._fs.device]
        assert mounts
        return any("ro" in mount.super_options for mount in mounts)

    def after_power_loss(self, image: str, target: Path) -> Path:
        """See `Rig`.

        The copy of the device is read by a program: the kernel would take two file systems with
        one UUID for one.
        """
        copy = target / "device.img"
        run(["cp", "--sparse=always", str(self._fs.image), str(copy)], timeout=_SECONDS)
        out = target / "restored"
        out.mkdir()
        # -s: snapshots too; -i: go on where a file is not complete
        run(["btrfs", "restore", "-s", "-i", str(copy), str(out)], timeout=_SECONDS)
        return out / HOME / image / "image"

    def names(self) -> list[str]:
        """See `Rig`."""
        try:
            return sorted(os.listdir(self.top / HOME))
        except FileNotFoundError:
            return []

    def parts(self) -> list[str]:
        """See `Rig`."""
        return [name for name in self._fs.subvolumes() if name != HOME]

    def foreign(self) -> list[str]:
        """See `Rig`."""
        home = self.top / HOME
        if not home.exists():
            self._fs.subvolume(HOME, 0o700)
        (home / "directory").mkdir()
        (home / "directory" / "image").mkdir()
        (home / "file").write_text("a file")
        (home / "link").symlink_to("/")
        (home / "garbled").mkdir()
        os.setxattr(home / "garbled", MARK, b"no JSON")
        (home / "unknown-version").mkdir()
        os.setxattr(home / "unknown-version", MARK, b'{"version": 2, "instance": "one"}')
        self._fs.subvolume(f"{HOME}/subvolume")
        (home / "with-subvolume").mkdir()
        self._fs.subvolume(f"{HOME}/with-subvolume/image")
        return self.names()

    def untrusted_home(self, how: str) -> None:
        """See `Rig`."""
        if how == "link":
            (self.top / "elsewhere").mkdir(0o700)
            (self.top / HOME).symlink_to("elsewhere")
            return
        home = self._fs.subvolume(HOME, 0o755 if how == "mode" else 0o700)
        if how == "owner":
            os.chown(home, 1, 0)


def _btrfs(directory: Path, undo: ExitStack) -> Rig:
    require("root", "btrfs", "loop")
    return BtrfsRig(undo.enter_context(LoopBtrfs(directory, size=512 << 20)))


RIGS: dict[str, Callable[[Path, ExitStack], Rig]] = {"btrfs": _btrfs}


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, rig_directory: Path) -> Iterator[Rig]:
    """Each file system that we know, one after the other; with the daemon's umask."""
    with ExitStack() as undo:
        undo.callback(os.umask, os.umask(0o077))
        yield RIGS[request.param](rig_directory, undo)
