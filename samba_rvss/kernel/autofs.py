"""autofs: directories in which the kernel asks us to mount something when somebody looks into it.

Facts are from Linux's Documentation/filesystems/autofs.rst, linux/auto_fs.h and fs/autofs. An
autofs mount holds our process group: who is in it, or comes when nobody reads the pipe any more,
meets empty directories as they are; all others wait until they are answered. Contract: nothing here
waits, but for `expire`.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from samba_rvss.kernel.libc import checked, ioctl, libc
from samba_rvss.kernel.mounting import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
)

# linux/auto_fs.h: _IO(0x93, …), _IOWR(0x93, 0x64, unsigned long), _IOW(0x93, 0x66, int)
_READY = 0x9360
_FAIL = 0x9361
_CATATONIC = 0x9362
_SET_TIMEOUT = 3 << 30 | ctypes.sizeof(ctypes.c_ulong) << 16 | 0x9364
_EXPIRE = 1 << 30 | 4 << 16 | 0x9366
_MISSING, _EXPIRED = 3, 4  # autofs_ptype_missing_indirect, autofs_ptype_expire_indirect
# struct autofs_v5_packet
_PACKET = struct.Struct("=iiIIQIIIII")
_PROTOCOL = "5"
_LARGEST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the kernel asks for; whoever waits for it waits until it is answered.

    Attributes:
        token: names the question, among those of its mount.
        device: whose mount it is; see `device`.
        name: of the directory.
        missing: whether something is to be mounted there; if not, to be taken away, as unused.
        pid: who looks into it; 0 where we cannot see him.
    """

    token: int
    device: int
    name: str
    missing: bool
    pid: int


def pipe() -> tuple[int, int]:
    """Return both ends of a pipe for any number of mounts: ours, never waiting, and theirs.

    When our end is closed, nobody waits any more.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    os.set_blocking(ours, False)
    return ours, theirs


def mount(theirs: int, seconds: int) -> tuple[int, int]:
    """Make a detached autofs; return its mount, and its root, opened for reading.

    Args:
        theirs: the end of a pipe that is the kernel's.
        seconds: after which `expire` asks for what nobody uses, 1 at least.

    Raises:
        OSError: ENODEV if the kernel has none, EPERM if it does not let us.
    """
    context = checked(libc.fsopen(b"autofs", FSOPEN_CLOEXEC), "autofs")
    try:
        options = {"source": "samba-rvss", "fd": str(theirs), "pgrp": str(os.getpgrp())}
        options |= {"minproto": _PROTOCOL, "maxproto": _PROTOCOL}
        for key, value in options.items():
            checked(
                libc.fsconfig(context, FSCONFIG_SET_STRING, key.encode(), value.encode(), 0), key
            )
        checked(libc.fsconfig(context, FSCONFIG_SET_FLAG, b"indirect", None, 0), "indirect")
        checked(libc.fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0), "autofs")
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME
        made = checked(libc.fsmount(context, FSMOUNT_CLOEXEC, attributes), "autofs")
    finally:
        os.close(context)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made)
        try:
            set_timeout(root, seconds)
        except OSError:
            os.close(root)
            raise
    except OSError:
        os.close(made)
        raise
    return made, root


def set_timeout(root: int, seconds: int) -> None:
    """Say after how long `expire` asks for what nobody uses, from 1 second on."""
    timeout = struct.pack("@L", seconds)
    ioctl(root, _SET_TIMEOUT, ctypes.create_string_buffer(timeout, len(timeout)))


def device(root: int) -> int:
    """Return what the kernel calls the mount of a root (linux/kdev_t.h, new_encode_dev())."""
    number = os.fstat(root).st_dev
    major, minor = os.major(number), os.minor(number)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def questions(ours: int) -> Iterator[tuple[bytes, Asked]]:
    """Yield what has been asked, as it came and in words, until there is no more.

    Args:
        ours: our end of a pipe, or of a socket through which somebody hands on what came to him.

    Raises:
        EOFError: nobody asks any more.
    """
    while True:
        try:
            data = os.read(ours, _LARGEST)  # one packet each (pipe(2), O_DIRECT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            continue  # he has ended, and not heard everything; what he said comes after this
        if not data:
            raise EOFError("nobody asks any more")
        _, kind, token, device, _, _, _, pid, _, length = _PACKET.unpack_from(data)
        if kind in (_MISSING, _EXPIRED):
            name = os.fsdecode(data[_PACKET.size : _PACKET.size + length])
            yield (
                data,
                Asked(
                    token=token, device=device, name=name, missing=kind == _MISSING, pid=max(0, pid)
                ),
            )


def shows(root: int, name: str) -> bool:
    """Return whether a name is in a mount; for whom is in its process group: he meets no question.

    What is mounted there is not looked at.
    """
    try:
        os.close(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root))
    except FileNotFoundError:
        return False
    except OSError:
        pass  # it cannot be told
    return True


def answer(root: int, token: int, *, done: bool) -> None:
    """Answer a question: it is done, or those who wait are told that there is no such thing.

    Raises:
        OSError: nobody waits for it any more.
    """
    checked(libc.ioctl(root, _READY if done else _FAIL, token))


def silence(root: int) -> None:
    """Have a mount ask nothing any more: who waits is told that there is no such thing."""
    checked(libc.ioctl(root, _CATATONIC, 0))


def expire(root: int, *, at_once: bool = False) -> bool:
    """Ask whoever answers to take away one thing that nobody uses; return whether there was one.

    It waits until that is answered: it must be called by another thread than who answers.

    Args:
        root: the root of the mount.
        at_once: whether it does not matter for how long nobody has used it.
    """
    how = ctypes.create_string_buffer(struct.pack("=i", at_once), 4)
    try:
        ioctl(root, _EXPIRE, how)
    except BlockingIOError:  # EAGAIN: there is none
        return False
    except OSError:  # it was refused
        return True
    return True
