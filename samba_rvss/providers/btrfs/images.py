"""What there is of an image: the parts that its mark names, found by name and known by uuid.

Before an image is sealed, its mark names the parts that recovery writes to; afterwards the sealed
ones, and what is left of the others is a remnant. A part that is not where its name says is found
by its uuid; it is then no longer ours to touch.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Foreign, Identity, Image, Volume, Whose
from samba_rvss.providers.btrfs import marks, mounted, parts
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.marks import PROVIDER, Record
from samba_rvss.providers.detached import narrow

OURS = frozenset({Whose.OURS, Whose.FORMER})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What there is of an image.

    Attributes:
        found: for each part that its mark names, the subvolume, or None if there is none.
        strange: where something is that is not what, or where, the mark says; or empty.
        remnants: whether something is left of the parts that recovery wrote to.
    """

    found: tuple[Subvolume | None, ...]
    strange: str
    remnants: bool

    @property
    def subvolumes(self) -> list[Subvolume]:
        """Those of the parts that are there."""
        return [subvolume for subvolume in self.found if subvolume is not None]

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        return bool(self.found) and None not in self.found


def state(home: Home, record: Record) -> State:
    """Look for the parts of an image."""
    found: list[Subvolume | None] = []
    strange: list[str] = []
    for index in range(len(record.parts)):
        part, odd = _look(home, record, index)
        found.append(part)
        strange += odd
    return State(
        found=tuple(found),
        strange=strange[0] if strange else "",
        remnants=record.is_sealed and _has_remnants(home, record),
    )


def _has_remnants(home: Home, record: Record) -> bool:
    if record.in_place and record.name in home.names():
        return True
    return next(remnants(home, record), None) is not None


def remnants(home: Home, record: Record) -> Iterator[str]:
    """Yield the names in the home of what recovery wrote to."""
    for index, part in enumerate(record.parts):
        for name in _writable(record, index):
            subvolume = home.subvolume(name)
            if (
                subvolume is not None
                and part.recovery in ("", subvolume.uuid)
                and subvolume.uuid != part.sealed  # it was never open, and is still to be renamed
            ):
                yield name


def _writable(record: Record, index: int) -> tuple[str, str]:
    """Return where a writable part can be: a loss of power may have undone that it was moved."""
    where = (record.name, record.parts, index)
    return parts.writable(*where), parts.begun(*where)


def unfinished(home: Home, record: Record) -> Iterator[str]:
    """Yield the names in the home of what a sealing that was cut off has left.

    Raises:
        RvssError: BAD_PATH if something has such a name and comes from elsewhere.
    """
    for part in record.parts:
        for name in (parts.staged(record.name, part), parts.final(record.name, part)):
            subvolume = home.subvolume(name)
            if subvolume is None:
                continue
            if part.recovery not in ("", subvolume.parent_uuid):
                raise not_ours(record.name, home.where(name))
            yield name


def ours(home: Home, record: Record, identity: Identity) -> State:
    """Return what there is of an image that must be ours, and where it belongs.

    Raises:
        RvssError: BAD_PATH if it is not.
    """
    if record.whose(home.file_system, identity) not in OURS:
        raise not_ours(record.name, home.where(f"{parts.PLACE}/{record.name}"))
    found = state(home, record)
    if found.strange:
        raise not_ours(record.name, found.strange)
    return found


