"""How virtual disks of one tree hang together: whose parent is which.

Pure. Contract: names that a disk gives are looked up among the disks that were found in the tree,
and nowhere else.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from samba_rvss.hyperv.disk import Disk

LONGEST = 64
"""So many disks of a chain are followed; who makes backups warns of chains of about a hundred."""


class Parent(Enum):
    """What was found of a disk's parent; the values are those of JSON."""

    NONE = "none"  # it needs none
    PRESENT = "present"
    CHANGED = "changed"  # one of its name is there, and has been written to since, or is another
    MISSING = "missing"
    ENDLESS = "endless"  # it is its own ancestor
    TOO_LONG = "too long"  # more than LONGEST are above it


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A virtual disk in a tree.

    Attributes:
        path: from the tree's directory.
        disk: what it says of itself.
        parent: what was found of its parent, or of one of that one's.
        above: its parent's path; empty if none was found.
    """

    path: bytes
    disk: Disk
    parent: Parent = Parent.NONE
    above: bytes = b""


def link(disks: Mapping[bytes, Disk]) -> tuple[Linked, ...]:
    """Return disks with their parents, in the order of their paths.

    Args:
        disks: by path.
    """
    known = _Known(disks)
    found = {path: known.linked(path) for path in sorted(disks)}
    return tuple(_followed(each, found) for each in found.values())


def chain(disks: Mapping[bytes, Linked], path: bytes) -> list[bytes]:
    """Return the paths of a disk's parent, that one's, and so on, as far as they were found.

    Args:
        disks: all of the tree, by path.
        path: the disk's.
    """
    found: list[bytes] = []
    above = disks[path].above
    while above and above != path and above not in found and len(found) < LONGEST:
        found.append(above)
        above = disks[above].above
    return found


class _Known:
    """The disks of a tree, found by what others say of them, each in one step."""

    def __init__(self, disks: Mapping[bytes, Disk]) -> None:
        self._disks = disks
        self._at: dict[bytes, bytes] = {}
        self._of_name: dict[bytes, bytes] = {}
        self._of_identity: dict[str, bytes] = {}
        self._beside: dict[tuple[bytes, str], bytes] = {}
        for path in sorted(disks):
            self._at.setdefault(_folded(path), path)
            self._of_name.setdefault(_folded(posixpath.basename(path)), path)
            identity = disks[path].identity
            self._of_identity.setdefault(identity, path)
            self._beside.setdefault((posixpath.dirname(path), identity), path)

    def linked(self, path: bytes) -> Linked:
        """Return a disk with its parent.

        A copy of a disk has the identity of that one: where it is said to be comes first, and then
        the child's own directory.
        """
        disk = self._disks[path]
        if not disk.is_child:
            return Linked(path=path, disk=disk)
        directory = posixpath.dirname(path)
        named = list(self._named(directory, disk.names))
        of_identity = [
            *(each for each in named if self._disks[each].identity in disk.linkage),
            *(self._beside.get((directory, identity), b"") for identity in disk.linkage),
            *(self._of_identity.get(identity, b"") for identity in disk.linkage),
        ]
        for above in filter(None, of_identity):
            return Linked(path=path, disk=disk, parent=Parent.PRESENT, above=above)
        if named:
            return Linked(path=path, disk=disk, parent=Parent.CHANGED, above=named[0])
        return Linked(path=path, disk=disk, parent=Parent.MISSING)

    def _named(self, directory: bytes, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the disks that names mean: those at the path first, then those of the name."""
        words = [name.replace("\\", "/").encode("utf-8", "replace") for name in names]
        for each in words:
            at = self._at.get(_folded(posixpath.normpath(posixpath.join(directory, each))))
            if at is not None:
                yield at
        for each in words:
            at = self._of_name.get(_folded(posixpath.basename(each)))
            if at is not None:
                yield at


def _followed(linked: Linked, found: Mapping[bytes, Linked]) -> Linked:
    """Return a disk with what there is to say of its whole chain."""
    if linked.parent is not Parent.PRESENT:
        return linked
    seen = {linked.path}
    present = linked
    while present.parent is Parent.PRESENT:
        if present.above in seen:
            return replace(linked, parent=Parent.ENDLESS)
        if len(seen) > LONGEST:
            return replace(linked, parent=Parent.TOO_LONG)
        seen.add(present.above)
        present = found[present.above]
    if present.parent is Parent.NONE:
        return linked
    return replace(linked, parent=present.parent)


def _folded(path: bytes) -> bytes:
    """Return a path as one that differs in the case of letters alone has it."""
    return path.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
