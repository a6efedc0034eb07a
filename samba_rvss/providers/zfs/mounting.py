"""Detached mounts of datasets, made without zfs(8)."""

import errno
import os

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting


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
