"""Mounting: detached mounts, their attributes, and where they are put."""

import ctypes
import errno
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from samba_rvss.kernel.files import AT_FDCWD
from samba_rvss.kernel.libc import checked, libc

# linux/mount.h, linux/fcntl.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# linux/sched.h, linux/mount.h
CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18


def open_tree(fd: int) -> int:
    """Clone the mount of what a descriptor refers to; return the detached mount.

    Before Linux 6.15 it fails with EINVAL if that mount is itself detached (fs/namespace.c,
    __do_loopback()); see `open_detached_tree`.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    return checked(libc.open_tree(fd, b"", flags))


def open_detached_tree(mount: int, fd: int) -> int:
    """Clone part of a detached mount, also on kernels that cannot do it directly.

    Args:
        mount: the root of the detached mount; afterwards it cannot be attached any more.
        fd: what is to be cloned, opened through that mount.
    """
    try:
        return open_tree(fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return _stage().submit(_clone_on_stage, mount, fd).result()


@cache
def _stage() -> ThreadPoolExecutor:
    """Return a thread with a mount namespace of its own, in which nothing else is mounted.

    What is attached there is seen nowhere else, and propagates nowhere.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="stage", initializer=_set_stage)


def _set_stage() -> None:
    # CLONE_NEWNS implies CLONE_FS (unshare(2)): the other threads keep their directories.
    checked(libc.unshare(CLONE_NEWNS))
    checked(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    checked(libc.mount(b"none", b"/proc", b"tmpfs", 0, b"size=64k,mode=700"))
    os.chdir("/proc")
    checked(libc.pivot_root(b".", b"."))  # pivot_root(2), NOTES
    umount(".")
    os.chdir("/")
    os.mkdir("/stage", 0o700)


def _clone_on_stage(mount: int, fd: int) -> int:
    move_mount(mount, "/stage")
    try:
        return open_tree(fd)
    finally:
        umount("/stage")


def move_mount(mount: int, target: str) -> None:
    """Attach a detached mount at a path."""
    checked(
        libc.move_mount(mount, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
        target,
    )


def mount_setattr(where: int | str, *, set_: int = 0, clear: int = 0) -> None:
    """Change the attributes of a detached mount, or of the mount at a path and those below it.

    Setting MOUNT_ATTR_RDONLY fails with EBUSY, and changes no mount, while a file is open for
    writing through any of them (mount_setattr(2); fs/namespace.c, mnt_hold_writers).
    """
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", set_, clear, 0, 0), 32)
    if isinstance(where, int):
        result = libc.mount_setattr(where, b"", AT_EMPTY_PATH, attributes, 32)
    else:
        result = libc.mount_setattr(AT_FDCWD, os.fsencode(where), AT_RECURSIVE, attributes, 32)
    checked(result, where)


def umount(target: str) -> None:
    """Take a mount away from its path; the kernel frees it when its last user lets go."""
    checked(libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def detached_mount(kind: str, options: dict[str, str], flags: tuple[str, ...] = ()) -> int:
    """Mount a file system without a path; return an O_PATH descriptor of its root.

    The mount is read-only, nosuid, nodev, noexec and noatime.
    """
    context = checked(libc.fsopen(kind.encode(), FSOPEN_CLOEXEC))
    try:
        for key, value in options.items():
            checked(
                libc.fsconfig(context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0),
                value,
            )
        for flag in flags:
            checked(libc.fsconfig(context, FSCONFIG_SET_FLAG, flag.encode(), None, 0))
        checked(libc.fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0), options.get("source"))
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME
        # Read-only from the start: nobody writes through it before its owner makes it writable.
        return checked(libc.fsmount(context, FSMOUNT_CLOEXEC, attributes | MOUNT_ATTR_RDONLY))
    finally:
        os.close(context)
