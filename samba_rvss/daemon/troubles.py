"""What is wrong, from when it begins until it is over: each thing is told once, and so is its end.

Contract: what comes and goes is one trouble until it has stayed away for a while. What has been
told is remembered in a file, so that a restart of the daemon tells nothing again; a file that is
lost, or cannot be written, costs no more than that. Nothing here runs by itself.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from samba_rvss.daemon.news import OVER, News
from samba_rvss.kernel import files

_logger = logging.getLogger(__name__)

AWAY_SECONDS = 600.0
"""For how long a trouble has to stay away until it is over."""

_MOST = 500
_LONGEST = 1 << 22  # bytes of the file
_NONE = "[]"  # what it says where nothing lasts


@dataclass(slots=True, kw_only=True)
class _Trouble:
    news: News
    seen: bool  # whether a look has found it, so that another one can miss it
    told: bool = False
    away: float | None = None  # since when


class Troubles:
    """The troubles of one instance. Times are in seconds, of a clock that nobody sets.

    Args:
        path: the file that remembers them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, _Trouble] = {}
        self._stored = _NONE

    def begin(self, key: str, news: News, *, seen: bool = False) -> News | None:
        """Note a trouble; return what is to be told, None if it lasts already.

        Args:
            key: what is the same as long as it is the same trouble.
            news: what to tell of it.
            seen: whether a look has found it.
        """
        known = self._known.get(key)
        if known is not None:
            known.away = None
            return None
        if len(self._known) >= _MOST:
            _logger.error("not told, for %d troubles last already: %s", _MOST, news.describe())
            return None
        self._known[key] = _Trouble(news=news, seen=seen)
        return news

    def end(self, key: str, present: float) -> None:
        """Note that a trouble, if there is such a one, seems to be over."""
        known = self._known.get(key)
        if known is not None and known.away is None:
            known.away = present

    def look(self, found: Iterable[News], present: float, *, whole: bool) -> list[News]:
        """Note all that a look has found; return what is to be told.

        Args:
            found: what is wrong by now.
            present: the time.
            whole: whether what it has not found is not there.
        """
        keys = {news.key: news for news in found}
        begun = [self.begin(key, news, seen=True) for key, news in keys.items()]
        for key, known in self._known.items():
            if whole and known.seen and key not in keys:
                self.end(key, present)
        return [news for news in begun if news is not None]

    def over(self, present: float) -> list[News]:
        """Forget the troubles that have stayed away; return what is to be told of those told."""
        past = {
            key: known
            for key, known in self._known.items()
            if known.away is not None and present - known.away >= AWAY_SECONDS
        }
        for key in past:
            del self._known[key]
        return [replace(known.news, event=OVER) for known in past.values() if known.told]

    def told(self, news: News) -> None:
        """Note that something has been told."""
        for known in self._known.values():
            if known.news is news:
                known.told = True

    def load(self) -> None:
        """Read what has been told before a restart."""
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            with files.opened(os.open(self._path, flags)) as fd:
                rows = json.loads(os.read(fd, _LONGEST))
            for key, seen, fields in rows[:_MOST]:
                news = News(**{str(name): str(text) for name, text in fields.items()})
                self._known[str(key)] = _Trouble(news=news, seen=bool(seen), told=True)
            self._stored = self.text() or _NONE
        except FileNotFoundError:
            pass
        # KeyError: Python 3.12 and later take a slice for a key.
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as exc:
            _logger.warning("cannot read %s, so some may be told again: %s", self._path, exc)
            self._stored = ""

    def text(self) -> str:
        """Return what the file is to say; empty if it says so already."""
        rows = [
            (key, known.seen, dataclasses.asdict(known.news))
            for key, known in self._known.items()
            if known.told
        ]
        text = json.dumps(rows)
        return text if text != self._stored else ""

    def store(self, text: str) -> None:
        """Write the file, in one step, and durable."""
        self._stored = text
        try:
            files.replace(self._path, text.encode())
        except OSError as exc:
            _logger.warning("cannot write %s: %s", self._path, exc.strerror)
