"""What is in a share's tree that those warn of who make backups of virtual machines.

Place: beside `locate`, which says whether a share can have shadow copies at all: nothing here keeps
it from that. Contract: the tree is listed, as fast as the kernel does it; of files only virtual
disks are opened. Memory does not grow with the tree: of each kind of finding the first are held,
and all are counted.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from samba_rvss.hyperv import survey
from samba_rvss.hyperv.chains import Linked, Parent, link
from samba_rvss.hyperv.layout import DISKS, TRACKERS, Finder, Machine, is_of_machines, nearest
from samba_rvss.manifests import tree, walk
from samba_rvss.manifests.walk import Aside

HELD = 1000
"""So many paths of each kind of finding are held."""

LEVELS = 10
"""More levels of directories than these are told: the tools of others stop there."""

_MOST = 10_000  # disks, and files of machines
_SUFFIXES = tuple(suffix.decode() for suffix in (*DISKS, *TRACKERS))


class What(Enum):
    """Kinds of findings; the values are those of JSON."""

    NESTED = "nested volume"
    MOUNT = "mount"
    LINK = "link"
    SPECIAL = "special file"
    DEEP = "deep"
    UNREADABLE = "unreadable"
    OUTSIDE = "outside of machines"
    NO_DISKS = "machine without disks"
    NO_PARENT = "disk without parent"
    OPEN = "open"


@dataclass(slots=True)
class Finding:
    """What was found of one kind.

    Attributes:
        count: how often.
        paths: the first of them, from the share's directory.
    """

    count: int = 0
    paths: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Examination:
    """What was found in a tree; who shows how far it has come reads it from another thread.

    Attributes:
        files, directories, links: how many names lead to each.
        deepest: how many levels of directories there are.
        findings: by kind; a kind of which there is none is not in it.
        machines: the virtual machines, as names tell them.
        disks: the virtual disks.
        is_whole: whether all disks and machines were looked at.
    """

    files: int = 0
    directories: int = 0
    links: int = 0
    deepest: int = 0
    findings: dict[What, Finding] = field(default_factory=dict)
    machines: tuple[Machine, ...] = ()
    disks: tuple[Linked, ...] = ()
    is_whole: bool = True

    def add(self, what: What, path: bytes) -> None:
        """Add a finding."""
        finding = self.findings.setdefault(what, Finding())
        finding.count += 1
        if len(finding.paths) < HELD:
            finding.paths.append(path)

    def told(self) -> str:
        """Return in words how far it has come."""
        return f"{self.files} files in {self.directories} directories listed"


def examine(root: int, found: Examination) -> None:
    """Look at a share's tree, which others may change meanwhile.

    Args:
        root: its directory.
        found: is filled.
    """
    finder = Finder(_MOST)
    _list(root, found, finder)
    disks = {path: survey.look(root, path) for path in finder.disks}
    found.disks = link(disks)
    found.machines = finder.machines(found.disks)
    found.is_whole = not finder.is_full
    for disk in found.disks:
        if disk.parent not in (Parent.NONE, Parent.PRESENT):
            found.add(What.NO_PARENT, disk.path)
    for machine in found.machines:
        if not machine.disks:
            found.add(What.NO_DISKS, machine.configuration[0])
    homes = {machine.home for machine in found.machines}
    if homes and b"" not in homes:
        # Those who have machines on a share have little else there.
        for path in _outside(root, homes, {each.path for each in found.disks}, found.machines):
            found.add(What.OUTSIDE, path)


def _list(root: int, found: Examination, finder: Finder) -> None:
    asides = {
        Aside.NESTED: What.NESTED,
        Aside.MOUNT: What.MOUNT,
        Aside.UNREADABLE: What.UNREADABLE,
        Aside.TOO_DEEP: What.UNREADABLE,
    }
    last: bytes | None = None
    level = 0
    is_special = False
    for directory, entry in walk.names(root, lambda what, path: found.add(asides[what], path)):
        if directory is not last:
            last = directory
            level = directory.count(b"/") + 2 if directory else 1
            is_special = is_of_machines(directory)
        if entry.is_file(follow_symlinks=False):
            found.files += 1
            if is_special or entry.name.lower().endswith(_SUFFIXES):
                finder.add(directory, os.fsencode(entry.name), is_file=True)
        elif entry.is_dir(follow_symlinks=False):
            found.directories += 1
            found.deepest = max(found.deepest, level)
            if level > LEVELS:
                found.add(What.DEEP, walk.joined(directory, os.fsencode(entry.name)))
            if is_special:
                finder.add(directory, os.fsencode(entry.name), is_file=False)
        else:
            path = walk.joined(directory, os.fsencode(entry.name))
            if not entry.is_symlink():
                found.add(What.SPECIAL, path)
                continue
            found.links += 1
            if _leaves(root, path):
                found.add(What.LINK, path)


def _leaves(root: int, path: bytes) -> bool:
    """Return whether a symbolic link leads out of the tree, or would in a copy of it.

    One that begins at the root leads from a copy into the share, and not into the copy.
    """
    try:
        with tree.handle(root, path) as fd:
            target = os.readlink(b"", dir_fd=fd)
    except OSError:  # it has just been removed
        return False
    ends = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return target.startswith(b"/") or ends == b".." or ends.startswith(b"../")


def _outside(
    root: int, homes: set[bytes], disks: set[bytes], machines: Iterable[Machine]
) -> Iterator[bytes]:
    """Yield the files that are in no machine's directory, and no disk that a machine hangs on."""
    used = disks & {path for machine in machines for path in machine.disks}
    listed = walk.names(root, lambda what, path: None, into=lambda path: path not in homes)
    for directory, entry in listed:
        if entry.is_file(follow_symlinks=False):
            path = walk.joined(directory, os.fsencode(entry.name))
            if path not in used and nearest(path, homes) is None:
                yield path
