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
    if exc.errno in (errno.EBUSY, errno.EPERM, errno.ETXTBSY):
        return RvssError(
            Problem.BUSY,
            f"{what}: it is in use ({exc.strerror})",
            "a 'btrfs send' or a swap file may hold it",
        )
    return RvssError(Problem.SYSTEM, f"{what}: {exc.strerror or exc}")
