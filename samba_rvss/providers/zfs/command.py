"""The door to zfs(8): its output as rows, its messages as problems.

``zfs list -H -p`` and its kin are the interface that OpenZFS does not change. Every call has a time
limit, and none holds the interpreter's lock. zfs(8) has no codes for what went wrong: only its
messages tell (lib/libzfs/libzfs_util.c, libzfs_error_description() and zfs_standard_error_fmt()).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import ToolError, beginning, run, tool

_AT_ONCE = 500  # names in one command

# Whole phrases: any single word may be the name of a dataset.
_PHRASES = (
    (r"out of space|no space left", Problem.NO_SPACE, "free some space in the pool"),
    (r"quota exceeded", Problem.NO_SPACE, "see its quota, and those of what it is in"),
    (r"is read-only|read-only file system", Problem.READ_ONLY, "import the pool writable"),
    (r"I/O is currently suspended", Problem.SYSTEM, "see 'zpool status', then 'zpool clear'"),
    (r"key (is )?not loaded|key is unavailable", Problem.BUSY, "zfs load-key"),
    (
        r"is busy|being held|has dependent clones|has children",
        Problem.BUSY,
        "it is tried again; see 'zfs holds' and 'lsof'",
    ),
    (r"does not exist|no such pool|no such parent", Problem.NOT_FOUND, ""),
    (r"name is too long|value too long", Problem.NOT_SUPPORTED, "use shorter names"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """zfs(8): calling it runs it.

    Attributes:
        search: the directories in which it is looked for, as `run.tool` takes them.
        seconds: time limit of one run.
        kstat: where the kernel has a directory for each pool.
    """

    search: str = ""
    seconds: float = 45.0
    kstat: str = "/proc/spl/kstat/zfs"

    def require(self) -> None:
        """Refuse to go on without zfs(8).

        Raises:
            RvssError: MISSING if it is not installed.
        """
        tool("zfs", self.search)

    def __call__(self, *words: str) -> str:
        """Run zfs(8) and return what it prints.

        Raises:
            RvssError: the `problem` that its message means; TOOL if it did not end, MISSING if it
                is not installed.
        """
        return self._run("zfs", *words)

    def fed(self, text: str, *words: str) -> str:
        """Run zfs(8) with a text as its standard input, and return what it prints.

        Raises:
            RvssError: as a call.
        """
        return self._run("zfs", *words, text=text)

    def zpool(self, *words: str) -> str:
        """Run zpool(8) and return what it prints.

        Raises:
            RvssError: as a call.
        """
        return self._run("zpool", *words)

    def table(self, *words: str, columns: int) -> list[list[str]]:
        """Run zfs(8) with ``-H`` and return rows of fields; see `rows`.

        Raises:
            RvssError: as a call.
        """
        return rows(self(*words), columns)

    def about(self, names: Sequence[str], *words: str, columns: int) -> list[list[str]]:
        """Return what zfs(8) prints of many datasets or snapshots, as `table` does.

        The kernel lets nobody give a program all the names that there may be at once.

        Args:
            names: theirs; none for no rows.
            words: what comes before the names.
            columns: as `table` takes it.

        Raises:
            RvssError: as a call.
        """
        found = []
        for start in range(0, len(names), _AT_ONCE):
            found += self.table(*words, *names[start : start + _AT_ONCE], columns=columns)
        return found

    def properties(
        self, names: Sequence[str], wanted: Iterable[str], *words: str
    ) -> dict[str, dict[str, str]]:
        """Return properties of datasets and snapshots, by their names: those that have a value.

        Args:
            names: theirs.
            wanted: the names of the properties.
            words: more for ``zfs get``.

        Raises:
            RvssError: as a call.
        """
        get = ("get", "-H", "-p", *words, "-o", "name,property,value", ",".join(wanted))
        found: dict[str, dict[str, str]] = {}
        for name, key, value in self.about(names, *get, columns=3):
            of = found.setdefault(name, {})
            if value != "-":
                of[key] = value
        return found

    def sent(self, size: int, *words: str) -> bytes:
        """Return the beginning of what ``zfs send`` sends; the rest is not waited for.

        Args:
            size: how many bytes are enough.
            words: its arguments.

        Raises:
            RvssError: as a call; SYSTEM if it failed before that.
        """
        argv = [tool("zfs", self.search), "send", *words]
        try:
            return beginning(argv, size, timeout=self.seconds)
        except ToolError as exc:
            if exc.status is None:
                raise
            raise RvssError(Problem.SYSTEM, exc.message) from exc

    def is_read_only(self, pool: str) -> bool:
        """Return whether a pool is imported read-only.

        Raises:
            RvssError: as a call.
        """
        return self.zpool("get", "-H", "-o", "value", "readonly", pool).strip() == "on"

    def _run(self, program: str, *words: str, text: str = "") -> str:
        try:
            return run([tool(program, self.search), *words], timeout=self.seconds, text=text)
        except ToolError as exc:
            if exc.status is None:
                raise
            raise problem(exc.said) from exc


def problem(said: str) -> RvssError:
    """Return the error that a message of zfs(8) means."""
    said = said.partition(" usage: ")[0]
    for pattern, code, hint in _PHRASES:
        if re.search(pattern, said, re.IGNORECASE):
            return RvssError(code, said, hint)
    return RvssError(Problem.SYSTEM, said)


def rows(out: str, columns: int) -> list[list[str]]:
    """Return a table of zfs(8) as rows of fields.

    The last field may be any text that root wrote. zfs(8) prints its tabs and line breaks as they
    are: so a line with too few fields belongs to the row before it.
    """
    found: list[list[str]] = []
    for line in out.removesuffix("\n").split("\n") if out else ():
        fields = line.split("\t", columns - 1)
        if len(fields) == columns:
            found.append(fields)
        elif found:
            found[-1][-1] += f"\n{line}"
    return found


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Put what was tried before the message of every RvssError in the block."""
    try:
        yield
    except RvssError as exc:
        raise RvssError(exc.problem, f"{what}: {exc.message}", exc.hint) from exc


def require_healthy(pool: str) -> None:
    """Refuse a suspended pool: a program that waits for it cannot be killed.

    Reading its kstat does not touch the pool (module/zfs/spa_stats.c).

    Raises:
        RvssError: SYSTEM.
    """
    try:
        with open(f"/proc/spl/kstat/zfs/{pool}/state", encoding="ascii") as state:
            word = state.read().strip()
    except FileNotFoundError:
        return
    if word == "SUSPENDED":
        raise RvssError(
            Problem.SYSTEM,
            f"the pool {pool} is suspended",
            "see 'zpool status', then 'zpool clear'",
        )
