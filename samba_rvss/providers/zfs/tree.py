"""The clones and snapshots that an image consists of: listing and destroying them."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Mark, Nested, Volume
from samba_rvss.providers.zfs import pools
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import (
    HOLD,
    TAGGED,
    refuse_held,
    refuse_used,
    set_holds,
)
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK, PART

HOME = "samba-rvss"
_BUSY_SECONDS = 1.5
_COLUMNS = ("-o", "name,property,source,value")  # a value comes last: it may have any text
_OF_SNAPSHOT = f"createtxg,clones,keystatus,{MARK},{PART}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset, with what tells whether it is a clone of ours.

    Attributes:
        origin: the snapshot that it is a clone of; "-" if it is none.
        read_only: whether nothing can write to it, by whatever dataset that is set on.
        readonly_here: whether that is set, on or off, on this dataset itself.
        locked: whether its key is not loaded.
        mark: what it bears itself, not by inheritance; empty if nothing.
        source: whence it has that: "local", or "received".
        directory: which directory of the volume it is mounted at, as JSON; empty if it is no
            clone of a nested dataset.
    """

    name: str
    guid: str
    origin: str
    read_only: bool
    readonly_here: bool
    locked: bool
    mark: str
    source: str
    directory: str

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a snapshot, as what is mounted of a bare image."""
        return "@" in self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot that bears a mark itself.

    Attributes:
        mark: what it bears.
        source: as a `Dataset` has it.
        guid: its dataset's; this and the rest only where they were asked for.
        group: the transaction group that made it.
        clones: the names of its clones.
        directory: as a `Dataset` has it, where its image is bare.
        locked: as a `Dataset` has it.
    """

    name: str
    mark: str
    source: str
    guid: str = ""
    group: str = ""
    clones: tuple[str, ...] = ()
    directory: str = ""
    locked: bool = False


def is_clone(name: str, image: str) -> bool:
    """Return whether a name is that of an image's clone, or below it, whatever its pool is called.

    The pool may have been imported under another name, and ids are of one image alone.
    """
    _, *below = name.split("/")
    return below[:2] == [HOME, image] or below[0:3:2] == [HOME, image]


def require_key(part: Dataset) -> None:
    """Refuse to mount a dataset whose key is not loaded.

    Raises:
        RvssError: BUSY.
    """
    if part.locked:
        raise RvssError(
            Problem.BUSY, f"the key of {part.name} is not loaded", "zfs load-key its origin"
        )


def require_sealed(found: Sequence[Dataset], mark: Mark) -> None:
    """Refuse clones that can be written to, or whose mark does not say that they are sealed.

    Raises:
        RvssError: NOT_SEALED.
    """
    for part in (part for part in found if not part.read_only):
        raise RvssError(Problem.NOT_SEALED, f"the clone {part.name} is still writable")
    if not mark.sealed:
        raise RvssError(Problem.NOT_SEALED, f"{found[0].name} does not say that it is sealed")


def is_of(origin: str, image: str) -> bool:
    """Return whether an origin has the name of an image's snapshots."""
    return origin.endswith(f"@rvss-{image}")


def parts(image: str, found: Sequence[Dataset]) -> list[Dataset]:
    """Return the clones of an image, given the outermost one and what is below that."""
    inner = [part for part in found[1:] if part.directory and is_of(part.origin, image)]
    return [*found[:1], *inner]


def datasets(zfs: Command, top: str) -> list[Dataset]:
    """Return a dataset and all below it, parents first; empty if it does not exist.

    Raises:
        RvssError: as a `Command` does; so do the other functions.
    """
    wanted = ",".join(["guid", "origin", "readonly", "keystatus", MARK, PART])
    words = ("get", "-H", "-p", "-r", "-t", "filesystem,volume", *_COLUMNS, wanted, top)
    try:
        found = _by_name(zfs.table(*words, columns=4))
    except RvssError as exc:
        if exc.problem is Problem.NOT_FOUND:
            return []
        raise
    return [_dataset(name, properties) for name, properties in found.items()]


def marked_snapshots(zfs: Command, top: str) -> list[Snapshot]:
    """Return the snapshots that bear marks themselves, in a pool or dataset; of parents first."""
    words = ("get", "-H", "-p", "-r", "-s", "local,received", "-t", "snapshot")
    rows = zfs.table(*words, "-o", "name,source,value", MARK, top, columns=3)
    return [Snapshot(name=name, mark=mark, source=source) for name, source, mark in rows]


