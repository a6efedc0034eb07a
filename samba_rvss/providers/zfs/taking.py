"""How images are taken: all their snapshots in one transaction group, held, and their clones.

Each change by zfs(8) waits for a transaction group to be written. What begins together shares that
wait: so holding goes on beside cloning, and all clones are made side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from samba_rvss.clock import now
from samba_rvss.errors import RvssError
from samba_rvss.model import Mark, Taken
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs import cloning, containers, place, removing, snapshots
from samba_rvss.providers.zfs.command import Command, doing
from samba_rvss.providers.zfs.holding import hold
from samba_rvss.providers.zfs.marks import Marks
from samba_rvss.providers.zfs.mounting import mounts
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.snapshots import Marked

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image that is wanted.

    Attributes:
        mark: its mark; the clone of a branch bears that it is ready.
        datasets: the volume's own first, and the directory of each in the volume.
        opened: whether its mounts are wanted.
        what: what is said of it before the reason why it is not there.
    """

    mark: Mark
    datasets: Mapping[str, str]
    opened: bool
    what: str

    @property
    def snapshots(self) -> list[str]:
        """The names of its snapshots, in the order of its datasets."""
        return [f"{dataset}@rvss-{self.mark.id}" for dataset in self.datasets]


class _Common(Generic[R]):
    """What is done to the snapshots of all images at once, or, where that fails, of each image.

    Args:
        action: does it to snapshots.
        names: those of all images.
    """

    def __init__(self, action: Callable[[Sequence[str]], R], names: Sequence[str]) -> None:
        self._action = action
        self._names = names
        self._done = Future[R]()

    def begin(self) -> None:
        """Do it to all."""
        try:
            self._done.set_result(self._action(self._names))
        except BaseException as exc:  # noqa: BLE001 - who waits for it is told
            self._done.set_exception(exc)

    def of(self, names: Sequence[str]) -> R:
        """Return the result for all, once it is there; or that for some alone.

        Raises:
            RvssError: as the action does.
        """
        try:
            return self._done.result()
        except RvssError:
            return self._action(names)


def take(
    zfs: Command, marks: Marks, pool: Pool, wanted: Sequence[Wanted]
) -> dict[str, Taken | RvssError]:
    """Take images of datasets of one pool, all of one instant; what fails leaves nothing behind.

    Args:
        zfs: zfs(8).
        marks: encodes the marks.
        pool: the datasets'.
        wanted: the images.

    Returns:
        By their ids, what was taken, or why it was not: NOT_SUPPORTED if a mark is too long,
        BAD_PATH, or as a `Command` says.
    """
    found: dict[str, Taken | RvssError] = {}
    marked: dict[str, Marked] = {}
    for image in wanted:
        text = marks.encode(image.mark, pool)
        try:
            with doing(image.what):
                place.require_short_mark(text)
            marked[image.mark.id] = Marked(names=image.snapshots, mark=text)
        except RvssError as exc:
            found[image.mark.id] = exc
    homes = _Common(lambda _: containers.properties(zfs, pool), [])
    failures: dict[str, RvssError] = {}
    side_by_side([lambda: failures.update(snapshots.take(zfs, pool, marked)), homes.begin])
    at = now()
    names = [name for image, each in marked.items() if image not in failures for name in each.names]
    holding = _Common(partial(hold, zfs), names)
    reading = _Common(partial(cloning.origins, zfs), names)

    def finish(image: Wanted) -> Taken:
        mark, names = image.mark, marked[image.mark.id].names
        if mark.id in failures:
            raise failures[mark.id]
        of_clone = marked[mark.id].mark
        if mark.branch is not None:
            ready = replace(mark, branch=replace(mark.branch, ready=True))
            of_clone = marks.encode(ready, pool)
        known = reading.of(names)
        parts = cloning.clone(
            zfs, pool, mark.volume, mark.id, image.datasets, known, of_clone, homes.of([])
        )
        holding.of(names)
        opened = mounts(mark.volume, mark.id, parts) if image.opened else []
        return Taken(mounts=opened, transid=known[mark.volume.name].group, at=at)

    def make(image: Wanted) -> None:
        mark = image.mark
        try:
            with doing(image.what):
                found[mark.id] = finish(image)
        except RvssError as exc:
            try:
                removing.undo(zfs, marks, pool, mark, marked[mark.id])
            except RvssError as left:
                exc.add_note(f"and not all of it could be undone: {left}")
            found[mark.id] = exc

    making = [partial(make, image) for image in wanted if image.mark.id in marked]
    side_by_side([holding.begin, reading.begin, *making])
    return found
