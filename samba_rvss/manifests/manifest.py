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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from urllib.parse import quote

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.manifests import chunks
from samba_rvss.manifests.entry import UNLISTED, Entry, Kind

VERSION = 2

FIELDS = tuple(field.name for field in fields(Entry))
COLUMNS = ", ".join(FIELDS)
BATCH = 500
_FILES = ("", "-journal")


class Manifest(Closing):
    """A whole manifest, to read.

    Args:
        path: its file.
        image: the id of the image that it is of.

    Attributes:
        about: what is known of it as a whole.

    Raises:
        RvssError: NOT_FOUND if there is none; STATE if it is damaged, of another version, or of
            another image.
    """

    def __init__(self, path: str, image: str) -> None:
        self._path = path
        self._image = image
        try:
            self._status = os.stat(path)
        except FileNotFoundError as exc:
            raise RvssError(
                Problem.NOT_FOUND,
                f"there is no manifest of {image}",
                f"'samba-rvss backup manifest {image}' makes it",
            ) from exc
        except OSError as exc:
            raise self.damaged(exc.strerror or str(exc)) from exc
        with self._reported():
            self._database = connect(path, "ro")
        try:
            with self._reported():
                self._require_version()
                self.about: Mapping[str, str] = dict(
                    self._database.execute("SELECT name, value FROM about")
                )
                self._require_image()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Closing`."""
        self._database.close()

    def is_current(self) -> bool:
        """Return whether no other one has got its name since it was opened."""
        try:
            return os.path.samestat(os.stat(self._path), self._status)
        except OSError:
            return False

    def get(self, path: bytes) -> Entry | None:
        """Return the entry of a path, if there is one."""
        with self._reported():
            query = f"SELECT {COLUMNS} FROM entry WHERE path = ?"
            row = self._database.execute(query, (path,)).fetchone()
        return entry_of(row) if row else None

    def has(self, path: bytes) -> bool:
        """Return whether there is an entry of a path."""
        with self._reported():
            query = "SELECT 1 FROM entry WHERE path = ?"
            return self._database.execute(query, (path,)).fetchone() is not None

    def entries(self) -> Iterator[Entry]:
        """Yield all entries in the order of their paths.

        Raises:
            RvssError: STATE if it cannot be read, or there were more or fewer when it was finished.
        """
        seen = 0
        for entry in self._batches("1"):
            yield entry
            seen += 1
        expected = self.about.get("entries", str(seen))  # nothing is known of a draft
        if expected != str(seen):
            raise self.damaged(f"there are {seen} names in it, and were {expected}")

    def files(self, is_wanted: Callable[[bytes], bool]) -> Iterator[Entry]:
        """Yield the files of which the path is wanted, in the order of their paths.

        Raises:
            RvssError: STATE if it cannot be read.
        """
        with self._reported():
            self._database.create_function("is_wanted", 1, is_wanted)
        yield from self._batches("kind = 'f' AND is_wanted(path)")

    def faults(self) -> Iterator[Entry]:
        """Yield the entries of which not all is known; see `samba_rvss.manifests.entry.missing`."""
        yield from self._batches(f"fault != '' OR xattrs = x'{UNLISTED.hex()}'")

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
                    f"SELECT {COLUMNS} FROM entry WHERE ({condition}) AND path > ?"
                    f" ORDER BY path LIMIT {BATCH}"
                )
                first = query.replace("path > ?", "path >= ?") if last is None else query
                rows = self._database.execute(first, (last or b"",)).fetchall()
            if not rows:
                return
            for row in rows:
                yield entry_of(row)
            last = rows[-1][0]

    def _require_version(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise self.damaged(f"it is of version {version}, and not of {VERSION}")

    def _require_image(self) -> None:
        image = self.about.get("image")
        if image != self._image or "entries" not in self.about:
            raise self.damaged(f"it says that it is of {image}, and not of {self._image}")

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


def remove(path: str) -> None:
    """Remove a manifest, whole or not, if it is there.

    Raises:
        OSError: it cannot be removed.
    """
    for suffix in _FILES:
        if os.path.lexists(path + suffix):
            os.unlink(path + suffix)


def connect(path: str, mode: str) -> sqlite3.Connection:
    where = f"file:{quote(os.fsencode(path))}?mode={mode}"
    return sqlite3.connect(where, uri=True, isolation_level=None, timeout=0.0)


def entry_of(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(FIELDS, row, strict=True))
    values["kind"] = Kind(values["kind"])
    return Entry(**values)
