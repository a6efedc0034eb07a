"""srv_fss.tdb as Samba writes it, for tests of what reads it.

Place: the counterpart of `samba_rvss.samba.fss_state`. Keys and values: Samba, source3/rpc_server/
fss/srv_fss_state.c and librpc/idl/fsrvp_state.idl.
"""

import os
import struct
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import tdb

from samba_rvss.model import SambaState

Records: TypeAlias = dict[bytes, bytes]


def pack(*values: str | int) -> bytes:
    """Pack strings (UTF-8 with a NUL) and aligned 32-bit words."""
    data = b""
    for value in values:
        if isinstance(value, str):
            data += value.encode() + b"\0"
        else:
            data += bytes(-len(data) % 4) + struct.pack("<I", value)
    return data


def of_file(sets: int) -> Records:
    """Return the records that a file with so many sets has besides those of the sets."""
    return {b"db_version\0": pack(1), b"sc_set_count\0": pack(sets)}


def of_set(set_id: str, state: int, context: int, copies: int) -> Records:
    """Return the record of a set with so many shadow copies."""
    return {pack(f"sc_set/{set_id}"): pack(set_id, state, context, copies)}


def of_copy(
    set_id: str, copy_id: str, share_path: str, path: str, created: int, maps: int
) -> Records:
    """Return the record of a shadow copy with so many mappings; its time is in seconds."""
    key = f"sc_set/{set_id}/sc/{copy_id}"
    return {pack(key): pack(copy_id, share_path, path, created, maps)}


def of_map(
    set_id: str,
    copy_id: str,
    share: str,
    exposed_share: str,
    exposed: int,
    comment: str = "a comment",
) -> Records:
    """Return the record of a mapping, with the comment of its exposed share."""
    key = f"sc_set/{set_id}/sc/{copy_id}/smap/{exposed_share}"
    return {pack(key): pack(share, exposed_share, comment, exposed)}


def of_state(state: SambaState) -> Records:
    """Return all records of a file that holds this state."""
    records = of_file(len(state.sets))
    counts = Counter(copy.set_id for copy in state.copies)
    for each in state.sets:
        records |= of_set(each.id, each.state, each.context, counts[each.id])
    for copy in state.copies:
        of, name = copy.set_id, copy.copy_id
        created = int(copy.created.timestamp())
        records |= of_copy(of, name, copy.share_path, copy.path, created, 1)
        records |= of_map(of, name, copy.share, copy.exposed_share, copy.is_exposed)
    return records


def store(path: str | Path, records: Records) -> None:
    """Write a file as Samba does: wiped first, then everything in one transaction."""
    database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        database.clear()
        database.transaction_start()
        for key, value in records.items():
            database.store(key, value)
        database.transaction_commit()
    finally:
        database.close()
