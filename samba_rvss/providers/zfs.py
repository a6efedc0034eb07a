"""Images on ZFS: a held snapshot, and a clone of it in a container dataset of the pool.

    <dataset>@rvss-<id>            the instant; held, so that no other tool destroys it; our mark
    <pool>/samba-rvss              the container: mounted nowhere, shared nowhere
    <pool>/samba-rvss/<id>         the clone that is written to during recovery; our mark
    <pool>/samba-rvss/<id>/<n>     clones of nested datasets, in the order of their paths

A volume is known by its dataset's guid, because names change hands: the one that was checked is
the one that is snapshotted, and a snapshot is found again under its dataset's new name.
"""

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from samba_rvss import kernel
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Image, Inventory, Mark, Nested, Volume
from samba_rvss.providers import zfs_busy
from samba_rvss.providers import zfs_place as place
from samba_rvss.providers import zfs_tree as tree
from samba_rvss.providers.detached import narrow
from samba_rvss.providers.mark import decode, encode
from samba_rvss.providers.zfs_command import doing, require_healthy, table, zfs
from samba_rvss.providers.zfs_properties import (
    CONTAINER,
    COPIED,
    FIXED,
    MARK,
    OUTERMOST,
    PART,
    options,
)
from samba_rvss.providers.zfs_tree import HOLD, HOME
from samba_rvss.run import tool

_logger = logging.getLogger(__name__)

_AN_ID = "20261231T235959Z-01234567"
_BESIDE = 4


