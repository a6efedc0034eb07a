"""How the parts of an image are taken: snapshots side by side in the home, under one mark."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Identity, Mark, Nested, Volume
from samba_rvss.providers.btrfs import home as homes
from samba_rvss.providers.btrfs import images, ioctl, marks, parts, subvolumes
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.parts import Part
from samba_rvss.providers.btrfs.subvolumes import Inner

_LONGEST = 4000  # bytes of a path; nothing can be mounted much deeper (linux/limits.h, PATH_MAX)


def take(home: Home, mark: Mark, identity: Identity) -> list[tuple[str, int]]:
    """Take an image of a volume, durable on return; leaves nothing behind when it fails.

    Returns:
        Its mounts; see `samba_rvss.providers.Provider.open`.

    Raises:
        RvssError: BAD_PATH if the volume is gone, or the directory in it another one; NESTED or
            NOT_SUPPORTED.
        OSError: if btrfs refuses.
    """
    volume = mark.volume
    parts.check(mark.id)
    with files.opened(_source(home, volume)) as source:
        if mark.nested is Nested.REFUSE:
            refuse_nested(source, volume.directory, mark.share_path, home.tree)
            inner = []
        else:
            inner = subvolumes.below(
                home.top, int(volume.id), volume.directory, besides={home.tree}
            )
            refuse_long(inner, mark.share_path)
    named = [_part(home, int(volume.id), ""), *(_part(home, i.tree, i.path) for i in inner)]
    with ExitStack() as undo:
        sources = [part.tree for part in named]
        made = snapshots(home, mark, identity, named, sources, undo)
        if shows_home(volume):
            _remove_placeholder(home, parts.writable(mark.id, named, 0))
        taken = [
            replace(part, recovery=subvolume.uuid)
            for part, subvolume in zip(named, made, strict=True)
        ]
        marks.write(home, mark, identity, taken)
        there = [(part.place, image.tree) for part, image in zip(named, made, strict=True)]
        mounts = images.mounts(home, volume, mark.id, there)
        undo.pop_all()
        return mounts


def snapshots(
    home: Home,
    mark: Mark,
    identity: Identity,
    named: Sequence[Part],
    sources: Sequence[int],
    undo: ExitStack,
) -> list[Subvolume]:
    """Write a mark, and make the writable parts that it names; return them in the same order.

    Args:
        home: where.
        mark: of the image.
        identity: whose it is.
        named: the parts.
        sources: the ids of the subvolumes that they become snapshots of.
        undo: removes all of it.

    Raises:
        RvssError: BUSY if a source has been deleted; NOT_SUPPORTED.
        OSError: if btrfs refuses.
    """
    marks.make(home, mark.id)
    undo.callback(marks.remove, home, mark.id)
    marks.write(home, mark, identity, named)
    made = [
        _snapshot(home, mark, named, index, source, undo) for index, source in enumerate(sources)
    ]
    for index in range(len(named)):
        begun, name = parts.begun(mark.id, named, index), parts.writable(mark.id, named, index)
        undo.callback(home.delete, name)
        os.rename(begun, name, src_dir_fd=home.fd, dst_dir_fd=home.fd)
    return made


def refuse_nested(fd: int, directory: str, path: str, home: int | None) -> None:
    """See that no subvolume is nested below a directory.

    Args:
        fd: any directory of its subvolume.
        directory: relative to that one's root.
        path: the share's, for the message.
        home: the id of our home, which is not one of them.

    Raises:
        RvssError: NESTED.
    """
    tree, _ = ioctl.lookup(fd)
    for inner in subvolumes.inside(fd, directory, besides={home} if home else ()):
        if tree == ioctl.FS_TREE_OBJECTID and inner.path == homes.NAME:
            continue
        raise RvssError(
            Problem.NESTED,
            f"the subvolume {inner.shown} lies inside {path} and would be empty in a shadow copy",
            "set 'rvss:nested = include' or move it away",
        )


def refuse_long(inner: Sequence[Inner], path: str) -> None:
    """See that subvolumes can be mounted where they belong.

    Raises:
        RvssError: NESTED.
    """
    for each in inner:
        if len(os.fsencode(each.path)) > _LONGEST:
            raise RvssError(
                Problem.NESTED,
                f"the subvolume {each.shown} lies so deep inside {path} that it cannot be mounted"
                " in a shadow copy",
                "move it away",
            )


def shows_home(volume: Volume) -> bool:
    """Return whether a share's directory is the one that our home is made in."""
    return volume.id == str(ioctl.FS_TREE_OBJECTID) and not volume.directory


def _source(home: Home, volume: Volume) -> int:
    try:
        return subvolumes.opened(home.top, int(volume.id))
    except OSError as exc:
        if exc.errno not in subvolumes.GONE:
            raise
        raise RvssError(
            Problem.BAD_PATH, f"the subvolume {volume.name} has been deleted", "try again"
        ) from exc


def _part(home: Home, tree: int, place: str) -> Part:
    around = ioctl.holder(home.fd, tree)
    name = parts.TOP if around is None else around[2]
    return Part(place=place, base=parts.base(name), tree=tree)


def _snapshot(
    home: Home, mark: Mark, named: Sequence[Part], index: int, tree: int, undo: ExitStack
) -> Subvolume:
    """Take a part in the directory of the mark.

    A snapshot keeps others from changing anything in its directory until its transaction is
    committed (fs/btrfs/ioctl.c, btrfs_mksubvol()): in the home, each would wait for all others.
    """
    part, name = named[index], parts.begun(mark.id, named, index)
    holder, _, leaf = name.rpartition("/")
    try:
        with (
            files.opened(subvolumes.opened(home.top, tree)) as source,
            files.opened(os.open(holder, files.DIRECTORY, dir_fd=home.fd)) as parent,
        ):
            ioctl.snapshot(source, parent, leaf, read_only=False)
    except OSError as exc:
        if exc.errno not in subvolumes.GONE:
            raise
        raise RvssError(
            Problem.BUSY, f"the subvolume {part.base} was deleted just now", "try again"
        ) from exc
    undo.callback(home.delete, name)
    subvolume = home.subvolume(name)
    if subvolume is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return subvolume


def _remove_placeholder(home: Home, name: str) -> None:
    """Remove the empty directory that stands for our home in a snapshot of the top level."""
    here = ioctl.info(home.fd)
    if (here.parent, here.holder) != (ioctl.FS_TREE_OBJECTID, ioctl.FIRST_FREE_OBJECTID):
        return  # somebody moved it
    with files.opened(os.open(name, files.DIRECTORY, dir_fd=home.fd)) as image:
        status = os.fstat(image)
        with suppress(FileNotFoundError):
            os.rmdir(here.name, dir_fd=image)
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    ioctl.commit(home.fd)
