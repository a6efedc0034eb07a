"""The mount table, as /proc/self/mountinfo has it."""

import ctypes
import os
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from samba_rvss.kernel.files import AT_FDCWD, opened
from samba_rvss.kernel.libc import checked, libc
from samba_rvss.kernel.mounting import AT_EMPTY_PATH, MOUNT_ATTR_IDMAP

# linux/stat.h, linux/mount.h: both calls since Linux 6.8
_STATX_MNT_ID_UNIQUE = 0x4000
_STX_MNT_ID = 0x90
_STX_ATTRIBUTES = 0x8
_STATX_ATTR_MOUNT_ROOT = 0x2000  # since Linux 5.8
_AT_SYMLINK_NOFOLLOW = 0x100
_SYS_statmount = 457  # the same number on every architecture
_STATMOUNT_MNT_BASIC = 0x2
_MNT_ATTR = 64


def mount_id(fd: int) -> int:
    """Return the id, as in mountinfo, of the mount that a descriptor was opened through."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(f"/proc/self/fdinfo/{fd} names no mount")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountInfo:
    """One line of /proc/self/mountinfo (proc(5)).

    Attributes:
        parent: the id of the mount that it is mounted on.
        group: the peer group that it is in, to which what is mounted in it propagates; 0 if none.
        masters: groups from which what is mounted there propagates to it.
    """

    id: int
    parent: int
    device: str
    root: str
    target: str
    options: frozenset[str]
    group: int
    masters: frozenset[int]
    kind: str
    source: str
    super_options: frozenset[str]


# fs/proc_namespace.c, mangle() and show_vfsmnt(); the backslash itself comes last
_ESCAPES = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\043", b"#"))


def _unescape(field: bytes) -> str:
    if b"\\" in field:
        for code, char in _ESCAPES:
            field = field.replace(code, char)
        field = field.replace(b"\\134", b"\\")
    return os.fsdecode(field)


def escape_mount_path(path: str) -> bytes:
    """Return a path as mountinfo writes it (fs/proc_namespace.c, mangle)."""
    raw = os.fsencode(path).replace(b"\\", b"\\134")
    for char, code in ((b" ", b"\\040"), (b"\t", b"\\011"), (b"\n", b"\\012")):
        raw = raw.replace(char, code)
    return raw


_LAST = [b""]  # what was read last of our own mountinfo


def read_mountinfo(pid: int = 0) -> bytes:
    """Return mountinfo, ours or a process's, as raw bytes: searching is cheaper than parsing.

    That may wait for a disk: btrfs looks up the names of subvolumes for it (fs/btrfs/super.c,
    btrfs_show_options()).
    """
    with open(f"/proc/{pid or 'self'}/mountinfo", "rb", buffering=0) as info:
        raw = info.read()
    if not pid:
        _LAST[0] = raw
    return raw


def remembered() -> bytes:
    """Return our mountinfo as it was read last, for who must not wait; it may have changed."""
    return _LAST[0] or read_mountinfo()


class OpenTable:
    """mountinfo held open, for who has to read it when no descriptor is left.

    Whoever makes it closes it.
    """

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._lock = Lock()

    def read(self) -> bytes:
        """Return what `read_mountinfo` does."""
        pieces, size = [], 0
        with self._lock:  # readers in turn would have the kernel begin anew for each piece
            while piece := os.pread(self._fd, 1 << 16, size):
                pieces.append(piece)
                size += len(piece)
        _LAST[0] = b"".join(pieces)
        return _LAST[0]

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def _groups(fields: Sequence[bytes], *kinds: bytes) -> Iterator[int]:
    return (int(field.partition(b":")[2]) for field in fields if field.startswith(kinds))


def mountinfo(raw: bytes | None = None) -> Iterator[MountInfo]:
    """Yield the mounts of our mount namespace, or those in what `read_mountinfo` returned."""
    # Not splitlines(): it also splits at a carriage return, which a path may have.
    for line in (read_mountinfo() if raw is None else raw).rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        yield MountInfo(
            id=int(fields[0]),
            parent=int(fields[1]),
            device=fields[2].decode("ascii"),
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            options=frozenset(fields[5].decode("ascii").split(",")),
            group=next(iter(_groups(fields[6:], b"shared:")), 0),
            masters=frozenset(_groups(fields[6:], b"master:", b"propagate_from:")),
            kind=rest[0].decode("ascii"),
            source=_unescape(rest[1]),
            super_options=frozenset(os.fsdecode(rest[2]).split(",")),
        )


def whole(kind: str, raw: bytes | None = None) -> Iterator[MountInfo]:
    """Yield the mounts that show all of a file system of one kind; others are not parsed.

    Args:
        kind: which.
        raw: as for `mountinfo`.
    """
    needle = f" - {kind} ".encode()
    for line in (read_mountinfo() if raw is None else raw).split(b"\n"):
        if needle in line and line.split(b" ", 4)[3] == b"/":
            yield from mountinfo(line)


def is_mount_root(path: str) -> bool:
    """Return whether something is mounted at a path; it costs the same among any number of mounts.

    Args:
        path: its last part is not followed if it is a symbolic link.

    Raises:
        OSError: if it cannot be told; not if nothing is there.
    """
    buffer = ctypes.create_string_buffer(256)
    try:
        checked(libc.statx(AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, 0, buffer), path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return bool(struct.unpack_from("=Q", buffer, _STX_ATTRIBUTES)[0] & _STATX_ATTR_MOUNT_ROOT)


def mount_targets(raw: bytes | None = None) -> Iterator[str]:
    """Yield the paths of the same mounts as `mountinfo`; cheaper than that."""
    for line in (read_mountinfo() if raw is None else raw).rstrip(b"\n").split(b"\n"):
        yield _unescape(line.split(b" ", 5)[4])


def finder(mounts: Collection[MountInfo]) -> Callable[[str], MountInfo | None]:
    """Return a function that tells the mount that a path lies on, by the names alone.

    No file system is asked. The path is an absolute one; if it has symbolic links, where they lead
    does not count.

    Args:
        mounts: the mount table.
    """
    ids = {mount.id for mount in mounts}
    roots: list[MountInfo] = []
    upon: dict[int, list[MountInfo]] = {}
    for mount in mounts:
        known = mount.parent in ids and mount.parent != mount.id
        (upon.setdefault(mount.parent, []) if known else roots).append(mount)

    def find(path: str) -> MountInfo | None:
        inside, found, near = f"{os.path.normpath(path)}/", None, roots
        # As a walk comes to them; the last of those at one place hides the others.
        while near := [m for m in near if inside.startswith(f"{m.target.rstrip('/')}/")]:
            found = min(reversed(near), key=lambda mount: len(mount.target))
            near = upon.get(found.id, [])
        return found

    return find


def above(path: str, raw: bytes | None = None) -> MountInfo | None:
    """Return the mount that a path lies on; see `finder`.

    Args:
        path: the path.
        raw: what `read_mountinfo` returned, if the table has been read.
    """
    return finder(tuple(mountinfo(raw)))(path)


def file_system_of(path: str, raw: bytes | None = None) -> str:
    """Return a path's file system in words that name where it is mounted; see `above`."""
    mount = above(path, raw)
    return f"the file system mounted at {mount.target}" if mount else f"the file system of {path}"


