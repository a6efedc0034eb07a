"""How an image is taken: snapshots in one transaction group, held, and their clones."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from samba_rvss.errors import RvssError
from samba_rvss.model import Mark
from samba_rvss.providers.zfs import place
from samba_rvss.providers.zfs.cloning import clone
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.marks import Marks
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK

T = TypeVar("T")


def take(
    zfs: Command,
    marks: Marks,
    pool: Pool,
    mark: Mark,
    datasets: dict[str, str],
    undo: Callable[[Sequence[str], str], None],
    then: Callable[[], T],
) -> tuple[int, T]:
    """Take an image of datasets.

    Args:
        zfs: zfs(8).
        marks: encodes the mark.
        pool: the datasets'.
        mark: the image's; the clone of a branch bears that it is ready.
        datasets: the volume's own first, and the directory of each in the volume.
        undo: removes what is there of it; gets the names of the snapshots, and the mark on them.
        then: a function that is called when it is there; if it fails, nothing is left.

    Returns:
        The transaction group in which it was taken, and what the function returned.

    Raises:
        RvssError: NOT_SUPPORTED if the mark is too long; as a `Command` does.
    """
    snapshots = [f"{dataset}@rvss-{mark.id}" for dataset in datasets]
    encoded = of_clone = marks.encode(mark, pool)
    place.require_short_mark(encoded)
    if mark.branch is not None:
        ready = replace(mark, branch=replace(mark.branch, ready=True))
        of_clone = marks.encode(ready, pool)
    try:
        # One transaction group: nested datasets are of the same instant.
        zfs("snapshot", "-o", f"{MARK}={encoded}", *snapshots)
        # Each change by zfs(8) waits for a transaction group: the hold waits while the
        # properties are read and the clone is begun.
        with ThreadPoolExecutor(1) as beside:
            hold = beside.submit(zfs, "hold", HOLD, *snapshots)
            group = clone(zfs, pool, mark.volume, mark.id, datasets, of_clone)
            hold.result()
        return group, then()
    except RvssError as exc:
        try:
            undo(snapshots, encoded)
        except RvssError as left:
            exc.add_note(f"and not all of it could be undone: {left}")
        raise
