"""Making what is restored: a file, or a directory with all that is in it, in a place of root's.

Contract: what cannot be made is told, name by name, and does not stop the rest; nothing is made by
halves. What makes it useless to go on, such as a full file system, ends it.
"""

import errno
import os
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from samba_rvss.kernel import files
from samba_rvss.manifests import tree
from samba_rvss.manifests.entry import BEYOND, Entry, Kind, is_beyond
from samba_rvss.restore import attributes, content, work
from samba_rvss.restore.plan import State
from samba_rvss.restore.selection import Wanted
from samba_rvss.restore.tally import Tally

_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNLINKED = frozenset({errno.EXDEV, errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EMLINK})
_SPECIAL = (Kind.BLOCK, Kind.CHARACTER)


@dataclass(slots=True)
class _Linked:
    """A file with several names: how many there are, those that were seen, and where it is now."""

    path: bytes
    names: int
    seen: int = 0
    root: int = -1
    place: bytes = b""
    inode: tuple[int, int] = (0, 0)


@dataclass(slots=True, kw_only=True)
class Source:
    """What is restored, and how.

    Attributes:
        root: a descriptor of the share's directory in the image.
        wanted: what of it.
        trusted: whether the target is where the share's own files are: then nothing is new there
            that gives rights, and set-id bits, capabilities and devices are restored as they were.
        tally: is told what comes of it.
        linked: the files with several names, by device and inode number in the image.
        fresh: those of them that were made since something came to its name.
        missing: the paths of what was not made, and was told.
    """

    root: int
    wanted: Wanted
    trusted: bool
    tally: Tally
    linked: dict[tuple[int, int], _Linked] = field(default_factory=dict)
    fresh: list[_Linked] = field(default_factory=list)
    missing: set[bytes] = field(default_factory=set)


def make(source: Source, path: bytes, target: work.Work) -> bytes | None:
    """Make what a path of the image leads to.

    Args:
        source: the image.
        path: from the share's directory.
        target: where it is made.

    Returns:
        Its name there; None if nothing of it is wanted, or it cannot be made.

    Raises:
        RvssError: NO_SPACE or READ_ONLY.
    """
    name = target.name()
    try:
        _make(source, path, target.fd, name)
    except BaseException:
        target.remove(name)
        raise
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=target.fd, follow_symlinks=False)
        return name
    return None


def count(source: Source, path: bytes) -> None:
    """Count what would be made; see `make`."""
    with tree.handle(source.root, path) as found:
        is_directory = stat.S_ISDIR(os.fstat(found).st_mode)
    directories = [path] if is_directory else []
    source.tally.states[State.RESTORED] += source.wanted.has(path)
    for here in directories:  # it grows
        if is_left_out(source, here):
            continue
        try:
            with tree.handle(source.root, here) as inside:
                for each in tree.names(inside):
                    below = join(here, each)
                    if source.wanted.enters(below):
                        source.tally.states[State.RESTORED] += source.wanted.has(below)
                        mode = os.stat(each, dir_fd=inside, follow_symlinks=False).st_mode
                        if stat.S_ISDIR(mode):
                            directories.append(below)
        except OSError as exc:
            source.tally.fails(here, "it cannot be read", exc)


def placed(source: Source, path: bytes, root: int, place: bytes) -> None:
    """Note that what was made has come to its name, for those of its names that come later.

    Args:
        source: the image.
        path: of what was made, in the image.
        root: a descriptor of the target's directory; it outlives the source.
        place: where in it that is.
    """
    for linked in source.fresh:
        linked.root, linked.place = root, beneath(place, path, linked.path)
    source.fresh.clear()


def known(source: Source, entry: Entry, found: int, root: int, present: int) -> None:
    """Note that a file with several names is there already, for its other names.

    Args:
        source: the image.
        entry: what the image has.
        found: a descriptor of it there.
        root: a descriptor of the target's directory.
        present: a descriptor of what is there, under the same path.
    """
    if entry.kind is Kind.FILE and entry.links > 1:
        status, there = os.fstat(found), os.fstat(present)
        linked = source.linked.setdefault(
            (status.st_dev, status.st_ino), _Linked(path=entry.path, names=entry.links)
        )
        linked.seen += 1
        if linked.root < 0:
            linked.root, linked.place = root, entry.path
            linked.inode = (there.st_dev, there.st_ino)


