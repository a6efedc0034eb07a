"""What the tests of this floor need of a file system, on btrfs and on ZFS.

A test asks the fixture ``rig`` (or ``file_system``) and runs on each; one that is about a single
file system is marked with `only`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from samba_rvss.copies import identity as identities
from samba_rvss.kernel import mounting
from samba_rvss.model import Identity
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs.parts import image_of
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.zfs import LoopZfs, Pool, below_home, zfs

_SECONDS = 60.0


def only(name: str) -> pytest.MarkDecorator:
    """Run a test on one file system: "btrfs" or "zfs"."""
    return pytest.mark.parametrize("file_system", [name], indirect=True)


@contextmanager
def full(top: Path) -> Iterator[None]:
    """Leave no room on a btrfs, not even for a snapshot, until the end of a block.

    Args:
        top: a directory on it.
    """
    filler = top / "filler"
    filler.mkdir()
    with (filler / "data").open("wb") as data:
        for size in (1 << 24, 1 << 20, 1 << 16, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(data.fileno(), os.fstat(data.fileno()).st_size, size)
    with suppress(OSError):  # then metadata, by small files
        for number in count():
            (filler / str(number)).write_bytes(os.urandom(1 << 10))
    os.sync()
    try:
        yield
    finally:
        run(["rm", "-rf", str(filler)], timeout=_SECONDS)
        run(["btrfs", "filesystem", "sync", str(top)], timeout=_SECONDS)


def identity_of(daemon: RvssDaemon) -> Identity:
    """Return the identity of a daemon that has run."""
    return Identity(
        id=(daemon.state_directory / "instance").read_text().strip(),
        machine=identities.machine(),
        run_directory=str(daemon.run_directory),
    )


class FileSystem(Protocol):
    """A file system of its own, with as many volumes as a test makes.

    Attributes:
        kind: "btrfs" or "zfs".
        path: where its outermost volume is mounted.
    """

    kind: str
    path: Path

    def volume(self, name: str, mode: int = 0o777) -> Path:
        """Make a volume by its path from the outermost one, "outer/inner" for a nested one."""

    def volume_at(self, target: Path, name: str) -> Path:
        """Make a volume and mount it by its name, as an entry in fstab does."""

    def delete_volume(self, name: str) -> None:
        """Delete a volume that has no others inside."""

    def nested_refusal(self, name: str) -> str:
        """Return the sentence that refuses a share, for the nested volume in it."""

    def provider(self, identity: Identity) -> Provider:
        """Return the provider for it."""

    def mounted_image(self, copy: str) -> AbstractContextManager[Path]:
        """Mount the whole image of a copy once more, behind the recovery mount's back.

        The mount is writable; whether the image is, is its own matter.
        """

    def hidden(self, copy: str) -> list[Path]:
        """Return the paths of our own of which users must see nothing while a copy exists."""

    def images(self) -> list[str]:
        """Return the ids of all images, complete or not."""

    def parts(self) -> list[str]:
        """Return "volume NAME" or "image ID" for all that exists, and for what should not be."""

    def read_only(self) -> AbstractContextManager[object]:
        """Make the whole file system read-only for a while."""

    def read_only_refusal(self, path: Path) -> str:
        """Return the sentence that refuses a share on it then."""

    def keep(self, copy: str) -> AbstractContextManager[object]:
        """Make the deletion of an image fail for a while."""

    def image_path(self, undo: ExitStack) -> tuple[Path, str]:
        """Make a directory where images are kept; return it and the sentence that refuses it."""


class OnBtrfs(LoopBtrfs):
    """See `FileSystem`."""

    kind = "btrfs"

    def volume(self, name: str, mode: int = 0o777) -> Path:
        """See `FileSystem`."""
        return self.subvolume(name, mode)

    def volume_at(self, target: Path, name: str) -> Path:
        """See `FileSystem`."""
        self.subvolume(f"@{name}")
        return self.mount(target, subvol=f"@{name}")

    def delete_volume(self, name: str) -> None:
        """See `FileSystem`."""
        self.delete_subvolume(name)

    def nested_refusal(self, name: str) -> str:
        """See `FileSystem`."""
        outer, _, inner = name.rpartition("/")
        return (
            f"the subvolume {inner} lies inside {self.path / outer} and would be empty in a shadow"
            " copy: set 'rvss:nested = include' or move it away"
        )

    def provider(self, identity: Identity) -> Provider:
        """See `FileSystem`."""
        return Btrfs(identity)

    @contextmanager
    def mounted_image(self, copy: str) -> Iterator[Path]:
        """See `FileSystem`."""
        target = self.path.parent / f"image-{copy}"
        self.mount(target, subvol=f".samba-rvss/{self._image(copy)}")
        try:
            yield target
        finally:
            mounting.umount(str(target))

    def hidden(self, copy: str) -> list[Path]:
        """See `FileSystem`."""
        home = self.path / ".samba-rvss"
        return [home, home / self._image(copy), home / ".marks", home / ".marks" / copy]

    def _image(self, copy: str) -> str:
        """Return the name of the volume's part of an image; the sealed one's if it is sealed."""
        return min(self.image_parts(copy), key=len)

    def image_parts(self, copy: str) -> list[str]:
        """Return the names in the home of all parts of an image."""
        return [name for name in os.listdir(self.path / ".samba-rvss") if image_of(name) == copy]

    def images(self) -> list[str]:
        """See `FileSystem`."""
        home = self.path / ".samba-rvss"
        if not home.is_dir():
            return []
        marks = os.listdir(home / ".marks") if (home / ".marks").is_dir() else []
        names = [image_of(name) or name for name in os.listdir(home) if name != ".marks"]
        return sorted({*marks, *names})

    def parts(self) -> list[str]:
        """See `FileSystem`."""
        found = []
        for name in self.subvolumes():
            home, _, rest = name.partition("/")
            if home != ".samba-rvss":
                found.append(f"volume {name}")
            elif rest:
                found.append(f"image {image_of(rest) or rest}")
        return sorted(found)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """See `FileSystem`."""
        run(["mount", "-o", "remount,ro", str(self.path)], timeout=_SECONDS)
        try:
            yield
        finally:
            run(["mount", "-o", "remount,rw", str(self.path)], timeout=_SECONDS)

    def read_only_refusal(self, path: Path) -> str:
        """See `FileSystem`."""
        return f"the file system of {path} is read-only: remount it writable"

    def keep(self, copy: str) -> AbstractContextManager[object]:
        """See `FileSystem`."""
        return self.read_only()

    def image_path(self, undo: ExitStack) -> tuple[Path, str]:
        """See `FileSystem`."""
        home = self.subvolume(".samba-rvss", 0o700)
        undo.callback(self.delete_subvolume, ".samba-rvss")
        (home / "x").mkdir()
        undo.callback((home / "x").rmdir)
        return home / "x", f"{home / 'x'} is itself inside a shadow copy"


class OnZfs(LoopZfs):
    """See `FileSystem`."""

    kind = "zfs"

    def __init__(self, directory: Path, pool: Pool) -> None:
        super().__init__(directory, pool)
        self._home = f"{pool.name}/{HOME}"

    def volume(self, name: str, mode: int = 0o777) -> Path:
        """See `FileSystem`."""
        return self.create(name, mode=mode)

    def volume_at(self, target: Path, name: str) -> Path:
        """See `FileSystem`."""
        self.create(name)
        return self.mount(target, name)

    def delete_volume(self, name: str) -> None:
        """See `FileSystem`."""
        self.destroy(name)

    def nested_refusal(self, name: str) -> str:
        """See `FileSystem`."""
        outer = self.path / name.rpartition("/")[0]
        return (
            f"the dataset {self.dataset}/{name} is mounted at {self.path / name}, inside {outer},"
            " and would be empty in a shadow copy:"
            " set 'rvss:nested = include' or mount it elsewhere"
        )

    def provider(self, identity: Identity) -> Provider:
        """See `FileSystem`."""
        return Zfs(identity)

    def mounted_image(self, copy: str) -> AbstractContextManager[Path]:
        """See `FileSystem`."""
        names = self.pool.names()
        found = [name for name in names if name.startswith(f"{self._home}/")]
        found = [name for name in found if name.endswith(f"/{copy}")]
        # Nothing was written to it during recovery.
        (clone,) = found or [name for name in names if name.endswith(f"@rvss-{copy}")]
        return self.mounted(clone, self.path.parent / f"image-{copy}")

    def hidden(self, copy: str) -> list[Path]:
        """See `FileSystem`. The clone is mounted nowhere else."""
        return []

    def images(self) -> list[str]:
        """See `FileSystem`."""
        return sorted(set().union(*self._kept()))

    def _kept(self) -> tuple[set[str], set[str]]:
        """Return the ids of clones and of snapshots, with what else stands in their places."""
        clones, snapshots = set(), set()
        for name in self.pool.names():
            below = below_home(name, self._home)
            if below or name.startswith(f"{self._home}/"):
                clones |= {below.partition("/")[0]} - {""}
            elif "@" in name:
                snapshots.add(name.partition("@")[2].removeprefix("rvss-"))
        return clones, snapshots

    def parts(self) -> list[str]:
        """See `FileSystem`."""
        prefix = f"{self.dataset}/"
        volumes = [n.removeprefix(prefix) for n in self.pool.names() if n.startswith(prefix)]
        clones, snapshots = self._kept()
        found = [f"volume {name}" for name in volumes if "@" not in name]
        whole = (clones & snapshots) | self.bare()
        found += [f"image {name}" for name in whole]
        return sorted([*found, *(f"half an image {name}" for name in (clones | snapshots) - whole)])

    def bare(self) -> set[str]:
        """Return the ids of backups that are snapshots without clones."""
        marks = zfs("get", "-H", "-r", "-t", "snapshot", "-o", "name,value", MARK, self.pool.name)
        return {
            name.partition("@rvss-")[2]
            for name, mark in marks
            if mark != "-" and "snapshots" in json.loads(mark).get("more", {})
        } - self._kept()[0]

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """See `FileSystem`."""
        self.pool.import_again(read_only=True)
        try:
            yield
        finally:
            self.pool.import_again(read_only=False)

    def read_only_refusal(self, path: Path) -> str:
        """See `FileSystem`."""
        return f"the pool {self.pool.name} is imported read-only: import it writable"

    @contextmanager
    def keep(self, copy: str) -> Iterator[None]:
        """See `FileSystem`."""
        (snapshot,) = [name for name in self.pool.names() if name.endswith(f"@rvss-{copy}")]
        zfs("hold", "somebody", snapshot)
        try:
            yield
        finally:
            zfs("release", "somebody", snapshot)

    def image_path(self, undo: ExitStack) -> tuple[Path, str]:
        """See `FileSystem`."""
        path = self.path / "x"
        zfs("create", "-p", "-o", f"mountpoint={path}", f"{self._home}/x")
        undo.callback(zfs, "destroy", f"{self._home}/x")
        return path, f"{path} is itself a snapshot or a shadow copy"
