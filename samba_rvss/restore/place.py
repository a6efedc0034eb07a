"""From the work directory to a name in the target, in one step.

Contract: what is there is replaced whole or not at all, and only if it is still what was looked at,
and nobody has it open. Nobody can open it meanwhile: whoever tries waits for us, for a moment.
"""

import errno
import os
import secrets
import stat
from contextlib import ExitStack, suppress

from samba_rvss.kernel import files, reflink, renaming
from samba_rvss.manifests import tree
from samba_rvss.restore.work import Work


def give_name(work: Work, made: bytes, around: int, name: bytes) -> None:
    """Give what was made a name that nothing has.

    Args:
        work: where it was made, and
        made: its name there.
        around: a descriptor of the target's directory.
        name: its name there.

    Raises:
        OSError: EEXIST if something has got that name meanwhile.
    """
    renaming.into_place(work.fd, made, around, name)
    sync(around)


def replace(work: Work, made: bytes, around: int, name: bytes, expected: os.stat_result) -> None:
    """Put what was made in the place of what has its name; that is removed.

    Args:
        work: where it was made, and
        made: its name there.
        around: a descriptor of the target's directory.
        name: its name there.
        expected: what was there when it was looked at; it is no directory.

    Raises:
        BlockingIOError: somebody has it open.
        OSError: ESTALE if it is not that any more.
    """
    with ExitStack() as closing:
        present = closing.enter_context(tree.handle(around, name))
        _require_same(os.fstat(present), expected)
        is_undisturbed = None
        if stat.S_ISREG(expected.st_mode):
            data = closing.enter_context(tree.content(present))
            is_undisturbed = closing.enter_context(reflink.alone(data))
        renaming.exchange(work.fd, made, around, name)
        try:
            _require_same(os.stat(made, dir_fd=work.fd, follow_symlinks=False), expected)
            if (
                is_undisturbed and not is_undisturbed()
            ):  # who waits would go on with what is not there any more
                raise BlockingIOError(errno.EAGAIN, "somebody opens it")
        except BaseException:
            _give_back(work, made, around, name)
            raise
        sync(around)
    work.remove(made)


def _give_back(work: Work, made: bytes, around: int, name: bytes) -> None:
    """Swap what was swapped again: what is in the work directory now is somebody's.

    If he has moved ours away meanwhile, his gets its name, or one like it that nothing has: all
    that stays in the work directory is removed.
    """
    with suppress(FileNotFoundError):
        renaming.exchange(work.fd, made, around, name)
        return
    try:
        renaming.into_place(work.fd, made, around, name)
    except FileExistsError:
        renaming.into_place(work.fd, made, around, b"given-back-" + secrets.token_hex(8).encode())


def _require_same(status: os.stat_result, expected: os.stat_result) -> None:
    if (status.st_dev, status.st_ino) != (expected.st_dev, expected.st_ino):
        raise OSError(errno.ESTALE, "somebody has put something else there meanwhile")


def sync(directory: int) -> None:
    """Have the names in a directory on the disk.

    Args:
        directory: a descriptor, O_PATH or not.
    """
    with files.opened(os.open(".", files.DIRECTORY, dir_fd=directory)) as fd:
        os.fsync(fd)
