"""Who else keeps an image: holds that are not ours, and clones that others have made.

What they keep is theirs as well. Before a deletion begins it is refused; should they come later,
`tree.destroy` stops where it is.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from samba_rvss.providers.zfs import containers, tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import TAGGED, refuse_held, refuse_used, set_holds
from samba_rvss.providers.zfs.marks import OURS, Marks, snapshots_in
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.tree import Dataset, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All that an image consists of.

    Attributes:
        snapshots: of its volume and what is nested in that, the outermost first.
        clones: of those; likewise.
        kept: the names of the clones' own snapshots.
        others: the names of snapshots of the clones that somebody else has made; those that
            branches of ours are clones of are not among them.
    """

    snapshots: Sequence[Snapshot]
    clones: Sequence[Dataset]
    kept: Sequence[str]
    others: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The names of all its own snapshots."""
        return [*(snapshot.name for snapshot in self.snapshots), *self.kept]


def whole(zfs: Command, marks: Marks, pool: Pool, volume: Volume, image: str) -> Whole:
    """Return all that an image of ours consists of.

    Raises:
        RvssError: NOT_FOUND, BAD_PATH if it is not ours; as a `Command` does.
    """
    snapshot = tree.outermost(zfs, pool, volume, image)
    if snapshot is None:
        raise RvssError(Problem.NOT_FOUND, "its snapshot does not exist")
    mark = marks.require(snapshot, image, pool)
    count = snapshots_in(marks.read(snapshot))
    found = containers.find(zfs, marks, pool, volume, image)
    clones = tree.parts(image, found)
    below = tree.snapshots_below(zfs, found[0].name) if found else []
    kept = [name for name in below if tree.is_of(name, image)]
    ours = {*kept, *(_of_branches(zfs, marks, pool, found[0].name) if found else ())}
    return Whole(
        snapshots=tree.of_image(zfs, snapshot, mark.nested, clones, count),
        clones=clones,
        kept=kept,
        others=[name for name in below if name not in ours],
    )


def _of_branches(zfs: Command, marks: Marks, pool: Pool, top: str) -> Iterator[str]:
    for snapshot in tree.marked_snapshots(zfs, top):
        image = snapshot.name.rpartition("@rvss-")[2]
        if marks.whose(snapshot, image, pool) in OURS:
            yield snapshot.name


def require_free(zfs: Command, image: Whole) -> None:
    """Refuse to go on where others hold a snapshot of an image, or have a clone of it.

    Raises:
        RvssError: HELD; as a `Command` does.
    """
    try:
        tree.refuse_cloned(image.snapshots, image.clones)
        refuse_used(zfs, image.kept, image.names, None)
        refuse_held(zfs, image.others)
    except RvssError as exc:
        if exc.problem is not Problem.BUSY:
            raise
        raise RvssError(Problem.HELD, exc.message, exc.hint) from exc


def hold(zfs: Command, image: Whole, tags: Collection[str]) -> None:
    """See that an image has the holds that an administrator has asked for, and no other of those.

    Raises:
        RvssError: as a `Command` does.
    """
    set_holds(zfs, image.names, [f"{TAGGED}{tag}" for tag in tags], releasing=True)
