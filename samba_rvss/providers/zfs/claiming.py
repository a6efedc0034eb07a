"""Writing the mark of an image anew, and the step with which an image becomes bare."""

from collections.abc import Sequence
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Mark
from samba_rvss.providers.zfs import bare, containers, tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.marks import Marks, snapshots_in
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.tree import Dataset, Snapshot


def claim(zfs: Command, marks: Marks, pool: Pool, mark: Mark) -> None:
    """Write an image's mark.

    The outermost snapshot says whose the image is: its mark is written last. Where recovery has
    written nothing to what becomes a backup, that is the step with which the image is bare.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.claim`.
    """
    snapshot = tree.outermost(zfs, pool, mark.volume, mark.id)
    if snapshot is None:
        raise RvssError(Problem.NOT_FOUND, "its snapshot does not exist")
    clones = containers.find(zfs, marks, pool, mark.volume, mark.id)
    if not clones or clones[0].origin != snapshot.name or not clones[0].mark:
        clones = []
    count = snapshots_in(marks.read(snapshot))
    found = tree.of_image(zfs, snapshot, mark.nested, tree.parts(mark.id, clones), count)
    if not count and clones and _becomes_bare(zfs, marks, mark, clones, found):
        bare.prepare(zfs, clones, found)
        count = len(found)
    elif clones:
        zfs("set", f"{MARK}={marks.encode(mark, pool, count)}", clones[0].name)
    plain = marks.encode(replace(mark, sealed=None, kept=None), pool)
    for other in reversed(found[1:]):
        zfs("set", f"{MARK}={plain}", other.name)
    outermost = marks.encode(mark, pool, count) if count else plain
    zfs("set", f"{MARK}={outermost}", snapshot.name)


def _becomes_bare(
    zfs: Command,
    marks: Marks,
    mark: Mark,
    clones: Sequence[Dataset],
    snapshots: Sequence[Snapshot],
) -> bool:
    """Return whether this is the step from a shadow copy to a backup, and that can be bare."""
    before = marks.read(clones[0])
    if not mark.is_backup or before is None or before.mark.is_backup:
        return False
    return bare.can_become(zfs, mark.id, clones, snapshots)
