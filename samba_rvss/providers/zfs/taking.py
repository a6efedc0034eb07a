"""How images are taken: all their snapshots in one transaction group, held, and their clones.

Each change by zfs(8) waits for a transaction group to be written. What begins together shares that
wait: so holding goes on beside cloning, and all clones and holds are made side by side; those of
several snapshots by one program, as far as they have nothing to set.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Event

from samba_rvss.clock import now
from samba_rvss.errors import RvssError, attempted
from samba_rvss.model import Mark, Taken
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs import cloning, containers, place, removing, snapshots
from samba_rvss.providers.zfs.batch import Done, hold_and_clone
from samba_rvss.providers.zfs.command import Command, doing
from samba_rvss.providers.zfs.holding import hold
from samba_rvss.providers.zfs.marks import Marks
from samba_rvss.providers.zfs.mounting import mounts
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.snapshots import Snapshots

_logger = logging.getLogger(__name__)


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
    marked: dict[str, Snapshots] = {}
    for image in wanted:
        text = marks.encode(image.mark, pool)
        try:
            with doing(image.what):
                place.require_short_mark(text)
            marked[image.mark.id] = Snapshots(names=image.snapshots, mark=text)
        except RvssError as exc:
            found[image.mark.id] = exc
    failures: dict[str, RvssError] = {}
    homes: dict[str, dict[str, str]] = {}
    side_by_side(
        [
            lambda: failures.update(snapshots.take(zfs, pool, marked)),
            lambda: homes.update(_containers(zfs, pool)),
        ]
    )
    at = now()
    begun = [image for image in wanted if image.mark.id in marked]
    there = [name for image in begun if image.mark.id not in failures for name in image.snapshots]
    common = attempted(partial(cloning.origins, zfs), there)
    clones: dict[str, str] = {}  # their origins: those that one program makes
    if len(there) > 1 and not isinstance(common, RvssError):
        clones = {
            _inside(pool, image.mark): image.snapshots[0]
            for image in begun
            if image.mark.id not in failures and image.mark.branch is None
            if cloning.inherits(image.mark.volume, image.mark.id, image.datasets, common, homes)
        }
    done, ended = Done(), Event()
    late: list[RvssError] = []

    def at_once() -> None:
        nonlocal done
        try:
            if clones:
                done = hold_and_clone(there, clones, zfs.seconds)
        except RvssError as exc:
            late.append(exc)
        finally:
            ended.set()

    def done_at_once() -> Done:
        ended.wait()
        if late:
            raise late[0]
        return done

    def finish(image: Wanted) -> Taken:
        mark, names, of_clone = image.mark, image.snapshots, marked[image.mark.id].mark
        if mark.id in failures:
            raise failures[mark.id]
        if mark.branch is not None:
            ready = replace(mark, branch=replace(mark.branch, ready=True))
            of_clone = marks.encode(ready, pool)
        # One may be gone: then each has its own look.
        known = cloning.origins(zfs, names) if isinstance(common, RvssError) else common
        inside = {} if mark.branch else homes
        parts: list[tuple[str, str]] = []

        def keep() -> None:
            held = done_at_once().held
            hold(zfs, [name for name in names if name not in held])

        def clone() -> None:
            own = _inside(pool, mark)
            if own in clones and own in done_at_once().cloned:
                parts.append((own, ""))
                return
            parts.extend(
                cloning.clone(
                    zfs, pool, mark.volume, mark.id, image.datasets, known, of_clone, inside
                )
            )

        side_by_side([keep, clone])
        opened = mounts(mark.volume, mark.id, parts) if image.opened else []
        return Taken(mounts=opened, transid=known[names[0]].group, at=at)

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

    try:
        side_by_side([at_once, *(partial(make, image) for image in begun)])
    except BaseException:
        for made in found.values():
            for _, fd in made.mounts if isinstance(made, Taken) else []:
                os.close(fd)
        raise
    return found


def _containers(zfs: Command, pool: Pool) -> dict[str, dict[str, str]]:
    """Return the containers' properties; none if they are not told: clones do without."""
    try:
        return containers.properties(zfs, pool)
    except RvssError as exc:
        _logger.warning("no container is used: %s", exc)
        return {}


def _inside(pool: Pool, mark: Mark) -> str:
    """Return what an image's clone is called in a container."""
    return containers.clone_names(pool, mark.volume.id, mark.id)[0]
