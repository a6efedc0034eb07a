"""Every name in a tree, one after the other, as fast as the kernel lists them.

Contract: as `samba_rvss.manifests.tree`: nothing leads out of the tree. No file is opened, nor
looked at by stat(2). It holds a path and two descriptors for each level, and nothing of a level's
names, unless they are wanted in order: a directory may have a million of them.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from enum import Enum

from samba_rvss.kernel import files

DEEPEST = 200
"""So many levels are gone down; each costs two descriptors, of which a process has 1,024."""


_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # removed, or another by now


class Aside(Enum):
    """Something about a directory besides what is in it."""

    NESTED = "nested"  # another subvolume of the same btrfs; it is gone into
    MOUNT = "mount"  # another mount; it is not gone into, unless that was asked for
    UNREADABLE = "unreadable"
    TOO_DEEP = "too deep"  # it is not gone into


def names(
    root: int,
    aside: Callable[[Aside, bytes], None],
    *,
    crossing: bool = False,
    deepest: int = DEEPEST,
    into: Callable[[bytes], bool] | None = None,
    in_order: bool = False,
) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    """Yield every name in a tree: the path of its directory, and what listing that told.

    A directory's own name comes before those in it.

    Args:
        root: the tree's directory, O_PATH will do; the caller's.
        aside: is told of what else there is to say of directories, with their paths.
        crossing: whether what is mounted in the tree is part of it, as in an image.
        deepest: how many levels are gone down.
        into: tells of a directory's path whether it is gone into; all are without it.
        in_order: each directory's names in their order, for which they are all held.
    """
    resolve = files.BENEATH if crossing else files.BENEATH | files.RESOLVE_NO_XDEV
    levels: list[_Level] = []
    try:
        try:
            levels.append(
                _Level(os.open(".", files.DIRECTORY, dir_fd=root), b"", in_order=in_order)
            )
        except OSError:
            aside(Aside.UNREADABLE, b"")
        while levels:
            level = levels[-1]
            try:
                entry = next(level.listed, None)
            except OSError:
                aside(Aside.UNREADABLE, level.path)
                entry = None
            if entry is None:
                levels.pop().close()
                continue
            yield level.path, entry
            if not entry.is_dir(follow_symlinks=False):
                continue
            path = joined(level.path, os.fsencode(entry.name))
            if into is not None and not into(path):
                continue
            if len(levels) > deepest:
                aside(Aside.TOO_DEEP, path)
                continue
            try:
                fd = files.openat2(level.fd, entry.name, files.DIRECTORY, resolve)
                below = _Level(fd, path, in_order=in_order)
            except OSError as exc:
                if exc.errno not in _GONE:
                    aside(Aside.MOUNT if exc.errno == errno.EXDEV else Aside.UNREADABLE, path)
                continue
            if below.device != level.device:
                aside(Aside.NESTED, path)
            levels.append(below)
    finally:
        while levels:
            levels.pop().close()


def joined(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory of a tree."""
    return directory + b"/" + name if directory else name


def _name(entry: "os.DirEntry[str]") -> bytes:
    return os.fsencode(entry.name)


class _Level:
    """A directory that is being listed, given its descriptor, which it closes.

    Raises:
        OSError: it cannot be listed.
    """

    def __init__(self, fd: int, path: bytes, *, in_order: bool) -> None:
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            self.fd = fd
            self.path = path
            self.device = os.fstat(fd).st_dev
            listed: Iterator[os.DirEntry[str]] = undo.enter_context(os.scandir(fd))
            self.listed = iter(sorted(listed, key=_name)) if in_order else listed
            self._closing = undo.pop_all()

    def close(self) -> None:
        self._closing.close()
