"""What a whole session of this floor could leave on the machine.

The rigs and the tests see to their own; this looks at the machine as a whole, after all of them.
What bears another process's number is another session's and left out.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from samba_rvss.kernel import mounttable
from samba_rvss.run import run
from samba_rvss.samba import fss_state
from samba_rvss.testing.plugin import CAPABILITIES

_SECONDS = 60.0
# Rigs name their directories and pools so; the pools hold images of ours, which others may too.
_NAMED = re.compile(r"rvss-(?:test-)?(\d+)-")
_OURS = re.compile(r"[@/](?:samba-)?rvss(?:-|/|$)")
# Debian's "lock directory"; there is none where no Samba was ever started.
_FSS = Path("/run/samba/srv_fss.tdb")


def _concerns_us(text: str) -> bool:
    return str(os.getpid()) in _NAMED.findall(text)


def _processes() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
            place = os.readlink(entry / "cwd")
        except OSError:
            continue  # it has ended, or is the kernel's
        if int(entry.name) != os.getpid() and _concerns_us(f"{words} {place}/"):
            yield f"process {entry.name}: {words.strip()} in {place}"


def _mounts() -> Iterator[str]:
    for mount in mounttable.mountinfo():
        if _concerns_us(f"{mount.target} {mount.source} {mount.root}"):
            yield f"mount of {mount.source} at {mount.target}"


def _loops() -> Iterator[str]:
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text("utf-8", "replace").strip()
        except OSError:
            continue  # it is being freed
        if _concerns_us(backing):
            yield f"loop device of {backing}"


def _zfs() -> Iterator[str]:
    if CAPABILITIES["zfs"]():
        return
    names = run(["zfs", "list", "-H", "-t", "all", "-o", "name"], timeout=_SECONDS).splitlines()
    kept = [n for n in names if _OURS.search(n) and not _NAMED.match(n)]
    kept += [n for n in names if _concerns_us(n)]
    yield from kept
    if snapshots := [name for name in kept if "@" in name]:
        for row in run(["zfs", "holds", "-H", *snapshots], timeout=_SECONDS).splitlines():
            yield f"hold {row}"


def _samba() -> Iterator[str]:
    """The machine's own: nothing of it is ever touched."""
    for share in run(["net", "conf", "listshares"], timeout=_SECONDS).splitlines():
        yield f"share {share} in the machine's registry"
    state = fss_state.read(str(_FSS)) if _FSS.exists() else None
    if state is not None:
        yield f"{state.sets} sets in {_FSS}"
        yield f"{_FSS} is {hashlib.sha256(_FSS.read_bytes()).hexdigest()}"


def _files() -> Iterator[str]:
    for path in Path("/tmp").iterdir():
        if _concerns_us(path.name):
            yield f"{path}"


def everything() -> set[str]:
    """Return what there is, each as a sentence would name it."""
    return {*_processes(), *_mounts(), *_loops(), *_zfs(), *_samba(), *_files()}
