"""A manifest's file: SQLite, with one row for each name in a share, and the digests of large files.

SQLite, since entries are looked up by their paths (what a file was before) and read in their order
(two manifests side by side), without ever holding more than a few of them, and since what has been
done when a machine loses its power is there afterwards. Compressed lines would be smaller, and
would have to be sorted and begun again.

    <state>/manifests/<image>.db           whole
    <state>/manifests/<image>.partial      not yet: never taken for one

Contract: root alone can read them, since they have the names of users' files. A manifest that is
being made has one maker. It gets its name when all of it is on the disk.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from urllib.parse import quote

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import chunks
from samba_rvss.manifests.entry import Entry, Kind

VERSION = 1

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
    gid INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    inode INTEGER NOT NULL, links INTEGER NOT NULL, device INTEGER NOT NULL, target BLOB NOT NULL,
    acl BLOB NOT NULL, xattrs BLOB NOT NULL, digest BLOB NOT NULL, fault TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE TABLE chunk (
    path BLOB, first INTEGER, digests BLOB NOT NULL, PRIMARY KEY (path, first)
) WITHOUT ROWID;
CREATE INDEX left_over ON entry (kind, path) WHERE done = 0;
CREATE INDEX linked ON entry (inode) WHERE kind = 'f' AND links > 1;
"""
_FIELDS = tuple(field.name for field in fields(Entry))
_COLUMNS = ", ".join(_FIELDS)
_KIND = _FIELDS.index("kind")
_BATCH = 500
_SECONDS = 2.0  # between two commits: so much is done again after a loss of power
_FILES = ("", "-journal")


