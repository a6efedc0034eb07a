"""inotify(7): what happens to files and directories."""

import os
import struct

from samba_rvss.kernel.libc import checked, libc

# sys/inotify.h
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000


def start() -> int:
    """Return a new non-blocking inotify descriptor."""
    return checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a file or directory; return the watch's number."""
    return checked(libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def read(fd: int) -> list[tuple[int, int, str]]:
    """Return the events so far, each as watch, mask and name; never waits."""
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
