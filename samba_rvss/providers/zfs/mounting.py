"""Detached mounts of datasets, made without zfs(8)."""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting
from samba_rvss.model import Volume
from samba_rvss.providers.detached import narrow


def mounts(volume: Volume, image: str, parts: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    """Return detached mounts of an image; see `samba_rvss.providers.Provider.open`.

    Args:
        volume: what it is an image of.
        image: its id.
        parts: its clones, or the snapshots that a bare image is, the outermost first, and the
            directory of each in the volume.

    Raises:
        RvssError: SYSTEM, or BAD_PATH.
    """
    found: list[tuple[str, int]] = []
    with ExitStack() as undo:
        for number, (name, place) in enumerate(parts):
            below, directory, inode = "", volume.directory, volume.inode
            if number > 0:
                below = os.path.relpath(place, volume.directory or ".")
                directory, inode = "", 0
            elif "@" in name and not directory:
                inode = 0  # ZFS gives the root of a snapshot another one (zfs_getattr_fast())
            opened = narrow(mount(name), directory, inode, image)
            undo.callback(os.close, opened)
            found.append((below, opened))
        undo.pop_all()
    return sorted(found)  # parents first; zfs(8) lists 10 before 2


def mount(dataset: str) -> int:
    """Return a detached mount of a dataset, read-only.

    Raises:
        RvssError: SYSTEM.
    """
    source = {"source": dataset}
    try:
        try:
            return mounting.detached_mount("zfs", source)
        except OSError as exc:
            # A sealed clone that is mounted already can only be mounted again read-only
            # (module/os/linux/zfs/zpl_super.c, zpl_mount_impl()).
            if exc.errno != errno.EBUSY:
                raise
            return mounting.detached_mount("zfs", source, ("ro",))
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot mount {dataset}: {exc.strerror}") from exc


def write_out(dataset: str) -> None:
    """Write to disk what is in memory of a dataset that may be mounted, or in its intent log.

    Raises:
        RvssError: SYSTEM.
    """
    try:
        root = mounting.detached_mount("zfs", {"source": dataset})
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return  # mounted after it was sealed, read-only, as `mount` says: nothing was written
        raise RvssError(Problem.SYSTEM, f"cannot mount {dataset}: {exc.strerror}") from exc
    try:
        files.syncfs(root)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write out {dataset}: {exc.strerror}") from exc
    finally:
        os.close(root)
