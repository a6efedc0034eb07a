"""Subvolumes wherever they are: known by id, and reached by descriptor.

Users may make subvolumes, at any depth and under any name, and rename them while we look. So no
path of theirs is ever resolved: a path is put together for messages, and for the place of a part.
All functions raise OSError if btrfs refuses a call.
"""

import errno
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting
from samba_rvss.model import Volume
from samba_rvss.providers.btrfs import held, ioctl, mounted

GONE = frozenset({errno.ENOENT, errno.ESTALE})
"""What a call says of something that has been deleted."""
_LONGEST = 1000  # characters of a path in a message
_SECONDS = 3.0  # others may wait for the same volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A subvolume inside another one.

    Attributes:
        tree: its id.
        path: relative to the root of the subvolume, or the directory, that was looked into.
        parent: the id of the subvolume that holds it directly.
        holder: the inode of the directory that does.
        leaf: its name there.
    """

    tree: int
    path: str
    parent: int
    holder: int
    leaf: str

    @property
    def shown(self) -> str:
        """What a message calls it."""
        return shown(self.path, self.tree)


def opened(mount: int, tree: int, inode: int = ioctl.FIRST_FREE_OBJECTID) -> int:
    """Open a directory by its inode, wherever it is; see `ioctl.opened`.

    Without CAP_DAC_READ_SEARCH, as in most containers, a subvolume's root is reached through a
    mount of its own, if it has a path that the kernel can resolve; other directories are not.
    """
    try:
        return ioctl.opened(mount, tree, inode)
    except PermissionError:
        if inode != ioctl.FIRST_FREE_OBJECTID:
            raise
    file_system, _ = ioctl.file_system(mount)
    with files.opened(mounted.mount(mounted.device(file_system), tree)) as root:
        mounting.mount_setattr(root, clear=mounting.MOUNT_ATTR_RDONLY)
        return os.open(".", files.DIRECTORY, dir_fd=root)


def shown(path: str, tree: int) -> str:
    """Return what a message calls a subvolume: its path, or its id where that is too long."""
    return path if len(path) <= _LONGEST else f"with the id {tree}"


def path_in(fd: int, tree: int, inode: int) -> str:
    """Return a directory's path in its subvolume, however long it is; empty for its root."""
    try:
        return ioctl.lookup(fd, inode, tree)[1]
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
    names = []
    while inode != ioctl.FIRST_FREE_OBJECTID:
        inode, name = ioctl.directory_above(fd, tree, inode)
        names.append(name)
    return "/".join(reversed(names))


def lineage(fd: int, tree: int) -> list[tuple[int, str]]:
    """Return a subvolume and those around it, up to the top level.

    Each as its id and its path from the next one. A subvolume that is deleted has nothing around.
    """
    found = []
    while tree != ioctl.FS_TREE_OBJECTID:
        around = ioctl.holder(fd, tree)
        if around is None:
            break
        parent, holder, name = around
        found.append((tree, _joined(path_in(fd, parent, holder), name)))
        tree = parent
    return [*found, (tree, "")]


def around(fd: int, volume: Volume) -> list[Volume]:
    """Return the subvolumes around one; see `samba_rvss.providers.Provider`."""
    found = lineage(fd, int(volume.id))
    return [
        replace(volume, id=str(found[at][0]), name=path_along(found[at:]), directory="", inode=0)
        for at in range(1, len(found))
    ]


def path_of(fd: int, tree: int) -> str:
    """Return a subvolume's path from the top level, "/" for the top level's own, for messages."""
    return path_along(lineage(fd, tree))


def path_along(around: list[tuple[int, str]]) -> str:
    """Return the same, given a subvolume's `lineage`."""
    path = "/".join(path for _, path in reversed(around) if path)
    return shown(path, around[0][0]) or "/"