class Manifest(Closing):
    """A whole manifest, to read.

    Args:
        path: its file.
        image: the id of the image that it is of.

    Attributes:
        about: what is known of it as a whole.

    Raises:
        RvssError: NOT_FOUND if there is none; STATE if it is damaged or of another version.
    """

    def __init__(self, path: str, image: str) -> None:
        self._path = path
        self._image = image
        if not os.path.exists(path):
            raise RvssError(
                Problem.NOT_FOUND,
                f"there is no manifest of {image}",
                f"'samba-rvss backup manifest {image}' makes it",
            )
        with self._reported():
            self._database = _connect(path, "ro")
        try:
            with self._reported():
                self._require_version()
                self.about: Mapping[str, str] = dict(
                    self._database.execute("SELECT name, value FROM about")
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Closing`."""
        self._database.close()

    def get(self, path: bytes) -> Entry | None:
        """Return the entry of a path, if there is one."""
        with self._reported():
            query = f"SELECT {_COLUMNS} FROM entry WHERE path = ?"
            row = self._database.execute(query, (path,)).fetchone()
        return _entry(row) if row else None

    def has(self, path: bytes) -> bool:
        """Return whether there is an entry of a path."""
        with self._reported():
            query = "SELECT 1 FROM entry WHERE path = ?"
            return self._database.execute(query, (path,)).fetchone() is not None

    def entries(self) -> Iterator[Entry]:
        """Yield all entries in the order of their paths."""
        yield from self._batches("1")

    def faults(self) -> Iterator[Entry]:
        """Yield the entries that could not be read."""
        yield from self._batches("fault != ''")

    def runs(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield digests of a file's chunks: the number of the first, and those that follow it.

        All of one are of one row; what is in none is a whole chunk of zeroes.

        Raises:
            RvssError: STATE if they are no such ones.
        """
        count = chunks.count(entry.size)
        if count == 1:
            if entry.digest:
                yield 0, entry.digest
            return
        last = -1
        while True:
            with self._reported():
                query = (
                    "SELECT first, digests FROM chunk WHERE path = ? AND first > ?"
                    " ORDER BY first LIMIT 1"
                )
                row = self._database.execute(query, (entry.path, last)).fetchone()
            if row is None:
                return
            first, digests = row
            number, rest = divmod(len(digests), chunks.LENGTH)
            within = first // chunks.IN_A_ROW
            if rest or not number or (first + number - 1) // chunks.IN_A_ROW != within:
                raise self.damaged("the digests of a file's chunks are no such ones")
            if first + number > count:
                raise self.damaged("there are digests of chunks that a file does not have")
            yield first, digests
            last = (within + 1) * chunks.IN_A_ROW - 1

    def _batches(self, condition: str) -> Iterator[Entry]:
        last: bytes | None = None
        while True:
            with self._reported():
                query = (
                    f"SELECT {_COLUMNS} FROM entry WHERE ({condition}) AND path > ?"
                    f" ORDER BY path LIMIT {_BATCH}"
                )
                first = query.replace("path > ?", "path >= ?") if last is None else query
                rows = self._database.execute(first, (last or b"",)).fetchall()
            if not rows:
                return
            for row in rows:
                yield _entry(row)
            last = rows[-1][0]

    def _require_version(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise self.damaged(f"it is of version {version}, and not of {VERSION}")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self.damaged(str(exc)) from exc

    def damaged(self, reason: str) -> RvssError:
        """Return the error for a manifest that fails."""
        return RvssError(
            Problem.STATE,
            f"the manifest {self._path} cannot be read: {reason}",
            f"'samba-rvss backup manifest --anew {self._image}' makes another one",
        )


class Draft(Manifest):
    """A manifest that is being made; what was done of it before is there.

    Args:
        path: its file, which need not exist.
        image: the id of the image that it is of.

    Raises:
        RvssError: BUSY if it is being made already; STATE.
    """

    def __init__(self, path: str, image: str) -> None:
        # SQLite would make it readable for all; its journal gets the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._path = path
        self._image = image
        with self._reported():
            self._database = _connect(path, "rw")
        try:
            self._begin()
        except BaseException:
            self._database.close()
            raise
        self.about = {}
        self._closed = False
        self._committed = time.monotonic()

    def _begin(self) -> None:
        """Take it for ourselves, until it is closed, and make its tables if there are none."""
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise RvssError(
                    Problem.BUSY, f"the manifest of {self._image} is being made already"
                ) from exc
            raise self.damaged(str(exc)) from exc
        with self._reported():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._require_version()

    def add(self, entry: Entry, *, done: bool) -> None:
        """Add an entry, unless it is there.

        Args:
            entry: which one.
            done: whether nothing is left to be read of it.
        """
        values = [getattr(entry, name) for name in _FIELDS]
        values[_KIND] = entry.kind.value
        marks = ", ".join("?" * len(_FIELDS))
        with self._reported():
            self._database.execute(
                f"INSERT OR IGNORE INTO entry ({_COLUMNS}, done) VALUES ({marks}, ?)",
                (*values, done),
            )
        self._commit(now=False)

    def finish(self, path: bytes, *, digest: bytes = b"", fault: str = "") -> None:
        """Write down that an entry has been read, and what came of it."""
        with self._reported():
            self._database.execute(
                "UPDATE entry SET digest = ?, fault = ?, done = 1 WHERE path = ?",
                (digest, fault, path),
            )
        if fault:
            self.drop_chunks(path)
        self._commit(now=False)

    def left_over(self, kind: Kind) -> Iterator[Entry]:
        """Yield entries that have to be read, until none is left: the caller finishes each."""
        while True:
            with self._reported():
                rows = self._database.execute(
                    f"SELECT {_COLUMNS} FROM entry WHERE done = 0 AND kind = ?"
                    f" ORDER BY path LIMIT {_BATCH}",
                    (kind.value,),
                ).fetchall()
            if not rows:
                return
            yield from map(_entry, rows)

    def linked(self, inode: int) -> list[Entry]:
        """Return entries of files that may be names of one file, and have been read."""
        with self._reported():
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM entry WHERE inode = ? AND kind = 'f' AND links > 1"
                " AND done = 1 AND digest != x'' LIMIT 20",
                (inode,),
            ).fetchall()
        return list(map(_entry, rows))

    def add_chunks(self, path: bytes, first: int, digests: bytes) -> None:
        """Add digests of a large file's chunks; what was added of a row is all that is in it.

        Args:
            path: the file's.
            first: the number of the first of them.
            digests: theirs, all of one row.
        """
        with self._reported():
            row = (path, first, digests)
            self._database.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", row)
        self._commit(now=False)

    def drop_chunks(self, path: bytes) -> None:
        """Remove the digests of a file's chunks."""
        with self._reported():
            self._database.execute("DELETE FROM chunk WHERE path = ?", (path,))

    def sums(self) -> tuple[int, int, int, int, int]:
        """Return how many entries, files, bytes and faults there are, and bytes left to read."""
        with self._reported():
            # Two files of 8 EiB, which anybody can make, are more than sum() takes.
            found = self._database.execute(
                "SELECT count(*), count(*) FILTER (WHERE kind = 'f'),"
                " count(*) FILTER (WHERE fault != ''),"
                " coalesce(sum(size >> 32), 0), coalesce(sum(size & 0xffffffff), 0),"
                " coalesce(sum(size >> 32) FILTER (WHERE done = 0), 0),"
                " coalesce(sum(size & 0xffffffff) FILTER (WHERE done = 0), 0) FROM entry"
            ).fetchone()
        entries, names, faults, high, low, left_high, left_low = found
        return entries, names, (high << 32) + low, faults, (left_high << 32) + left_low

    def complete(self, about: Mapping[str, str], target: str) -> None:
        """Make it a whole one: everything is on the disk when it gets its name.

        Args:
            about: what is to be known of it.
            target: the path of the whole manifest, which is replaced.
        """
        with self._reported():
            self._database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
            self._database.execute("DROP INDEX IF EXISTS left_over")
            self._database.execute("DROP INDEX IF EXISTS linked")
            self._commit(now=True)
        self.close()
        directory, _ = os.path.split(target)
        try:
            with files.opened(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)) as fd:
                os.fsync(fd)
            os.rename(self._path, target)
            with files.opened(os.open(directory, files.DIRECTORY)) as fd:
                os.fsync(fd)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot write {target}: {exc.strerror}") from exc

    def close(self) -> None:
        """Write down what was done, and close it."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._database.in_transaction:
                with self._reported():
                    self._database.execute("COMMIT")
        finally:
            self._database.close()

    def _commit(self, *, now: bool) -> None:
        if now or time.monotonic() - self._committed >= _SECONDS:
            with self._reported():
                self._database.execute("COMMIT")
                self._database.execute("BEGIN EXCLUSIVE")
            self._committed = time.monotonic()

    def damaged(self, reason: str) -> RvssError:
        """Return the error for a manifest that fails."""
        return RvssError(
            Problem.STATE,
            f"the manifest {self._path}, which is being made, fails: {reason}",
            "see whether its file system is full or read-only;"
            f" 'samba-rvss backup manifest --anew {self._image}' begins again",
        )


def remove(path: str) -> None:
    """Remove a manifest, whole or not, if it is there.

    Raises:
        OSError: it cannot be removed.
    """
    for suffix in _FILES:
        if os.path.lexists(path + suffix):
            os.unlink(path + suffix)


def _connect(path: str, mode: str) -> sqlite3.Connection:
    where = f"file:{quote(os.fsencode(path))}?mode={mode}"
    return sqlite3.connect(where, uri=True, isolation_level=None, timeout=0.0)


def _entry(row: tuple[object, ...]) -> Entry:
    values = dict(zip(_FIELDS, row, strict=True))
    values["kind"] = Kind(values["kind"])
    return Entry(**values)  # type: ignore[arg-type]
