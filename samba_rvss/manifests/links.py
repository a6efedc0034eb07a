"""Names that are one file (hard links): whether the same names are one in another tree.

Contract: memory does not grow with the tree. What has to be remembered is of files with several
names only, in a database that SQLite keeps in a file without a name.
"""

import sqlite3

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError


class Links(Closing):
    """Which names are one file in two trees; both are gone through side by side, in one order.

    It remembers the first name of each file. If that is the same one in both trees for every name,
    the same names are one.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")  # it is read by nobody else
        self._database.execute(
            "CREATE TABLE first (tree INTEGER, file BLOB, path BLOB NOT NULL,"
            " PRIMARY KEY (tree, file)) WITHOUT ROWID"
        )

    def close(self) -> None:
        """See `Closing`."""
        self._database.close()

    def difference(self, path: bytes, before: bytes, after: bytes) -> str:
        """Return in words in what a name differs that both trees have; empty if in nothing.

        Args:
            path: the name's.
            before: which file it is in the first tree; empty if it has no other name.
            after: the same of the second.

        Raises:
            RvssError: SYSTEM if there is no room to remember it.
        """
        if not before and not after:
            return ""
        try:
            old, new = self._first(0, before, path), self._first(1, after, path)
        except sqlite3.Error as exc:
            raise RvssError(
                Problem.SYSTEM, f"cannot remember which names are one file: {exc}"
            ) from exc
        if old == new:
            return ""
        was, now = _shown(old), _shown(new)
        if new == path:
            return f"it is another file than {was}, and was the same"
        if old == path:
            return f"it is the same file as {now}, and was another"
        return f"it is the same file as {now}, and was the same as {was}"

    def _first(self, tree: int, file: bytes, path: bytes) -> bytes:
        """Return the first name of a file in a tree, which is this one if there was none."""
        if not file:
            return path
        query = "SELECT path FROM first WHERE tree = ? AND file = ?"
        row = self._database.execute(query, (tree, file)).fetchone()
        if row is not None:
            return bytes(row[0])
        self._database.execute("INSERT INTO first VALUES (?, ?, ?)", (tree, file, path))
        return path


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
