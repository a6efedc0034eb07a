"""Bare images: backups that recovery wrote nothing to are their snapshots, without clones.

Contract: the mark of an image's outermost snapshot says that it is bare, in that it says that it is
sealed. With that step the snapshots are the image, and the mark has all that is known of it; what
was cloned, or is cloned again for a branch, is read by nobody and can go at any time. An image
whose recovery wrote something, or of which that cannot be told, never becomes bare.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Nested, Volume
from samba_rvss.providers.mark import Marked
from samba_rvss.providers.zfs import cloning, containers, tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD, refuse_used, set_holds
from samba_rvss.providers.zfs.marks import OURS, Marks, is_bare, snapshots_in
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK, PART
from samba_rvss.providers.zfs.tree import Dataset, Snapshot

_logger = logging.getLogger(__name__)

# include/sys/zfs_ioctl.h: struct dmu_replay_record, its drr_type; of a begin the magic number, and
# in the lowest bits of drr_versioninfo the kind of stream: one of snapshots of one dataset.
_RECORD = 312
_BEGIN, _END = 0, 5
_MAGIC = 0x2F5BACBAC
_OF_ONE = 1

_SECONDS = 10.0  # so long its volume's turn may be kept for this: what cannot be told is safe


def parts(zfs: Command, outermost: Snapshot, marked: Marked) -> list[Dataset]:
    """Return the snapshots of a bare image as what is mounted, the outermost first.

    Raises:
        RvssError: NOT_FOUND if one is missing; as a `Command` does.
    """
    found = [outermost]
    if marked.mark.nested is Nested.INCLUDE:
        found = tree.of_image(zfs, outermost, Nested.INCLUDE, [], snapshots_in(marked))
    if len(found) != snapshots_in(marked) or not all(part.directory for part in found[1:]):
        raise RvssError(Problem.NOT_FOUND, f"a snapshot of the image {marked.mark.id} is missing")
    return [_as_part(part) for part in found]


def _as_part(snapshot: Snapshot) -> Dataset:
    return Dataset(
        name=snapshot.name,
        guid=snapshot.guid,
        origin="-",
        read_only=True,
        readonly_here=False,
        locked=snapshot.locked,
        mark=snapshot.mark,
        source=snapshot.source,
        directory=snapshot.directory,
    )


def can_become(
    zfs: Command,
    image: str,
    clones: Sequence[Dataset],
    snapshots: Sequence[Snapshot],
    *,
    seconds: float = _SECONDS,
) -> bool:
    """Return whether a sealed image may become bare: recovery has written nothing to any clone.

    What tells that for certain is what ZFS would send of a difference: nothing at all. How much was
    ``written`` does not: a clone of what was being written to has a new root from the beginning,
    and how large that is depends on how well it can be compressed.

    Args:
        zfs: zfs(8).
        image: its id.
        clones: the outermost one and all that is below it; `tree.keep` has taken their snapshots.
        snapshots: of which those are clones.
        seconds: how long to look at all of them, at most.
    """
    deadline = time.monotonic() + seconds
    origins = [snapshot.name for snapshot in snapshots]
    if sorted(part.origin for part in clones) != sorted(origins):
        return False
    try:
        return all(
            part.read_only and _is_same(zfs, part.origin, f"{part.name}@rvss-{image}", deadline)
            for part in clones
        )
    except RvssError as exc:
        _logger.warning("whether recovery wrote to %s cannot be told: %s", image, exc)
        return False


def _is_same(zfs: Command, older: str, newer: str, deadline: float) -> bool:
    """Return whether two snapshots have the same in them, the newer being a clone's.

    Raises:
        RvssError: as `Command.sent`; TOOL if that cannot be told before a time (`time.monotonic`).
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise RvssError(Problem.TOOL, f"there was no time left to look at {newer}")
    sent = replace(zfs, seconds=min(zfs.seconds, left)).sent(_RECORD * 2 + 1, "-i", older, newer)
    if len(sent) != _RECORD * 2:
        return False
    begin, end = sent[:_RECORD], sent[_RECORD:]
    return (
        _number(begin, 0, 4) == _BEGIN
        and _number(begin, 4, 4) == 0  # nothing follows it
        and _number(begin, 8) == _MAGIC
        and _number(begin, 16) & 3 == _OF_ONE
        and _number(begin, 48) != 0  # it is a difference
        and _number(end, 0, 4) == _END
        and _number(end, 40) == _number(begin, 40) != 0  # to the same snapshot
    )


def _number(record: bytes, at: int, size: int = 8) -> int:
    return int.from_bytes(record[at : at + size], sys.byteorder)


