"""Subvolumes and what is nested in them, as descriptors and paths below these.

All functions raise OSError if btrfs refuses a call, and RvssError where they say so.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import btrfsutil

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Volume
from samba_rvss.providers import home
from samba_rvss.providers.btrfs import ioctl


def beneath(fd: int, path: str) -> AbstractContextManager[int]:
    """Open a directory below another, whichever subvolumes are on the way to it."""
    return files.opened(files.openat2(fd, path, files.DIRECTORY, files.BENEATH))


def volume_root(top: int, volume: Volume) -> int:
    """Open the root of a volume; return a descriptor, which the caller closes.

    Args:
        top: the top level of its file system.
        volume: which one.

    Raises:
        RvssError: BAD_PATH if another subvolume is at its path by now.
    """
    tree = int(volume.id)
    path = btrfsutil.subvolume_path(top, tree) if tree != ioctl.FS_TREE_OBJECTID else "."
    fd = files.openat2(top, path, files.DIRECTORY, files.BENEATH | files.RESOLVE_NO_XDEV)
    if ioctl.lookup(fd)[0] != tree:
        os.close(fd)
        raise RvssError(
            Problem.BAD_PATH, f"the subvolume {volume.name} was moved just now", "try again"
        )
    return fd


def nested(fd: int, directory: str) -> Iterator[str]:
    """Yield the paths of the subvolumes below a directory of the subvolume of a descriptor.

    Parents come before what is inside them. Paths are relative to the root of the descriptor's
    subvolume; our own images are left out.

    Args:
        fd: the root of that subvolume; any directory of it if only the first result is wanted.
        directory: relative to that root; empty for all.

    Raises:
        RvssError: BUSY if a subvolume is moved meanwhile.
    """
    inside = ioctl.children(fd)
    if not inside:
        return
    tree, _ = ioctl.lookup(fd)
    prefix = f"{directory}/" if directory else ""
    for child, holder in inside:
        _, parent = ioctl.lookup(fd, holder)
        leaf = btrfsutil.subvolume_path(fd, child).rpartition("/")[2]
        path = f"{parent}/{leaf}" if parent else leaf
        if tree == ioctl.FS_TREE_OBJECTID and path == home.NAME:
            continue
        if not path.startswith(prefix):
            continue
        yield path
        with beneath(fd, path) as inner:
            if ioctl.lookup(inner)[0] != child:
                raise RvssError(Problem.BUSY, f"{path} was moved just now", "try again")
            for below in nested(inner, ""):
                yield f"{path}/{below}"


def is_read_only(root: int) -> bool:
    """Return whether a subvolume and all those nested in it are read-only.

    Raises:
        RvssError: as `nested`.
    """
    read_only = ioctl.is_read_only(root)
    for path in nested(root, ""):
        with beneath(root, path) as part:
            read_only = read_only and ioctl.is_read_only(part)
    return read_only


def destroy(parent: int, name: str) -> None:
    """Delete a subvolume and those nested in it. Gone already is success.

    Raises:
        RvssError: as `nested`.
    """
    try:
        fd = os.open(name, files.DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    with files.opened(fd):
        inner = list(nested(fd, ""))
        if inner:
            for path in [".", *inner]:
                with beneath(fd, path) as part:
                    ioctl.set_read_only(part, read_only=False)
        for path in reversed(inner):
            holder, _, leaf = path.rpartition("/")
            with beneath(fd, holder or ".") as within:
                ioctl.delete_subvolume(within, leaf)
    ioctl.delete_subvolume(parent, name)
