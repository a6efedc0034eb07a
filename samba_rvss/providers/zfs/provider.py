"""Images on ZFS: a held snapshot, and a clone of it in a container dataset of the pool.

    <dataset>@rvss-<id>            the instant; held, so that no other tool destroys it; our mark
    <pool>/samba-rvss              the container: mounted nowhere, shared nowhere
    <pool>/samba-rvss/<id>         the clone that is written to during recovery; our mark
    <pool>/samba-rvss/<id>/<n>     clones of nested datasets, in the order of their paths

A volume is known by its dataset's guid, because another dataset may get its name. So the dataset
that was checked is the one that is snapshotted, and a snapshot is found again when its dataset has
been renamed.
"""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Foreign, Identity, Image, Inventory, Mark, Nested, Sealed, Volume
from samba_rvss.providers.detached import narrow
from samba_rvss.providers.inventory import listed
from samba_rvss.providers.mark import encode
from samba_rvss.providers.zfs import busy, place, tree
from samba_rvss.providers.zfs.cloning import clone
from samba_rvss.providers.zfs.command import Command, doing, require_healthy
from samba_rvss.providers.zfs.marks import Marks
from samba_rvss.providers.zfs.mounting import mount, write_out
from samba_rvss.providers.zfs.properties import MARK, PART
from samba_rvss.providers.zfs.tree import HOLD, HOME

_logger = logging.getLogger(__name__)

_AN_ID = "20261231T235959Z-01234567"


