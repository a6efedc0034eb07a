"""Who keeps an image on ZFS busy: for the sentence of an error, never for a decision.

What /proc does not tell, because a process ended meanwhile or the kernel itself uses the image, is
left out. No file of another process is touched: it may be on a server that does not answer.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress

from samba_rvss.errors import RvssError
from samba_rvss.kernel import files, mounting, mounttable, processes
from samba_rvss.providers.zfs.command import Command

_BENEATH = files.BENEATH | files.RESOLVE_NO_XDEV


def holders(zfs: Command, clones: Mapping[str, str], snapshots: Sequence[str]) -> list[str]:
    """Return who uses an image, each in a few words with names and process ids.

    Args:
        zfs: zfs(8).
        clones: the datasets of the image, with the directory in each that was mounted.
        snapshots: the snapshots that they are clones of.
    """
    found = [f"{name} is a clone of {origin}" for origin, name in _clones(zfs, snapshots, clones)]
    with ExitStack() as undo:
        roots = []
        for name, directory in clones.items():
            with suppress(OSError):  # it is gone, or its key is not loaded any more
                root = mounting.detached_mount("zfs", {"source": name})
                undo.callback(os.close, root)
                roots.append((root, directory))
        known, ours = _mounts(clones)
        found += ours.values()
        for pid in processes.pids():
            with suppress(OSError):
                found += _process(pid, snapshots, known, ours, roots)
    return found


def _clones(
    zfs: Command, snapshots: Sequence[str], ours: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for snapshot in snapshots:
        with suppress(RvssError):  # it is gone
            for (names,) in zfs.table("get", "-H", "-o", "value", "clones", snapshot, columns=1):
                for name in names.split(","):
                    if name not in (*ours, "-", ""):
                        yield snapshot, name


def _mounts(clones: Mapping[str, str]) -> tuple[set[int], dict[int, str]]:
    """Return the ids of all mounts in every mount namespace, and of which clone each of ours is."""
    spaces: set[str] = set()
    known: set[int] = set()
    ours: dict[int, str] = {}
    for pid in processes.pids():
        with suppress(OSError):
            space = processes.mount_namespace(pid)
            if space in spaces:
                continue
            mounts = list(mounttable.mountinfo(mounttable.read_mountinfo(pid)))
            spaces.add(space)
            known.update(mount.id for mount in mounts)
            for mount in mounts:
                if mount.kind == "zfs" and mount.source in clones:
                    ours[mount.id] = f"{mount.source} is mounted at {mount.target} for pid {pid}"
    return known, ours


def _process(
    pid: int,
    snapshots: Sequence[str],
    known: set[int],
    ours: Mapping[int, str],
    roots: Sequence[tuple[int, str]],
) -> Iterator[str]:
    who = f"{processes.command(pid)} (pid {pid})"
    words = processes.arguments(pid)
    for snapshot in snapshots:
        if snapshot in words:
            yield f"{who} works on {snapshot}"
    if pid == os.getpid():
        return
    for file in processes.open_files(pid):
        if file.mount in ours or (
            file.mount not in known and _is_below(roots, file.path, file.inode)
        ):
            yield f"{who} has {file.path} open"


def _is_below(roots: Sequence[tuple[int, str]], path: str, inode: int) -> bool:
    """Return whether a file on a detached mount is in one of our clones, by path and inode."""
    if not path.startswith("/"):
        return False
    for root, directory in roots:
        where = os.path.join(directory, path.lstrip("/")) or "."
        with suppress(OSError):
            fd = files.openat2(root, where, os.O_PATH | os.O_NOFOLLOW, _BENEATH)
            try:
                if os.fstat(fd).st_ino == inode:
                    return True
            finally:
                os.close(fd)
    return False
