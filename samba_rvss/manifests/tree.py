"""A tree of files that anybody may have made: looked at without being led anywhere else.

Contract: names are bytes. No symbolic link is followed; nothing is opened by a path from the root
of the machine; a directory is opened below the tree's (openat2(2), RESOLVE_BENEATH), so that what
is moved meanwhile leads nowhere else. Devices, FIFOs and sockets are never opened: what is opened
for reading has been seen to be a regular file, by a descriptor that stands for it. What is mounted
in the tree is part of it: in an image those are its nested parts, and nothing else.
"""

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from samba_rvss.kernel import files
from samba_rvss.manifests.entry import UNLISTED, Entry, Kind

_LONGEST = 4095
"""Bytes of the longest path that the kernel takes at once (linux/limits.h, PATH_MAX)."""

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
_HANDLE = os.O_PATH | os.O_NOFOLLOW
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Not of what is in it: btrfs shows its properties like that (btrfs(5)), and SELinux the label that
# its policy gives a file of such a mount (fs/xattr.c, xattr_getsecurity()).
_NOT_OURS = (b"btrfs.", b"security.selinux")
NT_ACL = b"security.NTACL"
_POSIX = b"system."  # posix_acl_access, posix_acl_default, nfs4_acl (xattr(7))
# Users choose how many attributes a file of theirs has: on btrfs and ZFS they can be more than the
# 64 KiB of names that listxattr(2) tells (linux/limits.h, XATTR_LIST_MAX).
_DECIDING = (
    NT_ACL,
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"system.nfs4_acl",
    b"security.capability",
    b"user.DOSATTRIB",
)
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


@contextmanager
def handle(root: int, path: bytes) -> Iterator[int]:
    """Open what a path below a directory leads to, not for reading (O_PATH).

    Raises:
        OSError: it is not there, or a part of the path is a symbolic link.
    """
    with files.opened(beneath(root, path, _HANDLE)) as fd:
        yield fd


def beneath(root: int, path: bytes, flags: int) -> int:
    """Open what a path below a directory leads to; return a descriptor.

    The path can be longer than the kernel takes: then it is opened piece by piece, with one more
    descriptor meanwhile. Users come to such paths by moving a deep directory into another.

    Args:
        root: the directory.
        path: without ``..``; empty for the directory itself.
        flags: as for open(2).

    Raises:
        OSError: it is not there, or a part of the path is a symbolic link.
    """
    above, rest = root, path or b"."
    try:
        while len(rest) > _LONGEST:
            end = rest.rfind(b"/", 0, _LONGEST + 1)
            if end < 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            below = files.openat2(above, rest[:end], _HANDLE | os.O_DIRECTORY, files.BENEATH)
            if above != root:
                os.close(above)
            above, rest = below, rest[end + 1 :]
        return files.openat2(above, rest, flags, files.BENEATH)
    finally:
        if above != root:
            os.close(above)


@contextmanager
def content(found: int) -> Iterator[int]:
    """Open a regular file for reading.

    Args:
        found: a descriptor from `handle`.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    if not stat.S_ISREG(os.fstat(found).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    with files.opened(os.open(_path(found), _READING)) as fd:
        yield fd


def names(found: int) -> Iterator[bytes]:
    """Yield the names in a directory, in no order, and hold few of them.

    Args:
        found: a descriptor from `handle`.

    Raises:
        OSError: it is no directory, or cannot be read.
    """
    with files.opened(os.open(".", files.DIRECTORY, dir_fd=found)) as fd, os.scandir(fd) as listed:
        for each in listed:
            yield os.fsencode(each.name)


def stated(path: bytes, status: os.stat_result) -> Entry:
    """Return an entry as far as stat(2) tells it."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.UNKNOWN)
    special = kind in (Kind.BLOCK, Kind.CHARACTER)
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind is Kind.FILE else 0,
        mtime=_bounded(status.st_mtime_ns),
        ctime=_bounded(status.st_ctime_ns),
        inode=status.st_ino,
        links=status.st_nlink,
        device=status.st_rdev if special else 0,
    )


def completed(found: int) -> tuple[bytes, bytes, bytes]:
    """Return what stat(2) does not tell of an entry: its target, and the digests of attributes.

    Args:
        found: a descriptor from `handle`.

    Raises:
        OSError: they cannot be read.
    """
    is_link = stat.S_ISLNK(os.fstat(found).st_mode)
    target = os.readlink(b"", dir_fd=found) if is_link else b""
    access: list[bytes] = []
    others: list[bytes] = []
    values, is_whole = attributes(found)
    for each in sorted(values):
        of = access if each == NT_ACL or each.startswith(_POSIX) else others
        of += [each, values[each]]
    return target, _digest(access), _digest(others) if is_whole else UNLISTED


def attributes(found: int) -> tuple[dict[bytes, bytes], bool]:
    """Return a file's extended attributes, and whether these are all.

    Of a file that has more of them than the kernel lists, they are those that Samba and the kernel
    decide by, which are asked for by their names.

    Args:
        found: a descriptor of it, O_PATH or not.

    Raises:
        OSError: they cannot be read.
    """
    path = _path(found)
    is_whole = True
    try:
        wanted: Iterable[bytes] = map(os.fsencode, os.listxattr(path))
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM):  # not here, or not of such a file
            return {}, True
        if exc.errno != errno.E2BIG:
            raise
        wanted, is_whole = _DECIDING, False
    values = {}
    for name in wanted:
        if name.startswith(_NOT_OURS):
            continue
        try:
            values[name] = os.getxattr(path, name)
        except OSError as exc:
            # It has just been removed, or there is no such one.
            if exc.errno != errno.ENODATA and (is_whole or exc.errno != errno.ENOTSUP):
                raise
    return values, is_whole


def _digest(parts: list[bytes]) -> bytes:
    """Return the SHA-256 of texts, each with its length before it; nothing for none."""
    if not parts:
        return b""
    found = hashlib.sha256()
    for part in parts:
        found.update(struct.pack(">Q", len(part)))
        found.update(part)
    return found.digest()


def _path(found: int) -> str:
    """Return a path that leads to what a descriptor stands for, and to nothing else (proc(5))."""
    return f"/proc/self/fd/{found}"


def _bounded(nanoseconds: int) -> int:
    """Return a time as SQLite can hold it: users set an mtime some 10^11 years away on btrfs."""
    return max(_LEAST, min(nanoseconds, _MOST))