class Zfs:
    """The provider for ZFS.

    Args:
        instance: what tells this instance's images from another's in the same pool.
    """

    name = "zfs"
    nested_mounts = "zfs"

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if kernel.file_system_type(fd) != kernel.ZFS_SUPER_MAGIC:
            return None
        tool("zfs")
        try:
            mount = kernel.mount_of(fd)
        except OSError as exc:
            raise RvssError(Problem.BAD_PATH, f"{path} is not on a mount of ours: {exc}") from exc
        dataset, pool = mount.source, mount.source.partition("/")[0]
        if "@" in dataset or f"{dataset}/".startswith(f"{pool}/{HOME}/"):
            raise RvssError(Problem.BAD_PATH, f"{path} is itself a snapshot or a shadow copy")
        place.require_short(f"{dataset}@rvss-{_AN_ID}", f"{pool}/{HOME}/{_AN_ID}/9999")
        require_healthy(pool)
        with doing(f"cannot examine {path}"):
            place.require_room(fd, dataset, pool)
            ((guid,),) = table("get", "-H", "-p", "-o", "value", "guid", dataset, columns=1)
            if thorough:
                place.refuse_unmounted(dataset, path)
        relative = os.path.relpath(path, mount.target)
        directory = os.path.normpath(os.path.join(mount.root, relative)).strip("/")
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

    def create(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        volume = mark.volume
        datasets = {volume.name: ""}
        if mark.nested is Nested.INCLUDE:
            datasets |= place.nested_datasets(volume, mark.share_path)
        else:
            place.refuse_nested(mark.share_path)
        snapshots = [f"{dataset}@rvss-{mark.id}" for dataset in datasets]
        encoded = encode(mark, self._instance)
        with doing(f"cannot take a shadow copy of {mark.share_path}"):
            require_healthy(volume.file_system)
            try:
                # One transaction group: nested datasets are of the same instant.
                zfs("snapshot", "-o", f"{MARK}={encoded}", *snapshots)
                # Whatever it is, zfs(8) waits for a transaction group: the hold does so while the
                # properties are read and the clone is begun.
                with ThreadPoolExecutor(1) as beside:
                    hold = beside.submit(zfs, "hold", HOLD, *snapshots)
                    self._clone(volume, mark.id, datasets, encoded)
                    hold.result()
            except RvssError as exc:
                try:
                    self.destroy(volume, mark.id)
                except RvssError as left:
                    exc.add_note(f"and not all of it could be undone: {left}")
                raise

    def _clone(self, volume: Volume, image: str, datasets: dict[str, str], mark: str) -> None:
        # The snapshots are there: what these names mean now is what was snapshotted.
        wanted = _origin_properties(list(datasets))
        guid = wanted[volume.name].pop("guid")
        if guid != (volume.id or guid):  # it has none if its mark is of the first form
            raise RvssError(
                Problem.BAD_PATH, f"{volume.name} is not the dataset that was checked", "try again"
            )
        home = f"{volume.file_system}/{HOME}"
        top = f"{home}/{image}"
        (outer, _), *inner = datasets.items()
        own = {} if inner else {MARK: mark}
        words = ["clone", *options({**wanted[outer], **FIXED, **OUTERMOST, **own})]
        words += [f"{outer}@rvss-{image}", top]
        try:
            zfs(*words)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                raise
            _make_home(home)
            zfs(*words)
        if not inner:
            return
        with ThreadPoolExecutor(_BESIDE) as beside:
            clones = []
            for number, (dataset, directory) in enumerate(inner, 1):
                del wanted[dataset]["guid"]
                part = {PART: json.dumps(directory)}
                words = ["clone", *options({**wanted[dataset], **FIXED, **part})]
                words += [f"{dataset}@rvss-{image}", f"{top}/{number}"]
                clones.append(beside.submit(zfs, *words))
        for clone in clones:
            clone.result()
        # The mark comes last: a clone that bears it is complete.
        zfs("set", f"{MARK}={mark}", top)

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        top = tree.clone_name(volume, image)
        require_healthy(volume.file_system)
        with doing(f"cannot open the image {image}"), ExitStack() as undo:
            columns = f"name,keystatus,{PART}"
            rows = table(
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
                mount = narrow(_mount(name), directory, inode, image)
                undo.callback(os.close, mount)
                parts.append((below, mount))
            undo.pop_all()
        return sorted(parts)  # parents first; zfs(8) lists 10 before 2

    def seal(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        The property takes effect at once, for open files too, even when zfs(8) fails because it
        could not remount; what counts is what it is afterwards. Nested clones inherit it. What was
        written through mappings is written out before: Linux does not do it any more for a file
        system that is read-only (fs/sync.c, sync_filesystem()), and forgets it when it unmounts.
        """
        top = tree.clone_name(volume, image)
        require_healthy(volume.file_system)
        with doing(f"cannot seal the image {image}"):
            for clone in tree.clones(top):
                if clone.origin.endswith(f"@rvss-{image}"):
                    _write_out(clone.name)
            failure = None
            try:
                zfs("set", "readonly=on", top)
            except RvssError as exc:
                failure = exc
            try:
                self._verify(top)
            except RvssError as exc:
                raise failure or exc from exc

    def settle(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        Setting the property waited for a transaction group after the last write, so what
        recovery wrote is on disk.
        """
        with doing(f"cannot examine the image {image}"):
            self._verify(tree.clone_name(volume, image))

    def _verify(self, top: str) -> None:
        words = ("get", "-H", "-p", "-r", "-t", "filesystem", "-o", "name,value", "readonly", top)
        for name, value in table(*words, columns=2):
            if value != "on":
                raise RvssError(Problem.NOT_SEALED, f"the clone {name} is still writable")

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        The outermost snapshot bears the mark from the beginning, and goes last. What others hold
        is named and left alone.
        """
        with doing(f"cannot remove the image {image}"):
            require_healthy(volume.file_system)
            # Datasets may have been renamed: their snapshots went with them.
            clones = tree.clones(tree.clone_name(volume, image))
            origin = clones[0].origin if clones else tree.snapshot(volume, image)
            if not origin:
                return
            mark = self._mark(origin) if origin != "-" else None
            if mark is None or mark.id != image:
                name = clones[0].name if clones else origin
                raise RvssError(
                    Problem.BAD_PATH, f"{name} does not bear our mark", "see who made it"
                )
            for clone in clones:
                if not clone.origin.endswith(f"@rvss-{image}"):
                    raise RvssError(
                        Problem.BUSY, f"somebody has put {clone.name} into it", "take it away"
                    )
            snapshots = [origin]
            if mark.nested is Nested.INCLUDE:
                others = [clone.origin for clone in clones]
                snapshots = [*dict.fromkeys((origin, *others, *self._marked_alike(origin)))]
            try:
                tree.destroy(clones, snapshots)
            except RvssError as exc:
                if exc.problem is not Problem.BUSY:
                    raise
                mounted = {clone.name: "" for clone in clones}
                if clones:
                    mounted[clones[0].name] = volume.directory
                who = "; ".join(zfs_busy.holders(mounted, snapshots))
                message = f"{exc.message} ({who})" if who else exc.message
                raise RvssError(exc.problem, message, exc.hint) from exc

    def _mark(self, snapshot: str) -> Mark | None:
        return next((mark for _, mark in self._marks(snapshot)), None)

    def _marks(self, *where: str) -> Iterator[tuple[str, Mark]]:
        """Yield snapshots that bear our mark, but for what `zfs receive` made of one."""
        words = ("get", "-H", "-p", *where[:-1], "-s", "local", "-t", "snapshot")
        for name, raw in table(*words, "-o", "name,value", MARK, where[-1], columns=2):
            mark = decode(raw, self._instance, self.name)
            if mark is not None and name.endswith(f"@rvss-{mark.id}"):
                yield name, mark

    def _marked_alike(self, origin: str) -> list[str]:
        """Return the snapshots of an image, the outermost first."""
        dataset, _, leaf = origin.partition("@")
        return [name for name, _ in self._marks("-r", dataset) if name.endswith(f"@{leaf}")]

    def inventory(self) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        pools: set[str] = set()
        images: dict[str, Image] = {}
        try:
            tool("zfs")
        except RvssError:
            return Inventory(file_systems=frozenset(), images=())
        try:
            rows = table("list", "-H", "-d", "0", "-o", "name", columns=1)
        except RvssError as exc:
            _logger.warning("cannot list the pools: %s", exc)
            rows = []
        for (pool,) in rows:
            try:
                require_healthy(pool)
                for image in self._list(pool):
                    images[image.id] = image
                pools.add(pool)
            except RvssError as exc:
                _logger.warning("cannot list the images in the pool %s: %s", pool, exc)
        return Inventory(file_systems=frozenset(pools), images=tuple(images.values()))

    def _list(self, pool: str) -> Iterator[Image]:
        clones: dict[str, bool] = {}
        home = f"{pool}/{HOME}"
        words = ("list", "-H", "-p", "-r", "-t", "filesystem", "-o", f"name,readonly,{MARK}")
        try:
            rows = table(*words, home, columns=3)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                raise
            rows = []
        for name, closed, raw in rows:
            image = name.removeprefix(f"{home}/").partition("/")[0]
            complete = raw not in ("-", "") or image in clones
            if name != home and complete:
                clones[image] = clones.get(image, True) and closed == "on"
        for _, mark in self._marks("-r", pool):
            yield Image(
                id=mark.id,
                provider=self.name,
                mark=mark,
                complete=mark.id in clones,
                read_only=clones.get(mark.id, False),
            )


def _mount(dataset: str) -> int:
    source = {"source": dataset}
    try:
        try:
            return kernel.detached_mount("zfs", source)
        except OSError as exc:
            # A sealed clone that is mounted already wants to be mounted read-only again
            # (module/os/linux/zfs/zpl_super.c, zpl_mount_impl()).
            if exc.errno != errno.EBUSY:
                raise
            return kernel.detached_mount("zfs", source, ("ro",))
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot mount {dataset}: {exc.strerror}") from exc


def _write_out(dataset: str) -> None:
    """Write out what is in memory of a mounted dataset."""
    try:
        mount = kernel.detached_mount("zfs", {"source": dataset})
    except PermissionError:
        return  # its key is not loaded, so it is not mounted, and nothing is in memory
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return  # mounted after it was sealed, read-only, as `_mount` says: nothing was written
        raise RvssError(Problem.SYSTEM, f"cannot mount {dataset}: {exc.strerror}") from exc
    try:
        kernel.syncfs(mount)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write out {dataset}: {exc.strerror}") from exc
    finally:
        os.close(mount)


def _make_home(home: str) -> None:
    try:
        zfs("create", *options(CONTAINER), home)
    except RvssError:
        if not tree.exists(home):  # another request may have made it just now
            raise


def _origin_properties(datasets: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return each dataset's guid, and what its clone has to have like it."""
    found: dict[str, dict[str, str]] = {dataset: {} for dataset in datasets}
    words = ("get", "-H", "-p", "-o", "name,property,value", ",".join(["guid", *COPIED]))
    for name, key, value in table(*words, *datasets, columns=3):
        if value not in ("-", "none"):
            found[name][key] = value
    return found
