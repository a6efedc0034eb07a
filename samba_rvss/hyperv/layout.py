"""Hyper-V's layout, told by names: where a virtual machine's files are.

Pure. Contract: it is a heuristic. What disks a machine has is written in its configuration, in a
format that nobody has described; a disk in the directory of a machine, at any depth, is taken for
its own, as Hyper-V's own export puts it there, and so is what such a disk hangs on.

    <machine>/Virtual Machines/<GUID>.vmcx      before Windows Server 2016: .xml
    <machine>/Virtual Machines/<GUID>.vmrs      and .vmgs; before: <GUID>/<GUID>.bin and .vsv
    <machine>/Virtual Hard Disks/NAME.vhdx      or anywhere below; .avhdx, .vhd, .avhd
    <machine>/Virtual Hard Disks/NAME.vhdx.rct  and .mrt: which blocks have changed
    <machine>/Snapshots/<GUID>.vmcx             a checkpoint, with a GUID of its own
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from samba_rvss.hyperv.chains import Linked, chain

DISKS = (b".vhdx", b".avhdx", b".vhd", b".avhd")
TRACKERS = (b".rct", b".mrt")

_MACHINES = b"virtual machines"
_CHECKPOINTS = b"snapshots"
_CONFIGURATION = re.compile(
    rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(|\.vmcx|\.vmrs|\.vmgs|\.xml|\.bin|\.vsv)",
    re.IGNORECASE,
)
_DEFINING = (b".vmcx", b".xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A virtual machine, as far as names tell. All paths are from the tree's directory.

    Attributes:
        guid: what Hyper-V knows it by, in capitals.
        home: its directory, which has ``Virtual Machines``; empty for the tree's own.
        configuration: its configuration's files, and the directory of its name if there is one.
        checkpoints: files and directories of the checkpoints in its home.
        disks: the disks in its home, and those elsewhere in the tree that they hang on.
        trackers: the files beside those disks that tell which blocks have changed.
        guids: those of all machines of the same home.
    """

    guid: str
    home: bytes
    configuration: tuple[bytes, ...]
    checkpoints: tuple[bytes, ...] = ()
    disks: tuple[bytes, ...] = ()
    trackers: tuple[bytes, ...] = ()
    guids: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[str, ...]:
        """The GUIDs of other machines of the same home.

        If there are any, names do not tell whose disks and checkpoints are whose, and each machine
        has all of them.
        """
        return tuple(guid for guid in self.guids if guid != self.guid)

    @property
    def paths(self) -> tuple[bytes, ...]:
        """All of it; of a directory, everything below belongs to it."""
        found = {*self.configuration, *self.checkpoints, *self.disks, *self.trackers}
        return tuple(sorted(found))


class Finder:
    """Is shown the names in a tree, and tells which machines and disks there are.

    It holds what it has recognised, and nothing of other names.

    Args:
        most: so many names at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._configurations: dict[tuple[bytes, str], list[bytes]] = defaultdict(list)
        self._defined: set[tuple[bytes, str]] = set()
        self._checkpoints: dict[bytes, list[bytes]] = defaultdict(list)
        self._trackers: dict[bytes, list[bytes]] = defaultdict(list)
        self.disks: list[bytes] = []
        self.is_full = False

    def add(self, directory: bytes, name: bytes, *, is_file: bool) -> bool:
        """Take a name into account, in any order; return whether it was recognised.

        Args:
            directory: its directory's path.
            name: what is in there.
            is_file: whether it is a regular file; otherwise it is a directory.
        """
        path = posixpath.join(directory, name)
        suffix = posixpath.splitext(name)[1].lower()
        if is_file and suffix in DISKS:
            if self._has_room():
                self.disks.append(path)
            return True
        if is_file and suffix in TRACKERS:
            if self._has_room():
                self._trackers[path[: -len(suffix)]].append(path)
            return True
        home, kind = posixpath.split(directory)
        kind = kind.lower()
        found = _CONFIGURATION.fullmatch(name) if kind in (_MACHINES, _CHECKPOINTS) else None
        if found is None or is_file is not bool(found[2]):
            return False
        if self._has_room():
            guid = found[1].decode("ascii").upper()
            if kind == _CHECKPOINTS:
                self._checkpoints[home].append(path)
            else:
                self._configurations[home, guid].append(path)
                if found[2].lower() in _DEFINING:
                    self._defined.add((home, guid))
        return True

    def _has_room(self) -> bool:
        self.is_full = self.is_full or self._held >= self._most
        self._held += 1
        return not self.is_full

    def machines(self, disks: Iterable[Linked] = ()) -> tuple[Machine, ...]:
        """Return the machines, by home and GUID.

        Args:
            disks: those of the tree, with their parents.
        """
        known = {disk.path: disk for disk in disks}
        guids: dict[bytes, list[str]] = defaultdict(list)
        for home, guid in sorted(self._defined):
            guids[home].append(guid)
        of_home: dict[bytes, set[bytes]] = defaultdict(set)
        for path in self.disks:
            near = nearest(path, guids.keys())
            if near is not None:
                of_home[near] |= {path, *(chain(known, path) if path in known else ())}
        return tuple(
            machine
            for home in sorted(guids)
            for machine in self._of_home(home, tuple(guids[home]), sorted(of_home[home]))
        )

    def _of_home(
        self, home: bytes, guids: tuple[str, ...], disks: Iterable[bytes]
    ) -> Iterator[Machine]:
        """Yield the machines of one home; what they have in common is there once."""
        disks = tuple(disks)
        checkpoints = tuple(sorted(self._checkpoints.get(home, ())))
        trackers = tuple(sorted(x for disk in disks for x in self._trackers.get(disk, ())))
        for guid in guids:
            yield Machine(
                guid=guid,
                home=home,
                configuration=tuple(sorted(self._configurations[home, guid])),
                checkpoints=checkpoints,
                disks=disks,
                trackers=trackers,
                guids=guids,
            )


def is_of_machines(directory: bytes) -> bool:
    """Return whether files in a directory may be of machines by that directory's name."""
    return posixpath.basename(directory).lower() in (_MACHINES, _CHECKPOINTS)


def nearest(path: bytes, homes: Container[bytes]) -> bytes | None:
    """Return the innermost of some directories that a path is below of, if it is of any."""
    directory = path
    while directory:
        directory = posixpath.dirname(directory)
        if directory in homes:
            return directory
    return None
