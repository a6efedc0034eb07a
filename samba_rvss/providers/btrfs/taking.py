"""How the image of a volume is put together from snapshots, in its place in the home."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from samba_rvss.kernel import files
from samba_rvss.model import Volume
from samba_rvss.providers import home
from samba_rvss.providers.btrfs import ioctl
from samba_rvss.providers.btrfs.subvolumes import beneath

IMAGE = "image"
_MAKING = "making"


def take(volume: Volume, source: int, place: int, inner: Sequence[str]) -> None:
    """Snapshot a volume, durable on return.

    Args:
        volume: which one.
        source: a descriptor of its root.
        place: a descriptor of the directory that gets the image, under the name `IMAGE`.
        inner: the paths of the nested subvolumes that belong to it, parents first.

    Raises:
        OSError: if btrfs refuses; what was begun stays in the place, under another name.
    """
    shows_home = _shows_home(volume)
    if not inner and not shows_home:
        ioctl.snapshot(source, place, IMAGE, read_only=False)
        return
    ioctl.snapshot(source, place, _MAKING, read_only=False)
    with files.opened(os.open(_MAKING, files.DIRECTORY, dir_fd=place)) as image:
        if shows_home:
            with _keeping_time(image), suppress(FileNotFoundError):
                os.rmdir(home.NAME, dir_fd=image)  # the empty directory that stands for it
        for path in inner:
            holder, _, leaf = path.rpartition("/")
            with (
                beneath(source, path) as part,
                beneath(image, holder or ".") as parent,
                _keeping_time(parent),
            ):
                os.rmdir(leaf, dir_fd=parent)
                ioctl.snapshot(part, parent, leaf, read_only=False)
    os.rename(_MAKING, IMAGE, src_dir_fd=place, dst_dir_fd=place)
    os.fsync(place)


def _shows_home(volume: Volume) -> bool:
    """Return whether a share's directory is the one with our home in it, the top level's root."""
    return volume.id == str(ioctl.FS_TREE_OBJECTID) and not volume.directory


@contextmanager
def _keeping_time(directory: int) -> Iterator[None]:
    status = os.fstat(directory)
    yield
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
