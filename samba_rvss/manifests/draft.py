"""A manifest that is being made: written down as it goes, and given its name when it is whole."""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests.entry import BEYOND, UNLISTED, Entry, Kind
from samba_rvss.manifests.manifest import (
    BATCH,
    COLUMNS,
    FIELDS,
    VERSION,
    Manifest,
    connect,
    entry_of,
)

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
    gid INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
    inode INTEGER NOT NULL, links INTEGER NOT NULL, volume INTEGER NOT NULL,
    device INTEGER NOT NULL, target BLOB NOT NULL, acl BLOB NOT NULL, xattrs BLOB NOT NULL,
    digest BLOB NOT NULL, fault TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE TABLE chunk (
    path BLOB, first INTEGER, digests BLOB NOT NULL, PRIMARY KEY (path, first)
) WITHOUT ROWID;
CREATE INDEX left_over ON entry (kind, path) WHERE done = 0;
CREATE INDEX linked ON entry (inode) WHERE kind = 'f' AND links > 1;
"""
_KIND = FIELDS.index("kind")
_SECONDS = 2.0  # between two commits: so much is done again after a loss of power
_WRITES = 1000  # between two looks at the room that is left: at most 10 MB

# What is left alone of the file system: the ledger is there, and users choose how many names, of
# what length, their files have.
_ROOM = 1 << 30
_PART = 0.05  # if that is less


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What there is of a manifest that is being made.

    Attributes:
        entries: how many names are in it.
        files: how many of them are files.
        size: of all files, in bytes.
        faults: how many names could not be read.
        left_out: of how many names a part is left out, since there are limits.
        left: how many bytes are left to read.
    """

    entries: int
    files: int
    size: int
    faults: int
    left_out: int
    left: int


