"""Which instances are served on this machine: each says so in its lock files, which it holds.

Place: beside `holding`. A lock file is found through its holder's descriptors, so that it does not
matter which mount namespace it lies in; a process in a container that this one cannot see, and
another host, cannot be found. Nothing is locked and nothing is changed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity

_FIRST = "samba-rvss"
_MOST = 4096


def announce(lock: int, identity: Identity) -> None:
    """Write into a lock file that one holds which instance one serves.

    Args:
        lock: its descriptor.
        identity: the instance's.
    """
    names = (_FIRST, identity.id, identity.signature[0], identity.run_directory)
    os.ftruncate(lock, 0)
    os.pwrite(lock, "\n".join(names).encode("utf-8", "surrogateescape"), 0)


def require_silence(identity: Identity, source: str) -> None:
    """Refuse if another process on this machine serves an instance.

    Args:
        identity: ours, which does not count.
        source: what the instance's marks bear.

    Raises:
        RvssError: BUSY, with the process.
    """
    for pid, names in _holders():
        if names and names[1:2] == [identity.id]:
            continue
        if source in names[1:] or (not names and _listens(pid, source)):
            raise RvssError(
                Problem.BUSY,
                f"the instance {source} is served on this machine, by process {pid}",
                "stop it first",
            )


def require_alone(identity: Identity) -> None:
    """Refuse if another process on this machine serves our own instance.

    Its state directory may have been copied, or given the same ``rvss:instance``: then the images
    of each are the other's as well, by their marks.

    Raises:
        RvssError: BUSY, with the process.
    """
    ours = {identity.id, identity.signature[0]}
    for pid, names in _holders():
        if pid != os.getpid() and not ours.isdisjoint(names[1:3]):
            raise RvssError(
                Problem.BUSY,
                f"this instance is served on this machine, by process {pid}",
                "stop that one; or give this one a state directory that is no copy of another's,"
                " and an 'rvss:instance' of its own if it needs one",
            )


def served_by(identity: Identity) -> int:
    """Return the process that serves an instance on this machine; 0 if none is seen to."""
    found = (pid for pid, names in _holders() if names[1:2] == [identity.id])
    return next(found, 0) if identity.id else 0


def _holders() -> Iterator[tuple[int, list[str]]]:
    """Yield root's processes that hold a lock file, with what it says: nothing before this."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        for fd in _descriptors(name):
            # What ends or is closed meanwhile is no lock.
            with suppress(OSError):
                if os.readlink(f"/proc/{name}/fd/{fd}").endswith(("/lock", "/lock (deleted)")):
                    names = _read(name, fd)
                    if names is not None:
                        yield int(name), names


def _descriptors(pid: str) -> list[str]:
    with suppress(OSError):
        if os.stat(f"/proc/{pid}").st_uid == 0:
            return os.listdir(f"/proc/{pid}/fd")
    return []


def _read(pid: str, fd: str) -> list[str] | None:
    """Return what a lock file says that a process has open; None if it holds no lock on it."""
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
        info = file.read()
    path = f"/proc/{pid}/fd/{fd}"
    if "FLOCK" not in info or not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with open(path, "rb") as lock:
        names = lock.read(_MOST).decode("utf-8", "surrogateescape").splitlines()
    if not names:
        return []
    return names if names[0] == _FIRST else None


def _listens(pid: int, run_directory: str) -> bool:
    """Return whether the sockets of an older daemon, which says nothing, are in a run directory."""
    with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.endswith(f" {run_directory}/admin.sock\n") for line in file)
