"""What is different between two manifests of one directory: files added, removed and changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from samba_rvss.manifests import chunks
from samba_rvss.manifests.entry import (
    CARRIED,
    Entry,
    Kind,
    file_of,
    is_same_content,
    merged,
    metadata,
)
from samba_rvss.manifests.links import Links
from samba_rvss.manifests.manifest import Manifest

# A directory has another one whenever a name in it comes or goes, which is told by itself.
_OF_FILES = "mtime"
_OTHERS = ("links",)


class How(Enum):
    """What has become of a name; the values are those of JSON."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One name that is not the same in both.

    Attributes:
        path: from the share's directory.
        how: what has become of it.
        size: how many bytes are different; of a large file, in whole chunks.
        fields: which metadata is different, if `how` is METADATA; ``links`` also if it is CONTENT:
            other names are the same file.
    """

    path: bytes
    how: How
    size: int = 0
    fields: tuple[str, ...] = ()


def changes(before: Manifest, after: Manifest) -> Iterator[Change]:
    """Yield what is different, in the order of the paths.

    Raises:
        RvssError: STATE if one of them is damaged; SYSTEM, as `Links`.
    """
    with Links() as links:
        yield from _changes(before, after, links)


def _changes(before: Manifest, after: Manifest, links: Links) -> Iterator[Change]:
    pairs = merged(
        ((entry.path, entry) for entry in before.entries()),
        ((entry.path, entry) for entry in after.entries()),
    )
    for old, new in pairs:
        if old is None and new is not None:
            yield Change(path=new.path, how=How.ADDED, size=new.size)
        elif new is None and old is not None:
            yield Change(path=old.path, how=How.REMOVED, size=old.size)
        elif old is not None and new is not None:
            others = _OTHERS if _has_other_links(links, old, new) else ()
            if not is_same_content(old, new):
                size = _different(before, after, old, new)
                yield Change(path=new.path, how=How.CONTENT, size=size, fields=others)
            else:
                fields = [n for n in CARRIED if n != _OF_FILES or new.kind is not Kind.DIRECTORY]
                different = metadata(old, new, fields) + others
                if different:
                    yield Change(path=new.path, how=How.METADATA, fields=different)


def _has_other_links(links: Links, old: Entry, new: Entry) -> bool:
    """Return whether the names that are the same file as this one are others now."""
    if old.kind is not Kind.FILE or new.kind is not Kind.FILE:
        return False
    return bool(links.difference(new.path, file_of(old), file_of(new)))


def _different(before: Manifest, after: Manifest, old: Entry, new: Entry) -> int:
    """Return how many bytes of a file's new content are in chunks that it did not have there."""
    if new.kind is not Kind.FILE or old.kind is not Kind.FILE or not (old.digest and new.digest):
        return new.size
    size = 0
    pairs = merged(chunks.by_row(before.runs(old)), chunks.by_row(after.runs(new)))
    for one, other in pairs:
        numbers = {**(one or {}), **(other or {})}
        for number in numbers:
            length = min(chunks.SIZE, new.size - number * chunks.SIZE)
            pair = [(each or {}).get(number, chunks.EMPTY) for each in (one, other)]
            if length > 0 and pair[0] != pair[1]:
                size += length
    return size
