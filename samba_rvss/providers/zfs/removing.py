"""Removing an image with all that it consists of, and naming who keeps it.

The outermost snapshot bears the mark from the beginning, and goes last. What others hold or use is
named and left alone; so is what others have put in the place of our clone.
"""

import logging
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Mark, Volume
from samba_rvss.providers.mark import unheld
from samba_rvss.providers.zfs import bare, busy, containers, tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.marks import Marks, is_bare, snapshots_in
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.snapshots import Snapshots

_logger = logging.getLogger(__name__)


def destroy(zfs: Command, marks: Marks, pool: Pool, volume: Volume, image: str) -> None:
    """Remove an image and everything in it. Gone already is success.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.destroy`; BAD_PATH if what was cloned from it
            was promoted.
    """
    clones = containers.find(zfs, marks, pool, volume, image)
    # Datasets may have been renamed: their snapshots went with them.
    known = clones[0].origin if clones and tree.is_of(clones[0].origin, image) else ""
    snapshot = tree.outermost(zfs, pool, volume, image, known)
    if snapshot is None:
        if clones:
            message = f"{clones[0].name} is no clone of a snapshot of ours"
            raise RvssError(Problem.BAD_PATH, message, "see who made it")
        bare.refuse_moved(zfs, marks, pool, image)
        return
    mark = marks.require(snapshot, image, pool)
    marked = marks.read(snapshot)
    if clones and clones[0].origin != snapshot.name:
        clones = []
    over = set[str]()
    if is_bare(marked):
        over = unheld(mark)
    elif clones and clones[0].mark:
        over = unheld(marks.require(clones[0], image, pool))
    parts = tree.parts(image, clones)
    for part in clones:
        if part not in parts:
            raise RvssError(Problem.BUSY, f"somebody has put {part.name} into it", "take it away")
    found = tree.of_image(zfs, snapshot, mark.nested, parts, snapshots_in(marked))
    for other in found[1:]:
        marks.require(other, image, pool)
    snapshots = [part.name for part in found]

    def begin() -> None:
        if is_bare(marked) and len(found) > 1:
            plain = marks.encode(replace(mark, sealed=None, kept=None), pool)
            _set_mark(zfs, plain, snapshot.name)

    try:
        tree.refuse_cloned(found, parts)
        tree.destroy(zfs, parts[0].name if parts else "", snapshots, image, over, begin)
    except RvssError as exc:
        if exc.problem is not Problem.BUSY:
            raise
        names = [*(part.name for part in parts), *(snapshots if is_bare(marked) else ())]
        outermost = {snapshot.name, *(part.name for part in parts[:1])}
        mounted = {name: volume.directory if name in outermost else "" for name in names}
        who = "; ".join(busy.holders(zfs, mounted, snapshots))
        message = f"{exc.message} ({who})" if who else exc.message
        raise RvssError(exc.problem, message, exc.hint) from exc


def undo(zfs: Command, marks: Marks, pool: Pool, mark: Mark, made: Snapshots) -> None:
    """Remove what there is of an image that was being made, also of a dataset with another's name.

    Of such a one only the snapshots were made, and they bear the mark that was just written.

    Args:
        zfs: zfs(8).
        marks: tells whose it is.
        pool: the volume's.
        mark: the image's.
        made: its snapshots.

    Raises:
        RvssError: as `destroy`.
    """
    try:
        destroy(zfs, marks, pool, mark.volume, mark.id)
    except RvssError as exc:
        if exc.problem is not Problem.BAD_PATH:
            raise
    found = [tree.snapshot(zfs, name) for name in made.names]
    ours = [
        each.name
        for each in found
        if each is not None and (each.source, each.mark) == ("local", made.mark)
    ]
    if ours:
        tree.destroy(zfs, "", ours)


def _set_mark(zfs: Command, mark: str, snapshot: str) -> None:
    """Have half of a bare image not look like a whole one; where there is no room, it goes anyway.

    Its mark says of how many snapshots it consists, and destroying needs less room than writing.
    """
    try:
        zfs("set", f"{MARK}={mark}", snapshot)
    except RvssError as exc:
        if exc.problem is not Problem.NO_SPACE:
            raise
        _logger.warning("the mark of %s cannot say that it goes: %s", snapshot, exc)
