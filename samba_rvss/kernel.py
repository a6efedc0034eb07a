"""The system calls that Python does not wrap, and what /proc says.

This module imports nothing of ours, and raises OSError with the file's name. Constants keep the
names that the kernel's headers give them.
"""

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

# linux/mount.h, linux/fcntl.h, linux/openat2.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_FDCWD = -100
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
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_NO_XDEV = 0x01
BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
"""To stay inside a directory, for `openat2`."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
"""To open a directory itself, never what a link means."""
_SYS_openat2 = 437  # the same number on every architecture

# linux/sched.h, linux/mount.h
CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

# sys/inotify.h
IN_CLOSE_WRITE = 0x8
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000

# asm-generic/socket.h (Linux 6.5)
SO_PEERPIDFD = 77

BTRFS_SUPER_MAGIC = 0x9123683E
ZFS_SUPER_MAGIC = 0x2FC12FC1

_libc = ctypes.CDLL(None, use_errno=True)
_c = ctypes.c_char_p
_i = ctypes.c_int
_u = ctypes.c_uint
_libc.open_tree.argtypes = (_i, _c, _u)
_libc.move_mount.argtypes = (_i, _c, _i, _c, _u)
_libc.mount_setattr.argtypes = (_i, _c, _u, ctypes.c_void_p, ctypes.c_size_t)
_libc.fsopen.argtypes = (_c, _u)
_libc.fsconfig.argtypes = (_i, _u, _c, _c, _i)
_libc.fsmount.argtypes = (_i, _u, _u)
_libc.umount2.argtypes = (_c, _i)
_libc.mount.argtypes = (_c, _c, _c, ctypes.c_ulong, _c)
_libc.unshare.argtypes = (_i,)
_libc.pivot_root.argtypes = (_c, _c)
_libc.inotify_init1.argtypes = (_i,)
_libc.inotify_add_watch.argtypes = (_i, _c, ctypes.c_uint32)
_libc.ioctl.argtypes = (_i, ctypes.c_ulong, ctypes.c_void_p)
_libc.fstatfs.argtypes = (_i, ctypes.c_void_p)
_libc.syncfs.argtypes = (_i,)


def _checked(result: int, name: str | int | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


def ioctl(fd: int, request: int, argument: ctypes.Array[ctypes.c_char], name: str = "") -> int:
    """Call ioctl(2) with a buffer, without holding the interpreter's lock.

    `fcntl.ioctl` keeps the lock for buffers over 1024 bytes (CPython, Modules/fcntlmodule.c),
    and the btrfs calls that can wait for a transaction take 4096.
    """
    return _checked(_libc.ioctl(fd, request, ctypes.addressof(argument)), name or None)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open a path with restrictions on how it is resolved (openat2(2)); return a descriptor."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    result: int = _libc.syscall(
        ctypes.c_long(_SYS_openat2),
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    return _checked(result, path)


def open_tree(fd: int) -> int:
    """Clone the mount of what a descriptor refers to; return the detached mount.

    Before Linux 6.15 it fails with EINVAL if that mount is itself detached (fs/namespace.c,
    __do_loopback()); see `open_detached_tree`.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    return _checked(_libc.open_tree(fd, b"", flags))


