"""File systems that are mounted at recovery mounts, or where backups are shown, and nowhere else.

Their own mount has gone, and ours keep them in use: nobody can check or remove them, and one that
btrfs has made read-only is so still when it is mounted again. Contract: it looks at nothing but the
mount table.
"""

import re
from dataclasses import dataclass

from samba_rvss.kernel import mounttable
from samba_rvss.mounts.places import backup_at, image_of, is_place


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """What keeps a file system in use.

    Attributes:
        copies: ids of shadow copies.
        backups: ids of backups that are mounted.
        shared: ids of images that are shares again.
    """

    copies: tuple[str, ...] = ()
    backups: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


def found(run: str, raw: bytes) -> dict[str, Holders]:
    """Return them, by a device or a pool, with what is mounted there.

    Args:
        run: the run directory.
        raw: what `samba_rvss.kernel.mounttable.read_mountinfo` returned.
    """
    ours = mounttable.escape_mount_path(run) + b"/"
    inside: dict[bytes, list[bytes]] = {}
    outside: set[bytes] = set()
    for line in raw.rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        _, _, device, _, target, _ = left.split(b" ", 5)
        kind, source, _ = right.split(b" ", 2)
        # On ZFS each image has a device of its own, and all of them keep the pool in use.
        key = re.split(rb"[/@]", source)[0] if kind == b"zfs" else device
        if target.startswith(ours):
            inside.setdefault(key, []).append(line)
        else:
            outside.add(key)
    alone: dict[str, Holders] = {}
    for key in inside.keys() - outside:
        mounts = list(mounttable.mountinfo(b"\n".join(inside[key])))
        places = [mount.target for mount in mounts if is_place(run, mount.target)]
        copies = {image_of(path) for path in places if path.startswith(f"{run}/exposed/")}
        shared = {image_of(path) for path in places if path.startswith(f"{run}/shared/")}
        backups = {backup_at(run, mount.target) for mount in mounts} - {""}
        if copies or backups or shared:
            name = mounts[0].source
            alone[re.split("[/@]", name)[0] if mounts[0].kind == "zfs" else name] = Holders(
                copies=tuple(sorted(copies)),
                backups=tuple(sorted(backups)),
                shared=tuple(sorted(shared)),
            )
    return alone
