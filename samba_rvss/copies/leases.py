"""Leases: who reads a backup keeps it from being deleted.

    <run>/leases/<image>        an empty file; root's, in a directory with mode 0700

A reader has a shared flock(2) on the file, whoever deletes the backup an exclusive one. So a lease
needs no daemon, survives its restart, and belongs to every process that inherits the descriptor:
it is over when the last of them has ended, however that was. Contract: nobody waits. The file goes
with the image, under the exclusive lock; a lock on a file that has gone is none.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, processes

_NAME = "leases"
_FLAGS = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
# So many deletions of one image can end between opening its file and locking it.
_ATTEMPTS = 100
_SHOWN = 5


def take(run: str, image: str) -> int:
    """Take a lease; return the descriptor that holds it, which is the caller's.

    The caller looks afterwards whether the backup is still one.

    Args:
        run: the run directory.
        image: the image's id.

    Raises:
        RvssError: BUSY if it is being deleted, NO_DAEMON if there is no run directory, or SYSTEM.
    """
    with _directory(run) as directory:
        fd = _locked(directory, image, fcntl.LOCK_SH)
    if fd is None:
        raise RvssError(Problem.BUSY, f"{image} is being deleted")
    return fd


@contextmanager
def ending(run: str, image: str) -> Iterator[None]:
    """Keep everybody from taking a lease for the time of a block, in which the image is deleted.

    Args:
        run: the run directory.
        image: the image's id.

    Raises:
        RvssError: BUSY, with who has a lease; NO_DAEMON or SYSTEM.
    """
    with _directory(run) as directory:
        fd = _locked(directory, image, fcntl.LOCK_EX)
        if fd is None:
            raise _read(image, _holders(directory, image))
        with files.opened(fd):
            try:
                yield
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(image, dir_fd=directory)


def require_none(run: str, image: str) -> None:
    """Refuse to go on while somebody has a lease.

    Args:
        run: the run directory.
        image: the image's id.

    Raises:
        RvssError: as `ending`.
    """
    with _directory(run) as directory:
        fd = _locked(directory, image, fcntl.LOCK_EX)
        if fd is not None:
            with files.opened(fd):
                os.unlink(image, dir_fd=directory)
            return
        holders = _holders(directory, image)
    # A process that deletes one part of a backup may be deleting another beside it.
    if holders != [os.getpid()]:
        raise _read(image, holders)


@contextmanager
def _directory(run: str) -> Iterator[int]:
    """Open the directory of all leases, which is made if it is not there."""
    try:
        with files.opened(os.open(run, files.DIRECTORY)) as top:
            status = os.fstat(top)
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS:
                raise RvssError(
                    Problem.SYSTEM, f"others than root may write to {run}", "chown or chmod it"
                )
            with suppress(FileExistsError):
                os.mkdir(_NAME, 0o700, dir_fd=top)
            directory = os.open(_NAME, files.DIRECTORY, dir_fd=top)
    except FileNotFoundError as exc:
        raise RvssError(
            Problem.NO_DAEMON, f"there is no {run}", "start samba-rvss.service"
        ) from exc
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot open {run}/{_NAME}: {exc.strerror}") from exc
    with files.opened(directory):
        yield directory


def _locked(directory: int, image: str, how: int) -> int | None:
    """Return a descriptor of a lease's file with a lock on it; None if somebody is in the way."""
    try:
        for _ in range(_ATTEMPTS):
            fd = os.open(image, _FLAGS, 0o600, dir_fd=directory)
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
                if os.fstat(fd).st_nlink:
                    fd, locked = -1, fd
                    return locked
            finally:
                if fd >= 0:
                    os.close(fd)
    except BlockingIOError:
        return None
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot lock {image}: {exc.strerror}") from exc
    return None  # it was deleted again and again


def _holders(directory: int, image: str) -> list[int]:
    """Return the processes that have a lease's file open, for a sentence."""
    try:
        inode = os.stat(image, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return []
    found = []
    for pid in processes.pids():
        with suppress(OSError):  # it has ended
            for file in processes.open_files(pid):
                if file.inode in (0, inode) and file.path.endswith(f"/{_NAME}/{image}"):
                    found.append(pid)
                    break
    return found


def _read(image: str, holders: list[int]) -> RvssError:
    names = []
    for pid in holders[:_SHOWN]:
        with suppress(OSError):
            names.append(f"{processes.command(pid)} (pid {pid})")
    more = f" and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
    by = f" by {', '.join(names)}{more}" if names else ""
    return RvssError(
        Problem.BUSY, f"{image} is being read{by}", "wait until that has ended, and try again"
    )
