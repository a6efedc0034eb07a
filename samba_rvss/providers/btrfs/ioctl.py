"""The btrfs calls that the provider needs, as functions of descriptors.

libbtrfsutil's binding keeps the interpreter's lock through its calls (measured: 165 ms for a
snapshot of a subvolume with 50 MB not yet written), which would stop every other request; so the
calls are made here. Numbers and structures: linux/btrfs.h, linux/btrfs_tree.h.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from samba_rvss.kernel import files
from samba_rvss.kernel.libc import ioctl

SYNC = 0x9408
SUBVOL_CREATE = 0x5000940E
TREE_SEARCH_V2 = 0xC0709411
INO_LOOKUP = 0xD0009412
SNAP_CREATE_V2 = 0x50009417
SUBVOL_GETFLAGS = 0x80089419
SUBVOL_SETFLAGS = 0x4008941A
FS_INFO = 0x8400941F
GET_SUBVOL_INFO = 0x81F8943C
GET_SUBVOL_ROOTREF = 0xD000943D
SNAP_DESTROY_V2 = 0x5000943F

SUBVOL_RDONLY = 1 << 1
ROOT_SUBVOL_RDONLY = 1 << 0
ROOT_TREE_OBJECTID = 1
FS_TREE_OBJECTID = 5
QUOTA_TREE_OBJECTID = 8
UUID_TREE_OBJECTID = 9
FIRST_FREE_OBJECTID = 256
INODE_REF_KEY = 12
ROOT_BACKREF_KEY = 144
QGROUP_STATUS_KEY = 240
QGROUP_INFO_KEY = 242
UUID_KEY_SUBVOL = 251
QGROUP_STATUS_FLAG_ON = 1 << 0
FILEID_WITHOUT_PARENT = 0x4D  # linux/exportfs.h, FILEID_BTRFS_WITHOUT_PARENT
_NAME_V2 = 56
_OTRANSID = 352  # in struct btrfs_ioctl_get_subvol_info_args
_ROOTREFS = 255
_SEARCH = 112
_LAST = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subvolume:
    """What btrfs knows of a subvolume.

    Attributes:
        tree: its id, never used again on its file system.
        name: its name in the directory that holds it.
        parent: the id of the subvolume that it is inside of, 0 for the top level.
        holder: the inode of the directory that holds it.
        uuid: 32 hexadecimal digits.
        parent_uuid: the uuid of what it is a snapshot of, or zeros.
        read_only: whether its read-only property is set.
        transid: the transaction in which it was made; snapshots with the same one are of one
            instant.
    """

    tree: int
    name: str
    parent: int
    holder: int
    uuid: str
    parent_uuid: str
    read_only: bool
    transid: int


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
    """Snapshot a subvolume; durable on return (fs/btrfs/ioctl.c commits the transaction).

    What its source still holds in memory is written out first, and nothing else of the file system
    (btrfs_mksnapshot()).
    """
    flags = SUBVOL_RDONLY if read_only else 0
    ioctl(parent, SNAP_CREATE_V2, _v2(name, source, flags), name)


def delete_subvolume(parent: int, name: str) -> None:
    """Delete a subvolume that has no other inside."""
    ioctl(parent, SNAP_DESTROY_V2, _v2(name), name)


def commit(fd: int) -> None:
    """Make durable what was changed before, with all that anybody has not written out yet.

    fsync(2) of what was changed writes out nobody else's data. BTRFS_IOC_START_SYNC does not
    either, but it only asks the file system's thread for a commit: beside another one it can wait
    for the next periodic commit, 30 s as seen (fs/btrfs/transaction.c,
    btrfs_commit_transaction_async() and transaction_kthread()).
    """
    ioctl(fd, SYNC, ctypes.create_string_buffer(8))


def set_read_only(subvolume: int, *, read_only: bool) -> None:
    """Set or clear the read-only property; durable on return."""
    buffer = ctypes.create_string_buffer(8)
    ioctl(subvolume, SUBVOL_GETFLAGS, buffer)
    flags: int = struct.unpack("=Q", buffer.raw)[0]
    wanted = flags | SUBVOL_RDONLY if read_only else flags & ~SUBVOL_RDONLY
    if wanted != flags:
        struct.pack_into("=Q", buffer, 0, wanted)
        ioctl(subvolume, SUBVOL_SETFLAGS, buffer)


def info(fd: int) -> Subvolume:
    """Return what btrfs knows of the subvolume that a descriptor is in."""
    buffer = ctypes.create_string_buffer(504)
    ioctl(fd, GET_SUBVOL_INFO, buffer)
    raw = buffer.raw
    tree, name, parent, holder, _, flags, uuid, parent_uuid = struct.unpack_from(
        "=Q256sQQQQ16s16s", raw
    )
    return Subvolume(
        tree=tree,
        name=os.fsdecode(name.split(b"\0", 1)[0]),
        parent=parent,
        holder=holder,
        uuid=uuid.hex(),
        parent_uuid=parent_uuid.hex(),
        read_only=bool(flags & ROOT_SUBVOL_RDONLY),
        transid=struct.unpack_from("=Q", raw, _OTRANSID)[0],
    )


def lookup(fd: int, inode: int = FIRST_FREE_OBJECTID, tree: int = 0) -> tuple[int, str]:
    """Return the id of a subvolume and a directory's path in it.

    Args:
        fd: where to ask.
        inode: the directory.
        tree: the subvolume; 0 for the descriptor's own.

    Raises:
        OSError: ENAMETOOLONG if the path has more than about 4,080 bytes.
    """
    buffer = ctypes.create_string_buffer(4096)
    struct.pack_into("=QQ", buffer, 0, tree, inode)
    ioctl(fd, INO_LOOKUP, buffer)
    (tree,) = struct.unpack_from("=Q", buffer, 0)
    return tree, os.fsdecode(ctypes.string_at(ctypes.addressof(buffer) + 16)).rstrip("/")


def file_system(fd: int) -> tuple[str, int]:
    """Return the file system's UUID, as in /sys/fs/btrfs, and the size of its nodes in bytes."""
    buffer = ctypes.create_string_buffer(1024)
    ioctl(fd, FS_INFO, buffer)
    raw = buffer.raw[16:32].hex()
    (node,) = struct.unpack_from("=I", buffer, 32)
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])), node


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
        raw = buffer.raw
        count = raw[8 + 16 * _ROOTREFS]
        found += struct.iter_unpack("=QQ", raw[8 : 8 + 16 * count])
        if not more or not count:
            return found
        minimum = found[-1][0] + 1


