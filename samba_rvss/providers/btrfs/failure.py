"""What btrfs refuses, as an error with a problem, a sentence and a hint."""

import errno

from samba_rvss.errors import Problem, RvssError


def problem(exc: OSError, what: str) -> RvssError:
    """Return the error to raise for an OSError of btrfs.

    Args:
        exc: what a call raised.
        what: what could not be done, the beginning of the sentence.
    """
    if exc.errno == errno.ENOSPC:
        return RvssError(Problem.NO_SPACE, f"{what}: the file system is full", "free some space")
    if exc.errno == errno.EDQUOT:
        return RvssError(
            Problem.NO_SPACE, f"{what}: a quota group's limit is reached", "see 'btrfs qgroup show'"
        )
    if exc.errno == errno.EROFS:
        return RvssError(
            Problem.READ_ONLY, f"{what}: the file system is read-only", "see the kernel's log"
        )
    if exc.errno == errno.ETXTBSY:
        return RvssError(
            Problem.BUSY, f"{what}: a swap file in it is in use", "see 'swapon --show'"
        )
    if exc.errno == errno.EBUSY:
        return RvssError(Problem.BUSY, f"{what}: it is in use", "end the program that uses it")
    if exc.errno in (errno.EPERM, errno.EACCES):
        return RvssError(
            Problem.SYSTEM,
            f"{what}: {_named(exc)} is not permitted",
            "samba-rvss needs CAP_SYS_ADMIN and, in a container, the permission for the file"
            " system's block devices",
        )
    return RvssError(Problem.SYSTEM, f"{what}: {exc.strerror or exc}")


def _named(exc: OSError) -> str:
    return f"what is to be done with {exc.filename}" if exc.filename else "that"
