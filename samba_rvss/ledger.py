"""The ledger: every shadow copy, its phase and its events, in SQLite.

A change is on disk when its method returns. The daemon alone writes; commands read the file while
it does, or while it does not run. Losing the file loses nothing: images bear their marks, and a
daemon that still has the lost file open writes it anew.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from enum import Enum
from functools import lru_cache
from urllib.parse import quote

from samba_rvss.clock import moment, now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Event, Moment, Phase, SetState, ShadowCopy, Volume

_logger = logging.getLogger(__name__)

_VERSION = 3
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
# Until then the column had the volume's key, which begins with its provider and file system.
_VERSION_3 = """
ALTER TABLE copies RENAME COLUMN volume_key TO volume_id;
UPDATE copies SET volume_id = substr(volume_id, length(provider || ':' || file_system || ':') + 1)
    WHERE substr(volume_id, 1, length(provider || ':' || file_system || ':'))
        = provider || ':' || file_system || ':';
"""
_MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3)
_COLUMNS = (
    "id, share, share_path, provider, file_system, volume_id, volume_name, directory, inode,"
    " created, phase, path, previous_path, uid, set_id, copy_id, context, exposed_share,"
    " state, boot, since"
)
_CHANGEABLE = frozenset(
    {"phase", "path", "previous_path", "set_id", "copy_id", "context", "exposed_share", "state"}
)
_NO_STATE = -1


class Ledger:
    """One instance's ledger.

    Args:
        path: the file; its directory must exist.
        read_only: for commands that must not change it.

    Raises:
        RvssError: STATE if it cannot be opened or is of another version, NOT_FOUND if it is
            opened for reading and there is none yet.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: os.stat_result | None = None
        if read_only and not os.path.exists(path):
            raise RvssError(
                Problem.NOT_FOUND, f"there is no ledger at {path}", "has the daemon ever run?"
            )
        with self._reported(), ExitStack() as undo:
            self._database = _connect(path, "ro" if read_only else "rwc")
            undo.callback(self._database.close)
            if not read_only:
                self._claim()
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version < _VERSION and not read_only:
                steps = " ".join(_MIGRATIONS[version:])
                since = moment()  # of what an older version has written, nothing else is known
                self._database.executescript(
                    f"BEGIN IMMEDIATE; {steps}"
                    f" UPDATE copies SET boot = '{since.boot}', since = {since.seconds!r}"
                    f" WHERE boot = ''; PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            elif version != _VERSION:
                hint = (
                    "the daemon brings it up to date when it starts"
                    if version < _VERSION
                    else "a newer samba-rvss wrote it; move it away to have it rebuilt"
                )
                raise RvssError(
                    Problem.STATE,
                    f"the ledger {path} has version {version}, not {_VERSION}",
                    hint,
                )
            undo.pop_all()

    def _claim(self) -> None:
        """Make the file fit for being written, and remember which one it is."""
        os.chmod(self._path, 0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on disk when it returns, in WAL mode as well
        self._database.execute("PRAGMA synchronous = FULL")
        self._file = os.stat(self._path)

    def _restore(self) -> None:
        """Write the file anew from what is open, if it was removed or replaced meanwhile."""
        if self._file is None:
            return
        try:
            if os.path.samestat(os.stat(self._path), self._file):
                return
        except FileNotFoundError:
            pass
        new = f"{self._path}.new"
        _remove(new)
        with closing(_connect(new, "rwc")) as copy:
            self._database.backup(copy)
            # One file alone, complete, can take the other's place.
            copy.execute("PRAGMA journal_mode = DELETE")
        # The log of a file that was put in the place of ours must not be applied to ours.
        _remove(self._path)
        self._database.close()
        os.rename(new, self._path)
        self._database = _connect(self._path, "rw")
        self._claim()
        _logger.error("the ledger %s was removed or replaced and is written anew", self._path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, copy: ShadowCopy, event: str, detail: str = "") -> None:
        """Record a new shadow copy, as of the present moment unless it says another one."""
        volume, since = copy.volume, copy.since if copy.since.boot else moment()
        values = (
            copy.id,
            copy.share,
            copy.share_path,
            volume.provider,
            volume.file_system,
            volume.id,
            volume.name,
            volume.directory,
            str(volume.inode),
            copy.created.isoformat(),
            copy.phase.value,
            copy.path,
            copy.previous_path,
            copy.uid,
            copy.set_id,
            copy.copy_id,
            copy.context,
            copy.exposed_share,
            _plain(copy.state),
            since.boot,
            since.seconds,
        )
        marks = ", ".join("?" * len(values))
        with self._writing() as database:
            database.execute(f"INSERT INTO copies VALUES ({marks})", values)
            self._event(database, copy, event, copy.uid, None, detail)

    def change(
        self,
        copy: ShadowCopy,
        event: str,
        *,
        unless: Iterable[Phase] = (),
        uid: int = -1,
        duration: float | None = None,
        detail: str = "",
        since: Moment | None = None,
        **values: object,
    ) -> ShadowCopy | None:
        """Change columns of a shadow copy and record why, in one transaction.

        Args:
            copy: which one; its other values here do not matter.
            event: what happened, in a word or two.
            unless: phases in which it must not be touched any more.
            uid: who wanted it, -1 if nobody did.
            duration: seconds that it took.
            detail: a sentence.
            since: since when it is as these values say, the present moment if not given.
            values: new values of phase, path, previous_path, set_id, copy_id, context,
                exposed_share or state.

        Returns:
            The copy as it is now, or None if it is in one of the phases of ``unless``.
        """
        unknown = values.keys() - _CHANGEABLE
        if unknown:
            raise TypeError(f"no such columns: {', '.join(unknown)}")
        excluded = [phase.value for phase in unless]
        if {"phase", "state"} & values.keys():
            since = since or moment()
            values |= {"boot": since.boot, "since": since.seconds}
        columns = ", ".join(f"{name} = ?" for name in values) or "id = id"
        new = [_plain(value) for value in values.values()]
        with self._writing() as database:
            done = database.execute(
                f"UPDATE copies SET {columns} WHERE id = ?"
                f" AND phase NOT IN ({', '.join('?' * len(excluded))}) RETURNING {_COLUMNS}",
                [*new, copy.id, *excluded],
            ).fetchone()
            if done is None:
                return None
            current = _copy(done)
            self._event(database, current, event, uid, duration, detail)
        return current

    def note(self, copy: ShadowCopy, event: str, *, uid: int = -1, detail: str = "") -> None:
        """Record an event alone."""
        with self._writing() as database:
            self._event(database, copy, event, uid, None, detail)

    def note_set(self, set_id: str, event: str, *, detail: str = "") -> None:
        """Record what happened to a set of which there may be no copy."""
        with self._writing() as database:
            self._insert(database, ("", "", event, -1, None, detail, set_id))

    def findings(self) -> dict[str, Moment]:
        """Return what was found unaccounted for, by name, and since when."""
        with self._lock, self._reported():
            rows = self._database.execute("SELECT name, boot, since FROM findings").fetchall()
        return {name: Moment(boot=boot, seconds=since) for name, boot, since in rows}

    def set_findings(self, found: Mapping[str, Moment]) -> None:
        """Replace what was found unaccounted for."""
        with self._writing() as database:
            database.execute("DELETE FROM findings")
            database.executemany(
                "INSERT INTO findings VALUES (?, ?, ?)",
                [(name, since.boot, since.seconds) for name, since in found.items()],
            )

    def get(self, copy: str) -> ShadowCopy | None:
        """Return a shadow copy by our id, gone ones included."""
        return self._one("id = ?", copy)

    def by_path(self, path: str) -> ShadowCopy | None:
        """Return a shadow copy by the path that Samba has, gone ones included."""
        return self._one("path = ?", path)

    def find(self, word: str) -> list[ShadowCopy]:
        """Return the copies that an administrator may mean: by our id, its end, or Samba's ids."""
        ends = "substr(id, -1 - length(?1)) = '-' || ?1"
        condition = f"id = ?1 OR {ends} OR copy_id = ?1 OR set_id = ?1 OR path = ?1"
        return self._some(f"{condition} ORDER BY created, id", word)

    def copies(self, *, gone: bool = False) -> list[ShadowCopy]:
        """Return the copies that exist, oldest first; with ``gone`` those that did as well."""
        return self._some("phase != ? OR ? ORDER BY created, id", Phase.GONE.value, int(gone))

    def gone(self) -> dict[str, str]:
        """Return the ids of the copies that are gone, with the exposed share that each had."""
        with self._lock, self._reported():
            rows = self._database.execute(
                "SELECT id, exposed_share FROM copies WHERE phase = ?", (Phase.GONE.value,)
            ).fetchall()
        return dict(rows)

    def unfinished(self) -> list[ShadowCopy]:
        """Return the copies that are neither sealed nor gone."""
        return self._some(
            "phase NOT IN (?, ?) ORDER BY created, id", Phase.GONE.value, Phase.SEALED.value
        )

    def events(self, word: str = "", limit: int = 1000) -> list[Event]:
        """Return the newest events, oldest of them first.

        Args:
            word: a copy's or a set's id, if only theirs are wanted.
            limit: how many.
        """
        return self._events("copy = ?1 OR set_id = ?1" if word else "?1 = ''", word, limit)

    def _events(self, condition: str, word: str, limit: int) -> list[Event]:
        with self._lock, self._reported():
            rows = self._database.execute(
                "SELECT time, copy, share, what, uid, duration, detail, set_id FROM events"
                f" WHERE {condition} ORDER BY number DESC LIMIT ?2",
                (word, limit),
            ).fetchall()
        return [
            Event(
                time=datetime.fromisoformat(row[0]),
                copy=row[1],
                share=row[2],
                what=row[3],
                uid=row[4],
                duration=row[5],
                detail=row[6],
                set_id=row[7],
            )
            for row in reversed(rows)
        ]

    def last_event(self, what: str) -> Event | None:
        """Return the newest event of one kind."""
        found = self._events("what = ?1", what, 1)
        return found[0] if found else None

    def forget(self, before: datetime) -> None:
        """Remove the history of copies that went before a time."""
        with self._writing() as database:
            stamp = before.isoformat()
            database.execute(
                "DELETE FROM copies WHERE phase = ? AND created < ?", (Phase.GONE.value, stamp)
            )
            database.execute(
                "DELETE FROM events WHERE time < ? AND copy NOT IN (SELECT id FROM copies)",
                (stamp,),
            )

    def _event(
        self,
        database: sqlite3.Connection,
        copy: ShadowCopy,
        what: str,
        uid: int,
        duration: float | None,
        detail: str,
    ) -> None:
        values = (copy.id, copy.share, what, uid, duration, detail, copy.set_id)
        self._insert(database, values)

    def _insert(self, database: sqlite3.Connection, values: tuple[object, ...]) -> None:
        texts = [
            value.encode("utf-8", "backslashreplace").decode("utf-8")
            if isinstance(value, str)
            else value
            for value in values
        ]
        database.execute(
            "INSERT INTO events (time, copy, share, what, uid, duration, detail, set_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [now().isoformat(), *texts],
        )

    def _one(self, condition: str, value: str) -> ShadowCopy | None:
        found = self._some(condition, value)
        return found[0] if found else None

    def _some(self, condition: str, *values: object) -> list[ShadowCopy]:
        with self._lock, self._reported():
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM copies WHERE {condition}", values
            ).fetchall()
        return [_copy(row) for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._reported():
            self._restore()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as exc:
            raise RvssError(
                Problem.STATE,
                f"the ledger {self._path} cannot hold {exc.object!r}, which is not UTF-8",
                "rename the share or directory",
            ) from exc
        except (sqlite3.Error, OSError) as exc:
            raise RvssError(
                Problem.STATE,
                f"the ledger {self._path} fails: {exc}",
                "see whether its file system is full or read-only",
            ) from exc


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10.0,
    )


def _remove(path: str) -> None:
    """Remove a database, with its log."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)


def _plain(value: object) -> object:
    """Return a value as a column holds it; None is a state that is not known."""
    if isinstance(value, Enum):
        return value.value
    return _NO_STATE if value is None else value


@lru_cache
def _volume(
    provider: str, file_system: str, own: str, name: str, directory: str, inode: str
) -> Volume:
    """Return a volume; of many copies there are few."""
    return Volume(
        provider=provider,
        file_system=file_system,
        id=own,
        name=name,
        directory=directory,
        inode=int(inode),
    )


def _copy(row: tuple[object, ...]) -> ShadowCopy:
    text = [str(value) for value in row]
    return ShadowCopy(
        id=text[0],
        share=text[1],
        share_path=text[2],
        volume=_volume(*text[3:9]),
        created=datetime.fromisoformat(text[9]),
        phase=Phase(text[10]),
        path=text[11],
        previous_path=text[12],
        uid=int(text[13]),
        set_id=text[14],
        copy_id=text[15],
        context=int(text[16]),
        exposed_share=text[17],
        state=None if row[18] == _NO_STATE else SetState(int(text[18])),
        since=Moment(boot=text[19], seconds=float(text[20])),
    )
