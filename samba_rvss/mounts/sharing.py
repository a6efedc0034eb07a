"""The run directory as a shared mount, so that namespaces which follow ours see recovery mounts."""

import os

from samba_rvss.kernel import files, mounting, mounttable


def share(run: str) -> None:
    """Make the run directory a shared mount, if it is not on one already; it stays.

    Where there are mounts below it that a mount over it would hide, nothing changes: the next call
    that finds none does it.

    Raises:
        OSError: if that cannot be done.
    """
    with files.opened(os.open(run, files.DIRECTORY)) as fd:
        around = mounttable.mount_of(fd)
        if around.group:
            return
        target = os.path.realpath(run)
        if around.target == target:
            mounting.mount_setattr(fd, propagation=mounting.MS_SHARED)
            return
        if any(other.startswith(f"{target}/") for other in mounttable.mount_targets()):
            return
        with files.opened(mounting.open_tree(fd)) as clone:
            mounting.mount_setattr(clone, propagation=mounting.MS_SHARED)
            mounting.move_mount(clone, fd)
