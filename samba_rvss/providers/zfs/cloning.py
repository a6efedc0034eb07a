"""How the clones of an image are made from its snapshots, with the properties of their origins."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.containers import alike, clone_names, make_home
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import (
    COPIED,
    FIXED,
    MARK,
    OUTERMOST,
    PART,
    SEALED,
    options,
)

_BESIDE = 32  # programs for one image
_GROUP = "createtxg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A snapshot, and its dataset as it is now.

    Attributes:
        guid: the dataset's.
        group: the transaction group in which the snapshot was taken.
        properties: those that a clone of the snapshot gets from it.
    """

    guid: str
    group: int
    properties: Mapping[str, str]


def origins(zfs: Command, snapshots: Sequence[str]) -> dict[str, Origin]:
    """Return what there is to know of snapshots, by their names.

    Args:
        zfs: zfs(8).
        snapshots: their names. They exist: so the datasets with these names are those that were
            snapshotted.

    Raises:
        RvssError: as a `Command` does.
    """
    datasets = [name.partition("@")[0] for name in snapshots]
    found = zfs.properties([*datasets, *snapshots], ["guid", _GROUP, *COPIED])
    return {
        snapshot: Origin(
            guid=found[dataset]["guid"],
            group=int(found[snapshot][_GROUP]),
            properties={key: found[dataset][key] for key in COPIED if key in found[dataset]},
        )
        for dataset, snapshot in zip(datasets, snapshots, strict=True)
    }


def _snapshot(dataset: str, image: str) -> str:
    return f"{dataset}@rvss-{image}"


def inherits(
    volume: Volume,
    image: str,
    datasets: Mapping[str, str],
    known: Mapping[str, Origin],
    containers: Mapping[str, Mapping[str, str]],
) -> bool:
    """Return whether an image's clone inherits from a container all that it must have.

    Args:
        volume: as `clone` takes them.
        image: its id.
        datasets: the datasets that were snapshotted.
        known: what `origins` returned.
        containers: what `containers.properties` returned.
    """
    outer, *inner = datasets
    origin = known[_snapshot(outer, image)]
    there = containers.get(volume.id)
    return not inner and origin.guid == volume.id and there == alike(origin.properties)


def clone(
    zfs: Command,
    pool: Pool,
    volume: Volume,
    image: str,
    datasets: Mapping[str, str],
    known: Mapping[str, Origin],
    mark: str,
    containers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    *,
    sealed: bool = False,
) -> list[tuple[str, str]]:
    """Clone the snapshots of an image; return the clones' names, and the directory of each.

    Args:
        zfs: zfs(8).
        pool: the volume's.
        volume: the volume that it is an image of.
        image: its id.
        datasets: the datasets that were snapshotted, the volume's own first, and the directory of
            each in the volume.
        known: what `origins` returned of them.
        mark: the image's mark as text.
        containers: what `containers.properties` returned, if it may be cloned into one.
        sealed: whether the clones are read-only from the beginning.

    Raises:
        RvssError: BAD_PATH if the volume's name is another dataset's by now, else as a `Command`.
    """
    (outer, _), *inner = datasets.items()
    origin = known[_snapshot(outer, image)]
    if origin.guid != (volume.id or origin.guid):
        # It has no id if its mark is of the first form.
        raise RvssError(
            Problem.BAD_PATH, f"{volume.name} is not the dataset that was checked", "try again"
        )
    inside, top = clone_names(pool, origin.guid, image)
    if inherits(volume, image, datasets, known, containers):
        try:
            zfs("clone", _snapshot(outer, image), inside)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:  # it was removed just now
                raise
        else:
            return [(inside, "")]
    own = {} if inner else {MARK: mark}
    outermost = SEALED if sealed else OUTERMOST
    words = ["clone", *options({**origin.properties, **FIXED, **outermost, **own})]
    words += [_snapshot(outer, image), top]
    try:
        zfs(*words)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        make_home(zfs, pool)
        zfs(*words)
    made = [(top, "")]
    if not inner:
        return made
    clones = []
    for number, (dataset, directory) in enumerate(inner, 1):
        part = {PART: json.dumps(directory)}
        snapshot = _snapshot(dataset, image)
        words = ["clone", *options({**known[snapshot].properties, **FIXED, **part})]
        made.append((f"{top}/{number}", directory))
        clones.append(partial(zfs, *words, snapshot, made[-1][0]))
    side_by_side(clones, _BESIDE)
    # The mark comes last: a clone that bears it is complete.
    zfs("set", f"{MARK}={mark}", top)
    return made
