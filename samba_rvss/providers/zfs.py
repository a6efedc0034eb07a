"""Images on ZFS: a held snapshot, and a clone of it in a container dataset of the pool.

    <dataset>@rvss-<id>            the instant; held, so that no other tool destroys it
    <pool>/samba-rvss              the container: mounted nowhere, shared nowhere
    <pool>/samba-rvss/<id>         the clone that is written to during recovery; our mark
    <pool>/samba-rvss/<id>/<n>     clones of nested datasets, in the order of their paths

A clone takes its properties from its new parent and not from its origin, so those that make it
behave like the origin are copied when it is made. ``zfs list -H -p`` and its kin are the interface
that OpenZFS keeps stable; every call has a time limit.
"""

import errno
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime

from samba_rvss import kernel
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Image, Inventory, Mark, Nested, Volume
from samba_rvss.providers.detached import narrow
from samba_rvss.run import run, tool

_logger = logging.getLogger(__name__)

HOME = "samba-rvss"
MARK = "org.samba-rvss:mark"
PART = "org.samba-rvss:directory"
HOLD = "samba-rvss"
_LONGEST_NAME = 255  # include/sys/fs/zfs.h, ZFS_MAX_DATASET_NAME_LEN less the NUL
_SECONDS = 45.0
_BUSY_SECONDS = 5.0

COPIED = {
    # Access control: without these, POSIX and NT ACLs are lost in the copy.
    "acltype": "POSIX or NFSv4 ACLs exist only where this says so",
    "xattr": "where extended attributes, and with them vfs_acl_xattr's NT ACLs, are looked for",
    "aclmode": "what chmod does to an ACL while recovery writes",
    "aclinherit": "what a new file inherits while recovery writes",
    # Behaviour towards what recovery writes: as at the origin, or the copy grows differently.
    "recordsize": "a database's page size; another one multiplies what recovery writes",
    "compression": "how what recovery writes is stored",
    "dnodesize": "whether extended attributes of new files fit into their dnode",
    "special_small_blocks": "which device small blocks go to",
    "redundant_metadata": "how often metadata is stored",
    "copies": "how often data is stored",
    "logbias": "how synchronous writes are done",
    "primarycache": "what is cached: a virtual disk's owner may have said metadata only",
    "secondarycache": "the same for the second level",
    "nbmand": "locking as SMB has it, where the origin uses it",
}
"""Properties that a clone gets from its origin, and why."""

FIXED = {
    "canmount": "noauto",
    "mountpoint": "legacy",
    "atime": "off",
    "exec": "off",
    "setuid": "off",
    "devices": "off",
    "snapdir": "hidden",
    "sharenfs": "off",
    "sharesmb": "off",
    "com.sun:auto-snapshot": "false",
}
"""Properties that every clone has, so that nothing it could inherit matters."""

_CONTAINER = {
    "canmount": "off",
    "mountpoint": "none",
    "com.sun:auto-snapshot": "false",
    "sharenfs": "off",
    "sharesmb": "off",
}


def _zfs(*words: str) -> list[list[str]]:
    """Run zfs(8) and return its output as rows of fields."""
    out = run(["zfs", *words], timeout=_SECONDS)
    return [line.split("\t") for line in out.splitlines()]


