"""What commands print: JSON for programs, tables for people, plain columns for pipes.

Place: the one door to standard output and standard error; what is logged passes through it too.
Contract: whatever bytes a name held, and whatever the locale can show, each line stays one line,
and printing it does not fail.
"""

import codecs
import io
import json
import locale
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from samba_rvss.text import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

JSON_VERSION = 1
"""The version of what is printed as JSON: another one if a member goes, or means something else."""

LOOKING = "looking at the file systems"
"""What most commands tell that take their time."""

_INDENT = "    "
_NARROWEST = 20  # columns, however narrow a terminal says that it is
_USUAL = 80  # columns, of a terminal that does not know how wide it is
_WHOLE = frozenset({"ID", "COPY", "TIME"})  # what people read, and copy, in one piece
_UNKNOWN = "not known"
_NOTHING = frozenset({"", "-", _UNKNOWN})
_ERASE = "\r\x1b[K"  # the line that the cursor is in
_telling = Event()
"""Whether a line of `progress` is on the terminal."""


def prepare() -> None:
    """Have standard output and standard error take what they cannot encode as an escape.

    Python's UTF-8 mode, which names of files need, would write UTF-8 in a locale that has another
    encoding.
    """
    encoding = locale.getencoding()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            mistaken = stream.encoding == "utf-8" and codecs.lookup(encoding).name != "ascii"
            stream.reconfigure(encoding=encoding if mistaken else None, errors="backslashreplace")
    if logging.lastResort is not None:  # what is logged where nobody has set up a log
        logging.lastResort.setFormatter(Formatter())


class Formatter(logging.Formatter):
    """Formats what is logged: one line, and a traceback as indented lines below it.

    The record that a handler gets back has only what is formatted: the journal's handler sends
    every attribute of it, and loses the whole message if one of them cannot be encoded.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, and leave nothing else in the record."""
        record.levelname = record.levelname.lower()
        record.msg, record.args = printable(record.getMessage()), None
        below = [record.exc_text or ""]
        if record.exc_info and not record.exc_text:
            below = [self.formatException(record.exc_info)]
        below.append(record.stack_info or "")
        record.exc_text = indented("\n".join(below)) or None
        record.exc_info = record.stack_info = None
        return super().format(record)


def indented(text: str) -> str:
    """Return lines, a traceback's for example, in a form that no other line has."""
    return "\n".join(f"{_INDENT}{printable(line)}" for line in text.splitlines() if line)


def print_json(members: Mapping[str, object]) -> None:
    """Print an object as JSON, its version first, with all that is not ASCII escaped.

    Args:
        members: what is in it, each in the section JSON of the manual.
    """
    print(json.dumps({"version": JSON_VERSION, **members}, indent=2, ensure_ascii=True))


def print_document(text: str) -> None:
    """Print a text whose format says that it is UTF-8, whatever the locale says.

    Args:
        text: what has been made printable already.
    """
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    empty: str,
    styles: Mapping[str, str] | None = None,
    *,
    brief: bool = False,
) -> None:
    """Print rows: as a table on a terminal, else separated by tabs with a heading.

    Args:
        columns: their names. What is in `_WHOLE` is not broken to fit.
        rows: as many texts each.
        empty: what to print on a terminal if there are none.
        styles: how a cell with one of these texts is shown on a terminal, in rich's words.
        brief: whether a terminal shows neither columns of nothing nor the time that an id tells.
    """
    if sys.stdout.isatty():
        if not rows:
            print_line(empty)
            return
        from rich.console import Console

        if brief:
            columns, rows = _brief(columns, rows)
        Console().print(table_of(columns, rows, styles or {}))
        return
    print("\t".join(columns))
    for row in rows:
        print("\t".join(_clean(cell) for cell in row))


def _brief(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return the columns in which anything stands, but for the time that an id tells."""
    shown = [
        number
        for number, name in enumerate(columns)
        if name != "TAKEN" and any(row[number] not in _NOTHING for row in rows)
    ]
    return [columns[number] for number in shown], [[row[n] for n in shown] for row in rows]


def table_of(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Mapping[str, str],
    cut: str = "",
) -> "Table":
    """Return rows as a table for a terminal.

    Args:
        columns: as those of `print_table`, like rows and styles.
        rows: as many texts each.
        styles: by the text of a cell.
        cut: the column that has the room which the others leave, and is cut to fit.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", expand=bool(cut))
    for column in columns:
        if column == cut:
            table.add_column(column, overflow="ellipsis", no_wrap=True, ratio=1)
        else:
            table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*(Text(_clean(cell), style=styles.get(cell, "")) for cell in row))
    return table


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, aligned."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_clean(value)}")


