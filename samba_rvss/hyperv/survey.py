"""Looking for virtual machines and disks in a tree, and at each disk.

Contract: bounded in names, disks and time, whatever is in the tree; what was left out is said. Only
files with the name of a disk are opened, and of each at most `samba_rvss.hyperv.disk.MOST` bytes
are read.
"""

import os
import posixpath
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from samba_rvss.hyperv import vhd, vhdx
from samba_rvss.hyperv.chains import Linked, link
from samba_rvss.hyperv.disk import Disk, State, Window
from samba_rvss.hyperv.layout import Finder, Machine
from samba_rvss.manifests import tree, walk
from samba_rvss.manifests.walk import Aside

_FORMATS: Mapping[bytes, Callable[[Window], Disk]] = {
    b".vhdx": vhdx.look,
    b".avhdx": vhdx.look,
    b".vhd": vhd.look,
    b".avhd": vhd.look,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is looked at.

    Attributes:
        names: so many names in the tree.
        held: so many names of disks and of machines' files.
        seconds: so long.
        deepest: so many levels of directories.
    """

    names: int = 10_000_000
    held: int = 100_000
    seconds: float = 3600.0
    deepest: int = walk.DEEPEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found in a tree. All paths are from its directory.

    Attributes:
        machines: the virtual machines, as names tell them; see `samba_rvss.hyperv.layout`.
        disks: the virtual disks, in the order of their paths.
        left_out: why not all was looked at, as a sentence's end; empty if all was.
    """

    machines: tuple[Machine, ...]
    disks: tuple[Linked, ...]
    left_out: str = ""


@dataclass(slots=True)
class _Search:
    finder: Finder
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, why: str) -> None:
        if why not in self.left_out:
            self.left_out.append(why)

    def aside(self, what: Aside, _path: bytes) -> None:
        if what is Aside.UNREADABLE:
            self.leave_out("a directory cannot be read")
        elif what is Aside.TOO_DEEP:
            self.leave_out("directories lie too deep")


def survey(root: int, limits: Limits = Limits()) -> Survey:
    """Return the virtual machines and disks of a tree that does not change, such as an image's.

    Args:
        root: the tree's directory, O_PATH will do; what is mounted in it is part of it.
        limits: how much is looked at.
    """
    ends = time.monotonic() + limits.seconds
    search = _Search(Finder(limits.held))
    listed = walk.names(root, search.aside, crossing=True, deepest=limits.deepest)
    for count, (directory, entry) in enumerate(listed):
        if count >= limits.names:
            search.leave_out(f"there are more than {limits.names} names")
            break
        if count % 1000 == 0 and time.monotonic() >= ends:
            search.leave_out("it took too long")
            break
        is_file = entry.is_file(follow_symlinks=False)
        if is_file or entry.is_dir(follow_symlinks=False):
            search.finder.add(directory, os.fsencode(entry.name), is_file=is_file)
    if search.finder.is_full:
        search.leave_out(f"there are more than {limits.held} disks and files of machines")
    disks: dict[bytes, Disk] = {}
    for path in search.finder.disks:
        if time.monotonic() >= ends:
            search.leave_out("it took too long")
            disks[path] = Disk(state=State.UNKNOWN, why="it was not looked at: it took too long")
        else:
            disks[path] = look(root, path)
    linked = link(disks)
    return Survey(
        machines=search.finder.machines(linked),
        disks=linked,
        left_out="; ".join(search.left_out),
    )


def look(root: int, path: bytes) -> Disk:
    """Return what a file with the name of a disk says of itself.

    Args:
        root: the tree's directory.
        path: the file's path in there.
    """
    look_at = _FORMATS[posixpath.splitext(path)[1].lower()]
    try:
        with tree.handle(root, path) as found, tree.content(found) as fd:
            return look_at(Window(fd))
    except OSError as exc:
        return Disk(state=State.UNKNOWN, why=f"it cannot be read: {exc.strerror or exc}")
