"""What is logged again and again: once, and then less and less often.

Place: a filter for the log's handler, so that whatever is tried again may log each failure.
Contract: the first line of a kind always passes, and what passes later says how often it came. What
comes no more is told once more, when it is forgotten and something else is logged, or at the end.
"""

import logging
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Lock

_FIRST_GAP = 60.0
_LONGEST_GAP = 3600.0
_FORGOTTEN = 600.0  # seconds without it, after which a line is new
_MOST = 1000
_DURATION = re.compile(r"\b\d+(\.\d+)? (?=m?s\b)")


@dataclass(slots=True, kw_only=True)
class _Line:
    text: str
    logged: float
    last: float
    fields: dict[str, object]
    gap: float = _FIRST_GAP
    count: int = 0


class _Rest(logging.LogRecord):
    """One that stands for what was held back, and passes."""


class Repeats(logging.Filter):
    """Holds back warnings and errors that say again what was logged a short time ago.

    Lines that differ in nothing but a duration ("for 12 s") are the same.

    Args:
        besides: names of loggers whose lines all pass.
        clock: the time, in seconds.
    """

    def __init__(
        self, besides: Collection[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._besides = besides
        self._clock = clock
        self._lock = Lock()
        self._known: dict[tuple[str, int, str], _Line] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be logged; one that stands for others says so."""
        if isinstance(record, _Rest):
            return True
        self.tell(_FORGOTTEN)
        if record.levelno < logging.WARNING or record.name in self._besides:
            return True
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            return True  # the handler tells what is wrong with it
        present = self._clock()
        with self._lock:
            error = record.exc_info[1] if record.exc_info else None
            what = f"{text}: {error!r}" if error else text
            key = (record.name, record.levelno, _DURATION.sub("", what))
            line = self._known.get(key)
            if line is None:
                self._add(key, text, present, _fields(record))
                return True
            line.text, line.last = text, present
            line.count += 1
            spent = present - line.logged
            if spent < line.gap:
                return False
            record.msg = f"{text} ({line.count} times in {spent:.0f} s)"
            record.args = None
            line.logged, line.count, line.gap = present, 0, min(2 * line.gap, _LONGEST_GAP)
        return True

    def tell(self, seconds: float = 0.0) -> None:
        """Forget the lines that have not come for so many seconds; log what was held back of them.

        Whoever has the log calls it at the end.
        """
        present = self._clock()
        with self._lock:
            over = {
                key: line for key, line in self._known.items() if present - line.last >= seconds
            }
            for key in over:
                del self._known[key]
        for (name, level, _), line in over.items():
            if line.count:
                since = f"{line.count} more, the last {present - line.last:.0f} s ago"
                rest = _Rest(name, level, __file__, 0, "%s (%s)", (line.text, since), None)
                rest.__dict__.update(line.fields)
                logging.getLogger(name).handle(rest)

    def _add(
        self, key: tuple[str, int, str], text: str, present: float, fields: dict[str, object]
    ) -> None:
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = _Line(text=text, logged=present, last=present, fields=fields)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what a record has for the journal besides its text: what is called in capitals."""
    return {name: value for name, value in record.__dict__.items() if name.isupper()}
