"""VFS modules: what ``vfs objects`` names, and which of them answer FSRVP themselves.

Samba hands a request for a shadow copy to the first module and expects that each hands it on.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from samba_rvss.model import Advice
from samba_rvss.samba.values import joined

IsOn: TypeAlias = Callable[[str], bool]
"""Tells whether a parameter means yes for a share."""

OURS = "shell_snap"
"""The module that calls the hook."""

_BTRFS = "btrfs"
MANIPULATE = "btrfs:manipulate snapshots"
"""Lets vfs_btrfs take shadow copies, wherever the module was given an argument."""

# Of all modules that Samba installs, from 4.17 to 4.25, only these and shell_snap take shadow
# copies; vfs_btrfs hands the request on unless its option is set (source3/modules/vfs_btrfs.c,
# btrfs_snap_create(); vfs_snapper.c). shadow_copy2 shows Previous Versions, as vfs_snapper does.
_SNAPPER = "snapper"
_DROPPED = {OURS, _SNAPPER, "shadow_copy2"}

_BY_INODE = {"streams_depot", "acl_tdb", "xattr_tdb"}


def name(entry: str) -> str:
    """Return the name of the module that an entry of ``vfs objects`` means.

    Source: source3/smbd/vfs.c, vfs_init_custom(): an argument follows a colon, and the module may
    be given as a path.
    """
    path = entry.partition(":")[0].strip(" ")
    return path.rpartition("/")[2].partition(".")[0] if path.startswith("/") else path


def obstacle(objects: Sequence[str], is_on: IsOn) -> Advice | None:
    """Return why Samba never asks the hook, and what to do; None if it does.

    Args:
        objects: the ``vfs objects`` of a share, shell_snap among them.
        is_on: tells whether a parameter means yes for the share.
    """
    names = [name(entry) for entry in objects]
    for module in names[: names.index(OURS)]:
        if module == _SNAPPER or (module == _BTRFS and is_on(MANIPULATE)):
            off = f"set '{MANIPULATE} = no'" if module == _BTRFS else f"take out {module}"
            return Advice(
                check="shadowed",
                what=f"the module {module} stands before {OURS} in 'vfs objects' and takes shadow"
                " copies itself, which nobody seals",
                write=f"{off}, or put {OURS} first",
            )
    return None


def amended(objects: Sequence[str]) -> str:
    """Return ``vfs objects`` for an exposed share, given those of its base share.

    Those that take shadow copies or show Previous Versions are left out, because a shadow copy must
    do neither; vfs_btrfs, which can do more, stays without its option. The order stays.
    """
    return joined(entry for entry in objects if name(entry) not in _DROPPED)


def missing(objects: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Return the modules of [global] that a share does not have, though it could.

    Args:
        objects: the share's ``vfs objects``.
        default: those of [global], which a share with its own has not.
    """
    present = {_SNAPPER, *map(name, objects)}
    return tuple(module for module in map(name, default) if module not in present)


def by_inode(objects: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that keep something of files elsewhere, under their inode numbers.

    A restored file is another inode, and has nothing of it. Source: source3/modules/vfs_acl_tdb.c,
    vfs_xattr_tdb.c and vfs_streams_depot.c (stream_dir()).
    """
    return tuple(entry for entry in map(name, objects) if entry in _BY_INODE)


def has_btrfs(objects: Sequence[str]) -> bool:
    """Return whether vfs_btrfs is among the modules."""
    return any(name(entry) == _BTRFS for entry in objects)