def holder(fd: int, tree: int) -> tuple[int, int, str] | None:
    """Return the subvolume and the directory that hold a subvolume, and its name there.

    The answer is None if there is no such subvolume, or it is the top level.
    """
    for parent, data in _search(fd, ROOT_TREE_OBJECTID, tree, ROOT_BACKREF_KEY):
        directory, _, length = struct.unpack_from("=QQH", data)
        return parent, directory, os.fsdecode(data[18 : 18 + length])
    return None


def directory_above(fd: int, tree: int, inode: int) -> tuple[int, str]:
    """Return the directory that holds a directory, and its name there.

    Raises:
        OSError: ENOENT if there is no such directory.
    """
    for parent, data in _search(fd, tree, inode, INODE_REF_KEY):
        _, length = struct.unpack_from("=QH", data)
        return parent, os.fsdecode(data[10 : 10 + length])
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def tree_of(fd: int, uuid: str) -> int | None:
    """Return the id of the subvolume with a uuid."""
    low, high = struct.unpack("=QQ", bytes.fromhex(uuid))
    for _, data in _search(fd, UUID_TREE_OBJECTID, low, UUID_KEY_SUBVOL, high):
        return int(struct.unpack_from("=Q", data)[0])
    return None


def has_exact_quotas(fd: int) -> bool:
    """Return whether quota groups are on, and what they count is whole."""
    try:
        for _, data in _search(fd, QUOTA_TREE_OBJECTID, 0, QGROUP_STATUS_KEY):
            _, _, flags = struct.unpack_from("=QQQ", data)
            # Any other flag stands for counting anew, inconsistency, or another way of counting.
            return bool(flags == QGROUP_STATUS_FLAG_ON)
    except FileNotFoundError:  # there is no such tree
        pass
    return False


def exclusive(fd: int, tree: int) -> int | None:
    """Return how many bytes no other subvolume has than one; None if that is not counted."""
    for _, data in _search(fd, QUOTA_TREE_OBJECTID, 0, QGROUP_INFO_KEY, tree):
        _, _, _, size = struct.unpack_from("=4Q", data)
        return int(size)
    return None


def _search(
    fd: int, tree: int, objectid: int, kind: int, offset: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield the first item of a kind, if there is one, as its key's offset and its data."""
    low, high = (0, _LAST) if offset is None else (offset, offset)
    buffer = ctypes.create_string_buffer(4096)
    key = (tree, objectid, objectid, low, high, 0, _LAST, kind, kind, 1, 0)
    struct.pack_into("=7Q4I", buffer, 0, *key)
    struct.pack_into("=Q", buffer, _SEARCH - 8, 4096 - _SEARCH)
    ioctl(fd, TREE_SEARCH_V2, buffer)
    if struct.unpack_from("=I", buffer, 64)[0]:
        _, _, found, _, length = struct.unpack_from("=QQQII", buffer, _SEARCH)
        yield found, buffer.raw[_SEARCH + 32 : _SEARCH + 32 + length]


def opened(mount: int, tree: int, inode: int = FIRST_FREE_OBJECTID) -> int:
    """Open a directory by its inode, wherever it is; return a descriptor, for the caller to close.

    No path is resolved: what users call the directories above it does not matter.

    Args:
        mount: a descriptor, not O_PATH, of a mount of the file system.
        tree: the subvolume that the directory is in.
        inode: its number; without it, the subvolume's root.

    Raises:
        OSError: ESTALE or ENOENT if it is not there.
    """
    # fs/btrfs/export.h, struct btrfs_fid without parent; 0 stands for any generation
    handle = struct.pack("=QQI", inode, tree, 0)
    return files.open_by_handle(mount, FILEID_WITHOUT_PARENT, handle, files.DIRECTORY)
