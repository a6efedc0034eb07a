"""What a manifest says of one file, directory, link or special file, and how two of them differ.

Pure: nothing is opened here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K", bytes, int)


LIMIT = (1 << 14) - 1
"""Bytes of the longest path of a directory that is gone into: four times what the kernel takes.

Each name costs the length of its path, in room and in time, and users choose how deep a tree is.
"""

BEYOND = "it lies too deep: what is in it is left out"
"""The fault of a directory that is not gone into for that: a limit, and no damage."""

UNLISTED = b"?"
"""In place of the digest of attributes of which there are more than the kernel lists; no damage."""


class Kind(Enum):
    """What a name leads to; the values are what `ls -l` has, but for a file."""

    FILE = "f"
    DIRECTORY = "d"
    LINK = "l"
    BLOCK = "b"
    CHARACTER = "c"
    FIFO = "p"
    SOCKET = "s"
    UNKNOWN = "?"  # it could not be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name in a share.

    Attributes:
        path: from the share's directory, without a slash at either end; empty for that itself.
        kind: what it leads to.
        mode: its permissions, with the set-id and sticky bits.
        uid: its owner.
        gid: its group.
        size: of a file, in bytes; 0 for what is none.
        mtime: when its content was changed last, in nanoseconds since 1970.
        ctime: when anything of it was changed last, the same.
        inode: its number on its volume.
        links: how many names it has.
        volume: which of the tree's volumes it is in: 0 for that of the tree's directory, others by
            the order in which they were met. Inode numbers are those of one volume.
        device: which device a special file means.
        target: where a symbolic link leads.
        acl: SHA-256 of its ACLs, POSIX and NT; empty if it has none.
        xattrs: SHA-256 of its other extended attributes, streams among them; empty if it has none,
            UNLISTED if nobody can tell which they are.
        digest: of a file that has been read, see `samba_rvss.manifests.chunks.Digest`.
        fault: why it could not be read; empty if it could.
    """

    path: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    ctime: int = 0
    inode: int = 0
    links: int = 1
    volume: int = 0
    device: int = 0
    target: bytes = b""
    acl: bytes = b""
    xattrs: bytes = b""
    digest: bytes = b""
    fault: str = ""


CARRIED = ("mode", "uid", "gid", "mtime", "device", "acl", "xattrs")
"""What of the metadata a copy elsewhere has as well."""

LASTING = (*CARRIED, "ctime", "inode", "links")
"""What of the metadata nothing changes in a sealed image."""


_OF_STUB = 2
"""Inode of the empty directory that stands for a subvolume which is no part of a snapshot.

It is made whenever the kernel meets it, and dated by then (linux/btrfs_tree.h,
BTRFS_EMPTY_SUBVOL_DIR_OBJECTID; fs/btrfs/inode.c, new_simple_dir()). No directory on ZFS has it.
"""


def is_beyond(directory: bytes) -> bool:
    """Return whether a directory lies too deep to be gone into, by its path."""
    return len(directory) > LIMIT


def missing(entry: Entry) -> str:
    """Return what is not known of an entry, and why; empty if all is."""
    if entry.fault or entry.xattrs != UNLISTED:
        return entry.fault
    return "it has more extended attributes than the kernel lists: they are left out"


def file_of(entry: Entry) -> bytes:
    """Return which file of its tree a name is; empty if it is none, or has no other name."""
    if entry.kind is not Kind.FILE or entry.links < 2:
        return b""
    return b"%d/%d" % (entry.volume, entry.inode)


def lasting(entry: Entry, fields: Iterable[str]) -> tuple[str, ...]:
    """Return those fields of an entry that mean something when they differ."""
    is_stub = entry.kind is Kind.DIRECTORY and entry.inode == _OF_STUB
    return tuple(name for name in fields if not (is_stub and name in ("mtime", "ctime")))


def metadata(one: Entry, other: Entry, fields: Iterable[str]) -> tuple[str, ...]:
    """Return those fields in which two entries of one kind differ."""
    return tuple(name for name in fields if getattr(one, name) != getattr(other, name))


def is_same_content(one: Entry, other: Entry) -> bool:
    """Return whether two entries lead to the same content; what was not read is not the same."""
    if (one.kind, one.size, one.target) != (other.kind, other.size, other.target):
        return False
    if one.kind is not Kind.FILE:
        return True
    return bool(one.digest) and one.digest == other.digest


def is_unchanged(before: Entry, present: Entry, until: int) -> bool:
    """Return whether a file of a backup has what the same file of another one was found to have.

    It has if inode, size, mtime and ctime are the same. Nobody can set a ctime (utimensat(2)), and
    the kernel sets it, in the transaction of the change itself, at each write, truncation, reflink,
    change of metadata, and first store into a page of a shared mapping since that was written out
    (btrfs: file_update_time() in btrfs_page_mkwrite(); OpenZFS: zfs_tstamp_update_setup(), for
    mappings in zfs_putpage()); a snapshot writes out first what is dirty, so that a later store is
    such a first one. A file that gets the inode number of one that is gone has a ctime of its own.

    What is left is how long a write takes: it sets the ctime before its first page, a backup can
    be taken between two of its pages, and the clock goes on in ticks. So a file that was changed
    in the minutes before the older of the two backups, or later (as by recovery, in that backup
    alone), is read again. This is wrong where somebody has a write wait longer than that for its
    own data (userfaultfd(2), fuse(4)); or where the clock is set back, and a write hits the same
    nanosecond. Verifying, which reads everything, tells.

    Args:
        before: what the manifest of the other backup has; it must have been read.
        present: what this one's tree has.
        until: the last ctime, in nanoseconds since 1970, that can be relied on.
    """
    if before.kind is not present.kind or before.fault or before.ctime >= until:
        return False
    if before.kind is Kind.FILE and not before.digest:
        return False
    return not metadata(before, present, ("inode", "size", "mtime", "ctime"))


def merged(
    left: Iterable[tuple[K, T]], right: Iterable[tuple[K, U]]
) -> Iterator[tuple[T | None, U | None]]:
    """Yield what two streams, each in the order of its keys, have under one key; None for nothing.

    It holds one item of each.
    """
    ours, theirs = iter(left), iter(right)
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if one is not None and other is not None and one[0] == other[0]:
            yield one[1], other[1]
            one, other = next(ours, None), next(theirs, None)
        elif one is not None and (other is None or one[0] < other[0]):
            yield one[1], None
            one = next(ours, None)
        elif other is not None:
            yield None, other[1]
            other = next(theirs, None)