def open_detached_tree(mount: int, fd: int) -> int:
    """Clone part of a detached mount, also on kernels that cannot do it directly.

    Args:
        mount: the root of the detached mount, which cannot be attached any more afterwards.
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
    _checked(_libc.unshare(CLONE_NEWNS))
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    _checked(_libc.mount(b"none", b"/proc", b"tmpfs", 0, b"size=64k,mode=700"))
    os.chdir("/proc")
    _checked(_libc.pivot_root(b".", b"."))  # pivot_root(2), NOTES
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
    _checked(
        _libc.move_mount(mount, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
        target,
    )


def mount_setattr(where: int | str, *, set_: int = 0, clear: int = 0) -> None:
    """Change the attributes of a mount: of a detached one, or of one at a path and those below it.

    Setting MOUNT_ATTR_RDONLY fails with EBUSY, and changes none of them, while a file is open for
    writing through one (mount_setattr(2); fs/namespace.c, mnt_hold_writers).
    """
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", set_, clear, 0, 0), 32)
    if isinstance(where, int):
        result = _libc.mount_setattr(where, b"", AT_EMPTY_PATH, attributes, 32)
    else:
        result = _libc.mount_setattr(AT_FDCWD, os.fsencode(where), AT_RECURSIVE, attributes, 32)
    _checked(result, where)


def umount(target: str) -> None:
    """Take a mount away from its path; the kernel frees it when its last user lets go."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def detached_mount(kind: str, options: dict[str, str], flags: tuple[str, ...] = ()) -> int:
    """Mount a file system without a path; return an O_PATH descriptor of its root.

    The mount is read-only, nosuid, nodev, noexec and noatime.
    """
    context = _checked(_libc.fsopen(kind.encode(), FSOPEN_CLOEXEC))
    try:
        for key, value in options.items():
            _checked(
                _libc.fsconfig(context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0),
                value,
            )
        for flag in flags:
            _checked(_libc.fsconfig(context, FSCONFIG_SET_FLAG, flag.encode(), None, 0))
        _checked(_libc.fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0), options.get("source"))
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME
        # Read-only from the start: it is nobody's to write through until it is opened.
        return _checked(_libc.fsmount(context, FSMOUNT_CLOEXEC, attributes | MOUNT_ATTR_RDONLY))
    finally:
        os.close(context)


def file_system_type(fd: int) -> int:
    """Return the magic number of the file system that a descriptor is on (fstatfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, buffer))
    return int(ctypes.c_long.from_buffer(buffer).value)


def syncfs(mount: int) -> None:
    """Write out all that is in memory of the file system of a mount (syncfs(2))."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    try:
        _checked(_libc.syncfs(fd))
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """Return the id, as in mountinfo, of the mount that a descriptor was opened through."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(f"/proc/self/fdinfo/{fd} names no mount")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountInfo:
    """One line of /proc/self/mountinfo (proc(5))."""

    id: int
    root: str
    target: str
    options: frozenset[str]
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


def read_mountinfo(pid: int = 0) -> bytes:
    """Return mountinfo as it is, ours or a process's, for a search before a costly parse."""
    with open(f"/proc/{pid or 'self'}/mountinfo", "rb", buffering=0) as info:
        return info.read()


def mountinfo(raw: bytes | None = None) -> Iterator[MountInfo]:
    """Yield the mounts of our mount namespace."""
    # Not splitlines(): it also splits at a carriage return, which a path may have.
    for line in (read_mountinfo() if raw is None else raw).rstrip(b"\n").split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        yield MountInfo(
            id=int(fields[0]),
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            options=frozenset(fields[5].decode("ascii").split(",")),
            kind=rest[0].decode("ascii"),
            source=_unescape(rest[1]),
            super_options=frozenset(os.fsdecode(rest[2]).split(",")),
        )


def mount_targets(raw: bytes | None = None) -> Iterator[str]:
    """Yield where the mounts of our mount namespace are; cheaper than `mountinfo`."""
    for line in (read_mountinfo() if raw is None else raw).rstrip(b"\n").split(b"\n"):
        yield _unescape(line.split(b" ", 5)[4])


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of a Unix socket when it connected."""

    pid: int
    uid: int
    gid: int


def mount_of(fd: int) -> MountInfo:
    """Return the mount that a descriptor was opened through.

    Raises:
        OSError: if it is not in our mount namespace, as a detached one.
    """
    number = mount_id(fd)
    raw = read_mountinfo()
    start = 0 if raw.startswith(b"%d " % number) else raw.find(b"\n%d " % number) + 1
    end = raw.find(b"\n", start)
    found = next(mountinfo(raw[start:end]))
    if found.id != number:
        raise OSError(f"the mount {number} is not in this mount namespace")
    return found


def peer_credentials(sock: socket.socket) -> Peer:
    """Return who connected (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", raw)
    return Peer(pid=pid, uid=uid, gid=gid)


def peer_pidfd(sock: socket.socket, pid: int) -> int:
    """Return a pidfd of the peer: the very process where the kernel can tell, else by number."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return os.pidfd_open(pid)


# What /proc says of processes. Every function raises OSError, ESRCH or ENOENT, if one has ended,
# and EACCES if it may not be read; none touches another process's files, which may be on a server
# that does not answer, but for `executable_uid`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process; ``executable`` is the path of its program."""

    pid: int
    parent: int
    saved_uid: int
    executable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A file that a process has open or mapped.

    Attributes:
        path: as the process sees it.
        mount: id of the mount that it was opened through, -1 if it is on none.
        inode: its number, 0 where the kernel does not say.
        writable: whether it may be written to this way.
    """

    path: str
    mount: int
    inode: int
    writable: bool


def pids() -> list[int]:
    """Return the numbers of all processes."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def process(pid: int) -> Process:
    """Read one process."""
    parent = uid = -1
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"PPid:"):
                parent = int(line.split()[1])
            elif line.startswith(b"Uid:"):
                uid = int(line.split()[3])
                break
    executable = os.readlink(f"/proc/{pid}/exe")
    return Process(pid=pid, parent=parent, saved_uid=uid, executable=executable)


