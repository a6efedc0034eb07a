"""Files by descriptor: opened with restrictions, what file system they are on, locks."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from samba_rvss.kernel.libc import checked, libc

_LOCK_PAUSE = 0.05  # seconds

# linux/fcntl.h, linux/openat2.h
AT_FDCWD = -100
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_XDEV = 0x01
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
"""For `openat2`: to stay inside the directory."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
"""Flags to open a directory, and never through a symbolic link."""
_SYS_openat2 = 437  # the same number on every architecture

# linux/magic.h; include/sys/fs/zfs.h
BTRFS_SUPER_MAGIC = 0x9123683E
ZFS_SUPER_MAGIC = 0x2FC12FC1


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def all_opened(fds: Iterable[int]) -> Iterator[None]:
    """Close descriptors at the end of a block."""
    with ExitStack() as stack:
        for fd in fds:
            stack.callback(os.close, fd)
        yield


def write(fd: int, data: bytes) -> None:
    """Write all of something, in as many pieces as the kernel takes it in."""
    left = data
    while left:
        left = left[os.write(fd, left) :]


def replace(path: str, data: bytes, like: int | None = None, *, mode: int = 0o600) -> None:
    """Put a file in the place of another one: in one step, and durable; or leave that as it was.

    Args:
        path: of a file, which need not be there.
        data: what is to be in it.
        like: a file whose owner, mode, ACL and other extended attributes it gets; without one it
            is root's.
        mode: its permissions without such a file, whatever umask(2) says; by default root alone
            can read it.

    Raises:
        OSError: if it fails.
    """
    directory, name = os.path.split(path)
    new = f".{name}.samba-rvss-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with opened(os.open(directory, DIRECTORY)) as within:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=within)
        with opened(os.open(new, flags, 0o600, dir_fd=within)) as fd:
            try:
                write(fd, data)
                if like is None:
                    os.fchmod(fd, mode)
                else:
                    _make_like(fd, like)
                os.fsync(fd)
                os.rename(new, name, src_dir_fd=within, dst_dir_fd=within)
            except OSError:
                with suppress(OSError):
                    os.unlink(new, dir_fd=within)
                raise
        os.fsync(within)


def _make_like(fd: int, other: int) -> None:
    status = os.fstat(other)
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(other):
        os.setxattr(fd, name, os.getxattr(other, name))


def openat2(directory: int, path: str | bytes, flags: int, resolve: int) -> int:
    """Open a path with restrictions on how it is resolved (openat2(2)); return a descriptor."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    result: int = libc.syscall(
        ctypes.c_long(_SYS_openat2),
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    return checked(result, path)


def open_by_handle(mount: int, kind: int, handle: bytes, flags: int) -> int:
    """Open what a file handle names (open_by_handle_at(2)); return a descriptor.

    It needs CAP_DAC_READ_SEARCH.

    Args:
        mount: a descriptor, not O_PATH, of a mount of its file system.
        kind: the handle's type, and
        handle: the handle, as the file system defines both.
        flags: as for open(2).
    """
    raw = struct.pack("=Ii", len(handle), kind) + handle
    return checked(libc.open_by_handle_at(mount, raw, flags | os.O_CLOEXEC))


def file_system_type(fd: int) -> int:
    """Return the magic number of the file system that a descriptor is on (fstatfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    checked(libc.fstatfs(fd, buffer))
    return int(ctypes.c_long.from_buffer(buffer).value)


def syncfs(mount: int) -> None:
    """Write a whole file system to disk, given a descriptor of a mount of it (syncfs(2))."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    try:
        checked(libc.syncfs(fd))
    finally:
        os.close(fd)


def lock(fd: int, how: int, seconds: float) -> bool:
    """Take a lock of an open file (flock(2)); wait for those who have it.

    Args:
        fd: the file.
        how: LOCK_SH or LOCK_EX.
        seconds: how long to wait at most.

    Returns:
        Whether it was to be had.

    Raises:
        OSError: the file cannot be locked.
    """

    def take() -> bool:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return _patiently(take, seconds)


def lock_range(fd: int, how: int, start: int, length: int, seconds: float) -> bool:
    """Take a lock of a part of an open file (fcntl(2), "Open file description locks").

    Args:
        fd: the file, opened for writing if it is to be a write lock.
        how: F_RDLCK or F_WRLCK.
        start: where the part begins.
        length: how long it is; 0 is to the end, wherever that comes to be.
        seconds: how long to wait at most for those who have it.

    Returns:
        Whether it was to be had.

    Raises:
        OSError: the file cannot be locked.
    """
    return _patiently(lambda: _try_range(fd, how, start, length), seconds)


def is_written(path: str) -> bool:
    """Return whether somebody has a write lock of a part of a file; not if that cannot be told.

    Nothing is made for that, and nobody is waited for.
    """

    def look(fd: int) -> bool:
        try:
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _range(fcntl.F_RDLCK, 0, 0))
        except OSError:
            return False
        return bool(struct.unpack_from("=h", found)[0] != fcntl.F_UNLCK)

    return _seen(path, look)


def _patiently(take: Callable[[], bool], seconds: float) -> bool:
    """Return whether something could be taken in time."""
    deadline = time.monotonic() + seconds
    while not take():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOCK_PAUSE)
    return True


def _range(how: int, start: int, length: int) -> bytes:
    """Return what fcntl(2) calls a struct flock: type, whence, start, length, and no pid.

    Python's fcntl module has none for locks of a description; the kernel's is aligned to 8 bytes.
    """
    return struct.pack("=hhxxxxqqixxxx", how, os.SEEK_SET, start, length, 0)


def _try_range(fd: int, how: int, start: int, length: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(how, start, length))
    except BlockingIOError:
        return False
    return True


def is_locked(path: str) -> bool:
    """Return whether somebody has the only lock of a file (flock(2)); not if that cannot be told.

    Nothing is made for that, and nobody is waited for.
    """

    def look(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    return _seen(path, look)


def _seen(path: str, look: Callable[[int], bool]) -> bool:
    """Return what there is to see of a file; False if it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    with opened(fd):
        return look(fd)


def path_of(fd: int) -> str:
    """Return the path of what a descriptor has open; empty if it is longer than the kernel tells.

    Raises:
        OSError: it cannot be told.
    """
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            return ""
        raise


def unlock(fd: int) -> None:
    """Give back the open-file-description locks of a descriptor."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, 0, 0))


def try_read_lock(fd: int, start: int) -> bool:
    """Take an open-file-description read lock from an offset to the end, or return False.

    Such a lock excludes the POSIX locks of other programs and does not vanish when another
    descriptor of the file is closed (fcntl(2), "Open file description locks").
    """
    return _try_range(fd, fcntl.F_RDLCK, start, 0)
