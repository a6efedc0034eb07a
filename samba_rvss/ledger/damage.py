"""A ledger that cannot be read: set aside under a name of its own, whole or record by record.

Place: below `file`, whose one writer calls this when it opens the file. Contract: nothing is
thrown away. What is missing afterwards is made anew from the images' marks; what was set aside
stays until an administrator removes it, and ``status`` says so as long.
"""

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from glob import escape, glob

from samba_rvss.clock import now
from samba_rvss.errors import RvssError
from samba_rvss.ledger.rows import COLUMNS, EVENT_COLUMNS, copy_of, event_of

_logger = logging.getLogger(__name__)

FILES = ("", "-wal", "-shm", "-journal")
"""What a database consists of: these endings of its name."""

# A full disk, a lock or an I/O error is none: the file may be whole (sqlite.org/rescode.html).
# ERROR is what SQL says of tables that are not those of the file's version.
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
)


ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What using a database raises: the latter if SQLite names a part of its schema that is no text."""


def is_damage(exc: Exception) -> bool:
    """Return whether one of `ERRORS` means that the file's contents are at fault."""
    if isinstance(exc, UnicodeDecodeError):
        return True
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:  # it is Python's own: a text is not UTF-8
        return isinstance(exc, sqlite3.OperationalError)
    return code & 0xFF in _DAMAGE


def look_for(database: sqlite3.Connection) -> None:
    """Read the structure of the whole file, and know every column.

    Raises:
        sqlite3.DatabaseError: if that fails; see `is_damage`.
    """
    found = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        error = sqlite3.DatabaseError(str(found[0]) if found else "nothing is in it")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    for columns, table in ((COLUMNS, "copies"), (EVENT_COLUMNS, "events")):
        database.execute(f"SELECT {columns} FROM {table} LIMIT 0")
    database.execute("SELECT name, boot, since FROM findings LIMIT 0")


def set_aside(path: str) -> str:
    """Give a ledger that is not open a name of its own; return it."""
    name = _free_name(path)
    for suffix in reversed(FILES):  # the database last: its log must never stand beside a new one
        if os.path.lexists(path + suffix):
            os.rename(path + suffix, name + suffix)
    return name


def set_records_aside(database: sqlite3.Connection, path: str) -> str:
    """Remove the records that cannot be read, after copying the whole ledger.

    Args:
        database: the open file.
        path: where it is.

    Returns:
        The name of the copy; empty if every record can be read.
    """
    copies = _unreadable(database, f"rowid, {COLUMNS} FROM copies", copy_of)
    events = _unreadable(database, f"number, {EVENT_COLUMNS} FROM events", event_of)
    if not copies and not events:
        return ""
    name = _free_name(path)
    with closing(sqlite3.connect(name)) as backup:
        os.chmod(name, 0o600)
        database.backup(backup)
        backup.execute("PRAGMA journal_mode = DELETE")  # one file
    database.execute("BEGIN IMMEDIATE")
    database.executemany("DELETE FROM copies WHERE rowid = ?", copies)
    database.executemany("DELETE FROM events WHERE number = ?", events)
    database.execute("COMMIT")
    return name


def aside(path: str) -> list[str]:
    """Return what has been set aside of a ledger and is still there, in the order of time."""
    return sorted(
        name
        for name in glob(f"{escape(path)}.damaged-*")
        if not name.endswith(tuple(suffix for suffix in FILES if suffix))
    )


def _unreadable(
    database: sqlite3.Connection, what: str, read: Callable[[tuple[object, ...]], object]
) -> list[tuple[object]]:
    found: list[tuple[object]] = []
    usual = database.text_factory
    database.text_factory = os.fsdecode  # bytes that are not UTF-8 are one record's fault
    try:
        rows = database.execute(f"SELECT {what}").fetchall()
    finally:
        database.text_factory = usual
    for number, *row in rows:
        try:
            read(tuple(row))
            for text in row:
                if isinstance(text, str):
                    text.encode()
        except UnicodeEncodeError as exc:
            _logger.error("a record of the ledger has %r, which is not UTF-8", exc.object)
            found.append((number,))
        except RvssError as exc:
            _logger.error("%s", exc.message)
            found.append((number,))
    return found


def _free_name(path: str) -> str:
    name = first = f"{path}.damaged-{now():%Y%m%dT%H%M%SZ}"
    number = 1
    while any(os.path.lexists(name + suffix) for suffix in FILES):
        number += 1
        name = f"{first}.{number}"
    return name
