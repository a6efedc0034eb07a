"""A ZFS pool of its own in a sparse file, and datasets of it for one test each.

Place: a rig for tests and for the demonstration; it stands on `run` and `kernel`.
Contract: entering a `Pool` makes the file and the pool, which is mounted nowhere; entering a
`LoopZfs` makes a dataset of a pool, mounted below a directory. Leaving takes away every mount of
what was made, whoever mounted it, then snapshots, clones and holds, whoever made them, and goes on
with the rest where one step fails. Making a pool takes longer than making a dataset, so that
several tests may share one.
"""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from samba_rvss.kernel import mounting, mounttable
from samba_rvss.run import ToolError, run
from samba_rvss.testing.undoing import Undoing

_SECONDS = 60.0
_BUSY_SECONDS = 10.0
MINIMUM = 64 << 20  # bytes; include/sys/fs/zfs.h, SPA_MINDEVSIZE

PROPERTIES = ("acltype=posixacl", "xattr=sa", "compression=off", "mountpoint=none", "atime=on")
"""What an administrator of Samba sets on a pool, and no compression: sizes are then known."""


def zfs(*words: str) -> list[list[str]]:
    """Run zfs(8) and return its output as rows of fields.

    Raises:
        RvssError: as `samba_rvss.run.run`.
    """
    return [line.split("\t") for line in run(["zfs", *words], timeout=_SECONDS).splitlines()]


def zpool(*words: str) -> str:
    """Run zpool(8) and return its output.

    Raises:
        RvssError: as `samba_rvss.run.run`.
    """
    return run(["zpool", *words], timeout=_SECONDS)


def below_home(name: str, home: str) -> str:
    """Return what a dataset or snapshot is called below our home, wherever in it that is.

    Args:
        name: its name.
        home: the name of the dataset that clones of ours are in, and containers of them.

    Returns:
        That; empty for a container, the home itself, and what is elsewhere.
    """
    if not name.startswith(f"{home}/"):
        return ""
    first, _, rest = name.removeprefix(f"{home}/").partition("/")
    in_container = first.partition("@")[0].isdecimal()
    return rest if in_container else name.removeprefix(f"{home}/")


def unmount_all(datasets: set[str]) -> None:
    """Take every mount of some datasets off its path, the newest first.

    Raises:
        OSError: a path could not be freed; the others have been.
    """
    targets = [m.target for m in mounttable.mountinfo() if m.kind == "zfs" and m.source in datasets]
    with ExitStack() as rest:
        for target in targets:
            rest.callback(mounting.umount, target)


class Pool(Undoing):
    """A context manager: a pool in a sparse file, mounted nowhere.

    Args:
        directory: where to put the file; it must exist.
        size: the file's, in bytes; at least MINIMUM.

    Attributes:
        name: the pool's.
    """

    def __init__(self, directory: Path, *, size: int = 1 << 30) -> None:
        super().__init__()
        self.name = f"rvss-{os.getpid()}-{secrets.token_hex(4)}"
        self.image = directory / f"{self.name}.img"
        self._size = size

    def _set_up(self) -> None:
        self.image.touch(mode=0o600, exist_ok=False)
        self._undo.callback(self.image.unlink)
        os.truncate(self.image, self._size)
        options = [word for option in PROPERTIES for word in ("-O", option)]
        zpool("create", "-o", "cachefile=none", *options, self.name, str(self.image))
        self._undo.callback(self._destroy)

    def names(self) -> list[str]:
        """Return the names of all filesystems and snapshots, parents first."""
        kinds = "filesystem,snapshot"
        return [row[0] for row in zfs("list", "-H", "-r", "-t", kinds, "-o", "name", self.name)]

    def import_again(self, *, read_only: bool) -> None:
        """Export the pool and import it again; its datasets are mounted where they belong.

        Raises:
            RvssError: it is in use.
        """
        zpool("export", self.name)
        options = ["-o", "cachefile=none", "-o", f"readonly={'on' if read_only else 'off'}"]
        zpool("import", "-d", str(self.image), *options, self.name)

    def _destroy(self) -> None:
        unmount_all({name for name in self.names() if "@" not in name})
        zpool("destroy", "-f", self.name)


