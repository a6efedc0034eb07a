"""What came of restoring: numbers for all of it, names for what somebody has to know of."""

from collections import Counter
from dataclasses import dataclass, field

from samba_rvss.manifests.make import Progress
from samba_rvss.manifests.verify import Difference
from samba_rvss.restore.plan import State

MOST = 1000
"""How many names are told of each kind; what is beyond is counted."""


@dataclass(slots=True)
class Told:
    """Names that are told, with what is to be known of each; those beyond MOST are counted."""

    names: list[tuple[bytes, str]] = field(default_factory=list)
    count: int = 0

    def add(self, path: bytes, what: str) -> None:
        """Add a name."""
        self.count += 1
        if len(self.names) < MOST:
            self.names.append((path, what))


@dataclass(slots=True)
class Tally:
    """What came of it.

    Attributes:
        states: how many names became what; of a directory that is new, all names in it count.
        changes: which names did or would, but for what is in new directories.
        shared: how many files share their data with the image, and
        shared_bytes: how much that is, without holes.
        copied: how many files were copied, and
        copied_bytes: how much that is, without holes.
        passed: how many bytes it has come past, for who waits.
        faults: what is not as it was in the image, and why.
        notes: what is as it should be, and not as one may expect it.
        progress: how far comparing has come.
    """

    states: Counter[State] = field(default_factory=Counter)
    changes: Told = field(default_factory=Told)
    shared: int = 0
    shared_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    passed: int = 0
    faults: Told = field(default_factory=Told)
    notes: Told = field(default_factory=Told)
    progress: Progress = field(default_factory=Progress)

    def differs(self, difference: Difference) -> None:
        """Note that something is not as it was in the image."""
        detail = f": {difference.detail}" if difference.detail else ""
        self.faults.add(difference.path, f"{difference.what}{detail}")

    def fails(self, path: bytes, what: str, exc: OSError) -> None:
        """Note that something could not be done, and why."""
        self.faults.add(path, f"{what}: {exc.strerror or exc}")
