"""Data of one file that another one gets: shared, or copied in the kernel; and what goes with that.

Contract: no call is for more than a piece, so that whoever waits can be interrupted between two.
"""

import ctypes
import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from samba_rvss.kernel.libc import ioctl

# linux/fs.h
_FICLONERANGE = 0x4020940D
_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
NOCOW = 0x00800000
"""The flag of a file whose data is written in place, without checksums (chattr(1), C)."""


def share(source: int, target: int, offset: int, length: int) -> None:
    """Have a file share a piece of another one's data, at the same offset (ioctl_ficlonerange(2)).

    Args:
        source: the other one, opened for reading.
        target: opened for writing.
        offset: in bytes, a multiple of the file system's block.
        length: in bytes; the same, unless the piece ends where the other file does.

    Raises:
        OSError: EXDEV, EOPNOTSUPP, ENOTTY or EINVAL where the file systems cannot do that.
    """
    argument = ctypes.create_string_buffer(
        struct.pack("=qQQQ", source, offset, length, offset), size=32
    )
    ioctl(target, _FICLONERANGE, argument)


def flags(fd: int) -> int:
    """Return the flags of an open file or directory (ioctl_iflags(2)); 0 where there are none."""
    argument = ctypes.create_string_buffer(8)
    try:
        ioctl(fd, _GETFLAGS, argument)
    except OSError:
        return 0
    return int(ctypes.c_uint32.from_buffer(argument).value)


def set_flags(fd: int, wanted: int) -> None:
    """Give an open file or directory its flags.

    Raises:
        OSError: it cannot have them.
    """
    # Its number says long, and the kernel reads an int (fs/ioctl.c, ioctl_setflags()).
    ioctl(fd, _SETFLAGS, ctypes.create_string_buffer(struct.pack("=Ixxxx", wanted), size=8))


@contextmanager
def alone(fd: int) -> Iterator[Callable[[], bool]]:
    """Have no other process open a file for the time of a block: whoever tries waits (fcntl(2)).

    It needs CAP_LEASE for a file of somebody else's. Where the file system has no leases, it does
    nothing.

    Args:
        fd: the file, opened for reading, and by nobody else but with O_PATH.

    Yields:
        What tells whether still nobody waits for it.

    Raises:
        BlockingIOError: somebody has it open.
    """
    # Who waits for it has us told by a signal: SIGIO would end us.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        raise
    except OSError:
        yield lambda: True
        return
    try:
        yield lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def copy(source: int, target: int, offset: int, length: int) -> int:
    """Copy a piece of a file to the same offset of another one (copy_file_range(2)).

    Args:
        source: the file, opened for reading.
        target: the other one, opened for writing.
        offset: in bytes.
        length: in bytes, 1 GiB at most: above INT_MAX, the function of glibc 2.41 returns what is
            not so (sourceware.org bug 33245).

    Returns:
        How many bytes it says that it copied: to be believed if it is between 1 and `length`.

    Raises:
        OSError: the file systems cannot do that, or reading or writing fails.
    """
    return os.copy_file_range(source, target, length, offset, offset)
