"""Which names are to be restored. Pure.

A pattern (`samba_rvss.manifests.patterns`) without a slash is about a name, wherever that is; one
with a slash about the whole path from the share's directory. What it says of a directory it says of
all that is in it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from samba_rvss.manifests import patterns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    is_whole: bool
    matches: re.Pattern[str]


class Wanted(Protocol):
    """Tells what is wanted of a tree."""

    def has(self, path: bytes) -> bool:
        """Return whether a path is wanted itself; the way to one that is need not be."""

    def enters(self, path: bytes) -> bool:
        """Return whether something in a directory can be wanted, or a file is."""


class Paths:
    """What is at some paths, and in directories that are.

    Args:
        paths: from the share's directory.
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths = frozenset(paths)
        self._ways = frozenset(above for path in self._paths for above in _above(path))

    def has(self, path: bytes) -> bool:
        """See `Wanted`."""
        return path in self._paths or any(above in self._paths for above in _above(path))

    def enters(self, path: bytes) -> bool:
        """See `Wanted`."""
        return path in self._ways or self.has(path)


def _above(path: bytes) -> list[bytes]:
    """Return the directories that a path is below of, the share's own among them."""
    names = path.split(b"/")
    return [b"/".join(names[:number]) for number in range(len(names))]


class Selection:
    """What is wanted of a tree.

    Args:
        include: patterns; without one, all is wanted that is not excluded.
        exclude: patterns of what is not wanted in any case.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_pattern(words) for words in include]
        self._exclude = [_pattern(words) for words in exclude]

    def has(self, path: bytes) -> bool:
        """See `Wanted`."""
        return self.enters(path) and (not self._include or _any(self._include, path))

    def enters(self, path: bytes) -> bool:
        """See `Wanted`."""
        return not _any(self._exclude, path)


def _pattern(words: str) -> _Pattern:
    return _Pattern(is_whole="/" in words, matches=patterns.compiled(words))


def _any(wanted: Iterable[_Pattern], path: bytes) -> bool:
    """Return whether a pattern is about a path, or about a directory above it."""
    if not wanted or not path:
        return False
    names = patterns.folded(path).split("/")
    paths = ["/".join(names[: number + 1]) for number in range(len(names))]
    return any(
        pattern.matches.match(text) is not None
        for pattern in wanted
        for text in (paths if pattern.is_whole else names)
    )
