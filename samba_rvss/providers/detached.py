"""How a mount of a whole image becomes a mount of the share's directory in it."""

import os

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting

_HOW = files.BENEATH | files.RESOLVE_NO_XDEV


def narrow(mount: int, directory: str, inode: int, image: str) -> int:
    """Return a detached mount of a directory, given a detached mount of the image around it.

    Args:
        mount: the image's; it is returned or closed, and closed when this fails.
        directory: relative; empty for the mount's own root.
        inode: the directory's, or 0 to take any.
        image: the image's id, for messages.

    Raises:
        RvssError: BAD_PATH if the directory is not in the image, or is another one.
    """
    keep = False
    try:
        where = directory or "."
        try:
            fd = files.openat2(mount, where, os.O_PATH | os.O_DIRECTORY, _HOW)
        except OSError as exc:
            raise RvssError(
                Problem.BAD_PATH,
                f"the directory {where} is not in the image {image} ({exc.strerror})",
                "it was moved while the shadow copy was taken; try again",
            ) from exc
        try:
            if inode and os.fstat(fd).st_ino != inode:
                raise RvssError(
                    Problem.BAD_PATH,
                    f"the directory {where} in the image {image} is not the share's",
                    "it was replaced while the shadow copy was taken; try again",
                )
            if directory:
                return mounting.open_detached_tree(mount, fd)
        finally:
            os.close(fd)
        keep = True
        return mount
    finally:
        if not keep:
            os.close(mount)
