"""The ledger's file: opened, written in transactions, and written anew if somebody removed it."""

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from urllib.parse import quote

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import damage
from samba_rvss.ledger.schema import bring_up_to_date, require_present

_logger = logging.getLogger(__name__)


class File:
    """An open file with the ledger's tables; several threads may use it.

    Args:
        path: where it is; its directory must exist.
        read_only: for commands that must not change it.

    Attributes:
        set_aside: where a file, or a copy of it, is that could not be read; empty if it could.

    Raises:
        RvssError: STATE if it cannot be opened or is of another version, or for reading if it is
            damaged; NOT_FOUND if it is opened for reading and there is none yet.
    """

    def __init__(self, path: str, *, read_only: bool) -> None:
        self.set_aside = ""
        self._path = path
        self._lock = threading.Lock()
        self._status: os.stat_result | None = None
        if read_only and not os.path.exists(path):
            raise RvssError(
                Problem.NOT_FOUND, f"there is no ledger at {path}", "has the daemon ever run?"
            )
        with self._reported():
            try:
                self._open(read_only=read_only)
            except damage.ERRORS as exc:
                if read_only or not damage.is_damage(exc):
                    raise
                self.set_aside = damage.set_aside(path)
                self._say(str(exc))
                self._open(read_only=False)

    def _open(self, *, read_only: bool) -> None:
        with ExitStack() as undo:
            self._database = _connect(self._path, "ro" if read_only else "rwc")
            undo.callback(self._database.close)
            if read_only:
                require_present(self._database, self._path)
            else:
                self._claim()
                bring_up_to_date(self._database, self._path)
                damage.look_for(self._database)
                aside = damage.set_records_aside(self._database, self._path)
                if aside:
                    self.set_aside = aside
                    self._say("records in it cannot be read")
            undo.pop_all()

    def _say(self, reason: str) -> None:
        _logger.error(
            "the ledger %s is damaged (%s): it is set aside as %s, and what is missing is made anew"
            " from the marks of the images",
            self._path,
            reason,
            self.set_aside,
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the database to a block that reads.

        Raises:
            RvssError: STATE if it fails.
        """
        with self._lock, self._reported():
            yield self._database

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the database to a block that is one transaction: on disk when the block ends.

        An error in the block undoes the transaction.

        Raises:
            RvssError: STATE if it fails.
        """
        with self._lock, self._reported():
            self._restore()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _claim(self) -> None:
        """Set up the file for writing, and remember its identity for `_restore`."""
        os.chmod(self._path, 0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on disk when it returns, in WAL mode as well
        self._database.execute("PRAGMA synchronous = FULL")
        self._status = os.stat(self._path)

    def _restore(self) -> None:
        """Write the file anew from the open database, if it was removed or replaced meanwhile."""
        if self._status is None:
            return
        try:
            if os.path.samestat(os.stat(self._path), self._status):
                return
        except FileNotFoundError:
            pass
        new = f"{self._path}.new"
        _remove(new)
        with closing(_connect(new, "rwc")) as copy:
            self._database.backup(copy)
            # Without a write-ahead log the copy is one complete file, which can be renamed.
            copy.execute("PRAGMA journal_mode = DELETE")
        # The log of a file that was put in the place of ours must not be applied to ours.
        _remove(self._path)
        self._database.close()
        os.rename(new, self._path)
        self._database = _connect(self._path, "rw")
        self._claim()
        _logger.error("the ledger %s was removed or replaced and is written anew", self._path)

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
        except (*damage.ERRORS, OSError) as exc:
            damaged = isinstance(exc, damage.ERRORS) and damage.is_damage(exc)
            raise RvssError(
                Problem.STATE,
                f"the ledger {self._path} fails: {exc}",
                "restart samba-rvss.service: it sets a damaged ledger aside when it starts"
                if damaged
                else "see whether its file system is full or read-only",
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
    for suffix in damage.FILES:
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)
