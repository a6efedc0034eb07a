"""The btrfs calls that the provider needs, as functions of descriptors.

libbtrfsutil's binding keeps the interpreter's lock through its calls (measured: 165 ms for a
snapshot of a subvolume with 50 MB not yet written), which would stop every other request; so the
calls that can wait for a transaction are made here. Numbers and structures: linux/btrfs.h.
"""

import ctypes
import errno
import os
import struct

from samba_rvss.kernel.libc import ioctl

SUBVOL_CREATE = 0x5000940E
INO_LOOKUP = 0xD0009412
SNAP_CREATE_V2 = 0x50009417
SUBVOL_GETFLAGS = 0x80089419
SUBVOL_SETFLAGS = 0x4008941A
FS_INFO = 0x8400941F
GET_SUBVOL_ROOTREF = 0xD000943D
SNAP_DESTROY_V2 = 0x5000943F

SUBVOL_RDONLY = 1 << 1
FS_TREE_OBJECTID = 5
FIRST_FREE_OBJECTID = 256
_NAME_V2 = 56
_ROOTREFS = 255


def _v2(name: str, fd: int = 0, flags: int = 0) -> ctypes.Array[ctypes.c_char]:
    raw = os.fsencode(name)
    buffer = ctypes.create_string_buffer(4096)
    struct.pack_into("=qQQ", buffer, 0, fd, 0, flags)
    struct.pack_into(f"{len(raw)}s", buffer, _NAME_V2, raw)
    return buffer


def create_subvolume(parent: int, name: str) -> None:
    """Make an empty subvolume."""
    raw = os.fsencode(name)
    buffer = ctypes.create_string_buffer(4096)
    struct.pack_into(f"{len(raw)}s", buffer, 8, raw)
    ioctl(parent, SUBVOL_CREATE, buffer, name)


def snapshot(source: int, parent: int, name: str, *, read_only: bool) -> None:
    """Snapshot a subvolume; durable on return (fs/btrfs/ioctl.c commits the transaction)."""
    flags = SUBVOL_RDONLY if read_only else 0
    ioctl(parent, SNAP_CREATE_V2, _v2(name, source, flags), name)


def delete_subvolume(parent: int, name: str) -> None:
    """Delete a subvolume that has no other inside."""
    ioctl(parent, SNAP_DESTROY_V2, _v2(name), name)


def is_read_only(subvolume: int) -> bool:
    """Return whether the subvolume's read-only property is set."""
    buffer = ctypes.create_string_buffer(8)
    ioctl(subvolume, SUBVOL_GETFLAGS, buffer)
    return bool(struct.unpack("=Q", buffer.raw)[0] & SUBVOL_RDONLY)


def set_read_only(subvolume: int, *, read_only: bool) -> None:
    """Set or clear the read-only property; durable on return."""
    buffer = ctypes.create_string_buffer(8)
    ioctl(subvolume, SUBVOL_GETFLAGS, buffer)
    flags: int = struct.unpack("=Q", buffer.raw)[0]
    wanted = flags | SUBVOL_RDONLY if read_only else flags & ~SUBVOL_RDONLY
    if wanted != flags:
        struct.pack_into("=Q", buffer, 0, wanted)
        ioctl(subvolume, SUBVOL_SETFLAGS, buffer)


def lookup(fd: int, inode: int = FIRST_FREE_OBJECTID) -> tuple[int, str]:
    """Return the id of the subvolume that a descriptor is in, and a directory's path in it."""
    buffer = ctypes.create_string_buffer(4096)
    struct.pack_into("=QQ", buffer, 0, 0, inode)
    ioctl(fd, INO_LOOKUP, buffer)
    (tree,) = struct.unpack_from("=Q", buffer, 0)
    return tree, os.fsdecode(buffer.raw[16:].split(b"\0", 1)[0]).rstrip("/")


def file_system_id(fd: int) -> str:
    """Return the file system's UUID, as in /sys/fs/btrfs."""
    buffer = ctypes.create_string_buffer(1024)
    ioctl(fd, FS_INFO, buffer)
    raw = buffer.raw[16:32].hex()
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


def children(fd: int) -> list[tuple[int, int]]:
    """Return the subvolumes directly inside the one that a descriptor is in.

    Each as its id and the inode of the directory that holds it. The cost grows with their number
    alone.
    """
    found: list[tuple[int, int]] = []
    minimum = 0
    while True:
        buffer = ctypes.create_string_buffer(4096)
        struct.pack_into("=Q", buffer, 0, minimum)
        more = False
        try:
            ioctl(fd, GET_SUBVOL_ROOTREF, buffer)
        except OSError as exc:
            if exc.errno != errno.EOVERFLOW:
                raise
            more = True
        count = buffer.raw[8 + 16 * _ROOTREFS]
        found += [struct.unpack_from("=QQ", buffer, 8 + 16 * index) for index in range(count)]
        if not more or not count:
            return found
        minimum = found[-1][0] + 1
