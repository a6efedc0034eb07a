"""Processes: what /proc says of them, and who is at the other end of a socket; the boot.

What reads /proc raises OSError: ESRCH or ENOENT if a process has ended, EACCES if it may not be
read. Nothing but `executable_uid` touches another process's files, which may be on a server that
does not answer.
"""

import ctypes
import errno
import gc
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from samba_rvss.kernel import files
from samba_rvss.kernel.libc import checked, libc

# asm-generic/socket.h (Linux 6.5)
SO_PEERPIDFD = 77
# linux/capability.h
CAP_DAC_READ_SEARCH = 2
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
_CAPABILITY_VERSION = 0x20080522
# A program may close all that it might have inherited, one by one.
_MOST_FILES = 524288
_MOST_READ = 4096
_M_ARENA_MAX, _POOLS = -8, 2  # malloc.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of a Unix socket when it connected.

    Attributes:
        worker: what tells the worker of Samba that started it from all others; empty if none did.
    """

    pid: int
    uid: int
    gid: int
    worker: str = ""


def peer_credentials(sock: socket.socket) -> Peer:
    """Return who connected (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("=iII", raw)
    return Peer(pid=pid, uid=uid, gid=gid)


def peer_pidfd(sock: socket.socket, pid: int) -> int:
    """Return a pidfd of the peer, by its pid where the kernel has no SO_PEERPIDFD."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as exc:
        # Any other error: it has ended, and its pid may be somebody else's by now.
        if exc.errno != errno.ENOPROTOOPT:
            raise
        return os.pidfd_open(pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process; ``uid`` is its effective one, ``executable`` the path of its program."""

    pid: int
    parent: int
    uid: int
    saved_uid: int
    executable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A file that a process has open.

    Attributes:
        path: as the process sees it.
        mount: id of the mount that it was opened through, -1 if the kernel names none.
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


def end_session(leader: int) -> None:
    """Kill all processes of a session, among them its leader, who has to be our child.

    As long as he is not waited for, or one of the others is there, no other session has his number.
    """
    known: set[int] = set()
    while found := {pid for pid in pids() if _session(pid) == leader} - known:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        known |= found  # one that waits for a device is not gone at once


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def process(pid: int) -> Process:
    """Read one process."""
    status = _read(pid, "status")
    _, uid, saved = _field(status, b"Uid")[:3]
    (parent,) = _field(status, b"PPid")
    executable = os.readlink(f"/proc/{pid}/exe")
    return Process(pid=pid, parent=parent, uid=uid, saved_uid=saved, executable=executable)


def _read(pid: int, name: str) -> bytes:
    """Return what stands in a file of a process's in /proc, at most 4 KiB of it.

    Callouts wait for this: it is one call, and neither buffered nor decoded.
    """
    with files.opened(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)) as fd:
        return os.read(fd, _MOST_READ)


def _stat(pid: int) -> list[bytes]:
    """Return what /proc/PID/stat says after the name, which may have anything in it (proc(5))."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _field(status: bytes, name: bytes) -> list[int]:
    """Return the numbers of a line of /proc/PID/status.

    The name of the process, which comes first, has no line break of its own (fs/proc/array.c,
    proc_task_name()).
    """
    _, _, rest = status.partition(b"\n%b:" % name)
    return [int(word) for word in rest.partition(b"\n")[0].split()]


def groups(pid: int) -> tuple[int, ...]:
    """Return the supplementary groups of a process."""
    with open(f"/proc/{pid}/status", "rb") as status:
        line = next(line for line in status if line.startswith(b"Groups:"))
    return tuple(map(int, line.split()[1:]))


def is_capable(capability: int) -> bool:
    """Return whether this process has a capability in effect (proc(5), status)."""
    with open("/proc/thread-self/status", "rb") as status:
        effective = next(int(line.split()[1], 16) for line in status if line[:7] == b"CapEff:")
    return bool(effective >> capability & 1)


def keep_capability(capability: int) -> None:
    """Have this thread, and those that it starts, give up all capabilities but one that it has."""
    kept = is_capable(capability) << capability
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    low, high = kept & 0xFFFFFFFF, kept >> 32  # effective, permitted, inheritable
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    checked(libc.capset(header, data))


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
    """Return when a process was started, in seconds since the boot (proc(5), stat).

    The answer is 0.0 for a process that has ended.
    """
    try:
        ticks = _stat(pid)[19]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process, parents before their children; zombies count too."""
    children: dict[int, list[int]] = {}
    for child in pids():
        try:
            parent = int(_stat(child)[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def mount_namespace(pid: int) -> str:
    """Return the identity of a process's mount namespace."""
    return os.readlink(f"/proc/{pid}/ns/mnt")


def shares_namespace(pid: int, kind: str) -> bool:
    """Return whether a process is in the same namespace as we are.

    Args:
        pid: its number.
        kind: "pid" or "user", as in /proc/PID/ns (namespaces(7)).
    """
    return os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")


def working_directory(pid: int) -> str:
    """Return the working directory of a process, by its path in that process's mount namespace."""
    return os.readlink(f"/proc/{pid}/cwd")


def open_files(pid: int) -> Iterator[HeldFile]:
    """Yield the files that a process has open; a file that it closes meanwhile may be missing."""
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


def unix_connections(pid: int) -> dict[int, str]:
    """Return the connections over Unix stream sockets that a process has open.

    Returns:
        The number of each end that is the process's, which no other socket has while it lives, and
        the address that it has, or was accepted at; empty if it has none.
    """
    held = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            if target.startswith("socket:["):
                held.add(target[8:-1].encode())
    found = {}
    with open(f"/proc/{pid}/net/unix", "rb") as sockets:
        for line in sockets:
            # net/unix/af_unix.c, unix_seq_show(): SOCK_STREAM, and SS_CONNECTED
            words = line.rstrip(b"\n").split(None, 7)
            if len(words) > 6 and words[6] in held and words[4:6] == [b"0001", b"03"]:
                found[int(words[6])] = os.fsdecode(words[7] if len(words) > 7 else b"")
    return found


def has_ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def lead() -> None:
    """Be in a process group that nobody else is in who did not come from us.

    Who was started in the group of a terminal's program gets no more signals of that terminal.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)


def share_memory() -> None:
    """Have the threads of this process take their memory from few pools, before it has any.

    glibc gives each thread one of its own, up to eight for each processor, and what was used once
    in a pool stays the process's (malloc(3), mallopt(3)); other libraries have no such call.
    """
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _POOLS)


def keep_loaded() -> None:
    """Have the interpreter's collector leave alone what there is by now; it stays anyway.

    To go through all that a daemon has loaded takes 15 ms and more, in which no thread of it runs.
    """
    gc.collect()
    gc.freeze()


def open_many_files() -> None:
    """Let this process, and those that it starts, have as many files open as it may let them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
