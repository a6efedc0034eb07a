"""Samba's tdb files: read as a whole, without waiting for a lock, in time linear in their size.

`changing` changes one, as Samba does.

libtdb finds a record by walking the chain of its hash bucket, and Samba's files have 131 buckets
however many records there are: to read 10,000 shadow copies that way takes seconds. Following each
chain once meets every record once. Format and locks: Samba, lib/tdb/common/tdb_private.h, lock.c.
"""

import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import tdb

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files

_MAGIC = b"TDB file\n"
_VERSION = 0x26011967 + 6
_VERSION_AT = 32
# sizeof(struct tdb_header): from here on, a lock covers all records
# (lock.c, tdb_lockall_read(); tdb_private.h, FREELIST_TOP)
_FREELIST_TOP = 168
_RECORD = struct.Struct("=IIIIII")  # next, length, key length, data length, hash, magic
_TDB_MAGIC = 0x26011999
# transaction.c, tdb_needs_recovery(): a transaction was cut off in its commit
_RECOVERY_START = 44
_TDB_RECOVERY_MAGIC = 0xF53BC0E7
_READING_SECONDS = 5.0
_READING_PAUSE = 0.05


@contextmanager
def changing(path: str) -> Iterator[tdb.Tdb]:
    """Change a file in a transaction: all that a block does, or nothing of it.

    Raises:
        RvssError: SAMBA if it cannot be changed.
    """
    try:
        with closing(tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDWR)) as database:
            database.transaction_start()
            try:
                yield database
            except BaseException:
                database.transaction_cancel()
                raise
            database.transaction_commit()
    except (OSError, RuntimeError) as exc:
        raise RvssError(Problem.SAMBA, f"cannot change {path}: {exc}") from exc


def read(path: str, prefix: bytes = b"") -> dict[bytes, bytes] | None:
    """Return the records of a file.

    Args:
        path: the file.
        prefix: what the keys of the wanted records begin with.

    Returns:
        The records as they are between two writes; None if the file is empty, if somebody is
        writing it, or if a transaction was cut off in its commit.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or no tdb file of this machine.
    """
    with files.opened(_open(path)) as fd:
        return _read(fd, prefix)


def settled(path: str, prefix: bytes) -> dict[bytes, bytes]:
    """Return records of one of Samba's tdb files, waiting for a moment when nobody writes it.

    Args:
        path: the file.
        prefix: what the keys of the wanted records begin with.

    Raises:
        RvssError: SAMBA if the file cannot be read.
        FileNotFoundError: there is no such file.
    """
    deadline = time.monotonic() + _READING_SECONDS
    try:
        while (records := read(path, prefix)) is None:
            if time.monotonic() > deadline:
                raise RvssError(Problem.SAMBA, f"{path} is never complete", "is it damaged?")
            time.sleep(_READING_PAUSE)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as exc:
        raise RvssError(Problem.SAMBA, f"cannot read {path}: {exc}") from exc
    return records


class HeldFile:
    """A tdb file that stays open, so that reading it again needs no new descriptor.

    It is opened at the first reading, and again when another file is at its path. Whoever makes it
    closes it.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def close(self) -> None:
        """Close the file; it is opened again if it is read again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> dict[bytes, bytes] | None:
        """Return all records; see `read`, also for the errors."""
        if self._fd < 0 or not os.path.samestat(os.stat(self._path), os.fstat(self._fd)):
            self.close()
            self._fd = _open(self._path)
        try:
            return _read(self._fd, b"")
        finally:
            files.unlock(self._fd)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _read(fd: int, prefix: bytes) -> dict[bytes, bytes] | None:
    try:
        if os.fstat(fd).st_size == 0 or not files.try_read_lock(fd, _FREELIST_TOP):
            return None
        return None if _needs_recovery(fd) else dict(_walk(fd, prefix))
    except struct.error as exc:
        raise ValueError("it is shorter than its records say") from exc


def version(path: str) -> tuple[int | bytes, ...] | None:
    """Return a value that differs between two versions of a file.

    It is None if somebody is writing the file, or if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        fd = _open(path)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        if not files.try_read_lock(fd, _FREELIST_TOP):
            return None
        status = os.fstat(fd)
        digest = hashlib.file_digest(file, "sha256").digest()
    return status.st_ino, status.st_mtime_ns, digest


def _needs_recovery(fd: int) -> bool:
    (start,) = struct.unpack("=I", os.pread(fd, 4, _RECOVERY_START))
    return bool(start) and _record(fd, start)[5] == _TDB_RECOVERY_MAGIC


def _record(fd: int, offset: int) -> tuple[int, ...]:
    return _RECORD.unpack(os.pread(fd, _RECORD.size, offset))


def _walk(fd: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the wanted records; only they are read whole: a file may be much larger than they."""
    magic = os.pread(fd, len(_MAGIC), 0)
    version, buckets = struct.unpack("=II", os.pread(fd, 8, _VERSION_AT))
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it is not a tdb file of this machine")
    heads = struct.unpack(f"={buckets}I", os.pread(fd, 4 * buckets, _FREELIST_TOP + 4))
    size = os.fstat(fd).st_size
    left = size // _RECORD.size
    head_size = _RECORD.size + len(prefix)
    for head in heads:
        offset = head
        while offset:
            data = os.pread(fd, head_size, offset)
            following, _, key_length, length, _, magic_number = _RECORD.unpack_from(data)
            key = offset + _RECORD.size
            left -= 1
            if left < 0 or key + key_length + length > size:
                raise ValueError("its records have no end")
            if magic_number == _TDB_MAGIC and key_length >= len(prefix) and data.endswith(prefix):
                pair = os.pread(fd, key_length + length, key)
                yield pair[:key_length], pair[key_length:]
            offset = following
