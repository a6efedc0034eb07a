"""Comparing a tree with a manifest: everything is read again, and nothing is taken for granted.

Contract: memory does not grow with the tree. What differs or cannot be read is told, name by name,
and does not stop the rest.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from samba_rvss.manifests import chunks, tree
from samba_rvss.manifests.chunks import Digest, Reader
from samba_rvss.manifests.entry import (
    BEYOND,
    CARRIED,
    LASTING,
    Entry,
    Kind,
    file_of,
    lasting,
    merged,
    metadata,
)
from samba_rvss.manifests.links import Links
from samba_rvss.manifests.make import Progress
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.subset import WHOLE, Subset

# What openat2(2) answers for a path that is not there any more, whatever is in its place.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

_ROW = chunks.IN_A_ROW


@dataclass(slots=True)
class _Damage:
    """Chunks of one file that are wrong in one way: the first, why, and how many."""

    first: int
    why: str = ""
    chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What is not as the manifest has it.

    Attributes:
        path: of what, from the share's directory.
        what: ``missing``, ``extra``, ``content``, ``metadata`` or ``unreadable``.
        detail: which part of it, for people.
        offset: of ``content`` and ``unreadable``, where the first such chunk begins in the file;
            None if that does not apply.
    """

    path: bytes
    what: str
    detail: str = ""
    offset: int | None = None


def compare(
    manifest: Manifest,
    root: int,
    progress: Progress,
    subset: Subset = WHOLE,
    *,
    elsewhere: bool = False,
) -> Iterator[Difference]:
    """Yield what of a tree is not as a manifest has it.

    Args:
        manifest: what should be there.
        root: the tree's directory.
        progress: is told how far it has come.
        subset: which chunks are read; all else is compared in any case.
        elsewhere: whether it is a copy, which has its own inodes and ctimes. Names that are one
            file have to be one there as well.

    Raises:
        RvssError: STATE if the manifest is damaged; SYSTEM, as `Links`.
    """
    fields = CARRIED if elsewhere else LASTING  # of which inode says which names are one file
    with Links() as links:
        for entry in manifest.entries():
            progress.entries += 1
            try:
                with tree.handle(root, entry.path) as found:
                    yield from of_entry(manifest, entry, found, fields, subset, progress)
                    if elsewhere:
                        yield from _of_links(links, entry, os.fstat(found))
            except OSError as exc:
                if exc.errno in _GONE:
                    yield Difference(path=entry.path, what="missing")
                else:
                    reason = exc.strerror or str(exc)
                    yield Difference(path=entry.path, what="unreadable", detail=reason)


def _of_links(links: Links, entry: Entry, status: os.stat_result) -> Iterator[Difference]:
    if entry.kind is not Kind.FILE or not stat.S_ISREG(status.st_mode):
        return
    present = b"%d/%d" % (status.st_dev, status.st_ino) if status.st_nlink > 1 else b""
    why = links.difference(entry.path, file_of(entry), present)
    if why:
        yield Difference(path=entry.path, what="metadata", detail=why)


def of_entry(
    manifest: Manifest,
    entry: Entry,
    found: int,
    fields: tuple[str, ...],
    subset: Subset,
    progress: Progress,
) -> Iterator[Difference]:
    path = entry.path
    present = tree.stated(path, os.fstat(found))
    if entry.fault and entry.fault != BEYOND:
        yield Difference(path=path, what="unreadable", detail=f"in its manifest: {entry.fault}")
    if entry.kind is Kind.UNKNOWN:
        return
    if present.kind is not entry.kind:
        detail = f"it is a {_word(present.kind)}, and was a {_word(entry.kind)}"
        yield Difference(path=path, what="content", detail=detail)
        return
    target, acl, xattrs = tree.completed(found)
    present = replace(present, target=target, acl=acl, xattrs=xattrs)
    if target != entry.target:
        yield Difference(path=path, what="content", detail="it leads elsewhere")
    changed = metadata(entry, present, lasting(entry, fields))
    if changed:
        yield Difference(path=path, what="metadata", detail=", ".join(changed))
    if entry.kind is Kind.DIRECTORY and entry.fault != BEYOND:
        for name in tree.names(found):
            below = path + b"/" + name if path else name
            if not manifest.has(below):
                yield Difference(path=below, what="extra")
    elif entry.kind is Kind.FILE and entry.digest:
        if present.size != entry.size:
            detail = f"it has {present.size} bytes, and had {entry.size}"
            yield Difference(path=path, what="content", detail=detail)
        else:
            yield from _of_content(manifest, entry, found, subset, progress)


def _of_content(
    manifest: Manifest, entry: Entry, found: int, subset: Subset, progress: Progress
) -> Iterator[Difference]:
    """Read a file, and tell where it is not what it was."""
    damage: dict[str, _Damage] = {}
    whole = Digest(entry.size)
    count = chunks.count(entry.size)
    with tree.content(found) as fd:
        reader = Reader(fd, entry.size)
        of_data = ((row, row) for row in reader.rows())
        for row, noted in merged(of_data, chunks.by_row(manifest.runs(entry))):
            expected = noted or {}
            first = row * _ROW if row is not None else min(expected) // _ROW * _ROW
            for number in range(first, min(first + _ROW, count)):
                digest = expected.get(number, chunks.EMPTY)
                whole.add(number, digest)
                if not subset.has(entry.path, number):
                    continue
                progress.read += min(chunks.SIZE, entry.size - number * chunks.SIZE)
                try:
                    if reader.digest(number) != digest:
                        damage.setdefault("content", _Damage(number)).chunks += 1
                except OSError as exc:
                    why = f"{exc.strerror or exc}: "
                    damage.setdefault("unreadable", _Damage(number, why)).chunks += 1
    if whole.value() != entry.digest:
        yield Difference(path=entry.path, what="content", detail="its manifest contradicts itself")
    for what, each in damage.items():
        offset = each.first * chunks.SIZE
        detail = f"{each.why}{each.chunks} of its {count} chunks, at byte {offset}"
        yield Difference(path=entry.path, what=what, detail=detail, offset=offset)


def _word(kind: Kind) -> str:
    return kind.name.lower()
