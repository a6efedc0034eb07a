"""How the clones of an image are made from its snapshots, with the properties of their origins."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from samba_rvss.providers.zfs import tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import (
    CONTAINER,
    COPIED,
    FIXED,
    MARK,
    OUTERMOST,
    PART,
    SEALED,
    options,
)

_BESIDE = 4
_GROUP = "createtxg"


def clone(
    zfs: Command,
    pool: Pool,
    volume: Volume,
    image: str,
    datasets: dict[str, str],
    mark: str,
    *,
    sealed: bool = False,
) -> int:
    """Clone the snapshots of an image; return in which transaction group those were taken.

    Args:
        zfs: zfs(8).
        pool: the volume's.
        volume: the volume that it is an image of.
        image: its id.
        datasets: the datasets that were snapshotted, the volume's own first, and the directory of
            each in the volume.
        mark: the image's mark as text.
        sealed: whether the clones are read-only from the beginning.

    Raises:
        RvssError: BAD_PATH if the volume's name is another dataset's by now, else as a `Command`.
    """
    # The snapshots exist: the datasets with these names are those that were snapshotted.
    wanted = _origin_properties(zfs, list(datasets), f"{volume.name}@rvss-{image}")
    group = int(wanted.pop(_GROUP)[_GROUP])
    guid = wanted[volume.name].pop("guid")
    if guid != (volume.id or guid):  # it has none if its mark is of the first form
        raise RvssError(
            Problem.BAD_PATH, f"{volume.name} is not the dataset that was checked", "try again"
        )
    top = tree.clone_name(pool, image)
    (outer, _), *inner = datasets.items()
    own = {} if inner else {MARK: mark}
    outermost = SEALED if sealed else OUTERMOST
    words = ["clone", *options({**wanted[outer], **FIXED, **outermost, **own})]
    words += [f"{outer}@rvss-{image}", top]
    try:
        zfs(*words)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        _make_home(zfs, f"{pool.name}/{tree.HOME}")
        zfs(*words)
    if not inner:
        return group
    with ThreadPoolExecutor(_BESIDE) as beside:
        clones = []
        for number, (dataset, directory) in enumerate(inner, 1):
            del wanted[dataset]["guid"]
            part = {PART: json.dumps(directory)}
            words = ["clone", *options({**wanted[dataset], **FIXED, **part})]
            words += [f"{dataset}@rvss-{image}", f"{top}/{number}"]
            clones.append(beside.submit(zfs, *words))
    for made in clones:
        made.result()
    # The mark comes last: a clone that bears it is complete.
    zfs("set", f"{MARK}={mark}", top)
    return group


def _make_home(zfs: Command, home: str) -> None:
    try:
        zfs("create", *options(CONTAINER), home)
    except RvssError as exc:
        # Another request may have made it just now; a program that hangs has made nothing.
        unanswered = exc.problem in (Problem.TOOL, Problem.MISSING)
        if unanswered or not tree.exists(zfs, home):
            raise


def _origin_properties(
    zfs: Command, datasets: Sequence[str], snapshot: str
) -> dict[str, dict[str, str]]:
    """Return each dataset's guid, and the properties that its clone gets from it.

    By the name of the property, which no dataset has, also the transaction group of a snapshot.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in (*datasets, _GROUP)}
    words = ("get", "-H", "-p", "-o", "name,property,value", ",".join(["guid", _GROUP, *COPIED]))
    for name, key, value in zfs.table(*words, *datasets, snapshot, columns=3):
        if (name == snapshot) != (key == _GROUP):
            continue
        if value not in ("-", "none"):
            found[_GROUP if key == _GROUP else name][key] = value
    return found