def snapshot(zfs: Command, name: str) -> Snapshot | None:
    """Return one snapshot, whatever it bears, with its dataset's guid; None if there is none."""
    dataset = name.partition("@")[0]
    words = ("get", "-H", "-p", *_COLUMNS, f"guid,{_OF_SNAPSHOT}", dataset, name)
    try:
        found = _by_name(zfs.table(*words, columns=4))
    except RvssError as exc:
        if exc.problem is Problem.NOT_FOUND:
            return None
        raise
    return _snapshot(name, found[name], found[dataset]["guid"][1])


def alike(
    zfs: Command, outermost: Snapshot, more: Sequence[str], below: str = ""
) -> Iterator[Snapshot]:
    """Yield the snapshots that were made with an outermost one, in one transaction group.

    Args:
        zfs: zfs(8).
        outermost: an image's.
        more: the names of snapshots that may belong to it and are of datasets elsewhere.
        below: the dataset in which they are looked for; empty for the outermost one's own.
    """
    dataset, _, leaf = outermost.name.partition("@")
    wanted = ("get", "-H", "-p", "-t", "snapshot", *_COLUMNS, _OF_SNAPSHOT)
    found = _by_name(zfs.table(*wanted, "-r", below or dataset, columns=4))
    elsewhere = [name for name in more if name not in found]
    if elsewhere:
        found |= _by_name(zfs.table(*wanted, *elsewhere, columns=4))
    for name, properties in found.items():
        other = _snapshot(name, properties)
        if name.endswith(f"@{leaf}") and other.group == outermost.group:
            yield other


def of_image(
    zfs: Command, top: Snapshot, nested: Nested, parts: Sequence[Dataset], count: int = 0
) -> list[Snapshot]:
    """Return the snapshots of an image, the outermost first.

    Args:
        zfs: zfs(8).
        top: the outermost.
        nested: whether there may be others.
        parts: its clones.
        count: how many there are, if that is known: a dataset may have been moved elsewhere.
    """
    if nested is not Nested.INCLUDE:
        return [top]
    names = [part.origin for part in parts]
    found = list(alike(zfs, top, names))
    if len(found) < count:
        found = list(alike(zfs, top, names, pools.of(top.name)))
    return [top, *(other for other in found if other.name != top.name)]


def with_guid(zfs: Command, pool: Pool, guid: str) -> str:
    """Return the name of the dataset that has a guid; empty if there is none."""
    words = ("list", "-H", "-p", "-r", "-t", "filesystem", "-o", "name,guid", pool.name)
    return next((name for name, found in zfs.table(*words, columns=2) if found == guid), "")


def outermost(
    zfs: Command, pool: Pool, volume: Volume, image: str, known: str = ""
) -> Snapshot | None:
    """Return the outermost snapshot of an image, whatever its dataset is called now.

    Args:
        zfs: zfs(8).
        pool: the volume's.
        volume: what it is an image of; a dataset of the same name is another one.
        image: its id.
        known: a snapshot that it may be.
    """
    tried = ["", known.partition("@")[0], pool.here(volume.name)]
    for dataset in tried[1:]:
        found = dataset and snapshot(zfs, f"{dataset}@rvss-{image}")
        if found and found.guid == (volume.id or found.guid):
            return found
    dataset = with_guid(zfs, pool, volume.id)
    return None if dataset in tried else snapshot(zfs, f"{dataset}@rvss-{image}")


def exists(zfs: Command, name: str) -> bool:
    """Return whether there is a dataset or snapshot of a name."""
    try:
        zfs("list", "-H", "-t", "filesystem,volume,snapshot", "-o", "name", name)
    except RvssError as exc:
        if exc.problem is Problem.NOT_FOUND:
            return False
        raise
    return True


def refuse_cloned(snapshots: Sequence[Snapshot], ours: Sequence[Dataset]) -> None:
    """Refuse to destroy an image of whose snapshots others have clones.

    Raises:
        RvssError: BUSY.
    """
    known = {clone.name for clone in ours}
    for snapshot in snapshots:
        if not known.issuperset(snapshot.clones):
            raise RvssError(Problem.BUSY, f"others have made clones of {snapshot.name}")