class Zfs:
    """The provider for ZFS.

    Args:
        identity: whose images are ours.
        command: zfs(8).
    """

    name = "zfs"

    def __init__(self, identity: Identity, command: Command | None = None) -> None:
        self._identity = identity
        self._zfs = command or Command()
        self._marks = Marks(self._zfs, self.name, identity)

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool) -> Volume | None:
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
        place.require_short(f"{dataset}@rvss-{_AN_ID}", f"{pool}/{HOME}/{_AN_ID}/9999")
        require_healthy(pool)
        with doing(f"cannot examine {path}"):
            place.require_room(self._zfs, fd, dataset, pool)
            ((guid,),) = self._zfs.table(
                "get", "-H", "-p", "-o", "value", "guid", dataset, columns=1
            )
            if thorough:
                place.refuse_unmounted(self._zfs, dataset, path)
        relative = os.path.relpath(path, mounted.target)
        directory = os.path.normpath(os.path.join(mounted.root, relative)).strip("/")
        volume = Volume(
            provider=self.name,
            file_system=pool,
            id=guid,
            name=dataset,
            directory="" if directory == "." else directory,
            inode=os.fstat(fd).st_ino,
        )
        if thorough:
            if nested is Nested.REFUSE:
                place.refuse_nested(path)
            else:
                for inner in place.nested_datasets(volume, path):
                    place.require_short(f"{inner}@rvss-{_AN_ID}")
        return volume

    def includes(self, mount: MountInfo) -> bool:
        """See `samba_rvss.providers.Provider`. `create` refuses datasets not below the volume's."""
        return mount.kind == "zfs"

    def create(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        volume = mark.volume
        datasets = {volume.name: ""}
        if mark.nested is Nested.INCLUDE:
            datasets |= place.nested_datasets(volume, mark.share_path)
        else:
            place.refuse_nested(mark.share_path)
        snapshots = [f"{dataset}@rvss-{mark.id}" for dataset in datasets]
        encoded = encode(mark, self._identity)
        with doing(f"cannot take a shadow copy of {mark.share_path}"):
            require_healthy(volume.file_system)
            try:
                # One transaction group: nested datasets are of the same instant.
                self._zfs("snapshot", "-o", f"{MARK}={encoded}", *snapshots)
                # Each change by zfs(8) waits for a transaction group: the hold waits while the
                # properties are read and the clone is begun.
                with ThreadPoolExecutor(1) as beside:
                    hold = beside.submit(self._zfs, "hold", HOLD, *snapshots)
                    clone(self._zfs, volume, mark.id, datasets, encoded)
                    hold.result()
            except RvssError as exc:
                try:
                    self.destroy(volume, mark.id)
                except RvssError as left:
                    exc.add_note(f"and not all of it could be undone: {left}")
                raise

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        top = tree.clone_name(volume, image)
        require_healthy(volume.file_system)
        with doing(f"cannot open the image {image}"), ExitStack() as undo:
            columns = f"name,keystatus,{PART}"
            rows = self._zfs.table(
                "list", "-H", "-p", "-r", "-t", "filesystem", "-o", columns, top, columns=3
            )
            parts: list[tuple[str, int]] = []
            for name, key, part in rows:
                if name == top:
                    below, directory, inode = "", volume.directory, volume.inode
                elif part != "-":
                    below = os.path.relpath(json.loads(part), volume.directory or ".")
                    directory, inode = "", 0
                else:
                    continue  # not ours
                if key == "unavailable":
                    raise RvssError(
                        Problem.BUSY, f"the key of {name} is not loaded", "zfs load-key its origin"
                    )
                opened = narrow(mount(name), directory, inode, image)
                undo.callback(os.close, opened)
                parts.append((below, opened))
            undo.pop_all()
        return sorted(parts)  # parents first; zfs(8) lists 10 before 2

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`.

        The property takes effect at once, for open files too, even when zfs(8) fails because it
        could not remount: so its value is read afterwards. Nested clones inherit it. What programs
        wrote through mappings is written out before, because Linux writes nothing out to a file
        system that is read-only (fs/sync.c, sync_filesystem()), and drops it at the unmount.
        """
        top = tree.clone_name(volume, image)
        require_healthy(volume.file_system)
        with doing(f"cannot seal the image {image}"):
            for part in tree.clones(self._zfs, top):
                if part.origin.endswith(f"@rvss-{image}"):
                    write_out(part.name)
            failure = None
            try:
                self._zfs("set", "readonly=on", top)
            except RvssError as exc:
                failure = exc
            try:
                self._verify(top)
            except RvssError as exc:
                raise failure or exc from exc
            # Setting the property waited for a transaction group after the last write.
            origin = tree.clones(self._zfs, top)[0].origin
            mark = self._marks.of(origin)
            if mark is None:
                raise RvssError(Problem.BAD_PATH, f"{origin} does not bear our mark")
            self._write(replace(mark, sealed=sealed), origin, top)
        return False

    def clear(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`. A sealed image is what recovery wrote to."""

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        with doing(f"cannot claim the image {mark.id}"):
            top = tree.clone_name(mark.volume, mark.id)
            clones = tree.clones(self._zfs, top)
            snapshot = tree.snapshot(self._zfs, mark.volume, mark.id)
            self._write(mark, *(part.name for part in clones[:1]), snapshot)

    def _write(self, mark: Mark, *names: str) -> None:
        self._zfs("set", f"{MARK}={encode(mark, self._identity)}", *names)

    def _verify(self, top: str) -> None:
        words = ("get", "-H", "-p", "-r", "-t", "filesystem", "-o", "name,value", "readonly", top)
        for name, value in self._zfs.table(*words, columns=2):
            if value != "on":
                raise RvssError(Problem.NOT_SEALED, f"the clone {name} is still writable")

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        The outermost snapshot bears the mark from the beginning, and goes last. What others hold
        or use is named and left alone.
        """
        with doing(f"cannot remove the image {image}"):
            require_healthy(volume.file_system)
            # Datasets may have been renamed: their snapshots went with them.
            clones = tree.clones(self._zfs, tree.clone_name(volume, image))
            origin = clones[0].origin if clones else tree.snapshot(self._zfs, volume, image)
            if not origin:
                return
            mark = self._marks.of(origin) if origin != "-" else None
            if mark is None or mark.id != image:
                name = clones[0].name if clones else origin
                raise RvssError(
                    Problem.BAD_PATH, f"{name} does not bear our mark", "see who made it"
                )
            for part in clones:
                if not part.origin.endswith(f"@rvss-{image}"):
                    raise RvssError(
                        Problem.BUSY, f"somebody has put {part.name} into it", "take it away"
                    )
            snapshots = [origin]
            if mark.nested is Nested.INCLUDE:
                others = [part.origin for part in clones]
                snapshots = [*dict.fromkeys((origin, *others, *self._marks.alike(origin)))]
            try:
                tree.destroy(self._zfs, clones, snapshots)
            except RvssError as exc:
                if exc.problem is not Problem.BUSY:
                    raise
                mounted = {part.name: "" for part in clones}
                if clones:
                    mounted[clones[0].name] = volume.directory
                who = "; ".join(busy.holders(self._zfs, mounted, snapshots))
                message = f"{exc.message} ({who})" if who else exc.message
                raise RvssError(exc.problem, message, exc.hint) from exc

    def inventory(self) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        try:
            self._zfs.require()
        except RvssError:
            return Inventory(file_systems=frozenset(), images=())
        try:
            pools = self._zfs.table("list", "-H", "-d", "0", "-o", "name", columns=1)
        except RvssError as exc:
            _logger.warning("cannot list the pools: %s", exc)
            pools = []
        return listed((pool for (pool,) in pools), self._list, "in the pool")

    def _list(self, pool: str) -> list[Image | Foreign]:
        require_healthy(pool)
        return self._marks.images(pool)
