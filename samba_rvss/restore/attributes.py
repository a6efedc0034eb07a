"""All of a file but its data: owner, mode, ACLs, extended attributes, times.

The order matters. chown(2) takes set-id bits away, so the mode comes after it; a POSIX ACL changes
the mode; vfs_acl_xattr keeps a hash of the POSIX ACL in ``security.NTACL``, and does not believe an
NT ACL whose hash is another (source3/modules/vfs_acl_common.c, get_nt_acl_common()): so that is
last. Then come the times, which all that changes.
"""

import errno
import os
import stat
from dataclasses import dataclass, field, replace

from samba_rvss.manifests import tree
from samba_rvss.manifests.tree import NT_ACL

_SET_ID = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = b"security.capability"
_POSIX = b"system."


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a file, a directory or whatever else has besides its data; times in nanoseconds.

    Where it is not whole, there are more extended attributes than the kernel lists.
    """

    is_link: bool
    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    extended: dict[bytes, bytes] = field(default_factory=dict)
    is_whole: bool = True


def read(found: int) -> Attributes:
    """Return what a file has.

    Args:
        found: a descriptor of it, O_PATH or not.

    Raises:
        OSError: it cannot be read.
    """
    status = os.fstat(found)
    extended, is_whole = tree.attributes(found)
    return Attributes(
        is_link=stat.S_ISLNK(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        atime=status.st_atime_ns,
        mtime=status.st_mtime_ns,
        extended=extended,
        is_whole=is_whole,
    )


def harmless(wanted: Attributes, *, is_directory: bool) -> Attributes:
    """Return the same without what gives whoever runs a file somebody else's rights."""
    mode = wanted.mode & ~(stat.S_ISUID if is_directory else _SET_ID)
    extended = {name: value for name, value in wanted.extended.items() if name != _CAPABILITY}
    return replace(wanted, mode=mode, extended=extended)


def write(found: int, wanted: Attributes) -> list[str]:
    """Give a file what it is to have; what it has besides is taken away.

    Args:
        found: a descriptor of it, O_PATH or not.
        wanted: what it is to have.

    Returns:
        A sentence on each extended attribute that it cannot have here.

    Raises:
        OSError: owner, mode or times cannot be set.
    """
    path = _path(found)
    os.chown(path, wanted.uid, wanted.gid)
    if not wanted.is_link:
        os.chmod(path, wanted.mode)
    failures = []
    present, is_whole = tree.attributes(found)
    if not wanted.is_whole:
        failures.append("of its extended attributes, more than the kernel lists, it has few here")
    elif not is_whole:
        failures.append("it has more extended attributes than the kernel lists: they stay")
    for name in sorted(present.keys() - wanted.extended.keys()):
        os.removexattr(path, name)
    for name in sorted(wanted.extended, key=_rank):
        try:
            os.setxattr(path, name, wanted.extended[name])
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT) and _is_full(found):
                raise
            failures.append(f"it cannot have {os.fsdecode(name)} here: {exc.strerror}")
    os.utime(path, ns=(wanted.atime, wanted.mtime))
    return failures


def _rank(name: bytes) -> tuple[int, bytes]:
    """Return when an attribute's turn is: POSIX ACLs first, the NT ACL last."""
    return (0 if name.startswith(_POSIX) else 2 if name == NT_ACL else 1, name)


def _is_full(found: int) -> bool:
    """Return whether there is no room: ENOSPC also says that an attribute is too large (ext4)."""
    return not os.statvfs(_path(found)).f_bavail


def _path(found: int) -> str:
    """Return a path that leads to what a descriptor stands for, and to nothing else (proc(5))."""
    return f"/proc/self/fd/{found}"
