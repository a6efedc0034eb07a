"""The content of a file, chunk by chunk: digests, without reading its holes.

Contract: memory for one chunk, whatever the file's size. What has been read is let go of in the
page cache, which is for those who work here.
"""

import errno
import hashlib
import os

SIZE = 4 << 20
"""Bytes of a chunk; the last one of a file may have less."""

LENGTH = hashlib.sha256().digest_size
"""Bytes of a digest."""

_ZEROES = hashlib.sha256(bytes(SIZE)).digest()


class Digest:
    """The digest of a file, from those of its chunks.

    A file of one chunk has that chunk's SHA-256, which is what sha256sum(1) prints; a larger one
    the SHA-256 of its chunks' digests in their order. So a hole of a terabyte takes no time, and
    what has been read of a file need not be read again after an interruption.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._count = 0
        self._first = b""

    def add(self, digests: bytes) -> None:
        """Add the digests of the next chunks, one after the other."""
        self._first = self._first or digests[:LENGTH]
        self._count += len(digests) // LENGTH
        self._hash.update(digests)

    def value(self) -> bytes:
        """Return it."""
        return self._hash.digest() if self._count > 1 else self._first


def count(size: int) -> int:
    """Return of how many chunks a file is: an empty one has one as well."""
    return max(1, -(-size // SIZE))


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

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of a chunk by its number; each call has a higher one than the last.

        Raises:
            OSError: it cannot be read.
        """
        start = number * SIZE
        length = min(SIZE, self._size - start)
        if not self._is_hole(start, length):
            return self._read(self._buffer[:length], start)
        return _ZEROES if length == SIZE else hashlib.sha256(bytes(length)).digest()

    def _is_hole(self, start: int, length: int) -> bool:
        if not length:
            return False
        if start >= self._data:
            try:
                self._data = os.lseek(self._fd, start, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:  # there is no more data
                    raise
                self._data = self._size
        return start + length <= self._data

    def _read(self, buffer: memoryview, start: int) -> bytes:
        done = 0
        while done < len(buffer):
            got = os.preadv(self._fd, [buffer[done:]], start + done)
            if not got:
                raise OSError(errno.EIO, "it ends before its size")
            done += got
        os.posix_fadvise(self._fd, start, len(buffer), os.POSIX_FADV_DONTNEED)
        return hashlib.sha256(buffer).digest()
