"""What the `driver` says and writes down, for whoever takes the power away in the middle of it.

Place: in the machine whose disks outlive it, below `driver`. Contract: an entry is on disk before
`note` returns, so that after a power loss it still tells what was promised. What is said is on
standard output: ``doing VERB FILE-SYSTEM``, ``done VERB FILE-SYSTEM``.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = Path("/var/lib/driver/record")


def say(*words: object) -> None:
    """Tell the other side, at once.

    The port takes 32 KiB at a time (drivers/char/virtio_console.c, port_fops_write()), and an
    unbuffered Python forgets what a write did not take.
    """
    left = f"{' '.join(map(str, words))}\n".encode()
    while left:
        left = left[os.write(1, left) :]


@contextmanager
def doing(verb: str, system: str) -> Iterator[None]:
    """Tell that a verb begins, and that it is over."""
    say("doing", verb, system)
    yield
    say("done", verb, system)


def read() -> list[dict[str, Any]]:
    """Return the record; a last line that was not finished is passed over."""
    if not FILE.exists():
        return []
    text = FILE.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def note(what: str, name: str, **values: object) -> None:
    """Write an entry; it is on disk when this returns."""
    FILE.parent.mkdir(exist_ok=True)
    fd = os.open(FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)
        os.write(fd, f"{json.dumps({'what': what, 'name': name, **values})}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    parent = os.open(FILE.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)