def inside(fd: int, directory: str = "", *, besides: Collection[int] = ()) -> Iterator[Inner]:
    """Yield the subvolumes directly inside the one of a descriptor, below a directory of it.

    What goes away meanwhile is left out. The cost grows with the number of directories that hold
    subvolumes, one call for each.

    Args:
        fd: any directory of that subvolume.
        directory: relative to its root; empty for all.
        besides: ids of subvolumes to leave out.
    """
    inner = ioctl.children(fd)
    if not inner:
        return
    tree, _ = ioctl.lookup(fd)
    prefix = f"{directory}/" if directory else ""
    paths: dict[int, str | None] = {}
    for child, holder in inner:
        if child in besides:
            continue
        if holder not in paths:
            paths[holder] = _path_if_there(fd, tree, holder)
        path = paths[holder]
        if path is None or not f"{path}/".startswith(prefix):
            continue
        around = ioctl.holder(fd, child)
        if around is None or around[0] != tree:
            continue
        _, holder, leaf = around
        path = paths[holder] if holder in paths else _path_if_there(fd, tree, holder)
        if path is not None:
            path = _joined(path, leaf)
            yield Inner(tree=child, path=path, parent=tree, holder=holder, leaf=leaf)


def below(
    mount: int, tree: int, directory: str = "", *, besides: Collection[int] = ()
) -> list[Inner]:
    """Return all subvolumes below a directory of a subvolume, however deep; parents first.

    Args:
        mount: a descriptor of a mount of the file system.
        tree: the subvolume's id.
        directory: see `inside`; paths are relative to the subvolume's root all the same.
        besides: see `inside`.
    """
    found: list[Inner] = []
    queue = [(tree, "", directory)]
    for around, prefix, start in queue:
        try:
            with files.opened(opened(mount, around)) as fd:
                for inner in inside(fd, start, besides=besides):
                    path = _joined(prefix, inner.path)
                    found.append(replace(inner, path=path))
                    queue.append((inner.tree, path, ""))
        except OSError as exc:
            if exc.errno not in GONE or around == tree:
                raise
    return found


def delete(mount: int, parent: int, name: str) -> None:
    """Delete a subvolume and all those inside it. Gone already is success.

    Args:
        mount: a descriptor of a writable mount of the file system.
        parent: the directory that holds it.
        name: its name there.

    Raises:
        RvssError: BUSY if somebody goes on making subvolumes in it, whatever was deleted; as
            `held.refusal` if the kernel does not permit it.
        OSError: if btrfs refuses.
    """
    deadline = time.monotonic() + _SECONDS
    for attempt in count():
        try:
            ioctl.delete_subvolume(parent, name)
            return
        except OSError as exc:
            if exc.errno in GONE:
                return
            if exc.errno == errno.EPERM:
                raise held.refusal(name) from exc
            if exc.errno != errno.ENOTEMPTY:
                raise
        # What was there at first is deleted, however much it is; what is made meanwhile may win.
        if attempt and time.monotonic() > deadline:
            raise RvssError(
                Problem.BUSY,
                f"somebody goes on making subvolumes in {name}",
                "it is tried again; end that program",
            )
        with _unless_moved():
            delete_inside(mount, parent, name)


def delete_inside(mount: int, parent: int, name: str) -> None:
    """Delete what is inside a subvolume; what is moved or made meanwhile may stay.

    The arguments are those of `delete`.

    Raises:
        RvssError: as `held.refusal` if the kernel does not permit it.
        OSError: if btrfs refuses.
    """
    with files.opened(os.open(name, files.DIRECTORY, dir_fd=parent)) as fd:
        tree, _ = ioctl.lookup(fd)
    inner = below(mount, tree)
    for around in {each.parent for each in inner}:
        with _unless_moved(), files.opened(opened(mount, around)) as fd:
            ioctl.set_read_only(fd, read_only=False)
    for each in reversed(inner):
        with _unless_moved(), files.opened(opened(mount, each.parent, each.holder)) as fd:
            try:
                ioctl.delete_subvolume(fd, each.leaf)
            except PermissionError as exc:
                if exc.errno != errno.EPERM:
                    raise
                raise held.refusal(each.leaf) from exc


@contextmanager
def _unless_moved() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in {*GONE, errno.ENOTEMPTY}:
            raise


def _path_if_there(fd: int, tree: int, inode: int) -> str | None:
    try:
        return path_in(fd, tree, inode)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return None


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
