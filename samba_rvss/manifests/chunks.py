"""The content of a file, chunk by chunk: digests, without reading its holes.

Contract: memory for one chunk, whatever the file's size. What has been read is let go of in the
page cache, which is for those who work here.
"""

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator

from samba_rvss.manifests.entry import merged

SIZE = 4 << 20
"""Bytes of a chunk; the last one of a file may have less."""

LENGTH = hashlib.sha256().digest_size
"""Bytes of a digest."""

IN_A_ROW = 256
"""Chunks of a row, which is one GiB: what is looked at, and written down, at a time."""

EMPTY = hashlib.sha256(bytes(SIZE)).digest()
"""Digest of a whole chunk of zeroes."""


class Digest:
    """The digest of a file, from those of its chunks.

    A file of one chunk has that chunk's SHA-256, which is what sha256sum(1) prints. A larger one
    has that of the number of each chunk, in 8 bytes, the highest first, and the chunk's SHA-256,
    one after the other, without the whole chunks of zeroes. So what has no data takes no time,
    even in a file of 8 EiB, which anybody can make; and what has been read of a file need not be
    read again after an interruption.

    Args:
        size: how many bytes the file has.
    """

    def __init__(self, size: int) -> None:
        self._hash = hashlib.sha256()
        self._only = b""
        self._is_large = count(size) > 1

    def add(self, first: int, digests: bytes) -> None:
        """Add the digests of chunks, one after the other, by the number of the first."""
        self._only = self._only or digests[:LENGTH]
        for number, digest in numbered(first, digests):
            if digest != EMPTY:
                self._hash.update(struct.pack(">Q", number) + digest)

    def value(self) -> bytes:
        """Return it."""
        return self._hash.digest() if self._is_large else self._only


def numbered(first: int, digests: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and the digests of chunks that follow each other."""
    for number in range(len(digests) // LENGTH):
        yield first + number, digests[number * LENGTH : (number + 1) * LENGTH]


def by_row(runs: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield, for each row of which there are digests, its number, and they by those of chunks."""
    for first, digests in runs:
        yield first // IN_A_ROW, dict(numbered(first, digests))


def trimmed(first: int, digests: list[bytes]) -> tuple[int, bytes]:
    """Return the digests of chunks without the whole ones of zeroes at both ends."""
    full = [at for at, digest in enumerate(digests) if digest != EMPTY]
    if not full:
        return first, b""
    return first + full[0], b"".join(digests[full[0] : full[-1] + 1])


def count(size: int) -> int:
    """Return of how many chunks a file is: an empty one has one as well."""
    return max(1, -(-size // SIZE))


def first_difference(one: int, other: int, size: int) -> int | None:
    """Return at which chunk two files of one size differ first, by its offset; None if nowhere.

    Args:
        one: a file, opened for reading, and
        other: another.
        size: how many bytes each has.

    Raises:
        OSError: one of them cannot be read.
    """
    ours, theirs = Reader(one, size), Reader(other, size)
    rows = merged(((row, row) for row in ours.rows()), ((row, row) for row in theirs.rows()))
    for left, right in rows:
        first = max(row for row in (left, right) if row is not None) * IN_A_ROW
        for number in range(first, min(first + IN_A_ROW, count(size))):
            if ours.digest(number) != theirs.digest(number):
                return number * SIZE
    return None


class Reader:
    """Reads a file's chunks.

    Args:
        fd: the file, opened for reading; the caller's.
        size: how many bytes it has.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._buffer = memoryview(bytearray(min(SIZE, size)))
        self._data = 0  # where the next data is, at or after where it was looked for last
        # What the disk has is to be read, not what is in memory.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def rows(self, start: int = 0) -> Iterator[int]:
        """Yield the numbers of the rows that can have data, and of the last one, in their order.

        Args:
            start: the number of the first row that is wanted.

        Raises:
            OSError: the file cannot be looked into.
        """
        last = (count(self._size) - 1) // IN_A_ROW
        row = start
        while row <= last:
            data = self._next_data(row * IN_A_ROW * SIZE)
            row = min(max(row, data // (IN_A_ROW * SIZE)), last)
            yield row
            row += 1

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of a chunk by its number; each call has a higher one than the last.

        Raises:
            OSError: it cannot be read.
        """
        start = number * SIZE
        length = min(SIZE, self._size - start)
        if not length or self._next_data(start) < start + length:
            return self._read(self._buffer[:length], start)
        return EMPTY if length == SIZE else hashlib.sha256(bytes(length)).digest()

    def _next_data(self, start: int) -> int:
        """Return where data begins, at an offset or after it; the file's size if there is none."""
        if start >= self._data:
            try:
                self._data = os.lseek(self._fd, start, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                self._data = self._size
        return self._data

    def _read(self, buffer: memoryview, start: int) -> bytes:
        done = 0
        while done < len(buffer):
            got = os.preadv(self._fd, [buffer[done:]], start + done)
            if not got:
                raise OSError(errno.EIO, "it ends before its size")
            done += got
        os.posix_fadvise(self._fd, start, len(buffer), os.POSIX_FADV_DONTNEED)
        return hashlib.sha256(buffer).digest()
