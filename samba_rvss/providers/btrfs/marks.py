"""Marks on btrfs: each an extended attribute of a directory of its own in the home.

    .marks/<image>/         our mark in trusted.samba_rvss

A mark is outside of the image, which is exactly the volume and takes none once it is read-only.
Only root can write a trusted attribute. Directory and attribute are durable with the next
transaction; so what is made after them never lacks them.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Identity, Kept, Mark, Whose
from samba_rvss.providers.btrfs import parts, together
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.parts import PLACE, Part
from samba_rvss.providers.mark import Marked, decode, encode

MARK = "trusted.samba_rvss"
PROVIDER = "btrfs"
# Bytes that a mark grows by when its image is sealed, beside the parts' uuids, when it is kept and
# has all the holds and tags that it may have (`copies.holds`), and when it is exposed.
_SEALED, _KEPT, _EXPOSED = 880, 750, 700


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A mark as it was read.

    Attributes:
        name: of its directory.
        marked: what it says, for every provider; None if it cannot be read.
        parts: what it says of the parts.
        in_place: whether its writable parts are where the former layout had them.
    """

    name: str
    marked: Marked | None
    parts: tuple[Part, ...] = ()
    in_place: bool = False

    @property
    def readable(self) -> Marked:
        """What it says.

        Raises:
            RvssError: BAD_PATH if it cannot be read.
        """
        if self.marked is None:
            raise RvssError(Problem.BAD_PATH, f"the mark of the image {self.name} cannot be read")
        return self.marked

    @property
    def mark(self) -> Mark:
        """What it says of the image; see `readable`."""
        return self.readable.mark

    @property
    def is_sealed(self) -> bool:
        """Whether it names sealed parts."""
        return self.marked is not None and self.mark.sealed is not None

    def whose(self, file_system: str, identity: Identity) -> Whose:
        """Return whose the image is, by the mark and by where the mark is."""
        if self.marked is None:
            return Whose.UNKNOWN
        if self.mark.volume.file_system != file_system:
            return Whose.CLONE
        if self.mark.id != self.name:
            return Whose.RENAMED
        return identity.whose(self.marked.instance, self.marked.machine)


def names(home: Home) -> list[str]:
    """Return the names of all directories for marks."""
    try:
        with files.opened(os.open(PLACE, files.DIRECTORY, dir_fd=home.fd)) as place:
            return sorted(os.listdir(place))
    except FileNotFoundError:
        return []


def read(home: Home, image: str) -> Record | None:
    """Return the mark of an image; None if there is no directory with one."""
    try:
        with files.opened(_open(home, image)) as fd:
            record = parse(image, os.getxattr(fd, MARK))
            return record if record.parts else Record(name=image, marked=None)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENODATA, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def parse(name: str, raw: bytes) -> Record:
    """Return a mark from its text."""
    marked = decode(raw, PROVIDER)
    try:
        if marked is not None:
            return Record(
                name=name,
                marked=marked,
                parts=parts.of_more(marked.more),
                in_place=bool(marked.more.get("in_place")),
            )
    except (ValueError, TypeError, AttributeError):
        pass
    return Record(name=name, marked=None)


def make(home: Home, image: str) -> None:
    """Make the directory for a mark.

    Raises:
        OSError: FileExistsError if it is there.
    """
    with suppress(FileExistsError):
        os.mkdir(PLACE, 0o700, dir_fd=home.fd)
    with files.opened(os.open(PLACE, files.DIRECTORY, dir_fd=home.fd)) as place:
        os.mkdir(image, 0o700, dir_fd=place)


def write(
    home: Home,
    mark: Mark,
    identity: Identity,
    named: Sequence[Part],
    *,
    in_place: bool = False,
) -> None:
    """Write a mark; in one step.

    Raises:
        RvssError: NOT_SUPPORTED if it would not fit once the image is sealed, or leaves no room for
            what is said of a backup.
    """
    more = {"parts": parts.to_more(named), **({"in_place": True} if in_place else {})}
    raw = encode(mark, identity, more).encode()
    # fs/btrfs/ctree.h, BTRFS_MAX_XATTR_SIZE: what is left of a node without its headers
    room = home.node - 156 - len(MARK)
    unknown = sum((not part.recovery) + (not part.sealed) for part in named)
    later = 0 if mark.sealed else _SEALED + _KEPT + _EXPOSED + 32 * unknown
    needed = len(raw) + later
    if mark.kept and mark.kept.run:
        # Nothing is kept for what a run says; it has to leave what is kept for the rest.
        alone = replace(mark, kept=Kept(run=mark.kept.run))
        needed = max(needed, len(encode(alone, identity, more).encode()) + _KEPT + _EXPOSED)
    if needed > room:
        raise RvssError(
            Problem.NOT_SUPPORTED,
            f"the shadow copy of {mark.share_path} cannot be marked: its {len(named)} subvolumes"
            f" and their paths need {needed} bytes, and there are {room}",
            "make fewer of them part of the share, or shorten their paths, or the patterns of the"
            " backup's definition",
        )
    with files.opened(_open(home, mark.id)) as fd:
        os.setxattr(fd, MARK, raw)


def claim(home: Home, record: Record, identity: Identity) -> None:
    """Put our identity into a mark; what else it says stays."""
    with files.opened(_open(home, record.name)) as fd:
        os.setxattr(fd, MARK, text(record, identity), os.XATTR_REPLACE)


def text(record: Record, identity: Identity) -> bytes:
    """Return a mark that can be read, with our identity in it."""
    return encode(record.mark, identity, record.readable.more).encode()


def make_durable(home: Home, image: str) -> None:
    """Have a mark as it is now on the disk, and the renames of subvolumes that came before it.

    They make the kernel commit the whole transaction (fs/btrfs/inode.c, btrfs_rename()); where
    none came, that mark alone goes into the file system's log, and no other.
    """
    with files.opened(_open(home, image)) as fd:
        os.fsync(fd)


def remove(home: Home, image: str) -> None:
    """Remove a mark, with what was thrown away beside it. Gone already is success.

    The image's parts have been deleted before. Then they are gone wherever the mark is, without
    waiting for a commit: the one before the other in a transaction, or in an earlier one. Nothing
    may bring the directory of marks into the file system's log, which has no deletion of a
    subvolume: so that one is never given to fsync(2).
    """
    tidy(home, image)
    with (
        suppress(FileNotFoundError),
        files.opened(os.open(PLACE, files.DIRECTORY, dir_fd=home.fd)) as place,
    ):
        os.rmdir(image, dir_fd=place)


def tidy(home: Home, image: str) -> None:
    """Remove what is beside a mark while its image is being taken, and not needed any more.

    Raises:
        RvssError: BUSY.
        OSError: if btrfs refuses.
    """
    together.clear(home, parts.starters(image))
    with suppress(FileNotFoundError), files.opened(_open(home, image)) as fd:
        for name in os.listdir(fd):
            try:
                os.rmdir(name, dir_fd=fd)
            except OSError as exc:
                # A part that was not moved to its place.
                if exc.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
                    raise


def _open(home: Home, image: str) -> int:
    if "/" in image or image in ("", ".", ".."):
        raise RvssError(Problem.BAD_PATH, f"{image} is no image's id")
    return files.openat2(home.fd, f"{PLACE}/{image}", files.DIRECTORY, files.BENEATH)
