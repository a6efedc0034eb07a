"""Images on btrfs: snapshots in ``/.samba-rvss`` of the file system's top-level tree.

    /.samba-rvss                                        see `home`
      <base>-<id>.<YYYYMMDDTHHMMSSZ>_<digits>           a sealed part, read-only; see `parts`
      <the same of the volume's part>.rw, .rw1 …        the writable parts, until they are removed
      .<the same>.rw, .rw1 …                            or left beside a backup; see `links`
      .<…>                                              what is being made
      .marks/<image>/                                   a directory with our mark; see `marks`.
                                                        A part is made in it, and then moved

One part for the volume and one for each nested subvolume; none is inside another, for a snapshot
does not hold nested ones, and a read-only one takes none. The mark is there before the parts, and
goes after them.
"""

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import (
    Foreign,
    Identity,
    Image,
    Inventory,
    Mark,
    Nested,
    Sealed,
    Taken,
    Volume,
    Whose,
)
from samba_rvss.providers.btrfs import (
    branching,
    former,
    home,
    images,
    ioctl,
    links,
    marks,
    mounted,
    parts,
    sealing,
    sizes,
    subvolumes,
    taking,
)
from samba_rvss.providers.btrfs.failure import problem
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.images import State
from samba_rvss.providers.btrfs.marks import PROVIDER, Record
from samba_rvss.providers.homes import Homes
from samba_rvss.providers.inventory import listed
from samba_rvss.providers.mark import unheld
from samba_rvss.providers.patience import COMMON


