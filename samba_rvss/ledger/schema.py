"""The tables of the ledger, and the steps to them from those of older versions."""

import sqlite3

from samba_rvss.clock import moment
from samba_rvss.errors import Problem, RvssError

_VERSION_1 = """
CREATE TABLE copies (
    id TEXT PRIMARY KEY, share TEXT NOT NULL, share_path TEXT NOT NULL,
    provider TEXT NOT NULL, file_system TEXT NOT NULL, volume_key TEXT NOT NULL,
    volume_name TEXT NOT NULL, directory TEXT NOT NULL, inode TEXT NOT NULL,
    created TEXT NOT NULL, phase TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
    previous_path TEXT NOT NULL, uid INTEGER NOT NULL, set_id TEXT NOT NULL,
    copy_id TEXT NOT NULL, context INTEGER NOT NULL, exposed_share TEXT NOT NULL
) STRICT;
CREATE INDEX copies_by_phase ON copies (phase);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, copy TEXT NOT NULL, share TEXT NOT NULL,
    what TEXT NOT NULL, uid INTEGER NOT NULL, duration REAL, detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_copy ON events (copy);
"""
_VERSION_2 = """
ALTER TABLE copies ADD COLUMN state INTEGER NOT NULL DEFAULT -1;
ALTER TABLE copies ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE copies ADD COLUMN since REAL NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN set_id TEXT NOT NULL DEFAULT '';
CREATE INDEX events_by_set ON events (set_id);
CREATE TABLE findings (
    name TEXT PRIMARY KEY, boot TEXT NOT NULL, since REAL NOT NULL
) STRICT;
"""
# In older versions the column has the volume's key, which begins with provider and file system.
_VERSION_3 = """
ALTER TABLE copies RENAME COLUMN volume_key TO volume_id;
UPDATE copies SET volume_id = substr(volume_id, length(provider || ':' || file_system || ':') + 1)
    WHERE substr(volume_id, 1, length(provider || ':' || file_system || ':'))
        = provider || ':' || file_system || ':';
"""
_VERSION_4 = """
ALTER TABLE copies ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE copies ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
"""
_VERSION_5 = """
ALTER TABLE copies ADD COLUMN keep TEXT NOT NULL DEFAULT 'no';
ALTER TABLE copies ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE copies ADD COLUMN set_size INTEGER NOT NULL DEFAULT 0;
"""
_VERSION_6 = """
ALTER TABLE copies ADD COLUMN transid INTEGER NOT NULL DEFAULT 0;
ALTER TABLE copies ADD COLUMN taken TEXT NOT NULL DEFAULT '';
"""
COUNTED = "ended = 0 AND phase NOT IN ('creating', 'kept', 'deleting', 'gone')"
"""Which copies count for a limit; as the index has it, or SQLite does not use that."""
_VERSION_7 = f"""
CREATE INDEX copies_counted ON copies (share) WHERE {COUNTED};
CREATE INDEX copies_by_set ON copies (set_id) WHERE set_id != '';
"""
_MIGRATIONS = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
    _VERSION_6,
    _VERSION_7,
)
VERSION = len(_MIGRATIONS)


def bring_up_to_date(database: sqlite3.Connection, path: str) -> None:
    """Give a new file its tables, or an older one what it lacks, in one transaction.

    Args:
        database: the open file.
        path: where it is, for messages.

    Raises:
        RvssError: as `require_present`.
        sqlite3.Error: if it fails; nothing has changed then.
    """
    found = _version(database)
    if found < VERSION:
        steps = " ".join(_MIGRATIONS[found:])
        since = moment()  # version 1 did not write since when a copy is as it is
        database.executescript(
            f"BEGIN IMMEDIATE; {steps}"
            f" UPDATE copies SET boot = '{since.boot}', since = {since.seconds!r}"
            f" WHERE boot = ''; PRAGMA user_version = {VERSION}; COMMIT;"
        )
    require_present(database, path)


def require_present(database: sqlite3.Connection, path: str) -> None:
    """Refuse a file of another version.

    Args:
        database: the open file.
        path: where it is, for the message.

    Raises:
        RvssError: STATE.
    """
    found = _version(database)
    if found != VERSION:
        hint = (
            "the daemon brings it up to date when it starts"
            if found < VERSION
            else "a newer samba-rvss wrote it; move it away to have it rebuilt"
        )
        raise RvssError(
            Problem.STATE, f"the ledger {path} has version {found}, not {VERSION}", hint
        )


def _version(database: sqlite3.Connection) -> int:
    (found,) = database.execute("PRAGMA user_version").fetchone()
    return int(found)
