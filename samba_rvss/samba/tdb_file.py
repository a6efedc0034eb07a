"""Reading a tdb file as a whole, without ever waiting and in time that grows with its size alone.

libtdb finds each record by walking the chain of its hash bucket, and Samba's files keep 131 of
them however many records there are: a walk over 10,000 shadow copies takes seconds. The chains
themselves hold every record once. Format and locks: Samba, lib/tdb/common/tdb_private.h, lock.c.
"""

import os
import struct

from samba_rvss import kernel

_MAGIC = b"TDB file\n"
_VERSION = 0x26011967 + 6
# sizeof(struct tdb_header): from here on, a lock covers all records
# (lock.c, tdb_lockall_read(); tdb_private.h, FREELIST_TOP)
_FREELIST_TOP = 168
_RECORD = struct.Struct("=IIIIII")  # next, length, key length, data length, hash, magic
_TDB_MAGIC = 0x26011999
# transaction.c, tdb_needs_recovery(): a transaction was cut off in its commit
_RECOVERY_START = 44
_TDB_RECOVERY_MAGIC = 0xF53BC0E7


def read(path: str, prefix: bytes = b"") -> dict[bytes, bytes] | None:
    """Return the records of a file.

    Args:
        path: the file.
        prefix: what their keys begin with.

    Returns:
        The records as they are between two writes; None if somebody writes just now, or did not
        come to an end.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or no tdb file of this machine.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_size == 0 or not kernel.try_read_lock(fd, _FREELIST_TOP):
            return None
        with open(fd, "rb", buffering=0, closefd=False) as file:
            data = file.readall()
    finally:
        os.close(fd)
    try:
        return None if _needs_recovery(data) else _walk(data, prefix)
    except struct.error as exc:
        raise ValueError("it is shorter than its records say") from exc


def _needs_recovery(data: bytes) -> bool:
    (start,) = struct.unpack_from("=I", data, _RECOVERY_START)
    return bool(start) and _RECORD.unpack_from(data, start)[5] == _TDB_RECOVERY_MAGIC


def _walk(data: bytes, prefix: bytes) -> dict[bytes, bytes]:
    version, buckets = struct.unpack_from("=II", data, len(_MAGIC.ljust(32)))
    if not data.startswith(_MAGIC) or version != _VERSION:
        raise ValueError("it is not a tdb file of this machine")
    heads = struct.unpack_from(f"={buckets}I", data, _FREELIST_TOP + 4)
    found = {}
    left = len(data) // _RECORD.size
    for head in heads:
        offset = head
        while offset:
            following, _, key_length, data_length, _, magic = _RECORD.unpack_from(data, offset)
            left -= 1
            key = offset + _RECORD.size
            value = key + key_length
            end = value + data_length
            if left < 0 or end > len(data):
                raise ValueError("its records have no end")
            if magic == _TDB_MAGIC and data.startswith(prefix, key, value):
                found[data[key:value]] = data[value:end]
            offset = following
    return found