def refuse_moved(zfs: Command, marks: Marks, pool: Pool, image: str) -> None:
    """Refuse to take an image for gone whose outermost snapshot is another dataset's now.

    ``zfs promote`` of a clone moves the snapshots of its origin, with their marks and holds. Of an
    image that is not bare the clones are left, and tell.

    Raises:
        RvssError: BAD_PATH; as a `Command` does.
    """
    for each in tree.marked_snapshots(zfs, pool.name):
        if not tree.is_of(each.name, image) or marks.whose(each, image, pool) not in OURS:
            continue
        marked = marks.read(each)
        if marked is not None and is_bare(marked):
            raise RvssError(
                Problem.BAD_PATH,
                f"{each.name} is of another dataset than its mark says: was one promoted?",
                f"'zfs promote {pool.here(marked.mark.volume.name)}' undoes that; or release its"
                " holds and destroy it by hand",
            )


def prepare(zfs: Command, clones: Sequence[Dataset], snapshots: Sequence[Snapshot]) -> None:
    """Have the snapshots of an image say what their clones do, and be held; again is success."""
    directories = {part.origin: part.directory for part in clones}
    for snapshot in snapshots[1:]:
        zfs("set", f"{PART}={directories[snapshot.name]}", snapshot.name)
    set_holds(zfs, [snapshot.name for snapshot in snapshots], {HOLD}, releasing=False)


def is_shown(mount: MountInfo, image: str) -> bool:
    """Return whether a mount is one of a snapshot of an image, but for those of ``.zfs``.

    Those ZFS makes by itself where somebody looks, and takes them away for who destroys it.
    """
    by_itself = mount.target.endswith(f"/.zfs/snapshot/rvss-{image}")
    return tree.is_of(mount.source, image) and not by_itself


def clear(zfs: Command, marks: Marks, pool: Pool, volume: Volume, image: str) -> None:
    """Destroy the clones of an image if it is bare, and there is no branch of them.

    Raises:
        RvssError: BAD_PATH if the image is not ours; BUSY if somebody holds or uses a clone; HELD
            or NOT_SEALED if there may be in them what is nowhere else; as a `Command` does.
    """
    clones = containers.find(zfs, marks, pool, volume, image)
    snapshot = tree.outermost(zfs, pool, volume, image) if clones else None
    if snapshot is None or clones[0].origin != snapshot.name:
        return
    marks.require(snapshot, image, pool)
    top = clones[0].name
    if not is_bare(marks.read(snapshot)) or _has_branches(zfs, top):
        return
    _refuse_theirs(image, clones)
    zfs("inherit", MARK, top)  # from now on nobody takes it for the image
    kept = tree.kept_snapshots(zfs, top, image)
    for tag, names in refuse_used(zfs, kept, kept, None).items():
        zfs("release", tag, *names)
    tree.destroy_busy(zfs, "-r", top)


def _refuse_theirs(image: str, clones: Sequence[Dataset]) -> None:
    """Refuse to destroy the clones of a bare image with what somebody has put or written there."""
    ours = tree.parts(image, clones)
    for part in clones:
        if part not in ours:
            raise RvssError(Problem.HELD, f"somebody has put {part.name} into it", "take it away")
        if not part.read_only:
            raise RvssError(
                Problem.NOT_SEALED,
                f"somebody has made {part.name} writable",
                "copy away what was written there, then set readonly=on",
            )


def _has_branches(zfs: Command, top: str) -> bool:
    return any(each.source == "local" for each in tree.marked_snapshots(zfs, top))


def clone_again(
    zfs: Command, marks: Marks, pool: Pool, volume: Volume, image: str, found: Sequence[Dataset]
) -> None:
    """Clone a bare image again, read-only: because its clones are to be branched.

    Args:
        zfs: zfs(8).
        marks: tells whose it is.
        pool: the volume's.
        volume: what it is an image of.
        image: its id.
        found: what `parts` returned.

    Raises:
        RvssError: as `clear`; as a `Command` does. Then nothing is left of them.
    """
    clear(zfs, marks, pool, volume, image)
    datasets = {
        part.name.partition("@")[0]: json.loads(part.directory) if number else ""
        for number, part in enumerate(found)
    }
    own = replace(volume, name=next(iter(datasets)))
    try:
        known = cloning.origins(zfs, [part.name for part in found])
        cloning.clone(zfs, pool, own, image, datasets, known, found[0].mark, sealed=True)
    except RvssError:
        clear(zfs, marks, pool, volume, image)
        raise
