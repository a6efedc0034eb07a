"""The door to the C library: functions of it, and their failures as OSError."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
_c = ctypes.c_char_p
_i = ctypes.c_int
_u = ctypes.c_uint
libc.open_tree.argtypes = (_i, _c, _u)
libc.move_mount.argtypes = (_i, _c, _i, _c, _u)
libc.mount_setattr.argtypes = (_i, _c, _u, ctypes.c_void_p, ctypes.c_size_t)
libc.fsopen.argtypes = (_c, _u)
libc.fsconfig.argtypes = (_i, _u, _c, _c, _i)
libc.fsmount.argtypes = (_i, _u, _u)
libc.umount2.argtypes = (_c, _i)
libc.mount.argtypes = (_c, _c, _c, ctypes.c_ulong, _c)
libc.unshare.argtypes = (_i,)
libc.pivot_root.argtypes = (_c, _c)
libc.inotify_init1.argtypes = (_i,)
libc.inotify_add_watch.argtypes = (_i, _c, ctypes.c_uint32)
libc.ioctl.argtypes = (_i, ctypes.c_ulong, ctypes.c_void_p)
libc.open_by_handle_at.argtypes = (_i, _c, _i)
libc.fstatfs.argtypes = (_i, ctypes.c_void_p)
libc.syncfs.argtypes = (_i,)
libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
libc.renameat2.argtypes = (_i, _c, _i, _c, _u)
libc.statx.argtypes = (_i, _c, _i, _u, ctypes.c_void_p)
libc.prctl.argtypes = (_i, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def checked(result: int, name: str | bytes | int | None = None) -> int:
    """Return the result of a call; if it is negative, raise OSError by errno, with the name."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def ioctl(fd: int, request: int, argument: ctypes.Array[ctypes.c_char], name: str = "") -> int:
    """Call ioctl(2) with a buffer, without holding the interpreter's lock.

    `fcntl.ioctl` keeps the lock for buffers over 1024 bytes (CPython, Modules/fcntlmodule.c),
    and the btrfs calls that can wait for a transaction take 4096.
    """
    return checked(libc.ioctl(fd, request, ctypes.addressof(argument)), name or None)
