"""Where clones are, and the datasets that they inherit their properties from.

    <pool>/samba-rvss/<guid>        the container of the dataset with that guid: like that in all
                                    that a clone of it must have
    <pool>/samba-rvss/<guid>/<id>   the clone of an image of that dataset alone
    <pool>/samba-rvss/<id>          that of any other, with properties of its own: of nested
                                    datasets, of a branch, and of an image for which there was no
                                    container that is like its dataset

Setting properties takes a clone as long as being made, while applications wait. Whatever is cloned
into a container has nothing to set, and nothing of its own, nor a mark, until it is sealed: it is
whole as soon as it is there, and what is said of it stands on its snapshot.
"""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from samba_rvss.providers.zfs import tree
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.marks import Marks, is_bare
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import (
    CONTAINER,
    COPIED,
    INHERITED,
    LOCAL,
    OF_HOME,
    options,
)
from samba_rvss.providers.zfs.tree import Dataset

_logger = logging.getLogger(__name__)

_AT_HOME = ("-r", "-d", "1", "-t", "filesystem")  # words for `Command.properties`
_UNMOUNTING = ("mountpoint", "sharenfs", "sharesmb")


def name(pool: Pool, guid: str) -> str:
    """Return the name of the container of a dataset."""
    return f"{pool.name}/{tree.HOME}/{guid}"


def is_container(dataset: Dataset, pool: Pool) -> bool:
    """Return whether a dataset is a container of ours, by its name and in that it is no clone."""
    holder, _, leaf = dataset.name.rpartition("/")
    at_home = holder == f"{pool.name}/{tree.HOME}" and leaf.isascii() and leaf.isdecimal()
    return at_home and dataset.origin == "-" and not dataset.mark


def is_in_one(clone: Dataset) -> bool:
    """Return whether an image's outermost clone is in a container, by its name."""
    return clone.name.count("/") == 3


def clone_names(pool: Pool, guid: str, image: str) -> list[str]:
    """Return what an image's outermost clone may be called: in a container, and elsewhere."""
    inside = [f"{name(pool, guid)}/{image}"] if guid else []
    return [*inside, f"{pool.name}/{tree.HOME}/{image}"]


def find(zfs: Command, marks: Marks, pool: Pool, volume: Volume, image: str) -> list[Dataset]:
    """Return the outermost clone of an image, and all that is below it; empty if there is none.

    One in a container has the mark of its snapshot, as long as it has none of its own.

    Raises:
        RvssError: as a `Command` does.
    """
    found: list[Dataset] = []
    for each in clone_names(pool, volume.id, image):
        found = found or tree.datasets(zfs, each)
    if found and not found[0].mark and is_in_one(found[0]) and tree.is_of(found[0].origin, image):
        snapshot = tree.snapshot(zfs, found[0].origin)
        if snapshot is not None and not is_bare(marks.read(snapshot)):
            found[0] = replace(found[0], mark=snapshot.mark, source=snapshot.source)
    return found


def alike(origin: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of a container, given those that its clones get from their origin."""
    return {**origin, **INHERITED}


def properties(zfs: Command, pool: Pool) -> dict[str, dict[str, str]]:
    """Return the properties of the containers that there are, by the guids of their datasets.

    Raises:
        RvssError: as a `Command` does.
    """
    home = f"{pool.name}/{tree.HOME}"
    try:
        found = zfs.properties([home], {**COPIED, **INHERITED}, *_AT_HOME)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        return {}
    by_guid = {name.rpartition("/")[2]: values for name, values in found.items()}
    return {guid: values for guid, values in by_guid.items() if guid.isdecimal()}


def make_home(zfs: Command, pool: Pool) -> None:
    """Make the dataset that everything of ours is in."""
    _make(zfs, f"{pool.name}/{tree.HOME}", OF_HOME)


def ready(zfs: Command, pool: Pool, volume: Volume) -> None:
    """Make a volume's container, or have it like the volume again, if no clone changes with it.

    Raises:
        RvssError: BAD_PATH if the volume's name is another dataset's by now; as a `Command` does.
    """
    origin = zfs.properties([volume.name], ["guid", *COPIED])[volume.name]
    if origin.pop("guid") != volume.id:
        raise RvssError(
            Problem.BAD_PATH, f"{volume.name} is not the dataset that was checked", "try again"
        )
    known, wanted, own = properties(zfs, pool), alike(origin), name(pool, volume.id)
    if volume.id not in known:
        make_home(zfs, pool)
        _make(zfs, own, {**wanted, **LOCAL, CONTAINER: volume.id})
        _remove_idle(zfs, pool)
        return
    changed = dict(wanted.items() - known[volume.id].items())
    if changed and not _inherit(zfs, own, changed):
        zfs("set", *(f"{key}={value}" for key, value in changed.items()), own)


def _inherit(zfs: Command, container: str, changed: Collection[str]) -> bool:
    """Return whether anything in a container inherits one of some properties from it."""
    words = ("get", "-H", "-p", "-r", "-s", "inherited", "-t", "filesystem", "-o", "name")
    return bool(zfs.table(*words, ",".join(changed), container, columns=1))


def _remove_idle(zfs: Command, pool: Pool) -> None:
    """Remove the containers of datasets that are gone, where nothing is in them."""
    home = f"{pool.name}/{tree.HOME}"
    found = zfs.properties([home], [CONTAINER], "-s", "local", *_AT_HOME)
    listed = zfs.table("list", "-H", "-p", "-r", "-o", "guid", pool.name, columns=1)
    there = {guid for (guid,) in listed}
    for dataset, values in found.items():
        guid = values[CONTAINER]
        if dataset == name(pool, guid) and guid not in there:
            with suppress(RvssError):  # something is in it
                zfs("destroy", dataset)


def settle(zfs: Command, clone: Dataset) -> None:
    """Have a clone that stays keep its properties, wherever it is moved or carried to.

    Only what is set on itself goes along with ``zfs send -p`` (lib/libzfs/libzfs_sendrecv.c,
    send_iterate_prop()) and ``zfs rename``. Neither how it is mounted nor how it is shared is set:
    zfs(8) would unmount it for that.

    Args:
        zfs: zfs(8).
        clone: an image's outermost, sealed.
    """
    keys = [key for key in (*COPIED, *INHERITED) if key not in _UNMOUNTING]
    own = zfs.properties([clone.name], keys, "-s", "inherited").get(clone.name, {})
    if own and is_in_one(clone):
        own["canmount"] = "noauto"
        try:
            zfs("set", *(f"{key}={value}" for key, value in own.items()), clone.name)
        except RvssError as exc:
            if exc.problem in (Problem.TOOL, Problem.MISSING):
                raise
            _logger.warning("%s has its properties by inheritance yet: %s", clone.name, exc)


def _make(zfs: Command, dataset: str, own: Mapping[str, str]) -> None:
    try:
        zfs("create", *options(own), dataset)
    except RvssError as exc:
        # Another request may have made it just now; a program that hangs has made nothing.
        unanswered = exc.problem in (Problem.TOOL, Problem.MISSING)
        if unanswered or not tree.exists(zfs, dataset):
            raise
