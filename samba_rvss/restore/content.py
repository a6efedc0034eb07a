"""The data of a file: shared with the image where one file system allows that, else copied.

Contract: holes stay holes. A piece at a time, so that it can be interrupted, and so that nobody
waits for long who reads or writes the same file: sharing costs time by the number of extents.
"""

import errno
import os
from collections.abc import Callable, Iterator

from samba_rvss.kernel import reflink
from samba_rvss.restore.tally import Tally

PIECE = 256 << 20
"""Bytes that are shared, or copied, at a time."""

_ALIGNED = 1 << 20  # a multiple of every file system's block
_BUFFER = 1 << 20
_SECTOR = 512  # bytes, the unit of st_blocks (inode(7))
# What says that the file systems cannot do it, and not that the disk has failed.
_CANNOT = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS})


def fill(source: int, target: int, size: int, tally: Tally) -> None:
    """Give an empty file the data of another one.

    Args:
        source: the other one, opened for reading.
        target: opened for reading and writing.
        size: how many bytes the other one has.
        tally: is told how far it has come.

    Raises:
        OSError: the data cannot be read or written.
    """
    make_alike(source, target)
    os.ftruncate(target, size)
    allocated = min(size, os.fstat(source).st_blocks * _SECTOR)
    if _shared(source, target, size, tally):
        tally.shared += 1
        tally.shared_bytes += allocated
        return
    os.ftruncate(target, 0)
    os.ftruncate(target, size)
    copy: Callable[[int, int, int, int], None] = _in_kernel
    for start, end in _data(source, size):
        for offset in range(start, end, PIECE):
            length = min(PIECE, end - offset)
            try:
                copy(source, target, offset, length)
            except OSError as exc:
                if copy is _by_hand or exc.errno not in _CANNOT:
                    raise
                copy = _by_hand
                copy(source, target, offset, length)
            tally.passed += length
    tally.copied += 1
    tally.copied_bytes += allocated


def make_alike(source: int, target: int) -> None:
    """Have data written as it is in the other file: only then can it be shared (btrfs(5)).

    What is made in a directory is written as that says.

    Args:
        source: the other file, or directory, opened for reading.
        target: a file without data, or a directory.

    Raises:
        OSError: its flags cannot be set.
    """
    before = reflink.flags(target)
    wanted = before & ~reflink.NOCOW | reflink.flags(source) & reflink.NOCOW
    if wanted != before:
        try:
            reflink.set_flags(target, wanted)
        except OSError as exc:
            if exc.errno not in _CANNOT:
                raise


def _shared(source: int, target: int, size: int, tally: Tally) -> bool:
    """Have a file share all data; return whether the file systems can do that."""
    done = 0
    for start, end in _data(source, size):
        offset = max(done, start // _ALIGNED * _ALIGNED)
        while offset < end:
            length = min(PIECE, size - offset)
            try:
                reflink.share(source, target, offset, length)
            except OSError as exc:
                if exc.errno not in _CANNOT:
                    raise
                return False
            tally.passed += length
            offset = done = offset + length
    return True


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where the data of a file begins and ends, without its holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # no more data
                return
            raise
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def _in_kernel(source: int, target: int, offset: int, length: int) -> None:
    """Copy a piece in the kernel; what it says of how much that was is not relied on."""
    done = 0
    while done < length:
        count = reflink.copy(source, target, offset + done, length - done)
        if not 0 < count <= length - done:
            _by_hand(source, target, offset + done, length - done)
            return
        done += count


def _by_hand(source: int, target: int, offset: int, length: int) -> None:
    done = 0
    while done < length:
        data = os.pread(source, min(_BUFFER, length - done), offset + done)
        if not data:
            raise OSError(errno.EIO, "it ends before its size")
        left = memoryview(data)
        while left:
            count = os.pwrite(target, left, offset + done)
            left = left[count:]
            done += count