class Draft(Manifest):
    """A manifest that is being made; what was done of it before is there.

    Args:
        path: its file, which need not exist.
        image: the id of the image that it is of.

    Raises:
        RvssError: BUSY if it is being made already; STATE if what is there of it is damaged; SYSTEM
            if it cannot be made.
    """

    def __init__(self, path: str, image: str) -> None:
        self._path = path
        self._image = image
        # SQLite would make it readable for all; its journal gets the same mode.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with files.opened(os.open(path, flags, 0o600)) as fd:
                status = os.fstat(fd)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot make {path}: {exc.strerror}") from exc
        with self._reported():
            self._database = connect(path, "rw")
        try:
            self._begin()
            self._require_own(status)
        except BaseException:
            self._database.close()
            raise
        self.about = {}
        self._closed = False
        self._committed = time.monotonic()
        self._writes = 0
        self._volumes: int | None = None  # the highest number of one, once that is known

    def _begin(self) -> None:
        """Take it for ourselves, until it is closed, and make its tables if there are none."""
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise self._busy() from exc
            raise self.damaged(str(exc)) from exc
        with self._reported():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._require_version()

    def _require_own(self, status: os.stat_result) -> None:
        """Require that what we have is no manifest that somebody else has just finished."""
        try:
            present = os.lstat(self._path)
        except OSError as exc:
            raise self._busy() from exc
        if not os.path.samestat(present, status):
            raise self._busy()

    def _busy(self) -> RvssError:
        return RvssError(Problem.BUSY, f"the manifest of {self._image} is being made already")

    def next_volume(self) -> int:
        """Return a number for a volume that has none yet."""
        if self._volumes is None:
            with self._reported():
                query = "SELECT coalesce(max(volume), 0) FROM entry"
                (self._volumes,) = self._database.execute(query).fetchone()
        self._volumes += 1
        return self._volumes

    def add(self, entry: Entry, *, done: bool) -> None:
        """Add an entry, unless it is there.

        Args:
            entry: which one.
            done: whether nothing is left to be read of it.
        """
        values = [getattr(entry, name) for name in FIELDS]
        values[_KIND] = entry.kind.value
        marks = ", ".join("?" * len(FIELDS))
        with self._reported():
            self._database.execute(
                f"INSERT OR IGNORE INTO entry ({COLUMNS}, done) VALUES ({marks}, ?)",
                (*values, done),
            )
        self._commit()

    def finish(self, path: bytes, *, digest: bytes = b"", fault: str = "") -> None:
        """Write down that an entry has been read, and what came of it."""
        with self._reported():
            self._database.execute(
                "UPDATE entry SET digest = ?, fault = ?, done = 1 WHERE path = ?",
                (digest, fault, path),
            )
        if fault:
            self.drop_chunks(path)
        self._commit()

    def left_over(self, kind: Kind) -> Iterator[Entry]:
        """Yield entries that have to be read, until none is left: the caller finishes each."""
        while True:
            with self._reported():
                rows = self._database.execute(
                    f"SELECT {COLUMNS} FROM entry WHERE done = 0 AND kind = ?"
                    f" ORDER BY path LIMIT {BATCH}",
                    (kind.value,),
                ).fetchall()
            if not rows:
                return
            yield from map(entry_of, rows)

    def linked(self, inode: int) -> list[Entry]:
        """Return entries of files that may be names of one file, and have been read."""
        with self._reported():
            rows = self._database.execute(
                f"SELECT {COLUMNS} FROM entry WHERE inode = ? AND kind = 'f' AND links > 1"
                " AND done = 1 AND digest != x'' LIMIT 20",
                (inode,),
            ).fetchall()
        return list(map(entry_of, rows))

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
        self._commit()

    def drop_chunks(self, path: bytes) -> None:
        """Remove the digests of a file's chunks."""
        with self._reported():
            self._database.execute("DELETE FROM chunk WHERE path = ?", (path,))

    def sums(self) -> Sums:
        """Return what there is of it so far, in numbers."""
        with self._reported():
            # Two files of 8 EiB, which anybody can make, are more than sum() takes.
            found = self._database.execute(
                "SELECT count(*), count(*) FILTER (WHERE kind = 'f'),"
                " count(*) FILTER (WHERE fault NOT IN ('', ?)),"
                " count(*) FILTER (WHERE fault = ? OR fault = '' AND xattrs = ?),"
                " coalesce(sum(size >> 32), 0), coalesce(sum(size & 0xffffffff), 0),"
                " coalesce(sum(size >> 32) FILTER (WHERE done = 0), 0),"
                " coalesce(sum(size & 0xffffffff) FILTER (WHERE done = 0), 0) FROM entry",
                (BEYOND, BEYOND, UNLISTED),
            ).fetchone()
        entries, names, faults, left_out, high, low, left_high, left_low = found
        return Sums(
            entries=entries,
            files=names,
            size=(high << 32) + low,
            faults=faults,
            left_out=left_out,
            left=(left_high << 32) + left_low,
        )

    def complete(self, about: Mapping[str, str], target: str) -> None:
        """Make it a whole one: everything is on the disk when it gets its name.

        It is ours until then: nobody else can begin to write to what is whole.

        Args:
            about: what is to be known of it, besides its image and how many entries it has.
            target: the path of the whole manifest, which is replaced.
        """
        with self._reported():
            (entries,) = self._database.execute("SELECT count(*) FROM entry").fetchone()
            told = {**about, "image": self._image, "entries": str(entries)}
            self._database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", told.items())
            self._database.execute("DROP INDEX IF EXISTS left_over")
            self._database.execute("DROP INDEX IF EXISTS linked")
            self._database.execute("COMMIT")  # on the disk (synchronous = FULL)
        try:
            os.rename(self._path, target)
            self.close()
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}-journal")
            with files.opened(os.open(os.path.dirname(target), files.DIRECTORY)) as fd:
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

    def _commit(self) -> None:
        """Commit what was written, now and then.

        Raises:
            RvssError: STATE; NO_SPACE, before there is none for others.
        """
        if self._writes % _WRITES == 0:
            self._require_room()
        self._writes += 1
        if time.monotonic() - self._committed >= _SECONDS:
            with self._reported():
                self._database.execute("COMMIT")
                self._database.execute("BEGIN EXCLUSIVE")
            self._committed = time.monotonic()

    def _require_room(self) -> None:
        try:
            found = os.statvfs(self._path)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot read {self._path}: {exc.strerror}") from exc
        left = found.f_bavail * found.f_frsize
        if left < min(_ROOM, int(_PART * found.f_blocks * found.f_frsize)):
            raise RvssError(
                Problem.NO_SPACE,
                f"the file system of {self._path} has {left >> 20} MiB left, which are for others",
                "make room there: it goes on then",
            )

    def damaged(self, reason: str) -> RvssError:
        """Return the error for a manifest that fails."""
        return RvssError(
            Problem.STATE,
            f"the manifest {self._path}, which is being made, fails: {reason}",
            "see whether its file system is full or read-only;"
            f" 'samba-rvss backup manifest --anew {self._image}' begins again",
        )
