"""Mounting: detached mounts, their attributes, and where they are put."""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

from samba_rvss.kernel.files import AT_FDCWD
from samba_rvss.kernel.libc import checked, libc

# linux/mount.h, linux/fcntl.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_BENEATH = 0x200
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
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
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20


def open_tree(where: int | str, *, recursive: bool = False) -> int:
    """Clone the mount of what a descriptor or a path refers to; return the detached mount.

    Before Linux 6.15 it fails with EINVAL if that mount is itself detached (fs/namespace.c,
    __do_loopback()); see `open_detached_tree`.

    Args:
        where: the clone's root.
        recursive: whether what is mounted below it is cloned with it.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if isinstance(where, int):
        return checked(libc.open_tree(where, b"", flags | AT_EMPTY_PATH))
    return checked(libc.open_tree(AT_FDCWD, os.fsencode(where), flags), where)


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
    # A signal would end the process, or be lost, where only the main thread waits for signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
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


def assemble(parts: Sequence[tuple[int, int, int]]) -> tuple[int, list[int]]:
    """Put detached mounts together; return the detached mount of the whole.

    Kernels before 6.15 attach nothing to a detached mount: it is done on the stage.

    Args:
        parts: for each a detached mount, a directory that was opened through another of them, and
            that one's index; the first is the root of the whole, and its directory is not looked
            at. The others may be attached nowhere else afterwards, and must not be shared.

    Returns:
        The whole, and the indices of parts that are not in it, because their directories have
        been removed, or what these were in is not in it either.
    """
    return _stage().submit(_assemble_on_stage, parts).result()


def _assemble_on_stage(parts: Sequence[tuple[int, int, int]]) -> tuple[int, list[int]]:
    move_mount(parts[0][0], "/stage")
    try:
        lost: list[int] = []
        for index, (mount, directory, around) in enumerate(parts[1:], 1):
            if around not in lost:
                with suppress(FileNotFoundError):
                    move_mount(mount, directory)
                    continue
            lost.append(index)
        return open_tree("/stage", recursive=True), lost
    finally:
        umount("/stage")


def move_mount(mount: int, target: int | str, *, beneath: bool = False) -> None:
    """Attach a detached mount, with all that is mounted in it.

    Args:
        mount: its root.
        target: where, a path or a directory's descriptor.
        beneath: put it under the mount that is topmost there. Linux 6.5 can do that; before, and
            if nothing is mounted there, it fails with EINVAL.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_BENEATH if beneath else 0)
    if isinstance(target, int):
        flags |= MOVE_MOUNT_T_EMPTY_PATH
        result = libc.move_mount(mount, b"", target, b"", flags)
    else:
        result = libc.move_mount(mount, b"", AT_FDCWD, os.fsencode(target), flags)
    checked(result, target)


def mount_setattr(where: int | str, *, set_: int = 0, clear: int = 0, propagation: int = 0) -> None:
    """Change the attributes of a detached mount, or of a mount at a path, and of those in it.

    Setting MOUNT_ATTR_RDONLY fails with EBUSY, and changes no mount, while a file is open for
    writing through any of them (mount_setattr(2); fs/namespace.c, mnt_hold_writers).

    Args:
        where: its root; a path where nothing is mounted fails with EINVAL.
        set_: the attributes to set.
        clear: the attributes to clear, first.
        propagation: MS_SHARED or MS_PRIVATE, 0 to leave it.
    """
    words = struct.pack("=QQQQ", set_, clear, propagation, 0)
    attributes = ctypes.create_string_buffer(words, 32)
    if isinstance(where, int):
        flags = AT_EMPTY_PATH | AT_RECURSIVE
        result = libc.mount_setattr(where, b"", flags, attributes, 32)
    else:
        result = libc.mount_setattr(AT_FDCWD, os.fsencode(where), AT_RECURSIVE, attributes, 32)
    checked(result, where)


def umount(target: str, *, lazily: bool = True) -> None:
    """Take a mount away from its path; the kernel frees it when its last user lets go.

    Args:
        target: where it is.
        lazily: whether it may have users; if not, that fails with EBUSY.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazily else 0)
    checked(libc.umount2(os.fsencode(target), flags), target)


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
