"""Who restores into a volume: meanwhile no backup of it is begun, and none is deleted.

    <state>/restoring/<volume>      an empty file; root's

Whoever backs the volume up has a read lock of the whole file (fcntl(2), "Open file description
locks"); whoever restores into it a write lock of its first byte; whoever restores into a volume
that is nested in it, and is backed up with it, one of another byte, so that he is in nobody else's
way. A process that ends, however that was, has none. A backup of a volume that is being restored
may have one half of it as it was and the other as it is.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Volume
from samba_rvss.samba.conf import Config

EVENT = "during a restore"
"""The event of a shadow copy that was taken meanwhile."""

_NAME = "restoring"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_BYTES = 1 << 60
_SECONDS = 1.0  # longer than anybody looks whether somebody restores


@contextmanager
def restoring(config: Config, volume: Volume) -> Iterator[None]:
    """Be the one who restores into a volume, for the time of a block.

    Raises:
        RvssError: BUSY if somebody restores into it, or backs it up; SYSTEM.
    """
    with _locked(config, volume, fcntl.F_WRLCK, 0, 1) as locked:
        if not locked:
            raise RvssError(
                Problem.BUSY,
                f"{volume.name} is being backed up, or something else is restored into it",
                "wait until that has ended, and try again",
            )
        yield


@contextmanager
def inside(config: Config, volume: Volume) -> Iterator[None]:
    """Be one of those who restore into what is nested in a volume, for the time of a block.

    Raises:
        RvssError: BUSY if somebody backs it up; SYSTEM.
    """
    byte = 1 + secrets.randbelow(_BYTES)
    with _locked(config, volume, fcntl.F_WRLCK, byte, 1) as locked:
        if not locked:
            raise RvssError(
                Problem.BUSY,
                f"{volume.name} is being backed up, with what is nested in it",
                "wait until that has ended, and try again",
            )
        yield


@contextmanager
def undisturbed(config: Config, volume: Volume) -> Iterator[None]:
    """Have nobody begin to restore into a volume, for the time of a block, which backs it up.

    Raises:
        RvssError: BUSY if somebody does; SYSTEM.
    """
    with _locked(config, volume, fcntl.F_RDLCK, 0, 0) as locked:
        if not locked:
            raise _under_way(volume)
        yield


def is_under_way(config: Config, volume: Volume) -> bool:
    """Return whether somebody restores into a volume, or into what is nested in it.

    What cannot be told is no. Nothing is made for that, and nobody waits: a shadow copy may be
    waiting for the answer.
    """
    return files.is_written(_path(config, volume))


def require_none(config: Config, volume: Volume) -> None:
    """Refuse to delete a backup of a volume that somebody restores into.

    Raises:
        RvssError: BUSY.
    """
    if is_under_way(config, volume):
        raise _under_way(volume)


def _under_way(volume: Volume) -> RvssError:
    return RvssError(
        Problem.BUSY,
        f"something is being restored into {volume.name}",
        "wait until that has ended, and try again",
    )


def _path(config: Config, volume: Volume) -> str:
    return f"{config.state_directory}/{_NAME}/{quote(volume.key, safe='')}"


@contextmanager
def _locked(config: Config, volume: Volume, how: int, start: int, length: int) -> Iterator[bool]:
    """Lock a part of a volume's file; False if somebody is in the way for longer than a moment."""
    path = _path(config, volume)
    try:
        with suppress(FileExistsError):
            os.mkdir(f"{config.state_directory}/{_NAME}", 0o700)
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot open {path}: {exc.strerror}") from exc
    with files.opened(fd):
        try:
            locked = files.lock_range(fd, how, start, length, _SECONDS)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot lock {path}: {exc.strerror}") from exc
        yield locked
