"""How images are taken: snapshots side by side in the home, those of each image under one mark."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from samba_rvss.clock import now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Identity, Mark, Nested, Taken, Volume
from samba_rvss.providers.btrfs import home as homes
from samba_rvss.providers.btrfs import images, ioctl, marks, parts, subvolumes, together
from samba_rvss.providers.btrfs.failure import problem
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.parts import Part
from samba_rvss.providers.btrfs.subvolumes import Inner
from samba_rvss.providers.btrfs.together import Snapshot

_LONGEST = 4000  # bytes of a path; nothing can be mounted much deeper (linux/limits.h, PATH_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An image that is being taken.

    Attributes:
        mark: what it is to be.
        named: its parts.
        wanted: the snapshot for each of them.
        undo: removes all that there is of it.
    """

    mark: Mark
    named: Sequence[Part]
    wanted: Sequence[Snapshot]
    undo: ExitStack


def take(
    home: Home, marked: Sequence[Mark], identity: Identity, deadline: float
) -> dict[str, Taken | RvssError]:
    """Take images of volumes; see `samba_rvss.providers.Provider.create`."""
    found: dict[str, Taken | RvssError] = {}
    with ExitStack() as undo, ExitStack() as opened:
        begun = []
        for mark in marked:
            stack = undo.enter_context(ExitStack())
            with _told(found, mark, stack):
                named = _named(home, mark)
                sources = [part.tree for part in named]
                begun.append(_begin(home, mark, identity, named, sources, stack))
        transid = _snapshot(home, begun, deadline)
        at = now()
        for image in begun:
            with _told(found, image.mark, image.undo):
                mounts = _finish(home, image, identity)
                for _, fd in mounts:
                    opened.callback(os.close, fd)
                own = {part.made.transid for part in image.wanted if part.made is not None}
                whole = transid or (own.pop() if len(own) == 1 else 0)
                found[image.mark.id] = Taken(mounts=mounts, transid=whole, at=at)
        for image in begun:
            if isinstance(found[image.mark.id], Taken):
                image.undo.pop_all()
        opened.pop_all()
    return found


@contextmanager
def _told(found: dict[str, Taken | RvssError], mark: Mark, undo: ExitStack) -> Iterator[None]:
    """Note it if a block that makes an image fails, and undo what there is of the image."""
    try:
        yield
    except (OSError, RvssError) as exc:
        failed = exc if isinstance(exc, RvssError) else failure(exc, mark)
        try:
            undo.close()
        except (OSError, RvssError) as left:
            failed.add_note(f"and not all of it could be undone: {left}")
        found[mark.id] = failed


def failure(exc: OSError, mark: Mark) -> RvssError:
    """Return the error for an image that could not be taken."""
    return problem(exc, f"cannot take a shadow copy of {mark.share_path}")


def _named(home: Home, mark: Mark) -> list[Part]:
    """Return the parts of an image that is to be taken.

    Raises:
        RvssError: BAD_PATH if the volume is gone, or the directory in it another one; NESTED.
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
    return [_part(home, int(volume.id), ""), *(_part(home, i.tree, i.path) for i in inner)]


def _begin(
    home: Home,
    mark: Mark,
    identity: Identity,
    named: Sequence[Part],
    sources: Sequence[int],
    undo: ExitStack,
) -> _Image:
    """Write the mark of an image, and return it.

    Args:
        home: where.
        mark: of the image.
        identity: whose it is.
        named: the parts.
        sources: the ids of the subvolumes that they become snapshots of.
        undo: removes all of it.

    Raises:
        RvssError: NOT_SUPPORTED.
        OSError: if btrfs refuses.
    """
    marks.make(home, mark.id)
    undo.callback(marks.remove, home, mark.id)
    marks.write(home, mark, identity, named)
    wanted = [
        Snapshot(tree=tree, name=parts.begun(mark.id, named, index))
        for index, tree in enumerate(sources)
    ]
    for each in wanted:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(each.name), 0o700, dir_fd=home.fd)
        undo.callback(home.delete, each.name)
    return _Image(mark=mark, named=named, wanted=wanted, undo=undo)


def _snapshot(home: Home, images: Sequence[_Image], deadline: float) -> int:
    """Make the parts of images, all at one instant if that can be; see `together.take`."""
    if not images:
        return 0
    wanted = [each for image in images for each in image.wanted]
    return together.take(home, wanted, parts.starters(images[0].mark.id), deadline)


def _placed(home: Home, image: _Image) -> list[Subvolume]:
    """Give the parts that were made their places and names; return them.

    Raises:
        RvssError: BUSY if a source has been deleted.
        OSError: if btrfs refused, or does.
    """
    made = []
    for part, snapshot in zip(image.named, image.wanted, strict=True):
        if snapshot.failure is not None and snapshot.failure.errno in subvolumes.GONE:
            raise RvssError(
                Problem.BUSY, f"the subvolume {part.base} was deleted just now", "try again"
            ) from snapshot.failure
        if snapshot.made is None:
            raise snapshot.failure or FileNotFoundError(errno.ENOENT, "not made", snapshot.name)
        made.append(snapshot.made)
    for index, snapshot in enumerate(image.wanted):
        name = parts.writable(image.mark.id, image.named, index)
        image.undo.callback(home.delete, name)
        os.rename(snapshot.name, name, src_dir_fd=home.fd, dst_dir_fd=home.fd)
    with suppress(OSError, RvssError):  # what was to be thrown away goes with the mark
        marks.tidy(home, image.mark.id)
    return made


def _finish(home: Home, image: _Image, identity: Identity) -> list[tuple[str, int]]:
    """Complete an image whose parts were made; return its mounts."""
    made = _placed(home, image)
    volume, mark = image.mark.volume, image.mark
    if shows_home(volume):
        _remove_placeholder(home, parts.writable(mark.id, image.named, 0))
    taken = [
        replace(part, recovery=subvolume.uuid)
        for part, subvolume in zip(image.named, made, strict=True)
    ]
    marks.write(home, mark, identity, taken)
    there = [(part.place, each.tree) for part, each in zip(image.named, made, strict=True)]
    return images.mounts(home, volume, mark.id, there)


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
        sources: the ids of the subvolumes that they become snapshots of; nobody writes to them.
        undo: removes all of it.

    Raises:
        RvssError: BUSY if a source has been deleted; NOT_SUPPORTED.
        OSError: if btrfs refuses.
    """
    image = _begin(home, mark, identity, named, sources, undo)
    for each in image.wanted:
        together.take(home, [each], "", 0.0)
    return _placed(home, image)


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
