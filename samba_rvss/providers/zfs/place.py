"""What stands in the way of a shadow copy of a share on ZFS, and the datasets nested in the share.

Each obstacle is an `RvssError` with a sentence of its own.
"""

import os
from collections.abc import Iterator

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounttable
from samba_rvss.model import Mark, Nested, Volume
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.pools import Pool

_LONGEST_NAME = 255  # include/sys/fs/zfs.h, ZFS_MAX_DATASET_NAME_LEN less the NUL
_LONGEST_MARK = 8191 - 3328  # ZAP_MAXVALUELEN less the NUL, and what comes later


def require_short(*names: str) -> None:
    """Refuse names that are longer than ZFS allows."""
    for name in names:
        excess = len(name.encode()) - _LONGEST_NAME
        if excess > 0:
            raise RvssError(
                Problem.NOT_SUPPORTED,
                f"the name {name}, which a shadow copy needs, is too long by {excess} bytes",
                "rename the dataset",
            )


def require_short_mark(text: str) -> None:
    """Refuse a mark that has no room for what sealing, keeping and exposing add to it."""
    excess = len(text) - _LONGEST_MARK
    if excess > 0:
        raise RvssError(
            Problem.NOT_SUPPORTED,
            f"the paths that a mark has to have in it are too long by {excess} bytes",
            "share a shorter path",
        )


def require_room(zfs: Command, fd: int, dataset: str, pool: str) -> None:
    """Refuse a pool that is full or read-only.

    Args:
        zfs: zfs(8).
        fd: a directory of the dataset.
    """
    space = os.fstatvfs(fd)
    if space.f_flag & os.ST_RDONLY and zfs.is_read_only(pool):
        raise RvssError(
            Problem.READ_ONLY, f"the pool {pool} is imported read-only", "import it writable"
        )
    if space.f_bavail:
        return
    # A dataset that has reached its own quota can be snapshotted: the quota is not its clone's.
    ((room,),) = zfs.table("list", "-H", "-p", "-o", "available", pool, columns=1)
    if room == "0":
        raise RvssError(Problem.NO_SPACE, f"the pool of {dataset} has no room", "free some space")


def refuse_unmounted(zfs: Command, dataset: str, path: str) -> None:
    """Refuse a share if a dataset that belongs inside or over it is not mounted."""
    words = ("list", "-H", "-p", "-t", "filesystem", "-r", "-o")
    columns = "name,mounted,canmount,keystatus,mountpoint"
    for name, mounted, canmount, key, target in zfs.table(*words, columns, dataset, columns=5):
        if mounted == "yes" or canmount != "on" or name == dataset:
            continue
        if f"{target}/".startswith(f"{path.rstrip('/')}/") or f"{path}/".startswith(
            f"{target.rstrip('/')}/"
        ):
            locked = key == "unavailable"
            raise RvssError(
                Problem.BAD_PATH,
                f"the dataset {name} belongs at {target} and is not mounted"
                + (": its key is not loaded" if locked else ""),
                "zfs load-key and zfs mount it" if locked else "zfs mount it",
            )


def _mounts_below(path: str) -> Iterator[mounttable.MountInfo]:
    prefix = f"{path.rstrip('/')}/"
    raw = mounttable.read_mountinfo()
    if b" " + mounttable.escape_mount_path(prefix) in raw:
        for mount in mounttable.mountinfo(raw):
            if mount.kind == "zfs" and mount.target.startswith(prefix):
                yield mount


def refuse_nested(path: str) -> None:
    """Refuse a share that has other datasets mounted inside it."""
    for mount in _mounts_below(path):
        raise RvssError(
            Problem.NESTED,
            f"the dataset {mount.source} is mounted at {mount.target}, inside {path}, and would"
            " be empty in a shadow copy",
            "set 'rvss:nested = include' or mount it elsewhere",
        )


def captured(pool: Pool, mark: Mark) -> dict[str, str]:
    """Return the datasets that an image is to be of: the share's, and what is nested in it.

    Each with its directory in the volume.

    Raises:
        RvssError: NESTED; BAD_PATH if the volume's pool has another name by now.
    """
    volume = mark.volume
    if volume.name != pool.here(volume.name):
        raise RvssError(
            Problem.BAD_PATH, f"the pool of {volume.name} is {pool.name} now", "try again"
        )
    if mark.nested is Nested.INCLUDE:
        return {volume.name: "", **nested_datasets(volume, mark.share_path)}
    refuse_nested(mark.share_path)
    return {volume.name: ""}


def nested_datasets(volume: Volume, path: str) -> dict[str, str]:
    """Return the datasets mounted below a share, parents first, and their directories.

    Args:
        volume: the share's; the directories are relative to its root.
        path: the share's.
    """
    prefix = f"{path.rstrip('/')}/"
    found: dict[str, str] = {}
    for mount in _mounts_below(path):
        if not mount.source.startswith(f"{volume.name}/") or mount.root != "/":
            raise RvssError(
                Problem.NESTED,
                f"{mount.source} is mounted at {mount.target} but is not below {volume.name}",
                "share it on its own or mount it elsewhere",
            )
        if mount.source in found:
            raise RvssError(
                Problem.NESTED,
                f"{mount.source} is mounted more than once inside {path}",
                "mount it once",
            )
        directory = mount.target.removeprefix(prefix)
        found[mount.source] = os.path.join(volume.directory, directory)
    return dict(sorted(found.items(), key=lambda item: item[1]))
