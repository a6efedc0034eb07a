"""What was restored, read again and compared: with the manifest where it has it, or the image.

Contract: nothing is taken for granted, whatever the kernel said when it was made; what differs is
yielded, name by name.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from samba_rvss.manifests import chunks, tree
from samba_rvss.manifests.entry import CARRIED, Entry, Kind, is_beyond, lasting, metadata
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.subset import WHOLE
from samba_rvss.manifests.verify import Difference, of_entry
from samba_rvss.restore.build import Source, beneath, join
from samba_rvss.restore.work import is_there

_ELSEWHERE = tuple(name for name in CARRIED if name not in ("mode", "xattrs"))
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def differences(
    source: Source, manifest: Manifest | None, path: bytes, root: int, place: bytes
) -> Iterator[Difference]:
    """Yield what of a restored file, or directory with all that is in it, is not as it was.

    Args:
        source: the image.
        manifest: its manifest, if it has one that can be read.
        path: from the share's directory in the image.
        root: a descriptor of a directory of the target.
        place: where in that it was restored.

    Raises:
        RvssError: STATE if the manifest is damaged.
    """
    directories = [path]
    try:
        with tree.handle(source.root, path) as found, tree.handle(root, place) as present:
            yield from _of(source, manifest, path, found, present)
            if tree.stated(path, os.fstat(found)).kind is not Kind.DIRECTORY:
                return
    except OSError as exc:
        yield _unreadable(path, exc)
        return
    for here in directories:  # it grows
        if is_beyond(here):  # that was told
            continue
        there = beneath(place, path, here)
        try:
            with tree.handle(source.root, here) as inside, tree.handle(root, there) as around:
                for each in tree.names(inside):
                    below = join(here, each)
                    if below in source.missing or not source.wanted.enters(below):
                        continue
                    with tree.handle(inside, each) as found:
                        is_directory = stat.S_ISDIR(os.fstat(found).st_mode)
                        if not source.wanted.has(below) and not (
                            is_directory and is_there(around, each)
                        ):
                            continue
                        if is_directory:
                            directories.append(below)
                        with tree.handle(around, each) as present:
                            yield from _of(source, manifest, below, found, present)
        except OSError as exc:
            yield _unreadable(here, exc)


def _of(
    source: Source, manifest: Manifest | None, path: bytes, found: int, present: int
) -> Iterator[Difference]:
    noted = manifest.get(path) if manifest else None
    try:
        if manifest and noted and not noted.fault and noted.kind is not Kind.UNKNOWN:
            fields = CARRIED if source.trusted else _ELSEWHERE
            for each in of_entry(manifest, noted, present, fields, WHOLE, source.tally.progress):
                if each.what != "extra":
                    yield each
        else:
            yield from _with_image(source, path, found, present)
    except OSError as exc:
        yield _unreadable(path, exc)


def _with_image(source: Source, path: bytes, found: int, present: int) -> Iterator[Difference]:
    one, other = entry_of(path, found), entry_of(path, present)
    if (one.kind, one.size, one.target) != (other.kind, other.size, other.target):
        yield Difference(path=path, what="content", detail="it is not the same")
        return
    changed = metadata(one, other, lasting(one, CARRIED if source.trusted else _ELSEWHERE))
    if changed:
        yield Difference(path=path, what="metadata", detail=", ".join(changed))
    if one.kind is Kind.FILE:
        source.tally.progress.read += one.size
        if not same_content(found, present, one.size):
            yield Difference(path=path, what="content", detail="it is not what the image has")


def _unreadable(path: bytes, exc: OSError) -> Difference:
    if exc.errno in _GONE:
        return Difference(path=path, what="missing")
    return Difference(path=path, what="unreadable", detail=exc.strerror or str(exc))


def entry_of(path: bytes, found: int) -> Entry:
    """Return all that is known of something without reading its content.

    Args:
        path: its path.
        found: a descriptor from `samba_rvss.manifests.tree.handle`.

    Raises:
        OSError: it cannot be looked at.
    """
    target, acl, xattrs = tree.completed(found)
    return replace(tree.stated(path, os.fstat(found)), target=target, acl=acl, xattrs=xattrs)


def same_content(found: int, present: int, size: int) -> bool:
    """Return whether two files of one size have the same content, by reading them.

    Args:
        found: a descriptor of one, from `samba_rvss.manifests.tree.handle`, and
        present: of the other.
        size: in bytes.

    Raises:
        OSError: one of them cannot be read.
    """
    with tree.content(found) as one, tree.content(present) as other:
        return chunks.first_difference(one, other, size) is None