def kept_snapshots(zfs: Command, top: str, image: str) -> list[str]:
    """Return the names of the snapshots of an image's clones that `keep` has made.

    Args:
        zfs: zfs(8).
        top: the outermost clone.
        image: the image's id.
    """
    return [name for name in snapshots_below(zfs, top) if is_of(name, image)]


def snapshots_below(zfs: Command, top: str) -> list[str]:
    """Return the names of all snapshots of a dataset and of those below it, whoever made them."""
    words = ("list", "-H", "-r", "-t", "snapshot", "-o", "name", top)
    return [name for (name,) in zfs.table(*words, columns=1)]


def keep(zfs: Command, top: str, image: str) -> None:
    """Take a snapshot of an image's clones, in one transaction group, and hold it; once."""
    name = f"{top}@rvss-{image}"
    if not exists(zfs, name):
        zfs("snapshot", "-r", name)
    set_holds(zfs, kept_snapshots(zfs, top, image), {HOLD}, releasing=False)


def destroy(
    zfs: Command,
    top: str,
    snapshots: Sequence[str],
    image: str = "",
    over: Collection[str] = (),
    begin: Callable[[], object] = lambda: None,
) -> None:
    """Destroy an image, its outermost snapshot last; what others hold stays as it is.

    Args:
        zfs: zfs(8).
        top: the outermost clone; empty if there is none.
        snapshots: the outermost first.
        image: the image's id, if its clones may have snapshots of ours.
        over: the tags of holds that its mark says are over.
        begin: called before the first snapshot goes, once nobody is seen to hold one.

    Raises:
        RvssError: BUSY if somebody holds or uses a part of it; what was destroyed before is gone.
    """
    below = snapshots_below(zfs, top) if top and image else []
    kept = [name for name in below if is_of(name, image)]
    refuse_held(zfs, [name for name in below if name not in kept])
    allowed = {HOLD, *(f"{TAGGED}{tag}" for tag in over)}
    held = refuse_used(zfs, kept, [*snapshots, *kept], allowed)
    for tag, names in held.items():
        inner = [name for name in names if name in kept]
        if inner:
            zfs("release", tag, *inner)
    begin()
    if top:
        destroy_busy(zfs, "-r", top)
    for tag, names in held.items():
        outer = [name for name in names if name not in kept]
        if outer:
            zfs("release", tag, *outer)
    for name in reversed(snapshots):
        if top:
            zfs("destroy", name)
        else:
            destroy_busy(zfs, name)  # it may have been mounted itself


def destroy_busy(zfs: Command, *words: str) -> None:
    """Destroy something; try for a moment, as it may be unmounted just now.

    Args:
        zfs: zfs(8).
        words: what ``zfs destroy`` gets.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            zfs("destroy", *words)
            return
        except RvssError as exc:
            if exc.problem is not Problem.BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.1)  # a lazy unmount lets go a moment later


_Properties = dict[str, tuple[str, str]]


def _by_name(rows: Sequence[Sequence[str]]) -> dict[str, _Properties]:
    """Return rows as, for each name, properties with their sources and values."""
    found: dict[str, _Properties] = {}
    for name, key, source, value in rows:
        found.setdefault(name, {})[key] = source, value
    return found


def _own(properties: _Properties, key: str) -> tuple[str, str]:
    """Return the source and the value of a property; both empty if it is inherited or not set."""
    source, value = properties[key]
    return (source, value) if source in ("local", "received") else ("", "")


def _dataset(name: str, properties: _Properties) -> Dataset:
    source, mark = _own(properties, MARK)
    return Dataset(
        name=name,
        guid=properties["guid"][1],
        origin=properties["origin"][1] if "origin" in properties else "-",
        # "temporary": what zfs(8) saw of some mount, and not the property (zfsprops(7)).
        read_only=properties["readonly"][1] == "on" and properties["readonly"][0] != "temporary",
        readonly_here=bool(_own(properties, "readonly")[0]),
        locked=properties["keystatus"][1] == "unavailable",
        mark=mark,
        source=source,
        directory=_own(properties, PART)[1],
    )


def _snapshot(name: str, properties: _Properties, guid: str = "") -> Snapshot:
    source, mark = _own(properties, MARK)
    return Snapshot(
        name=name,
        mark=mark,
        source=source,
        guid=guid,
        group=properties["createtxg"][1],
        directory=_own(properties, PART)[1],
        locked=properties["keystatus"][1] == "unavailable",
        clones=tuple(
            clone for clone in properties["clones"][1].split(",") if clone not in ("", "-")
        ),
    )
