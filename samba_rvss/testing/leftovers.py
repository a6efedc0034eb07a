"""What a test process has: children, mounts, loop devices and open descriptors.

Place: below `plugin`, which compares before and after. Contract: it looks, and changes nothing.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from samba_rvss.kernel import mounttable, processes

ASIDE: set[int] = set()
"""Processes that work for the session while its tests run: what they start belongs to no test."""

PREFIX = "rvss-test-"
"""What the name of a rig's directory begins with; the process id follows."""


def _children() -> Iterator[tuple[str, str]]:
    aside = set(ASIDE)
    for pid in processes.descendants(os.getpid()):  # parents come before their children
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended and reaped while we looked
        if int(fields[1]) in aside:
            aside.add(pid)
            continue
        shown = words.replace("\0", " ").strip() or "ended, but not waited for"
        # A pid comes back, a pid with its start time does not.
        yield f"child {pid} {fields[19].decode()}", f"process {pid} ({shown})"


def _backing_files() -> dict[str, str]:
    files = {}
    for device in Path("/sys/block").glob("loop*"):
        try:
            backing = (device / "loop" / "backing_file").read_text("utf-8", "replace")
        except OSError as exc:
            # Not in use, or freed while we looked.
            if exc.errno not in {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
                raise
            continue
        files[f"/dev/{device.name}"] = backing.strip()
    return files


def _is_ours(path: str) -> bool:
    """Return whether a file is in a rig directory of this process, not of another process."""
    return f"/{PREFIX}{os.getpid()}-" in path


def _devices() -> Iterator[tuple[str, str]]:
    files = {d: f for d, f in _backing_files().items() if _is_ours(f)}
    for device, file in files.items():
        yield f"loop {device} {file.removesuffix(' (deleted)')}", f"loop device {device} of {file}"
    for mount in mounttable.mountinfo():
        on_a_loop = mount.source.startswith("/dev/loop")
        if mount.source not in files if on_a_loop else not _is_ours(mount.target):
            continue
        yield f"mount {mount.id} {mount.target}", f"mount of {mount.source} at {mount.target}"


def _descriptors() -> Iterator[tuple[str, str]]:
    for name in os.listdir("/proc/self/fd"):
        path = Path("/proc/self/fd", name)
        try:
            status, link = path.stat(), str(path.readlink())
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        # Samba's libraries open a database once (registry.tdb, when a configuration includes the
        # registry) and keep it until the process ends. Their connections they do close.
        if not link.removesuffix(" (deleted)").endswith(".tdb"):
            key = f"descriptor {name} {status.st_dev}:{status.st_ino}"
            yield key, f"file descriptor {name} of {link}"


def belongings() -> dict[str, str]:
    """Return what this process has: children, mounts, loop devices and open descriptors.

    A process that has made itself a daemon is not our child and not seen: each rig ends its own.
    Loop devices of other test processes, and what is mounted of them, are left out.

    Returns:
        For each, a key that stays the same as long as it exists, and the words that name it.
    """
    return dict((*_children(), *_devices(), *_descriptors()))