def mounts(
    home: Home, volume: Volume, image: str, there: Sequence[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Return detached mounts of an image's parts; see `samba_rvss.providers.Provider.open`.

    Args:
        home: where the image is.
        volume: which it is an image of.
        image: its id, for messages.
        there: for each part its place in the volume, and the id of the subvolume.

    Raises:
        RvssError: BAD_PATH if the directory in it is not the one that was probed.
        OSError: if a part cannot be mounted.
    """
    below = f"{volume.directory}/" if volume.directory else ""
    found: list[tuple[str, int]] = []
    with ExitStack() as undo:
        for place, tree in there:
            fd = mounted.mount(home.source, tree)
            if not place:
                fd = narrow(fd, volume.directory, volume.inode, image)
            undo.callback(os.close, fd)
            found.append((place.removeprefix(below), fd))
        undo.pop_all()
    return found


def not_ours(image: str, where: str) -> RvssError:
    """Return the error for something that the mark of an image does not account for."""
    return RvssError(
        Problem.BAD_PATH,
        f"{where} is not what our mark of the image {image} says",
        "see who made, copied or renamed it",
    )


def inspect(home: Home, name: str, identity: Identity) -> Image | Foreign | None:
    """Return the image that a mark is of; None if there is no mark.

    An error is told of this image alone: it is then left alone.
    """
    for _ in range(3):
        record = marks.read(home, name)
        if record is None:
            return None
        found = _image(home, record, identity)
        if isinstance(found, Image) and found.complete:
            break
        # While we looked it may have been sealed, cleared or removed.
        if marks.read(home, name) == record:
            break
    return found


def _image(home: Home, record: Record, identity: Identity) -> Image | Foreign:
    whose = record.whose(home.file_system, identity)
    where = ""
    found = State(found=(), strange="", remnants=False)
    try:
        parts.check(record.name)
        found = state(home, record)
        if found.strange and whose in OURS:
            whose, where = Whose.RENAMED, found.strange
    except (OSError, RvssError) as exc:
        if whose in OURS:
            whose, where = Whose.UNKNOWN, f"{home.where(f'{parts.PLACE}/{record.name}')} ({exc})"
    read_only = found.complete and all(part.read_only for part in found.subvolumes)
    if whose in OURS:
        return Image(
            id=record.name,
            provider=PROVIDER,
            mark=record.mark,
            complete=found.complete,
            read_only=read_only,
            former=whose is Whose.FORMER,
            remnants=found.remnants,
            empty=not found.subvolumes and not found.remnants,
        )
    if not where and found.subvolumes:
        where = home.where_is(found.subvolumes[0])
    where = where or home.where(f"{parts.PLACE}/{record.name}")
    return foreign(home, record, whose, where, read_only=read_only)


def foreign(home: Home, record: Record, whose: Whose, where: str, *, read_only: bool) -> Foreign:
    """Return an image that is not provably ours."""
    marked = record.marked
    return Foreign(
        id=record.name,
        provider=PROVIDER,
        file_system=home.file_system,
        where=where,
        whose=whose,
        instance=marked.instance if marked else "",
        machine=marked.machine if marked else "",
        mark=marked.mark if marked else None,
        read_only=read_only,
    )


def each(
    home: Home,
    names: Iterable[str],
    look: Callable[[Home, str, Identity], Image | Foreign | None],
    identity: Identity,
) -> list[Image | Foreign]:
    """Return the images that there are under names; an error is told of one image alone."""
    found = []
    for name in names:
        try:
            image = look(home, name, identity)
        except (OSError, RvssError) as exc:
            record = Record(name=name, marked=None)
            why = exc.line() if isinstance(exc, RvssError) else exc.strerror
            where = f"{home.where()}: {name} ({why})"
            image = foreign(home, record, Whose.UNKNOWN, where, read_only=False)
        if image is not None:
            found.append(image)
    return found


def stray(home: Home, name: str, identity: Identity) -> Foreign | None:
    """Return a subvolume in a home that no mark accounts for; None if it is none."""
    subvolume = home.subvolume(name)
    if subvolume is None:
        return None
    record = Record(name=parts.image_of(name) or name, marked=None)
    where = home.where(name)
    return foreign(home, record, Whose.UNKNOWN, where, read_only=subvolume.read_only)


def _look(home: Home, record: Record, index: int) -> tuple[Subvolume | None, list[str]]:
    """Return a part's subvolume, and where something is that is not what the mark says."""
    part = record.parts[index]
    uuid = part.sealed if record.is_sealed else part.recovery
    candidates = [*_writable(record, index)]
    if record.is_sealed:
        candidates = [
            parts.final(record.name, part),
            parts.staged(record.name, part),
            *(candidates if part.sealed == part.recovery else ()),
        ]
    elif record.in_place:
        candidates = []
    odd = []
    for name in candidates:
        subvolume = home.subvolume(name)
        if subvolume is not None and uuid in ("", subvolume.uuid):
            return replace(subvolume, name=name), []
        if subvolume is not None:
            odd.append(home.where(name))
    moved = home.find(uuid) if uuid else None
    if moved is not None and record.in_place and not record.is_sealed:
        return moved, []
    return None, [home.where_is(moved)] if moved is not None else odd