def mount_of(fd: int) -> MountInfo:
    """Return the mount that a descriptor was opened through.

    Raises:
        OSError: if that mount is not in our mount namespace; a detached one is in none.
    """
    number = mount_id(fd)
    raw = read_mountinfo()
    start = 0 if raw.startswith(b"%d " % number) else raw.find(b"\n%d " % number) + 1
    end = raw.find(b"\n", start)
    found = next(mountinfo(raw[start:end]))
    if found.id != number:
        raise OSError(f"the mount {number} is not in this mount namespace")
    return found


def follows(directory: str, below: str, raw: bytes) -> bool:
    """Return whether a mount namespace sees what is mounted below a directory in ours.

    There the same directory must be at the same path, on a mount that is a peer of ours or gets
    from it what is mounted (mount_namespaces(7)).

    Args:
        directory: an absolute path without symbolic links.
        below: the name of a directory in it, on the same mount, which need not be there yet.
        raw: mountinfo of that mount namespace.

    Raises:
        OSError: if the directory cannot be opened.
    """
    path = f"{directory}/{below}"
    with opened(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        ours = mount_of(fd)
    if not ours.group or not raw:
        return False
    inside = os.path.normpath(f"{ours.root}/{os.path.relpath(path, ours.target)}")
    above = [
        mount for mount in mountinfo(raw) if f"{path}/".startswith(f"{mount.target.rstrip('/')}/")
    ]
    if not above:  # a process in a chroot sees no mount that its root directory is not on
        return False
    # The last of those at one path hides the others.
    theirs = max(enumerate(above), key=lambda found: (len(found[1].target), found[0]))[1]
    return ours.group in {theirs.group, *theirs.masters} and inside == os.path.normpath(
        f"{theirs.root}/{os.path.relpath(path, theirs.target)}"
    )


def propagates(path: str, source: bytes, target: bytes) -> bool:
    """Return whether what is mounted below a path in one mount namespace appears in another.

    Args:
        path: an absolute one, the same in both.
        source: mountinfo of the one in which something is mounted.
        target: that of the other.
    """
    ours, theirs = above(path, source), above(path, target)
    if ours is None or theirs is None or not ours.group:
        return False
    inside, there = (
        os.path.normpath(f"{mount.root}/{os.path.relpath(path, mount.target)}")
        for mount in (ours, theirs)
    )
    return inside == there and ours.group in {theirs.group, *theirs.masters}


def is_idmapped(fd: int) -> bool:
    """Return whether a descriptor was opened through a mount that shows other owners.

    Raises:
        OSError: as `mount_of`.
    """
    try:
        # The time that reading the mount table takes grows with the number of mounts.
        return bool(_mount_attributes(fd) & MOUNT_ATTR_IDMAP)
    except OSError:
        return "idmapped" in mount_of(fd).options


def _mount_attributes(fd: int) -> int:
    """Return the attributes of the mount that a descriptor was opened through.

    Raises:
        OSError: the kernel cannot tell, or is not allowed to.
    """
    buffer = ctypes.create_string_buffer(512)
    checked(libc.statx(fd, b"", AT_EMPTY_PATH, _STATX_MNT_ID_UNIQUE, buffer))
    if not struct.unpack_from("=I", buffer)[0] & _STATX_MNT_ID_UNIQUE:
        raise OSError("statx(2) does not tell the mount")
    (mount,) = struct.unpack_from("=Q", buffer, _STX_MNT_ID)
    # struct mnt_id_req, struct statmount
    request = struct.pack("=IIQQ", 24, 0, mount, _STATMOUNT_MNT_BASIC)
    checked(
        libc.syscall(
            ctypes.c_long(_SYS_statmount),
            ctypes.c_char_p(request),
            buffer,
            ctypes.c_size_t(len(buffer)),
            ctypes.c_uint(0),
        )
    )
    return int(struct.unpack_from("=Q", buffer, _MNT_ATTR)[0])
