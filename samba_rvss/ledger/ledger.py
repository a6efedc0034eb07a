"""The ledger's verbs: each that writes is one transaction; see the package."""

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from samba_rvss.clock import moment, now
from samba_rvss.ledger.file import File
from samba_rvss.ledger.rows import (
    CHANGEABLE,
    COLUMNS,
    EVENT_COLUMNS,
    VOLUME_COLUMNS,
    copy_of,
    event_of,
    known_values,
    plain,
    printable,
    values_of,
    volume_of,
)
from samba_rvss.ledger.schema import COUNTED
from samba_rvss.model import ENDED, Event, Moment, Phase, SetState, ShadowCopy, Volume

# As Samba has an id, and as programs on Windows show one: `{2F0A...}`, in any case.
_GUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE)
_IS_BACKUP = "phase = ? OR (phase = ? AND ended != 0)"
_BACKUP = (Phase.KEPT.value, Phase.SEALING.value)
_IS_LIVING = f"NOT (phase = ? OR {_IS_BACKUP})"
_LIVING = (Phase.GONE.value, *_BACKUP)


class Ledger:
    """One instance's ledger.

    Args:
        path: the file; its directory must exist.
        read_only: for commands that must not change it.

    A file that is damaged is set aside, or records in it that cannot be read are, and it is opened
    without them; see `damage`.

    Raises:
        RvssError: STATE if it cannot be opened or is of another version, or for reading if it is
            damaged; NOT_FOUND if it is opened for reading and there is none yet.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._file = File(path, read_only=read_only)
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        self._told: list[Event] = []  # of the transaction that goes on
        if self._file.set_aside:
            detail = f"the ledger was damaged; what it was is {self._file.set_aside}"
            with self._recording() as database:
                self._insert(database, ("", "", "set aside", -1, None, detail, ""))

    def listen(self, heard: Callable[[Event], None]) -> None:
        """Have a function called with each event, by whichever thread has written it, and at once.

        Args:
            heard: must not wait, nor raise anything.
        """
        self._listeners = (*self._listeners, heard)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, copy: ShadowCopy, event: str, detail: str = "") -> None:
        """Record a new shadow copy; ``since`` is the present moment if the copy has none.

        One whose image was lost, and has come back, is replaced.
        """
        self.add_all([copy], event, [detail])

    def add_all(self, copies: Sequence[ShadowCopy], event: str, details: Sequence[str]) -> None:
        """Do the same with several copies, in one transaction."""
        with self._recording() as database:
            for copy, detail in zip(copies, details, strict=True):
                values = values_of(copy if copy.since.boot else replace(copy, since=moment()))
                marks = ", ".join("?" * len(values))
                database.execute("DELETE FROM copies WHERE id = ? AND lost != 0", (copy.id,))
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
        client: int | None = None,
        **values: object,
    ) -> ShadowCopy | None:
        """Change columns of a shadow copy and record why, in one transaction.

        Args:
            copy: which one, by its id; nothing else of it is looked at.
            event: what happened, in a word or two.
            unless: phases in which its record must not change any more.
            uid: who wanted it, -1 if nobody did.
            duration: seconds that it took.
            detail: a sentence.
            since: when phase or state became what ``values`` says, the present moment if not
                given; without a new phase or state it is not used.
            client: whose copy it is from now on, if that changes.
            values: new values of some of the columns that may be changed (`rows.CHANGEABLE`).

        Returns:
            The copy as it is now; None if it is in one of the phases of ``unless`` or not in the
            ledger.
        """
        unknown = values.keys() - CHANGEABLE
        if unknown:
            raise TypeError(f"no such columns: {', '.join(unknown)}")
        excluded = [phase.value for phase in unless]
        if client is not None:
            values |= {"uid": client}
        if {"phase", "state"} & values.keys():
            since = since or moment()
            values |= {"boot": since.boot, "since": since.seconds}
        columns = ", ".join(f"{name} = ?" for name in values) or "id = id"
        new = [plain(value) for value in values.values()]
        with self._recording() as database:
            done = database.execute(
                f"UPDATE copies SET {columns} WHERE id = ?"
                f" AND phase NOT IN ({', '.join('?' * len(excluded))}) RETURNING {COLUMNS}",
                [*new, copy.id, *excluded],
            ).fetchone()
            if done is None:
                return None
            current = copy_of(done)
            self._event(database, current, event, uid, duration, detail)
        return current

    def note(self, copy: ShadowCopy, event: str, *, uid: int = -1, detail: str = "") -> None:
        """Record an event of a shadow copy, and change nothing else."""
        with self._recording() as database:
            self._event(database, copy, event, uid, None, detail)

    def note_share(self, share: str, event: str, *, uid: int = -1, detail: str = "") -> None:
        """Record an event of a share that has no shadow copy by it."""
        with self._recording() as database:
            self._insert(database, ("", share, event, uid, None, detail, ""))

    def note_set(self, set_id: str, event: str, *, detail: str = "") -> None:
        """Record an event of a set, also of one without a copy in the ledger."""
        with self._recording() as database:
            self._insert(database, ("", "", event, -1, None, detail, set_id))

    def findings(self) -> dict[str, Moment]:
        """Return what reconciling last found unaccounted for, by name, and since when it is so."""
        with self._file.reading() as database:
            rows = database.execute("SELECT name, boot, since FROM findings").fetchall()
        return {name: Moment(boot=boot, seconds=since) for name, boot, since in rows}

    def set_findings(self, found: Mapping[str, Moment]) -> None:
        """Replace what `findings` returns."""
        with self._file.writing() as database:
            database.execute("DELETE FROM findings")
            database.executemany(
                "INSERT INTO findings VALUES (?, ?, ?)",
                [(name, since.boot, since.seconds) for name, since in found.items()],
            )

    def get(self, copy: str) -> ShadowCopy | None:
        """Return a shadow copy by our id, gone ones included."""
        return self._first("id = ?", copy)

    def by_path(self, path: str) -> ShadowCopy | None:
        """Return a shadow copy by the path that Samba has, gone ones included."""
        return self._first("path = ?", path)

    def find(self, word: str) -> list[ShadowCopy]:
        """Return the copies that an administrator may mean.

        Args:
            word: our id, the end of it after a hyphen, Samba's id of the copy or the set, as
                Windows shows it too, or the path that Samba has. An empty one means none: what
                Samba knows nothing of, such as a backup before a restore, has no ids of Samba's.
        """
        ends = "substr(id, -1 - length(?1)) = '-' || ?1"
        condition = f"id = ?1 OR {ends} OR copy_id = ?1 OR set_id = ?1 OR path = ?1"
        return self._some(f"?1 != '' AND ({condition}) ORDER BY created, id", self.spelt(word))

    @staticmethod
    def spelt(word: str) -> str:
        """Return a GUID as Samba writes it; another word as it is."""
        guid = _GUID.fullmatch(word)
        return guid[1].lower() if guid else word

    def copies(self, *, gone: bool = False) -> list[ShadowCopy]:
        """Return the shadow copies that exist, oldest first; with ``gone`` all that ever did."""
        return self._some(f"{_IS_LIVING} OR ? ORDER BY created, id", *_LIVING, int(gone))

    def backups(self) -> list[ShadowCopy]:
        """Return the shadow copies that have ended and are kept, oldest first.

        Those are among them that are still to be sealed.
        """
        return self._some(f"{_IS_BACKUP} ORDER BY created, id", *_BACKUP)

    def of_set(self, set_id: str) -> list[ShadowCopy]:
        """Return what was made in a shadow copy set, gone ones included, in the order of shares."""
        return self._some("set_id = ? AND set_id != '' ORDER BY share, id", set_id)

    def counts(self) -> dict[str, int]:
        """Return how many copies each share has, by its name in lower case.

        Those that nobody has yet, or that are being deleted, and backups, do not count.
        """
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT share, count(*) FROM copies WHERE {COUNTED} GROUP BY share"
            ).fetchall()
        found: Counter[str] = Counter()
        for share, count in rows:
            found[share.lower()] += count
        return dict(found)

    def previous_paths(self) -> list[str]:
        """Return where shadow copies are in Previous Versions, as far as they are."""
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT previous_path FROM copies WHERE previous_path != '' AND {_IS_LIVING}",
                _LIVING,
            ).fetchall()
        return [path for (path,) in rows]

    def is_any_since(self, state: SetState, since: Moment) -> bool:
        """Return whether a shadow copy has been in a state, and its phase, since a moment or later.

        What is no shadow copy any more does not count, nor a backup that is still to be sealed.
        """
        living = [phase.value for phase in Phase if phase not in ENDED]
        with self._file.reading() as database:
            row = database.execute(
                f"SELECT 1 FROM copies WHERE phase IN ({', '.join('?' * len(living))})"
                f" AND NOT ({_IS_BACKUP}) AND state = ? AND boot = ? AND since >= ? LIMIT 1",
                (*living, *_BACKUP, state.value, since.boot, since.seconds),
            ).fetchone()
        return row is not None

    def file_systems(self) -> frozenset[str]:
        """Return the file systems of all copies, the gone ones included."""
        with self._file.reading() as database:
            rows = database.execute("SELECT DISTINCT file_system FROM copies").fetchall()
        return frozenset(name for (name,) in rows)

    def gone(self) -> dict[str, tuple[str, Volume | None]]:
        """Return the ids of the copies that are gone, with exposed share and volume of each.

        There is no volume of one whose image was lost: it was not we who deleted that.
        """
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT id, exposed_share, lost, {VOLUME_COLUMNS} FROM copies WHERE phase = ?",
                (Phase.GONE.value,),
            ).fetchall()
        found = {}
        for copy, share, lost, *volume in rows:
            with known_values(f"of {copy}"):
                found[copy] = (share, None if lost else volume_of(*volume))
        return found

    def events(self, word: str = "", limit: int = 1000) -> list[Event]:
        """Return the newest events, oldest of them first.

        Args:
            word: a copy's or a set's id, if only theirs are wanted.
            limit: how many at most.
        """
        return self._events("copy = ?1 OR set_id = ?1" if word else "?1 = ''", word, limit)

    def _events(self, condition: str, word: str, limit: int, *more: str) -> list[Event]:
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT {EVENT_COLUMNS} FROM events"
                f" WHERE {condition} ORDER BY number DESC LIMIT ?2",
                (word, limit, *more),
            ).fetchall()
        return [event_of(row) for row in reversed(rows)]

    def last_event(self, what: str = "") -> Event | None:
        """Return the newest event of one kind, or of all; None if there is none."""
        found = self._events("what = ?1 OR ?1 = ''", what, 1)
        return found[0] if found else None

    def events_of(self, *whats: str, limit: int = 1000) -> list[Event]:
        """Return the newest events of some kinds, oldest of them first."""
        marks = ", ".join(f"?{number}" for number in range(3, len(whats) + 3))
        return self._events(f"?1 = '' AND what IN ({marks})", "", limit, *whats)

    def last_of_shares(self, *whats: str) -> dict[str, Event]:
        """Return the newest event of some kinds of each share, by its name in lower case."""
        marks = ", ".join("?" * len(whats))
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT {EVENT_COLUMNS} FROM events WHERE number IN (SELECT max(number)"
                f" FROM events WHERE what IN ({marks}) GROUP BY share) ORDER BY number",
                whats,
            ).fetchall()
        return {event.share.lower(): event for event in map(event_of, rows)}

    def times(self, what: str, limit: int = 1000) -> list[datetime]:
        """Return when the newest events of one kind were."""
        return [event.time for event in self._events("what = ?1", what, limit)]

    def counted_since(self, since: datetime, whats: Iterable[str]) -> dict[tuple[str, str], int]:
        """Return how many events of some kinds there were since a time, by share and kind.

        Args:
            since: the time, in UTC.
            whats: the kinds.
        """
        wanted = tuple(whats)
        with self._file.reading() as database:
            rows = database.execute(
                "SELECT share, what, count(*) FROM events WHERE time >= ?"
                f" AND what IN ({', '.join('?' * len(wanted))}) GROUP BY share, what",
                (since.isoformat(), *wanted),
            ).fetchall()
        return {(share, what): count for share, what, count in rows}

    def delete_history(self, before: datetime) -> None:
        """Delete the records of gone copies to which nothing has happened since a time.

        With them go the events before that time of copies without a record, but not the newest
        that says when pruning last went by the clock.
        """
        with self._file.writing() as database:
            stamp = before.isoformat()
            database.execute(
                "DELETE FROM copies WHERE phase = ?"
                " AND id NOT IN (SELECT copy FROM events WHERE time >= ?)",
                (Phase.GONE.value, stamp),
            )
            database.execute(
                "DELETE FROM events WHERE time < ? AND copy NOT IN (SELECT id FROM copies)"
                " AND number NOT IN"
                " (SELECT coalesce(max(number), 0) FROM events WHERE what = 'pruned')",
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
        row = (now().isoformat(), *printable(values))
        database.execute(
            f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
        )
        self._told.append(event_of(row))

    @contextmanager
    def _recording(self) -> Iterator[sqlite3.Connection]:
        """Give the database to a block as `File.writing` does; then tell of its events."""
        with self._file.writing() as database:
            self._told = events = list[Event]()
            yield database
        for event in events:
            for heard in self._listeners:
                heard(event)

    def _first(self, condition: str, value: str) -> ShadowCopy | None:
        found = self._some(condition, value)
        return found[0] if found else None

    def _some(self, condition: str, *values: object) -> list[ShadowCopy]:
        with self._file.reading() as database:
            rows = database.execute(
                f"SELECT {COLUMNS} FROM copies WHERE {condition}", values
            ).fetchall()
        return [copy_of(row) for row in rows]
