"""Who has files open for writing through a mount, as far as /proc tells."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from samba_rvss.kernel import processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that has a file open for writing on a recovery mount."""

    pid: int
    command: str
    path: str


def writers(mounts: Iterable[int]) -> list[Holder]:
    """Return who has files open for writing through mounts, or has mapped them.

    Args:
        mounts: their ids, as in mountinfo.
    """
    numbers = frozenset(mounts)
    found = []
    for pid in processes.pids():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
            for file in chain(processes.open_files(pid), processes.writable_mappings(pid)):
                if file.writable and file.mount in numbers:
                    command = processes.command(pid)
                    found.append(Holder(pid=pid, command=command, path=file.path))
    return found
