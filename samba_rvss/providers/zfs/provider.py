"""Images on ZFS: a held snapshot, and a clone of it in a container dataset of the pool.

    <dataset>@rvss-<id>            the instant; held, so that no other tool destroys it; our mark
    <pool>/samba-rvss              the container: mounted nowhere, shared nowhere
    <pool>/samba-rvss/<id>         the clone that is written to during recovery; our mark
    <pool>/samba-rvss/<id>/<n>     clones of nested datasets, in the order of their paths

A pool and a dataset are known by their guids, because others may get their names. So the dataset
that was checked is the one that is snapshotted, and an image is found again when its pool was
imported under another name, or its dataset renamed. It is ours by marks whose source is local, on
the snapshot and the clone; the clone's also tells that it is sealed.
"""

import json
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable
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
)
from samba_rvss.providers.homes import IN_A_POOL, Homes
from samba_rvss.providers.inventory import listed
from samba_rvss.providers.zfs import (
    bare,
    claiming,
    containers,
    place,
    pools,
    removing,
    sizes,
    taking,
    tree,
    users,
)
from samba_rvss.providers.zfs.command import Command, doing, require_healthy
from samba_rvss.providers.zfs.images import images
from samba_rvss.providers.zfs.marks import Marks, is_bare
from samba_rvss.providers.zfs.mounting import mounts, write_out
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.taking import Wanted
from samba_rvss.providers.zfs.tree import HOME, Dataset

_AN_ID = "20261231T235959Z-01234567"


