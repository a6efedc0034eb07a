"""Writing smb.conf anew, for whoever asked for that.

Contract: the file appears whole, with the owner, mode and ACL that it had, and what was there is
kept beside it. Nothing is written where others than root could have put it.
"""

import fcntl
import os

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, paths

_LARGEST = 4 << 20  # bytes
_SECONDS = 10.0  # for another one that writes it just now


def real(file: str) -> str:
    """Return the path of a file without symbolic links.

    Raises:
        RvssError: REFUSED if others than root can write it, or put another one in its place; CONFIG
            if it cannot be found.
    """
    try:
        return paths.resolve(os.path.abspath(file), file=True)
    except paths.Replaceable as exc:
        raise RvssError(Problem.REFUSED, f"{file} is not written: {exc}") from exc
    except OSError as exc:
        raise RvssError(Problem.CONFIG, f"cannot read {file}: {exc.strerror}") from exc


def text(file: str) -> str:
    """Return what a file says; what is not UTF-8 in it comes back as it was.

    Raises:
        RvssError: REFUSED if it is too large, or its lines end in CR LF; CONFIG.
    """
    try:
        with open(file, "rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as exc:
        raise RvssError(Problem.CONFIG, f"cannot read {file}: {exc.strerror}") from exc
    if len(data) > _LARGEST or b"\r\n" in data:
        reason = "is larger than 4 MiB" if len(data) > _LARGEST else "has lines that end in CR LF"
        raise RvssError(Problem.REFUSED, f"{file} {reason}", "edit it by hand")
    return os.fsdecode(data)


def replace(file: str, before: str, after: str, when: str) -> str:
    """Write a file anew, durably.

    Args:
        file: as `real` returned it.
        before: what it is known to say.
        after: what it is to say.
        when: what the name ends in under which it is kept as it was.

    Returns:
        That name.

    Raises:
        RvssError: REFUSED if it has changed meanwhile, or that name is taken; SYSTEM.
    """
    kept = f"{file}.{when}"
    try:
        with files.opened(os.open(file, os.O_RDONLY | os.O_CLOEXEC)) as fd:
            _lock(fd, file)
            if os.path.lexists(kept):
                raise RvssError(Problem.REFUSED, f"{kept} is there", "try again in a second")
            files.replace(kept, os.fsencode(before), fd)
            try:
                # Whoever else writes as we do waits for the lock, and finds another file then.
                if not os.path.samestat(os.fstat(fd), os.stat(file)) or text(file) != before:
                    raise RvssError(Problem.REFUSED, f"{file} has changed just now", "try again")
                files.replace(file, os.fsencode(after), fd)
            except BaseException:
                os.unlink(kept)
                raise
    except OSError as exc:
        message = f"cannot write {exc.filename or file}: {exc.strerror}"
        raise RvssError(Problem.SYSTEM, message) from exc
    return kept


def _lock(fd: int, file: str) -> None:
    if not files.lock(fd, fcntl.LOCK_EX, _SECONDS):
        raise RvssError(Problem.BUSY, f"somebody has locked {file}", "try again")
