"""The clones and snapshots that an image consists of: finding and destroying them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from samba_rvss.providers.zfs.command import Command

HOME = "samba-rvss"
HOLD = "samba-rvss"
_BUSY_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A clone of ours, or a dataset that somebody has put into one."""

    name: str
    origin: str


def clone_name(volume: Volume, image: str) -> str:
    """Return the name of an image's outermost clone."""
    return f"{volume.file_system}/{HOME}/{image}"


def clones(zfs: Command, top: str) -> list[Clone]:
    """Return the outermost clone of an image and all below it; empty if it does not exist.

    Raises:
        RvssError: as a `Command` does; so do the other functions.
    """
    try:
        words = ("list", "-H", "-r", "-t", "filesystem,volume", "-o", "name,origin")
        rows = zfs.table(*words, top, columns=2)
    except RvssError as exc:
        if exc.problem is Problem.NOT_FOUND:
            return []
        raise
    return [Clone(name=name, origin=origin) for name, origin in rows]


def snapshot(zfs: Command, volume: Volume, image: str) -> str:
    """Return an image's outermost snapshot, whatever its dataset is called now; empty if none."""
    if exists(zfs, f"{volume.name}@rvss-{image}"):
        return f"{volume.name}@rvss-{image}"
    words = ("list", "-H", "-p", "-r", "-t", "filesystem", "-o", "name,guid", volume.file_system)
    for name, found in zfs.table(*words, columns=2):
        if found == volume.id and exists(zfs, f"{name}@rvss-{image}"):
            return f"{name}@rvss-{image}"
    return ""


def exists(zfs: Command, name: str) -> bool:
    """Return whether there is a dataset or snapshot of a name."""
    try:
        zfs("list", "-H", "-t", "filesystem,volume,snapshot", "-o", "name", name)
    except RvssError as exc:
        if exc.problem is Problem.NOT_FOUND:
            return False
        raise
    return True


def destroy(zfs: Command, clones: Sequence[Clone], snapshots: Sequence[str]) -> None:
    """Destroy an image, its outermost snapshot last; what others hold stays as it is.

    Raises:
        RvssError: BUSY if somebody holds or uses a part of it; what was destroyed before is gone.
    """
    held = []
    for name, tag, _ in zfs.table("holds", "-H", *snapshots, columns=3):
        if tag != HOLD:
            raise RvssError(
                Problem.BUSY, f"somebody holds {name} as '{tag}'", f"zfs release '{tag}' it"
            )
        held.append(name)
    if clones:
        _destroy_busy(zfs, clones[0].name)
    if held:
        zfs("release", HOLD, *held)
    for name in reversed(snapshots):
        zfs("destroy", name)


def _destroy_busy(zfs: Command, dataset: str) -> None:
    """Destroy a dataset with all in it; try for a moment, as it may be unmounted just now."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            zfs("destroy", "-r", dataset)
            return
        except RvssError as exc:
            if exc.problem is not Problem.BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.1)  # a lazy unmount lets go a moment later
