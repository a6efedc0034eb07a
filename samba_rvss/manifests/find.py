"""Finding files in several manifests or trees: which versions of each there are.

Contract: what is found streams by in the order of paths; memory is for one path at a time, but for
trees without a manifest, of which as much is held as matches.
"""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from samba_rvss.manifests import patterns, tree, walk
from samba_rvss.manifests.entry import Entry, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A file as it is in some backups.

    Attributes:
        entry: it, as the newest of them has it.
        backups: which, by their numbers, the newest first.
    """

    entry: Entry
    backups: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The versions of one file that differ.

    Attributes:
        path: from the share's directory.
        versions: the newest first.
    """

    path: bytes
    versions: tuple[Version, ...]


def matcher(pattern: str) -> Callable[[bytes], bool]:
    """Return what tells whether a path matches a pattern.

    Args:
        pattern: see `patterns`. One without a slash is for names in any directory.
    """
    expression = patterns.compiled(pattern)
    is_name = "/" not in pattern

    def matches(path: bytes) -> bool:
        text = patterns.folded(path)
        if expression.match(text):
            return True
        return is_name and bool(expression.match(text.rpartition("/")[2]))

    return matches


def of_tree(
    root: int,
    is_wanted: Callable[[bytes], bool],
    most: int,
    aside: Callable[[walk.Aside, bytes], None],
) -> tuple[list[Entry], int]:
    """Return the files of a tree of which the path is wanted, and how many were left out.

    Args:
        root: the tree's directory; what is mounted in it is part of it.
        is_wanted: tells it.
        most: so many at most.
        aside: see `walk.names`.
    """
    found: list[Entry] = []
    left_out = 0
    for directory, entry in walk.names(root, aside, crossing=True):
        if not entry.is_file(follow_symlinks=False):
            continue
        path = walk.joined(directory, os.fsencode(entry.name))
        if not is_wanted(path):
            continue
        if len(found) >= most:
            left_out += 1
            continue
        try:
            with tree.handle(root, path) as fd:
                found.append(tree.stated(path, os.fstat(fd)))
        except OSError:
            aside(walk.Aside.UNREADABLE, path)
    return sorted(found, key=lambda each: each.path), left_out


def versions(backups: Sequence[Iterable[Entry]]) -> Iterator[Found]:
    """Yield the files of several backups of one directory, with their versions.

    Args:
        backups: the files of each, in the order of their paths; the newest backup first.
    """
    streams = [_numbered(number, entries) for number, entries in enumerate(backups)]
    merged = heapq.merge(*streams, key=itemgetter(0, 1))
    for path, of_path in groupby(merged, key=itemgetter(0)):
        yield Found(path=path, versions=_distinct((n, entry) for _, n, entry in of_path))


def _numbered(number: int, entries: Iterable[Entry]) -> Iterator[tuple[bytes, int, Entry]]:
    return ((entry.path, number, entry) for entry in entries)


def _distinct(of_path: Iterable[tuple[int, Entry]]) -> tuple[Version, ...]:
    found: list[tuple[Entry, list[int]]] = []
    for number, entry in of_path:
        same = next((backups for other, backups in found if is_same(other, entry)), None)
        if same is None:
            found.append((entry, [number]))
        else:
            same.append(number)
    return tuple(Version(entry=entry, backups=tuple(backups)) for entry, backups in found)


def is_same(one: Entry, other: Entry) -> bool:
    """Return whether two entries of a file are the same version.

    By their digests, where both have one; otherwise by size and mtime, which a program can set.
    """
    if one.kind is not Kind.FILE or one.size != other.size:
        return False
    if one.digest and other.digest:
        return one.digest == other.digest
    return one.mtime == other.mtime