def print_line(text: str = "", style: str = "") -> None:
    """Print a line; on a terminal in a style, in rich's words."""
    if style and sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(_clean(text), style=style), soft_wrap=True)
        return
    print(_clean(text))


def print_hanging(head: str, text: str) -> None:
    """Print a text behind a head: one line, or on a terminal as many as it is wide, indented."""
    shown = _clean(text)
    lines = [shown]
    if sys.stdout.isatty():
        columns = os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL
        width = columns - len(head)
        lines = textwrap.wrap(
            shown, max(_NARROWEST, width), break_long_words=False, break_on_hyphens=False
        )
    for number, line in enumerate(lines):
        print(f"{' ' * len(head) if number else head}{line}")


class Screen:
    """A terminal's screen that is written anew again and again.

    In its block the terminal shows nothing else, and afterwards what it has shown before. Where
    standard output is no terminal, nothing happens.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._terminal = sys.stdout.isatty()

    def __enter__(self) -> "Screen":
        if self._terminal:
            from rich.console import Console

            self._console = Console()
            self._screen = self._stack.enter_context(self._console.screen(hide_cursor=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def size(self) -> tuple[int, int] | None:
        """How many columns and lines there is room for; None if it is no terminal."""
        if not self._terminal:
            return None
        return self._console.width, self._console.height

    def show(self, *parts: "Text | Table") -> None:
        """Show something in the place of what was shown before."""
        from rich.console import Group

        self._screen.update(Group(*parts))


def text_of(line: str, style: str = "") -> "Text":
    """Return a line for a terminal, in a style in rich's words."""
    from rich.text import Text

    return Text(_clean(line), style=style, overflow="ellipsis", no_wrap=True)


@contextmanager
def progress(what: str | Callable[[], str], after: float = 1.0) -> Iterator[None]:
    """Tell who sits at a terminal what is being done, where that takes its time.

    It is told on the terminal's last line, on standard error, and taken away at the end. Nothing
    but errors may be printed meanwhile.

    Args:
        what: what is being done; or what tells it, in another thread, about once a second.
        after: how many seconds that may take without a word.
    """
    if not (sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"):
        yield
        return
    over = Event()
    teller = Thread(target=_tell_progress, args=(what, after, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell_progress(what: str | Callable[[], str], after: float, over: Event) -> None:
    started = time.monotonic()
    if over.wait(after):
        return
    _telling.set()
    while True:
        doing = what if isinstance(what, str) else what()
        told = f"{printable(doing)} ({time.monotonic() - started:.0f} s)"
        print(f"{_ERASE}{told}", end="", file=sys.stderr, flush=True)
        if over.wait(1.0):
            break
    _telling.clear()
    print(_ERASE, end="", file=sys.stderr, flush=True)


def print_error(text: str, *, prefix: str = "samba-rvss: ") -> None:
    """Print a line on standard error."""
    before = _ERASE if _telling.is_set() else ""
    print(f"{before}{prefix}{printable(text)}\n", end="", file=sys.stderr, flush=True)


def print_traceback(text: str) -> None:
    """Print a traceback on standard error."""
    print(indented(text), file=sys.stderr, flush=True)


def local_time(time: datetime) -> str:
    """Return a time as people at this machine write it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _clean(cell: str) -> str:
    return printable(cell, sys.stdout.encoding or "utf-8")


def span(time: timedelta) -> str:
    """Return for how long something has been, in its two largest units."""
    minutes = max(0, int(time.total_seconds() // 60))
    days, rest = divmod(minutes, 1440)
    hours, minutes = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def size(count: int | None) -> str:
    """Return a number of bytes in the largest unit of which there is one; None is not known."""
    if count is None:
        return _UNKNOWN
    for power, name in enumerate(("TiB", "GiB", "MiB", "KiB")):
        unit = 1 << 10 * (4 - power)
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