def executable_uid(pid: int) -> int:
    """Return the owner of a process's program; this waits for the file system that it is on."""
    return os.stat(f"/proc/{pid}/exe").st_uid


def command(pid: int) -> str:
    """Return the name of a process, at most 15 characters of it."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return comm.read().strip()


def arguments(pid: int) -> list[str]:
    """Return the words that a process was started with."""
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        return [os.fsdecode(word) for word in line.read().split(b"\0")]


def started(pid: int) -> float:
    """Return when a process was started, in seconds of this boot (proc(5), stat).

    One that has ended was started at its beginning.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            ticks = stat.read().rpartition(b")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return all processes below one, parents before their children; the dead count too."""
    children: dict[int, list[int]] = {}
    for child in pids():
        try:
            with open(f"/proc/{child}/stat", "rb") as stat:
                parent = int(stat.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def mount_namespace(pid: int) -> str:
    """Return what tells a process's mount namespace from others."""
    return os.readlink(f"/proc/{pid}/ns/mnt")


def open_files(pid: int) -> Iterator[HeldFile]:
    """Yield the files that a process has open; one that it closes meanwhile may be left out."""
    for number in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as info:
                facts = dict(line.split(":\t", 1) for line in info if ":\t" in line)
            path = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        yield HeldFile(
            path=path,
            mount=int(facts.get("mnt_id", "-1")),
            inode=int(facts.get("ino", "0")),
            writable=bool(int(facts.get("flags", "0"), 8) & os.O_ACCMODE),
        )


def writable_mappings(pid: int) -> Iterator[HeldFile]:
    """Yield the files that a process has mapped for writing into them.

    A mapping outlives the descriptor that it was made from, and counts as a writer all the same.
    """
    with open(f"/proc/{pid}/maps", "rb") as maps:
        rows = [line.split(b" ", 5)[:5] for line in maps]
    for span, permissions, _offset, _device, inode in rows:
        if permissions != b"rw-s":
            continue
        # fs/proc/base.c, dname_to_vma_addr(): without the zeros that maps pads with
        name = "-".join(f"{int(word, 16):x}" for word in span.split(b"-"))
        fd = os.open(f"/proc/{pid}/map_files/{name}", os.O_PATH | os.O_CLOEXEC)
        try:
            path, mount = os.readlink(f"/proc/self/fd/{fd}"), mount_id(fd)
        finally:
            os.close(fd)
        yield HeldFile(path=path, mount=mount, inode=int(inode), writable=True)


def inotify() -> int:
    """Return a new non-blocking inotify descriptor."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a file or directory; return the watch's number."""
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def inotify_read(fd: int) -> list[tuple[int, int, str]]:
    """Return what has happened: watch, mask and name; empty if nothing has."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    events = []
    offset = 0
    while offset < len(data):
        watch, mask, _cookie, length = struct.unpack_from("=iIII", data, offset)
        name = data[offset + 16 : offset + 16 + length].rstrip(b"\0")
        events.append((watch, mask, os.fsdecode(name)))
        offset += 16 + length
    return events


def has_ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


@cache
def boot_id() -> str:
    """Return the kernel's id of this start of the machine (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def try_read_lock(fd: int, start: int) -> bool:
    """Take an open-file-description read lock from an offset to the end, or return False.

    Such a lock excludes the POSIX locks of other programs and does not vanish when another
    descriptor of the file is closed (fcntl(2), "Open file description locks").
    """
    lock = struct.pack("=hhxxxxqqixxxx", fcntl.F_RDLCK, os.SEEK_SET, start, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except BlockingIOError:
        return False
    return True