class LoopZfs(Undoing):
    """A context manager: a dataset of a pool, mounted at `path`.

    Args:
        directory: where to mount it; it must exist, and Samba's users must be able to walk to it.
        pool: the pool.

    Attributes:
        path: where the dataset is mounted; mode 0755.
        dataset: its name.
    """

    def __init__(self, directory: Path, pool: Pool) -> None:
        super().__init__()
        tag = secrets.token_hex(4)
        self.path = directory / f"zfs-{tag}"
        self.dataset = f"{pool.name}/{tag}"
        self.pool = pool
        self._directories: list[Path] = []

    def _set_up(self) -> None:
        zfs("create", "-o", f"mountpoint={self.path}", self.dataset)
        self._undo.callback(self._destroy)
        self.path.chmod(0o755)

    def create(self, name: str, *properties: str, mode: int = 0o777) -> Path:
        """Create a dataset by its path below ours, mounted there; return its directory.

        Args:
            name: "outer/inner" for a nested one.
            properties: such as ``"casesensitivity=mixed"``.
            mode: of its directory.
        """
        options = [word for text in properties for word in ("-o", text)]
        zfs("create", *options, f"{self.dataset}/{name}")
        path = self.path / name
        path.chmod(mode)
        return path

    def mount(self, target: Path, name: str) -> Path:
        """Give a dataset the mount point ``legacy`` and mount it by mount(8).

        Args:
            target: a directory, made if it is missing and then removed in the end.
            name: of the dataset, below ours.
        """
        dataset = f"{self.dataset}/{name}"
        zfs("set", "mountpoint=legacy", dataset)
        self._make(target)
        run(["mount", "-t", "zfs", dataset, str(target)], timeout=_SECONDS)
        return target

    @contextmanager
    def mounted(self, dataset: str, target: Path) -> Iterator[Path]:
        """Mount any dataset at one more place for a while, whatever properties it has.

        The mount is writable, even if the dataset is read-only.
        """
        self._make(target)
        try:
            mount = mounting.detached_mount("zfs", {"source": dataset})
        except OSError as exc:
            # module/os/linux/zfs/zpl_super.c, zpl_mount_impl(): one that is mounted and read-only
            if exc.errno != errno.EBUSY:
                raise
            mount = mounting.detached_mount("zfs", {"source": dataset}, ("ro",))
        try:
            mounting.mount_setattr(mount, clear=mounting.MOUNT_ATTR_RDONLY)
            mounting.move_mount(mount, str(target))
        finally:
            os.close(mount)
        try:
            yield target
        finally:
            mounting.umount(str(target))

    def destroy(self, name: str) -> None:
        """Destroy a dataset, by its path below ours, that has nothing inside."""
        zfs("destroy", f"{self.dataset}/{name}")

    def _make(self, target: Path) -> None:
        if not target.is_dir():
            target.mkdir()
            self._directories.append(target)

    def _destroy(self) -> None:
        """Destroy our dataset, and with it all that came from it."""
        columns = "name,userrefs,clones"
        rows = zfs(
            "list", "-H", "-p", "-r", "-t", "filesystem,snapshot", "-o", columns, self.dataset
        )
        ours = {name for name, *_ in rows if "@" not in name}
        held = []
        for name, references, clones in rows:
            ours.update(clone for clone in clones.split(",") if "/" in clone)
            if references not in ("-", "0"):
                held.append(name)
        with ExitStack() as rest:
            for directory in (*self._directories, self.path):
                rest.callback(_remove_directory, directory)
            rest.callback(self._destroy_busy)
            for snapshot, tag, *_ in zfs("holds", "-H", *held) if held else ():
                rest.callback(zfs, "release", tag, snapshot)
            rest.callback(unmount_all, {*ours, *(_below(self.pool.names(), ours))})

    def _destroy_busy(self) -> None:
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                zfs("destroy", "-R", "-f", self.dataset)
                return
            except ToolError as exc:
                if "busy" not in exc.stderr or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)  # what was unmounted just now lets go a moment later


def _below(names: list[str], datasets: set[str]) -> Iterator[str]:
    for name in names:
        if any(name.startswith(f"{dataset}/") for dataset in datasets):
            yield name


def _remove_directory(path: Path) -> None:
    # ZFS removes the directories that it made.
    with suppress(FileNotFoundError):
        path.rmdir()