def tell_links(source: Source) -> None:
    """Tell which files have names that were not restored with them."""
    for linked in source.linked.values():
        if linked.seen < linked.names:
            beyond = linked.names - linked.seen
            what = f"{beyond} of its {linked.names} names (hard links) are not restored with it"
            source.tally.notes.add(linked.path, what)


def is_left_out(source: Source, directory: bytes) -> bool:
    """Return whether a directory is not gone into; that is told."""
    if not is_beyond(directory):
        return False
    source.tally.faults.add(directory, BEYOND)
    return True


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory."""
    return directory + b"/" + name if directory else name


def beneath(place: bytes, path: bytes, here: bytes) -> bytes:
    """Return where something is in the target.

    Args:
        place: where what is restored is.
        path: its path in the image; empty for all of it.
        here: the path in the image of what is asked for: that one, or one below it.
    """
    below = here[len(path) :].lstrip(b"/")
    return join(place, below) if below else place


def _make(source: Source, path: bytes, root: int, name: bytes) -> None:
    above, last = os.path.split(path)
    with tree.handle(source.root, above) as inside:
        if not _one(source, inside, last, path, root, root, name, name):
            return
    directories = [path]
    for here in directories:  # it grows
        if is_left_out(source, here):
            continue
        place = beneath(name, path, here)
        with ExitStack() as closing:
            try:
                inside = closing.enter_context(tree.handle(source.root, here))
                around = closing.enter_context(tree.handle(root, place))
                for each in tree.names(inside):
                    below, there = join(here, each), join(place, each)
                    if _one(source, inside, each, below, root, around, each, there):
                        directories.append(below)
            except OSError as exc:
                _fails(source, here, "not all that is in it is restored", exc)
    for here in reversed(directories):
        place = beneath(name, path, here)
        _finish(source, here, root, place)


def _one(
    source: Source,
    inside: int,
    each: bytes,
    path: bytes,
    root: int,
    around: int,
    name: bytes,
    place: bytes,
) -> bool:
    """Make what a name in a directory leads to; return whether that is a directory.

    Args:
        source: the image.
        inside: the directory in the image, and
        each: the name in it.
        path: the name's path.
        root: the work directory.
        around: the directory where it is made, and
        name: its name there.
        place: its path from the work directory.
    """
    if not source.wanted.enters(path):
        return False
    try:
        with tree.handle(inside, each) as found:
            status = os.fstat(found)
            entry = tree.stated(path, status)
            is_directory = entry.kind is Kind.DIRECTORY
            if not is_directory and not source.wanted.has(path):
                return False
            if is_directory and each.startswith(work.PREFIX) and work.is_one(found):
                source.missing.add(path)
                source.tally.notes.add(path, "what another restore was making is left out")
                return False
            if is_directory and path and status.st_dev != os.fstat(inside).st_dev:
                source.tally.notes.add(path, "it was a volume of its own, and is a directory")
            if entry.kind in _SPECIAL and not source.trusted:
                source.missing.add(path)
                source.tally.notes.add(path, "a device is made nowhere but in its share")
                return False
            if entry.kind is Kind.FILE:
                _file(source, entry, found, (status.st_dev, status.st_ino), root, around, name)
                _seen(source, entry, status.st_dev, root, around, name, place)
            else:
                _other(entry, found, around, name)
                if not is_directory:
                    with tree.handle(around, name) as made:
                        _attributes(source, entry, found, made)
    except FileExistsError as exc:  # the target takes two names for one; what has it is another's
        _fails(source, path, "it is not restored", exc)
        return False
    except OSError as exc:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=around)
        _fails(source, path, "it is not restored", exc)
        return False
    source.tally.states[State.RESTORED] += 1
    return is_directory


def _file(
    source: Source,
    entry: Entry,
    found: int,
    key: tuple[int, int],
    root: int,
    around: int,
    name: bytes,
) -> None:
    if entry.links > 1 and _link(source, key, around, name):
        return
    with (
        tree.content(found) as data,
        files.opened(os.open(name, _FILE, 0o600, dir_fd=around)) as fd,
    ):
        content.fill(data, fd, entry.size, source.tally)
        _attributes(source, entry, found, fd)


def _other(entry: Entry, found: int, around: int, name: bytes) -> None:
    """Make what has no content: a directory, a link, a device, a FIFO or a socket."""
    match entry.kind:
        case Kind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=around)
        case Kind.LINK:
            os.symlink(os.readlink(b"", dir_fd=found), name, dir_fd=around)
        case Kind.UNKNOWN:
            raise OSError(errno.EINVAL, "nobody knows what it is")
        case _:
            kind = stat.S_IFMT(os.fstat(found).st_mode)
            os.mknod(name, kind | 0o600, entry.device, dir_fd=around)


def _attributes(source: Source, entry: Entry, found: int, made: int) -> None:
    """Give what was made all that it has besides its content."""
    wanted = attributes.read(found)
    if not source.trusted:
        less = attributes.harmless(wanted, is_directory=entry.kind is Kind.DIRECTORY)
        if less != wanted:
            what = "without the right to run as its owner or group, which it has in its share only"
            source.tally.notes.add(entry.path, what)
        wanted = less
    for failure in attributes.write(made, wanted):
        source.tally.faults.add(entry.path, failure)


def _link(source: Source, key: tuple[int, int], around: int, name: bytes) -> bool:
    """Make a file another name of one that was restored; return whether that could be done."""
    linked = source.linked.get(key)
    if linked is None or linked.root < 0:
        return False
    try:
        with tree.handle(linked.root, linked.place) as first:
            status = os.fstat(first)
            if (status.st_dev, status.st_ino) != linked.inode:
                return False  # somebody has put another file there
            os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=around, follow_symlinks=True)
    except OSError as exc:
        if exc.errno not in _UNLINKED:
            raise
        return False
    return True


def _seen(
    source: Source, entry: Entry, device: int, root: int, around: int, name: bytes, place: bytes
) -> None:
    """Note that a name of a file with several was made, and where it is."""
    if entry.links < 2:
        return
    linked = source.linked.setdefault(
        (device, entry.inode), _Linked(path=entry.path, names=entry.links)
    )
    linked.seen += 1
    status = os.stat(name, dir_fd=around, follow_symlinks=False)
    if (status.st_dev, status.st_ino) != linked.inode:
        linked.path, linked.root, linked.place = entry.path, root, place
        linked.inode = (status.st_dev, status.st_ino)
        source.fresh.append(linked)


def _finish(source: Source, path: bytes, root: int, place: bytes) -> None:
    """Give a directory what it has besides what is in it; an empty one that is not wanted goes."""
    above, last = os.path.split(place)
    try:
        with tree.handle(source.root, path) as found, tree.handle(root, above) as around:
            if not source.wanted.has(path):
                try:
                    os.rmdir(last, dir_fd=around)
                except OSError as exc:
                    if exc.errno != errno.ENOTEMPTY:
                        raise
                else:
                    source.tally.states[State.RESTORED] -= 1
                    return
            with tree.handle(around, last) as made:
                with (
                    files.opened(os.open(".", files.DIRECTORY, dir_fd=found)) as one,
                    files.opened(os.open(".", files.DIRECTORY, dir_fd=made)) as other,
                ):
                    content.make_alike(one, other)
                _attributes(source, tree.stated(path, os.fstat(found)), found, made)
    except OSError as exc:
        _fails(source, path, "its owner, permissions or times are not restored", exc)


def _fails(source: Source, path: bytes, what: str, exc: OSError) -> None:
    """Tell what could not be done.

    Raises:
        RvssError: NO_SPACE or READ_ONLY: then it is useless to go on.
    """
    stop = work.full(exc)
    if stop is not None:
        raise stop from exc
    source.missing.add(path)
    source.tally.fails(path, what, exc)