def _problem(exc: RvssError, what: str) -> RvssError:
    """Name a failure of zfs(8) by what it said; its messages are the only thing to go by."""
    if exc.problem is not Problem.TOOL:
        return exc
    said = exc.message.rpartition("said: ")[2]
    for pattern, problem, hint in (
        (r"out of space|no space", Problem.NO_SPACE, "free some space in the pool"),
        (r"quota exceeded", Problem.NO_SPACE, "see its quota and refquota"),
        (r"read-only|read only", Problem.READ_ONLY, "import the pool writable"),
        (r"suspended", Problem.SYSTEM, "see 'zpool status', then 'zpool clear'"),
        (r"key (not loaded|is not loaded)|key.*unavailable", Problem.BUSY, "zfs load-key"),
        (r"busy|held|dependent clones|has children", Problem.BUSY, "see 'zfs holds' and 'lsof'"),
        (r"does not exist", Problem.NOT_FOUND, ""),
        (r"name.*too long", Problem.NOT_SUPPORTED, "rename the dataset"),
    ):
        if re.search(pattern, said, re.IGNORECASE):
            return RvssError(problem, f"{what}: {said}", hint)
    return RvssError(Problem.SYSTEM, f"{what}: {said}")


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
        excess = len(f"{dataset}@rvss-20261231T235959Z-01234567") - _LONGEST_NAME
        if excess > 0:
            raise RvssError(
                Problem.NOT_SUPPORTED,
                f"the name of the dataset {dataset} is too long for a snapshot by {excess} bytes",
                "rename it",
            )
        _require_healthy(pool)
        space = os.fstatvfs(fd)
        if space.f_flag & os.ST_RDONLY and _is_read_only(pool):
            raise RvssError(
                Problem.READ_ONLY, f"the pool {pool} is imported read-only", "import it writable"
            )
        if space.f_bavail == 0:
            raise RvssError(Problem.NO_SPACE, f"the dataset of {path} has no room", "free some")
        if thorough:
            self._refuse_unmounted(dataset, path)
            if nested is Nested.REFUSE:
                _refuse_nested(path)
        relative = os.path.relpath(path, mount.target)
        directory = os.path.normpath(os.path.join(mount.root, relative)).strip("/")
        return Volume(
            provider=self.name,
            file_system=pool,
            key=f"zfs:{dataset}",
            name=dataset,
            directory="" if directory == "." else directory,
            inode=os.fstat(fd).st_ino,
        )

    def _refuse_unmounted(self, dataset: str, path: str) -> None:
        """Refuse a share of which a dataset that is not mounted is a part."""
        columns = "name,mounted,canmount,keystatus,mountpoint"
        for name, mounted, canmount, key, *rest in _zfs(
            "list", "-H", "-p", "-t", "filesystem", "-r", "-o", columns, dataset
        ):
            target = "\t".join(rest)  # zfs(8) writes it as it is
            if mounted == "yes" or canmount != "on" or name == dataset:
                continue
            if f"{target}/".startswith(f"{path.rstrip('/')}/") or f"{path}/".startswith(
                f"{target.rstrip('/')}/"
            ):
                locked = key == "unavailable"
                raise RvssError(
                    Problem.BAD_PATH,
                    f"the dataset {name} belongs at {target} and is not mounted"
                    + (": its key is not loaded" if locked else ""),
                    "zfs load-key and zfs mount it" if locked else "zfs mount it",
                )

    def create(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        volume = mark.volume
        datasets = [(volume.name, "")]
        if mark.nested is Nested.INCLUDE:
            datasets += _nested_datasets(volume, mark.share_path)
        else:
            _refuse_nested(mark.share_path)
        snapshots = [f"{dataset}@rvss-{mark.id}" for dataset, _ in datasets]
        encoded = self._encode(mark)
        what = f"cannot take a shadow copy of {mark.share_path}"
        try:
            # One transaction group: nested datasets are of the same instant.
            _zfs("snapshot", "-o", f"{MARK}={encoded}", *snapshots)
            _zfs("hold", HOLD, *snapshots)
            self._clone(volume, mark.id, datasets, encoded)
        except RvssError as exc:
            try:
                self.destroy(volume, mark.id)
            except RvssError as left:
                exc.add_note(f"and not all of it could be undone: {left}")
            raise _problem(exc, what) from exc

    def _clone(
        self, volume: Volume, image: str, datasets: Sequence[tuple[str, str]], mark: str
    ) -> None:
        home = f"{volume.file_system}/{HOME}"
        wanted = _origin_properties([dataset for dataset, _ in datasets])
        top = f"{home}/{image}"
        many = len(datasets) > 1
        for number, (dataset, directory) in enumerate(datasets):
            own = {PART: directory} if number else {} if many else {MARK: mark}
            words = ["clone", *_options({**wanted[dataset], **FIXED, **own})]
            words += [f"{dataset}@rvss-{image}", f"{top}/{number}" if number else top]
            try:
                _zfs(*words)
            except RvssError as exc:
                if number or "does not exist" not in exc.message:
                    raise
                _make_home(home)
                _zfs(*words)
        if many:
            # The mark comes last: a clone that bears it is complete.
            _zfs("set", f"{MARK}={mark}", top)

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`."""
        top = self._clone_name(volume, image)
        try:
            rows = _zfs("list", "-H", "-p", "-r", "-o", f"name,{PART}", top)
        except RvssError as exc:
            raise _problem(exc, f"cannot open the image {image}") from exc
        parts: list[tuple[str, int]] = []
        with ExitStack() as undo:
            for name, part in rows:
                if name == top:
                    below, directory, inode = "", volume.directory, volume.inode
                else:
                    below, directory, inode = os.path.relpath(part, volume.directory), "", 0
                mount = narrow(_mount(name), directory, inode, image)
                undo.callback(os.close, mount)
                parts.append((below, mount))
            undo.pop_all()
        return parts

    def seal(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        The property takes effect at once, for open files too, even when zfs(8) fails because it
        could not remount; what counts is what it is afterwards. Nested clones inherit it.
        """
        top = self._clone_name(volume, image)
        failure = None
        try:
            _zfs("set", "readonly=on", top)
        except RvssError as exc:
            failure = _problem(exc, f"cannot seal the image {image}")
        try:
            self._verify(top, image)
        except RvssError as exc:
            raise failure or exc from exc

    def settle(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        Setting the property waited for a transaction group after the last write, so what
        recovery wrote is on disk.
        """
        self._verify(self._clone_name(volume, image), image)

    def _verify(self, top: str, image: str) -> None:
        try:
            rows = _zfs("get", "-H", "-p", "-r", "-o", "name,value", "readonly", top)
        except RvssError as exc:
            raise _problem(exc, f"cannot examine the image {image}") from exc
        for name, value in rows:
            if value != "on":
                raise RvssError(Problem.NOT_SEALED, f"the clone {name} is still writable")

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        The outermost snapshot bears the mark from the beginning, and goes last.
        """
        top = self._clone_name(volume, image)
        what = f"cannot remove the image {image}"
        try:
            # Datasets may have been renamed: their snapshots went with them.
            origins = _origins(top)
            origin = origins[0] if origins else f"{volume.name}@rvss-{image}"
            raw = _raw_mark(origin) if origin != "-" else "-"
            if raw is None and not origins:
                return
            mark = self._decode(raw) if raw not in (None, "-") else None
            if mark is None or mark.id != image:
                name = top if origins else origin
                raise RvssError(
                    Problem.BAD_PATH, f"{name} does not bear our mark", "see who made it"
                )
            if origins:
                _destroy_busy(top)
            snapshots = [origin]
            if mark.nested is Nested.INCLUDE:
                others = [name for name in origins if name.endswith(f"@rvss-{image}")]
                snapshots = [*dict.fromkeys((origin, *others, *self._marked_alike(origin)))]
            held = [row[0] for row in _zfs("holds", "-H", *snapshots) if row[1] == HOLD]
            if held:
                _zfs("release", HOLD, *held)
            for name in reversed(snapshots):
                _zfs("destroy", name)
        except RvssError as exc:
            raise _problem(exc, what) from exc

    def _marked_alike(self, origin: str) -> list[str]:
        """Return the snapshots of an image, the outermost first."""
        dataset, _, leaf = origin.partition("@")
        rows = _zfs("get", "-H", "-p", "-r", "-t", "snapshot", "-o", "name,value", MARK, dataset)
        return [
            name
            for name, raw in rows
            if name.endswith(f"@{leaf}") and raw != "-" and self._decode(raw)
        ]

    def inventory(self) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        pools: set[str] = set()
        images: dict[str, Image] = {}
        try:
            tool("zfs")
        except RvssError:
            return Inventory(file_systems=frozenset(), images=())
        try:
            rows = [row[0] for row in _zfs("list", "-H", "-d", "0", "-o", "name")]
        except RvssError as exc:
            _logger.warning("cannot list the pools: %s", exc)
            rows = []
        for pool in rows:
            try:
                _require_healthy(pool)
                for image in self._list(pool):
                    images[image.id] = image
                pools.add(pool)
            except RvssError as exc:
                _logger.warning("cannot list the images in the pool %s: %s", pool, exc)
        return Inventory(file_systems=frozenset(pools), images=tuple(images.values()))

    def _list(self, pool: str) -> Iterator[Image]:
        clones: dict[str, bool] = {}
        home = f"{pool}/{HOME}"
        if _exists(home):
            for name, closed, raw in _zfs(
                "list", "-H", "-p", "-r", "-t", "filesystem", "-o", f"name,readonly,{MARK}", home
            ):
                image = name.removeprefix(f"{home}/").partition("/")[0]
                complete = raw not in ("-", "") or image in clones
                if name != home and complete:
                    clones[image] = clones.get(image, True) and closed == "on"
        marks = _zfs("get", "-H", "-p", "-r", "-t", "snapshot", "-o", "name,value", MARK, pool)
        for name, raw in marks:
            mark = self._decode(raw) if raw != "-" else None
            if mark is None or not name.endswith(f"@rvss-{mark.id}"):
                continue
            yield Image(
                id=mark.id,
                provider=self.name,
                mark=mark,
                complete=mark.id in clones,
                read_only=clones.get(mark.id, False),
            )

    def _clone_name(self, volume: Volume, image: str) -> str:
        return f"{volume.file_system}/{HOME}/{image}"

    def _encode(self, mark: Mark) -> str:
        volume = mark.volume
        return json.dumps(
            {
                "version": 1,
                "instance": self._instance,
                "id": mark.id,
                "share": mark.share,
                "share_path": mark.share_path,
                "name": volume.name,
                "directory": volume.directory,
                "inode": volume.inode,
                "created": mark.created.isoformat(),
                "nested": mark.nested.value,
            }
        )

    def _decode(self, raw: str) -> Mark | None:
        """Return a mark, or None if it is another instance's or of a form we do not know."""
        try:
            data = json.loads(raw)
            if data["version"] != 1 or data["instance"] != self._instance:
                return None
            name = data["name"]
            return Mark(
                id=data["id"],
                share=data["share"],
                share_path=data["share_path"],
                volume=Volume(
                    provider=self.name,
                    file_system=name.partition("/")[0],
                    key=f"zfs:{name}",
                    name=name,
                    directory=data["directory"],
                    inode=data["inode"],
                ),
                created=datetime.fromisoformat(data["created"]),
                nested=Nested(data["nested"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            _logger.warning("an image's mark cannot be read and is left alone: %r", raw[:200])
            return None


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


def _options(properties: Mapping[str, str]) -> list[str]:
    return [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]


def _make_home(home: str) -> None:
    try:
        _zfs("create", *_options(_CONTAINER), home)
    except RvssError as exc:
        if "already exists" not in exc.message:  # another request has made it just now
            raise


def _origin_properties(datasets: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {dataset: {} for dataset in datasets}
    columns = "name,property,value"
    for name, key, value in _zfs("get", "-H", "-p", "-o", columns, ",".join(COPIED), *datasets):
        if value not in ("-", "none"):
            found[name][key] = value
    return found


def _mounts_below(path: str) -> Iterator[kernel.MountInfo]:
    prefix = f"{path.rstrip('/')}/"
    raw = kernel.read_mountinfo()
    if b" " + kernel.escape_mount_path(prefix) in raw:
        for mount in kernel.mountinfo(raw):
            if mount.kind == "zfs" and mount.target.startswith(prefix):
                yield mount


def _refuse_nested(path: str) -> None:
    for mount in _mounts_below(path):
        raise RvssError(
            Problem.NESTED,
            f"the dataset {mount.source} is mounted at {mount.target}, inside {path}, and would"
            " be empty in a shadow copy",
            "set 'rvss:nested = include' or mount it elsewhere",
        )


def _nested_datasets(volume: Volume, path: str) -> list[tuple[str, str]]:
    """Return the mounted datasets below a share, with their directories in the volume."""
    prefix = f"{path.rstrip('/')}/"
    found = []
    for mount in _mounts_below(path):
        if not mount.source.startswith(f"{volume.name}/") or mount.root != "/":
            raise RvssError(
                Problem.NESTED,
                f"{mount.source} is mounted at {mount.target} but is not below {volume.name}",
                "share it on its own or mount it elsewhere",
            )
        found.append(
            (mount.source, os.path.join(volume.directory, mount.target.removeprefix(prefix)))
        )
    return sorted(found, key=lambda item: item[1])


def _exists(dataset: str) -> bool:
    try:
        _zfs("list", "-H", "-o", "name", dataset)
    except RvssError as exc:
        if "does not exist" in exc.message:
            return False
        raise
    return True


def _raw_mark(snapshot: str) -> str | None:
    """Return a snapshot's mark, "-" if it has none, or None if there is no such snapshot."""
    try:
        return _zfs("get", "-H", "-p", "-o", "value", MARK, snapshot)[0][0]
    except RvssError as exc:
        if "does not exist" in exc.message:
            return None
        raise


def _origins(clone: str) -> list[str]:
    """Return the snapshots of a clone and of those below it; none if it does not exist."""
    try:
        rows = _zfs("list", "-H", "-r", "-t", "filesystem", "-o", "origin", clone)
    except RvssError as exc:
        if "does not exist" in exc.message:
            return []
        raise
    return [row[0] for row in rows]


def _destroy_busy(dataset: str) -> None:
    """Destroy a dataset with all in it, that may have been unmounted just now."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            _zfs("destroy", "-r", dataset)
            return
        except RvssError as exc:
            busy = _problem(exc, dataset).problem is Problem.BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.05)  # a lazy unmount lets go a moment later


def _is_read_only(pool: str) -> bool:
    out = run(["zpool", "get", "-H", "-o", "value", "readonly", pool], timeout=_SECONDS)
    return out.strip() == "on"


def _require_healthy(pool: str) -> None:
    """Refuse a suspended pool, every command on which would hang (module/zfs/spa_stats.c)."""
    try:
        with open(f"/proc/spl/kstat/zfs/{pool}/state", encoding="ascii") as state:
            word = state.read().strip()
    except FileNotFoundError:
        return
    if word == "SUSPENDED":
        raise RvssError(
            Problem.SYSTEM,
            f"the pool {pool} is suspended",
            "see 'zpool status', then 'zpool clear'",
        )