class Btrfs:
    """The provider for btrfs.

    Args:
        identity: whose images are ours.
        homes: where our homes are remembered; None to remember them in memory.
        reached: called with the name of each step of a sealing; see `sealing`.
    """

    name = PROVIDER

    def __init__(
        self,
        identity: Identity,
        homes: Homes | None = None,
        reached: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._identity = identity
        self._homes = homes or Homes()
        self._reached = reached

    def find(self, fd: int, path: str) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if files.file_system_type(fd) != files.BTRFS_SUPER_MAGIC:
            return None
        try:
            file_system, _ = ioctl.file_system(fd)
            return self._find(fd, path, file_system, self._home_on(fd, file_system))
        except OSError as exc:
            raise problem(exc, f"cannot examine {path}") from exc

    def around(self, fd: int, volume: Volume) -> list[Volume]:
        """See `samba_rvss.providers.Provider`."""
        try:
            return subvolumes.around(fd, volume)
        except OSError as exc:
            raise problem(exc, f"cannot examine {volume.name}") from exc

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool = False) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if files.file_system_type(fd) != files.BTRFS_SUPER_MAGIC:
            return None
        try:
            file_system, _ = ioctl.file_system(fd)
            ours = self._home_on(fd, file_system)
            volume = self._find(fd, path, file_system, ours)
            self._require_fit(fd, path, volume, nested, ours, thorough=thorough)
        except OSError as exc:
            raise problem(exc, f"cannot examine {path}") from exc
        return volume

    def _home_on(self, fd: int, file_system: str) -> int | None:
        return home.remembered(fd, file_system, self._homes)

    def _find(self, fd: int, path: str, file_system: str, ours: int | None) -> Volume:
        inode = os.fstat(fd).st_ino
        tree, directory = ioctl.lookup(fd, inode)
        lineage = subvolumes.lineage(fd, tree)
        top = (ioctl.FS_TREE_OBJECTID, "")
        if any(number == ours for number, _ in lineage) or (
            lineage[-1] == top and len(lineage) > 1 and lineage[-2][1] == home.NAME
        ):
            raise RvssError(Problem.BAD_PATH, f"{path} is itself inside a shadow copy")
        return Volume(
            provider=self.name,
            file_system=file_system,
            id=str(tree),
            name=subvolumes.path_along(lineage),
            directory=directory,
            inode=inode,
        )

    def _require_fit(
        self,
        fd: int,
        path: str,
        volume: Volume,
        nested: Nested,
        ours: int | None,
        *,
        thorough: bool,
    ) -> None:
        if thorough:
            mounted.require_permission(volume.file_system, path)
        space = os.fstatvfs(fd)
        if space.f_flag & os.ST_RDONLY and mounted.is_read_only(fd):
            raise RvssError(
                Problem.READ_ONLY, f"the file system of {path} is read-only", "remount it writable"
            )
        # btrfs says 0 as soon as its metadata is used up (fs/btrfs/super.c, btrfs_statfs())
        if space.f_bavail == 0:
            raise RvssError(
                Problem.NO_SPACE, f"the file system of {path} has no room", "free some space"
            )
        if nested is Nested.REFUSE:
            taking.refuse_nested(fd, volume.directory, path, ours)
        elif thorough:
            besides = {ours} if ours else set()
            inner = subvolumes.below(fd, int(volume.id), volume.directory, besides=besides)
            taking.refuse_long(inner, path)

    def includes(self, mount: MountInfo) -> bool:
        """See `samba_rvss.providers.Provider`. Nested subvolumes need no mounts of their own."""
        return False

    def ready(self, volume: Volume) -> None:
        """See `samba_rvss.providers.Provider`. Here nothing is needed."""

    def create(self, marks: Sequence[Mark], deadline: float) -> dict[str, Taken | RvssError]:
        """See `samba_rvss.providers.Provider`."""
        try:
            with self._home(marks[0].volume.file_system, writable=True, make=True) as ours:
                return taking.take(ours, marks, self._identity, deadline)
        except OSError as exc:
            return {mark.id: taking.failure(exc, mark) for mark in marks}
        except RvssError as exc:
            return dict.fromkeys((mark.id for mark in marks), exc)

    def branch(self, volume: Volume, image: str, mark: Mark) -> Volume:
        """See `samba_rvss.providers.Provider`."""
        with self._image(volume, image, writable=True) as (ours, record):
            branching.make(ours, record, mark, self._identity)
        return mark.volume

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        with self._image(volume, image, writable=False) as (ours, record):
            if record.parts:
                found = images.ours(ours, record, self._identity)
                places = [part.place for part in record.parts]
                there = found.subvolumes
                if not found.complete:
                    raise _missing(image)
            else:
                # What is nested in it is in place.
                places, there = [""], [part for _, part in former.parts_of(ours, image)[:1]]
                if not there:
                    raise _missing(image)
            trees = [subvolume.tree for subvolume in there]
            return images.mounts(ours, volume, image, list(zip(places, trees, strict=True)))

    def shows(self, mount: MountInfo, volume: Volume, image: str) -> bool:
        """See `samba_rvss.providers.Provider`. btrbk gives copies on other disks the same names."""
        names = mount.root.split("/")
        named = any(image in (name, parts.image_of(name)) for name in names)
        return named and mount.kind == "btrfs" and volume.file_system in mounted.on([mount.source])

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`."""
        with self._image(volume, image, writable=True) as (ours, found):
            record = found if found.parts else former.take_over(ours, found, self._identity)
            if record is None:
                raise _missing(image)
            seal = sealing.Sealing(ours, self._identity, self._reached)
            anew = seal.run(record, sealed, opened=opened)
            # A loss of power may have brought it back; it is in nobody's way.
            with suppress(OSError, RvssError):
                marks.tidy(ours, image)
            return anew

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """See `samba_rvss.providers.Provider`."""
        try:
            with self._home(volume.file_system, writable=True) as ours:
                record = marks.read(ours, image)
                if record is None or not record.is_sealed:
                    return
                images.ours(ours, record, self._identity)
                for name in list(images.remnants(ours, record)):
                    if link and not record.in_place:
                        links.make(ours, name)
                    else:
                        ours.delete(name)
                if record.in_place:
                    former.remove(ours, image, self._identity)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise problem(exc, f"cannot clear the image {image}") from exc

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`."""
        try:
            with self._home(volume.file_system, writable=False) as ours:
                record = marks.read(ours, image) or former.read(ours, image)
                if record is None:
                    return None
                images.ours(ours, record, self._identity)
                return record.mark
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise problem(exc, f"cannot read the mark of the image {image}") from exc

    def keep(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`: here the sealed image is all that there is."""

    def hold(self, volume: Volume, image: str, tags: Sequence[str]) -> None:
        """See `samba_rvss.providers.Provider`: btrfs has no holds."""

    def require_free(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        with self._image(mark.volume, mark.id, writable=True, ours=False) as (ours, record):
            if record.mark.id != mark.id or record.mark.volume != mark.volume:
                raise images.not_ours(mark.id, ours.where(f"{parts.PLACE}/{record.name}"))
            record = replace(record, marked=replace(record.readable, mark=mark))
            if record.parts:
                marks.claim(ours, record, self._identity)
                marks.make_durable(ours, record.name)
            else:
                former.claim(ours, record, self._identity)
                ioctl.commit(ours.fd)

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`. The mark goes last; see `marks.remove`."""
        try:
            with self._home(volume.file_system, writable=True) as ours:
                record = marks.read(ours, image)
                if record is not None:
                    unheld(record.mark)
                    _delete_parts(ours, record, images.ours(ours, record, self._identity))
                former.remove(ours, image, self._identity)
                marks.remove(ours, image)
                if record is not None and record.marked and record.mark.branch:
                    ioctl.commit(ours.fd)  # nothing else knows that it is not to come back
        except FileNotFoundError:
            return
        except OSError as exc:
            raise problem(exc, f"cannot remove the image {image}") from exc

    def sizes(self, images: Sequence[Image]) -> Mapping[str, int]:
        """See `samba_rvss.providers.Provider`."""
        file_system = images[0].mark.volume.file_system

        def look() -> Mapping[str, int]:
            with self._home(file_system, writable=False) as ours:
                return sizes.of(ours, images)

        try:
            return COMMON.call(mounted.places()(file_system), look)
        except OSError as exc:
            raise problem(exc, "cannot read how much space images take") from exc

    def file_systems(self, mounts: Iterable[MountInfo]) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`."""
        return mounted.on({mount.source for mount in mounts if mount.kind == "btrfs"})

    def remembered(self) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`."""
        return self._homes.file_systems()

    def inventory(self, only: Container[str] | None = None) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        there = [name for name in mounted.file_systems() if only is None or name in only]
        return listed(there, self._list, "on btrfs", mounted.places())

    def _list(self, file_system: str) -> list[Image | Foreign] | None:
        with ExitStack() as undo:
            try:
                ours = undo.enter_context(self._home(file_system, writable=False, remember=False))
            except FileNotFoundError:
                known = self._homes.known(file_system)
                if known is None:
                    return None
                raise RvssError(
                    Problem.NOT_FOUND,
                    f"/{home.NAME} in its top-level tree, the subvolume {known.tree}, has been"
                    " deleted with every image in it",
                    "the next shadow copy makes a new one",
                ) from None
            # In this order: whatever is there had its mark before, and keeps it to the end.
            there = ours.names()
            found = images.each(ours, marks.names(ours), images.inspect, self._identity)
            named = {parts.PLACE, *(image.id for image in found)}
            rest = [name for name in there if not {name, parts.image_of(name)} & named]
            found += images.each(ours, rest, former.inspect, self._identity)
            told = {image.where for image in found if isinstance(image, Foreign)}
            for stray in images.each(ours, rest, images.stray, self._identity):
                if isinstance(stray, Foreign) and stray.where not in told:
                    found.append(stray)
            if any(isinstance(image, Image) for image in found):
                self._homes.remember(file_system, ours.known)
            return found

    @contextmanager
    def _home(
        self, file_system: str, *, writable: bool, make: bool = False, remember: bool = True
    ) -> Iterator[Home]:
        with (
            mounted.top(file_system, writable=writable) as top,
            home.opened(top, self._homes, make=make, remember=remember) as ours,
        ):
            yield ours

    @contextmanager
    def _image(
        self, volume: Volume, image: str, *, writable: bool, ours: bool = True
    ) -> Iterator[tuple[Home, Record]]:
        """Open the home and read the mark of an image in it, which must be there.

        Args:
            volume: which it is an image of.
            image: its id.
            writable: whether something is to be changed.
            ours: whether it must be ours.
        """
        try:
            with self._home(volume.file_system, writable=writable) as there:
                record = marks.read(there, image) or former.read(there, image)
                if record is None:
                    raise _missing(image)
                allowed = images.OURS if ours else {*Whose} - {Whose.UNKNOWN}
                if record.whose(volume.file_system, self._identity) not in allowed:
                    raise images.not_ours(image, there.where(f"{parts.PLACE}/{image}"))
                yield there, record
        except FileNotFoundError as exc:
            raise _missing(image) from exc
        except OSError as exc:
            raise problem(exc, f"cannot work on the image {image}") from exc


def _delete_parts(ours: Home, record: Record, state: State) -> None:
    """Delete what is in the home of an image."""
    others = images.remnants if record.is_sealed else images.unfinished
    names = [*others(ours, record), *links.names(ours, record)]
    if record.is_sealed or not record.in_place:
        names += [subvolume.name for subvolume in state.subvolumes]
    for name in names:
        ours.delete(name)


def _missing(image: str) -> RvssError:
    return RvssError(Problem.NOT_FOUND, f"there is no image {image}")
