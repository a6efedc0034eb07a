"""Images on btrfs: snapshots in ``/.samba-rvss`` of the file system's top-level tree.

    /.samba-rvss            a subvolume, 0700; so a snapshot of the top level has no images in it
      <id>/                 a directory with our mark in trusted.samba_rvss
        image               the snapshot; nested ones in place inside it
        flush               a throw-away snapshot, only while an image is being settled

The mark is written before the snapshot, whose own transaction makes both durable. It is outside of
the snapshot, so that the image is exactly the volume.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

import btrfsutil

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Foreign, Identity, Image, Inventory, Mark, Nested, Sealed, Volume
from samba_rvss.providers import home
from samba_rvss.providers.btrfs import ioctl, mounted, subvolumes
from samba_rvss.providers.btrfs.failure import problem
from samba_rvss.providers.btrfs.taking import IMAGE, take
from samba_rvss.providers.detached import narrow
from samba_rvss.providers.home import Home
from samba_rvss.providers.inventory import listed

_FLUSH = "flush"


class Btrfs:
    """The provider for btrfs.

    Args:
        identity: whose images are ours.
    """

    name = "btrfs"

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool = False) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if files.file_system_type(fd) != files.BTRFS_SUPER_MAGIC:
            return None
        try:
            inode = os.fstat(fd).st_ino
            file_system = ioctl.file_system_id(fd)
            tree, directory = ioctl.lookup(fd, inode)
            is_top = tree == ioctl.FS_TREE_OBJECTID
            name = "" if is_top else btrfsutil.subvolume_path(fd, tree)
            space = os.fstatvfs(fd)
        except OSError as exc:
            raise problem(exc, f"cannot examine {path}") from exc
        if name == home.NAME or name.startswith(f"{home.NAME}/"):
            raise RvssError(Problem.BAD_PATH, f"{path} is itself inside a shadow copy")
        if space.f_flag & os.ST_RDONLY and mounted.is_read_only(fd):
            raise RvssError(
                Problem.READ_ONLY, f"the file system of {path} is read-only", "remount it writable"
            )
        # btrfs says 0 as soon as its metadata is used up (fs/btrfs/super.c, btrfs_statfs())
        if space.f_bavail == 0:
            raise RvssError(
                Problem.NO_SPACE, f"the file system of {path} has no room", "free some space"
            )
        if nested is Nested.REFUSE:
            _refuse_nested(fd, directory, path)
        return Volume(
            provider=self.name,
            file_system=file_system,
            id=str(tree),
            name=name or "/",
            directory=directory,
            inode=inode,
        )

    def includes(self, mount: MountInfo) -> bool:
        """See `samba_rvss.providers.Provider`. Nested subvolumes need no mounts of their own."""
        return False

    def create(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        volume = mark.volume
        try:
            with (
                mounted.top(volume.file_system, writable=True) as top,
                self._home(top, volume.file_system, ioctl.create_subvolume) as ours,
                files.opened(subvolumes.volume_root(top, volume)) as source,
                ExitStack() as undo,
            ):
                inner: list[str] = []
                if mark.nested is Nested.INCLUDE:
                    inner = list(subvolumes.nested(source, volume.directory))
                else:
                    _refuse_nested(source, volume.directory, mark.share_path)
                with files.opened(ours.make(mark)) as place:
                    undo.callback(ours.remove, mark.id, subvolumes.destroy)
                    take(volume, source, place, inner)
                undo.pop_all()
        except OSError as exc:
            raise problem(exc, f"cannot take a shadow copy of {mark.share_path}") from exc

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`. Nested subvolumes need no mounts of their own."""
        with self._image(volume, image, writable=False) as root:
            tree, _ = ioctl.lookup(root)
            mount = mounted.mount(mounted.device(volume.file_system), tree)
            return [("", narrow(mount, volume.directory, volume.inode, image))]

    def seal(self, volume: Volume, image: str, sealed: Sealed) -> None:
        """See `samba_rvss.providers.Provider`.

        A snapshot writes out what its source still holds in memory, and nothing else of the file
        system (fs/btrfs/ioctl.c, btrfs_mksnapshot()): syncfs(2) would wait for every other
        writer on it.
        """
        with (
            self._image(volume, image, writable=True) as root,
            files.opened(os.open("..", files.DIRECTORY, dir_fd=root)) as place,
        ):
            parts = [".", *subvolumes.nested(root, "")]
            for path in reversed(parts):
                with subvolumes.beneath(root, path) as part:
                    ioctl.set_read_only(part, read_only=True)
            for path in parts:
                with subvolumes.beneath(root, path) as part:
                    if not ioctl.is_read_only(part):
                        raise RvssError(
                            Problem.NOT_SEALED, f"{path} in the image {image} is still writable"
                        )
                    subvolumes.destroy(place, _FLUSH)
                    ioctl.snapshot(part, place, _FLUSH, read_only=True)
                ioctl.delete_subvolume(place, _FLUSH)
        self._write(volume, image, lambda mark: replace(mark, sealed=sealed))

    def clear(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        self._write(mark.volume, mark.id, lambda found: found, mark)

    def _write(
        self,
        volume: Volume,
        image: str,
        change: Callable[[Mark], Mark],
        known: Mark | None = None,
    ) -> None:
        try:
            with (
                mounted.top(volume.file_system, writable=True) as top,
                self._home(top, volume.file_system) as ours,
            ):
                ours.write(change(known or ours.mark(image)))
        except OSError as exc:
            raise problem(exc, f"cannot write the mark of the image {image}") from exc

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        try:
            with mounted.top(volume.file_system, writable=True) as top, ExitStack() as undo:
                try:
                    ours = undo.enter_context(self._home(top, volume.file_system))
                except FileNotFoundError:
                    return
                ours.remove(image, subvolumes.destroy)
        except OSError as exc:
            raise problem(exc, f"cannot remove the image {image}") from exc

    def inventory(self) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        return listed(mounted.file_systems(), self._list, "on btrfs")

    def _list(self, file_system: str) -> list[Image | Foreign]:
        with mounted.top(file_system, writable=False) as top, ExitStack() as undo:
            try:
                ours = undo.enter_context(self._home(top, file_system))
            except FileNotFoundError:
                return []
            return ours.images(_is_read_only)

    def _home(
        self, top: int, file_system: str, make: Callable[[int, str], None] | None = None
    ) -> AbstractContextManager[Home]:
        return home.opened(top, self.name, self._identity, file_system, make)

    @contextmanager
    def _image(self, volume: Volume, image: str, *, writable: bool) -> Iterator[int]:
        try:
            with (
                mounted.top(volume.file_system, writable=writable) as top,
                self._home(top, volume.file_system) as ours,
                files.opened(ours.open(image)) as place,
                files.opened(os.open(IMAGE, files.DIRECTORY, dir_fd=place)) as root,
            ):
                yield root
        except FileNotFoundError as exc:
            raise RvssError(Problem.NOT_FOUND, f"there is no image {image}") from exc
        except OSError as exc:
            raise problem(exc, f"cannot work on the image {image}") from exc


def _is_read_only(place: int) -> bool | None:
    """Return whether the image in a place is read-only throughout; None if there is none."""
    try:
        root = os.open(IMAGE, files.DIRECTORY, dir_fd=place)
    except FileNotFoundError:
        return None
    with files.opened(root):
        return subvolumes.is_read_only(root)


def _refuse_nested(fd: int, directory: str, path: str) -> None:
    for inner in subvolumes.nested(fd, directory):
        raise RvssError(
            Problem.NESTED,
            f"the subvolume {inner} lies inside {path} and would be empty in a shadow copy",
            "set 'rvss:nested = include' or move it away",
        )