class Zfs:
    """The provider for ZFS.

    Args:
        identity: whose images are ours.
        command: zfs(8).
        homes: where it is remembered which pools have images of ours; None to do so in memory.
        reached: is called with each point of sealing that has been reached.
    """

    name = "zfs"

    def __init__(
        self,
        identity: Identity,
        command: Command | None = None,
        *,
        homes: Homes | None = None,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._zfs = command or Command()
        self._homes = homes or Homes()
        self._marks = Marks(self.name, identity)
        self._reached = reached

    def find(self, fd: int, path: str) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if files.file_system_type(fd) != files.ZFS_SUPER_MAGIC:
            return None
        self._zfs.require()
        try:
            mounted = mounttable.mount_of(fd)
        except OSError as exc:
            raise RvssError(Problem.BAD_PATH, f"{path} is not on a mount of ours: {exc}") from exc
        dataset, pool = mounted.source, mounted.source.partition("/")[0]
        if "@" in dataset or f"{dataset}/".startswith(f"{pool}/{HOME}/"):
            raise RvssError(Problem.BAD_PATH, f"{path} is itself a snapshot or a shadow copy")
        require_healthy(pool)
        with doing(f"cannot examine {path}"):
            guid_of_pool = pools.find(self._zfs, pool).guid
            ((guid,),) = self._zfs.table(
                "get", "-H", "-p", "-o", "value", "guid", dataset, columns=1
            )
        relative = os.path.relpath(path, mounted.target)
        directory = os.path.normpath(os.path.join(mounted.root, relative)).strip("/")
        return Volume(
            provider=self.name,
            file_system=guid_of_pool,
            id=guid,
            name=dataset,
            directory="" if directory == "." else directory,
            inode=os.fstat(fd).st_ino,
        )

    def around(self, fd: int, volume: Volume) -> list[Volume]:
        """See `samba_rvss.providers.Provider`."""
        names = [str(above) for above in PurePosixPath(volume.name).parents][:-1]
        if not names:
            return []
        with doing(f"cannot examine {volume.name}"):
            words = ("get", "-H", "-p", "-o", "name,value", "guid", *names)
            found = self._zfs.table(*words, columns=2)
        return [replace(volume, id=guid, name=name, directory="", inode=0) for name, guid in found]

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        volume = self.find(fd, path)
        if volume is None:
            return None
        pool = volume.name.partition("/")[0]
        place.require_short(
            f"{volume.name}@rvss-{_AN_ID}",
            f"{pool}/{HOME}/{_AN_ID}/9999",
            f"{pool}/{HOME}/{volume.id}/{_AN_ID}",
        )
        with doing(f"cannot examine {path}"):
            place.require_room(self._zfs, fd, volume.name, pool)
            if thorough:
                place.refuse_unmounted(self._zfs, volume.name, path)
        if thorough:
            if nested is Nested.REFUSE:
                place.refuse_nested(path)
            else:
                for inner in place.nested_datasets(volume, path):
                    place.require_short(f"{inner}@rvss-{_AN_ID}")
        return volume

    def ready(self, volume: Volume) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot make ready for copies of {volume.name}"):
            containers.ready(self._zfs, self._pool(volume), volume)

    def includes(self, mount: MountInfo) -> bool:
        """See `samba_rvss.providers.Provider`. `create` refuses datasets not below the volume's."""
        return mount.kind == "zfs"

    def create(self, marks: Sequence[Mark], deadline: float) -> dict[str, Taken | RvssError]:
        """See `samba_rvss.providers.Provider`."""
        found: dict[str, Taken | RvssError] = {}
        wanted = []
        for mark in marks:
            what = f"cannot take a shadow copy of {mark.share_path}"
            try:
                with doing(what):
                    pool = self._pool(mark.volume)
                    datasets = place.captured(pool, mark)
            except RvssError as exc:
                found[mark.id] = exc
            else:
                wanted.append(Wanted(mark=mark, datasets=datasets, opened=True, what=what))
        if wanted:
            found |= self._take(pool, wanted)
        return found

    def _take(self, pool: Pool, wanted: Sequence[Wanted]) -> dict[str, Taken | RvssError]:
        self._homes.remember(pool.guid, IN_A_POOL)
        return taking.take(self._zfs, self._marks, pool, wanted)

    def branch(self, volume: Volume, image: str, mark: Mark) -> Volume:
        """See `samba_rvss.providers.Provider`. It is an image of the sealed image's clone."""
        what = f"cannot make a writable image beside {image}"
        with doing(what):
            pool = self._pool(volume)
            parts = self._sealed_parts(pool, volume, image)
            if parts[0].is_snapshot:
                bare.clone_again(self._zfs, self._marks, pool, volume, image, parts)
                parts = self._sealed_parts(pool, volume, image)
            top = parts[0]
            datasets = dict(_placed(parts))
            for name in datasets:
                place.require_short(f"{name}@rvss-{mark.id}")
        own = replace(volume, file_system=pool.guid, id=top.guid, name=top.name)
        marked = replace(mark, volume=own)
        wanted = Wanted(mark=marked, datasets=datasets, opened=False, what=what)
        made = self._take(pool, [wanted])[mark.id]
        if isinstance(made, RvssError):
            raise made
        return own

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot open the image {image}"):
            found, _ = self._parts(self._pool(volume), volume, image)
            for part in found:
                tree.require_key(part)
            return mounts(volume, image, _placed(found))

    def shows(self, mount: MountInfo, volume: Volume, image: str) -> bool:
        """See `samba_rvss.providers.Provider`."""
        is_part = tree.is_clone(mount.source, image) or bare.is_shown(mount, image)
        return mount.kind == "zfs" and is_part

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`.

        The outermost clone gets readonly=on and the mark that says so in one transaction group;
        nested clones inherit the property. It takes effect at once, for open files too, even when
        zfs(8) fails because it could not remount: so it is read afterwards. What programs wrote
        through mappings is written out before, because Linux writes nothing out to a file system
        that is read-only (fs/sync.c, sync_filesystem()), and drops it at the unmount.
        """
        with doing(f"cannot seal the image {image}"):
            pool = self._pool(volume)
            parts, mark = self._parts(pool, volume, image)
            if parts[0].is_snapshot:
                return False  # nothing can change it
            for part in parts[1:]:
                if part.readonly_here:
                    raise RvssError(
                        Problem.NOT_SEALED,
                        f"somebody has set readonly on {part.name} itself",
                        f"zfs inherit readonly {part.name}",
                    )
            # What recovery flushed before a loss of power is in the intent logs: mounting replays
            # them, and must have done so before anything is read-only and called sealed.
            for part in parts:
                tree.require_key(part)
            for part in parts:
                write_out(part.name)
            self._reached("seal.snapshot")
            self._reached("seal.renamed")  # here nothing has to be renamed
            # Also if it is sealed: whoever did that may not have waited for the group.
            text = self._marks.encode(replace(mark, sealed=mark.sealed or sealed), pool)
            failure = None
            try:
                self._zfs("set", "readonly=on", f"{MARK}={text}", parts[0].name)
            except RvssError as exc:
                if exc.problem in (Problem.TOOL, Problem.MISSING):
                    raise  # nobody waited for the group
                failure = exc
            self._reached("seal.marked")
            try:
                self._sealed_parts(pool, volume, image)
            except RvssError as exc:
                raise failure or exc from exc
        return False

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """See `samba_rvss.providers.Provider`.

        Here a sealed image is what recovery wrote to, but for a backup to which it wrote nothing.
        """
        with doing(f"cannot clear away what was cloned for the image {image}"):
            pool = self._pool(volume)
            bare.clear(self._zfs, self._marks, pool, volume, image)

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`. The clone's says what became of the image."""
        with doing(f"cannot read the mark of the image {image}"):
            pool = self._pool(volume)
            snapshot = tree.outermost(self._zfs, pool, volume, image)
            if snapshot is None:
                bare.refuse_moved(self._zfs, self._marks, pool, image)
                return None
            mark = self._marks.require(snapshot, image, pool)
            if is_bare(self._marks.read(snapshot)):
                return mark
            clones = containers.find(self._zfs, self._marks, pool, volume, image)
            if not clones or clones[0].origin != snapshot.name or not clones[0].mark:
                return mark
            return self._marks.require(clones[0], image, pool)

    def keep(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot keep the image {image}"):
            pool = self._pool(volume)
            parts = self._sealed_parts(pool, volume, image)
            if parts[0].is_snapshot:
                return
            top = parts[0].name
            place.require_short(f"{top}/9999@rvss-{image}")
            containers.settle(self._zfs, parts[0])
            tree.keep(self._zfs, top, image)

    def hold(self, volume: Volume, image: str, tags: Sequence[str]) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot hold the image {image}"):
            pool = self._pool(volume)
            users.hold(self._zfs, users.whole(self._zfs, self._marks, pool, volume, image), tags)

    def require_free(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot look at the image {image}"):
            pool = self._pool(volume)
            users.require_free(self._zfs, users.whole(self._zfs, self._marks, pool, volume, image))

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot claim the image {mark.id}"):
            pool = self._pool(mark.volume)
            self._homes.remember(pool.guid, IN_A_POOL)
            claiming.claim(self._zfs, self._marks, pool, mark)

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot remove the image {image}"):
            removing.destroy(self._zfs, self._marks, self._pool(volume), volume, image)

    def sizes(self, images: Sequence[Image]) -> Mapping[str, int]:
        """See `samba_rvss.providers.Provider`."""
        return sizes.of(
            self._zfs, self._marks, self._pool(images[0].mark.volume), [i.id for i in images]
        )

    def file_systems(self, mounts: Iterable[MountInfo]) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`. A pool whose guid is not told is known by name."""
        names = {pools.of(mount.source) for mount in mounts if mount.kind == "zfs"}
        there = pools.wanted(self._zfs, names) if names else {}
        return frozenset(there.keys() | (names - {pool.name for pool in there.values()}))

    def remembered(self) -> frozenset[str]:
        """See `samba_rvss.providers.Provider`."""
        return self._homes.file_systems()

    def inventory(self, only: Container[str] | None = None) -> Inventory:
        """See `samba_rvss.providers.Provider`.

        A pool is listed by its guid and by its name, which older records have in its place.
        """
        try:
            self._zfs.require()
        except RvssError:
            return Inventory(file_systems=frozenset(), images=())
        known = pools.wanted(self._zfs, only)

        def look(guid: str) -> list[Image | Foreign]:
            pool = known[guid]
            with doing(f"the pool {pool.name}"):
                require_healthy(pool.name)
                found = images(self._zfs, self._marks, self.name, pool)
            if any(isinstance(image, Image) for image in found):
                self._homes.remember(guid, IN_A_POOL)
            return found

        found = listed(known, look, "in the pool")
        names = {known[guid].name: guid for guid in found.file_systems}
        return replace(found, file_systems=found.file_systems | names.keys(), former_names=names)

    def _pool(self, volume: Volume) -> Pool:
        pool = pools.find(self._zfs, volume.file_system)
        require_healthy(pool.name)
        return pool

    def _parts(self, pool: Pool, volume: Volume, image: str) -> tuple[list[Dataset], Mark]:
        """Return what an image is to be read from, the outermost first, and its mark.

        Those are its clones, or the snapshots of a bare one; what that still has of clones, and is
        marked, has the same in it.

        Raises:
            RvssError: NOT_FOUND if there are none, BAD_PATH if they are not ours.
        """
        found = containers.find(self._zfs, self._marks, pool, volume, image)
        if not found or not found[0].mark:
            snapshot = tree.outermost(self._zfs, pool, volume, image)
            marked = self._marks.read(snapshot) if snapshot else None
            if snapshot is not None and marked is not None and is_bare(marked):
                mark = self._marks.require(snapshot, image, pool)
                return bare.parts(self._zfs, snapshot, marked), mark
        if not found:
            raise RvssError(Problem.NOT_FOUND, f"the image {image} has no clone")
        mark = self._marks.require(found[0], image, pool)
        if not tree.is_of(found[0].origin, image):
            message = f"{found[0].name} is no clone of a snapshot of ours"
            raise RvssError(Problem.BAD_PATH, message, "see who made it")
        return tree.parts(image, found), mark

    def _sealed_parts(self, pool: Pool, volume: Volume, image: str) -> list[Dataset]:
        parts, mark = self._parts(pool, volume, image)
        tree.require_sealed(parts, mark)
        return parts


def _placed(parts: Sequence[Dataset]) -> list[tuple[str, str]]:
    """Return the names of an image's parts, and the directory of each in the volume."""
    return [(part.name, json.loads(part.directory) if n else "") for n, part in enumerate(parts)]
