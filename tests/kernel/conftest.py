"""One file system and its provider, as the provider contract needs them.

A new provider gets a `Storage` of its own and a line in STORAGES; the tests stay as they are.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

import pytest

from samba_rvss.copies.instance import Instance
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.ledger import Ledger
from samba_rvss.model import Identity, Mark, Sealed, SetState
from samba_rvss.mounts import Mounts
from samba_rvss.providers import Provider
from samba_rvss.providers.btrfs import parts as btrfs_parts
from samba_rvss.providers.btrfs.home import NAME as HOME
from samba_rvss.providers.btrfs.marks import MARK
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.properties import MARK as ZFS_MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.tree import HOME as ZFS_HOME
from samba_rvss.run import run
from samba_rvss.samba.process import Here
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.plugin import require
from samba_rvss.testing.zfs import below_home
from tests.unit.values import CONFIG

_SECONDS = 60.0

SEALED = Sealed(
    set_id="set",
    copy_id="copy",
    context=0x00400001,
    exposed_share="vms@{copy}",
    state=SetState.RECOVERED,
)
"""What a mark says of a sealed image, where a test has no set."""


class Storage(Protocol):
    """A file system with one outermost volume, and what a test does to it from outside.

    Attributes:
        top: where the outermost volume is mounted; writable, mode 0755.
        provider: the provider under test, of one instance.
        other: the same kind of provider, of another instance.
        many: how many images are many, for the time that one takes.
        forgets: whether a loss of power surely takes what was written and not yet sealed.
        destroys_what_is_open: whether an image of which a file is open can be destroyed.
    """

    top: Path
    provider: Provider
    other: Provider
    many: int
    forgets: bool
    destroys_what_is_open: bool

    def volume(self, name: str) -> Path:
        """Make a volume by its path from the top, "outer/inner" for a nested one."""

    def remove(self, name: str) -> None:
        """Remove a volume."""

    def mount(self, name: str, target: Path) -> Path:
        """Mount a volume at one more place."""

    def hide_top(self) -> None:
        """Take the outermost volume's own mount away; what `mount` made stays."""

    def take_away(self) -> None:
        """Make the file system one that is not there."""

    def sync(self) -> None:
        """Write everything out and return when the file system has decided where it lies."""

    def fill(self) -> None:
        """Write until there is no room for anything."""

    def set_read_only(self, *, read_only: bool) -> None:
        """Remount the whole file system."""

    def is_read_only(self) -> bool:
        """Return whether the file system as a whole, not a mount of it, is read-only."""

    def after_power_loss(self, image: str, target: Path) -> Path:
        """Return what an image would hold if the machine lost its power now."""

    def names(self) -> list[str]:
        """Return the names of all that the providers keep on the file system."""

    def parts(self) -> list[str]:
        """Return the names of all volumes and images that exist, deleted ones excepted."""

    def foreign(self) -> list[str]:
        """Put things that bear no mark of ours where images are kept; return their names."""

    def cut_off(self, mark: Mark) -> tuple[list[str], list[str]]:
        """Leave what `create` leaves when it is cut off, wherever it may be.

        Args:
            mark: that of an image which is there.

        Returns:
            the ids of what was left before it bore a mark, and of what was left later.
        """


class BtrfsStorage:
    """btrfs on a loop device; see `Storage`."""

    def __init__(self, file_system: LoopBtrfs) -> None:
        self.fs = file_system
        self.top = file_system.path
        self.many = 500
        self.forgets = True
        self.destroys_what_is_open = True
        # Ids of this test alone: whoever else tests on this host has images that we see.
        self.identity = Identity(id=secrets.token_hex(16), run_directory=str(file_system.path))
        self.provider: Provider = Btrfs(self.identity)
        self.other: Provider = Btrfs(Identity(id=secrets.token_hex(16)))

    def volume(self, name: str) -> Path:
        """See `Storage`."""
        return self.fs.subvolume(name)

    def remove(self, name: str) -> None:
        """See `Storage`."""
        run(["btrfs", "subvolume", "delete", str(self.top / name)], timeout=_SECONDS)

    def mount(self, name: str, target: Path) -> Path:
        """See `Storage`."""
        return self.fs.mount(target, subvol=f"/{name}")

    def hide_top(self) -> None:
        """See `Storage`."""
        mounting.umount(str(self.top))

    def take_away(self) -> None:
        """See `Storage`."""
        self.hide_top()

    def sync(self) -> None:
        """See `Storage`."""
        os.sync()

    def fill(self) -> None:
        """See `Storage`."""
        size = 1 << 20
        with (self.top / "filler").open("wb", buffering=0) as filler:
            while size >= 4096:
                try:
                    filler.write(bytes(size))
                    os.fsync(filler.fileno())
                except OSError:
                    size //= 4
        os.sync()

    def limit(self) -> None:
        """Limit by quota what images may use, to less than one needs."""
        self._quota("enable", str(self.top))
        run(
            ["btrfs", "qgroup", "limit", "1K", str(self.top / HOME)],
            timeout=_SECONDS,
        )

    def unlimit(self) -> None:
        """Take the quota away."""
        self._quota("disable", str(self.top))

    def _quota(self, *words: str) -> None:
        run(["btrfs", "quota", *words], timeout=_SECONDS)

    def set_read_only(self, *, read_only: bool) -> None:
        """See `Storage`."""
        how = "ro" if read_only else "rw"
        run(["mount", "-o", f"remount,{how}", str(self.top)], timeout=_SECONDS)

    def is_read_only(self) -> bool:
        """See `Storage`."""
        mounts = [mount for mount in mounttable.mountinfo() if mount.source == self.fs.device]
        assert mounts
        return any("ro" in mount.super_options for mount in mounts)

    def after_power_loss(self, image: str, target: Path) -> Path:
        """See `Storage`.

        The copy of the device is read by a program: the kernel would take two file systems with
        one UUID for one.
        """
        copy = target / "device.img"
        run(["cp", "--sparse=always", str(self.fs.image), str(copy)], timeout=_SECONDS)
        out = target / "restored"
        out.mkdir()
        # -s: snapshots too; -i: go on where a file is not complete
        run(["btrfs", "restore", "-s", "-i", str(copy), str(out)], timeout=_SECONDS)
        parts = self.image_parts(image)
        for name in parts.values():  # a part that was just made may be where it was made
            if not (out / HOME / name).exists():
                (made,) = (out / HOME / btrfs_parts.PLACE / image).rglob(name)
                made.rename(out / HOME / name)
        for place in sorted(parts):
            if place:
                # A snapshot has an empty directory there; btrfs(8) follows it to the source.
                shutil.rmtree(out / HOME / parts[""] / place)
                (out / HOME / parts[place]).rename(out / HOME / parts[""] / place)
        return out / HOME / parts[""]

    def image_parts(self, image: str) -> dict[str, str]:
        """Return the names of an image's parts in the home, by their places."""
        mark = json.loads(os.getxattr(self.top / HOME / btrfs_parts.PLACE / image, MARK))
        parts = btrfs_parts.of_more(mark["more"])
        return {
            part.place: btrfs_parts.final(image, part)
            if mark["sealed"]
            else btrfs_parts.writable(image, parts, index)
            for index, part in enumerate(parts)
        }

    def names(self) -> list[str]:
        """See `Storage`."""
        home = self.top / HOME
        if not home.exists():
            return []
        marks = os.listdir(home / btrfs_parts.PLACE) if (home / btrfs_parts.PLACE).exists() else []
        others = (btrfs_parts.image_of(name) or name for name in os.listdir(home))
        return sorted({*marks, *others} - {btrfs_parts.PLACE})

    def parts(self) -> list[str]:
        """See `Storage`."""
        return [name for name in self.fs.subvolumes() if name != HOME]

    def foreign(self) -> list[str]:
        """See `Storage`."""
        home = self.top / HOME
        if not home.exists():
            self.fs.subvolume(HOME, 0o700)
        (home / "directory").mkdir()
        (home / "directory" / "image").mkdir()
        (home / "file").write_text("a file")
        (home / "link").symlink_to("/")
        for place in (home, home / btrfs_parts.PLACE):
            (place / "garbled").mkdir(parents=True)
            os.setxattr(place / "garbled", MARK, b"no JSON")
            (place / "unknown-version").mkdir()
            os.setxattr(place / "unknown-version", MARK, b'{"version": 3, "instance": "one"}')
        self.fs.subvolume(f"{HOME}/subvolume")
        (home / "with-subvolume").mkdir()
        self.fs.subvolume(f"{HOME}/with-subvolume/image")
        return self.names()

    def cut_off(self, mark: Mark) -> tuple[list[str], list[str]]:
        """See `Storage`."""
        home = self.top / HOME
        raw = json.loads(os.getxattr(home / btrfs_parts.PLACE / mark.id, MARK))
        names = [f"{mark.id[:-8]}{number:08x}" for number in range(3)]
        row = [*raw["more"]["parts"][0][:3], "", ""]
        for name in names:
            (home / btrfs_parts.PLACE / name).mkdir(0o700)
        for name in names[1:]:
            inner = ["inner", "inner", 9999, "", ""]
            text = json.dumps({**raw, "id": name, "more": {"parts": [row, inner]}})
            os.setxattr(home / btrfs_parts.PLACE / name, MARK, text.encode())
        parts = btrfs_parts.of_more({"parts": [row]})
        made = home / btrfs_parts.writable(names[2], parts, 0)
        source = str(self.top / mark.volume.name)
        run(["btrfs", "subvolume", "snapshot", source, str(made)], timeout=_SECONDS)
        run(["btrfs", "subvolume", "create", str(made / "inner")], timeout=_SECONDS)
        return names[:1], names[1:]

    def untrusted_home(self, how: str) -> None:
        """Put what others could have made ("owner", "mode" or "link") in our place."""
        if how == "link":
            (self.top / "elsewhere").mkdir(0o700)
            (self.top / HOME).symlink_to("elsewhere")
            return
        home = self.fs.subvolume(HOME, 0o755 if how == "mode" else 0o700)
        if how == "owner":
            os.chown(home, 1, 0)


class ZfsStorage:
    """A pool in a file; see `Storage`.

    Args:
        directory: a rig directory; the pool has its name.

    Attributes:
        pool: the pool's name; a test that renames the pool changes it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "pool.img"
        self.pool = directory.name
        self.top = directory / "top"
        self.provider: Provider = Zfs(Identity(id="one", machine="here", run_directory="/run/one"))
        self.other: Provider = Zfs(Identity(id="two", machine="here"))
        self.many = 15
        self.forgets = False
        self.destroys_what_is_open = False

    def __enter__(self) -> Self:
        """Make the pool."""
        with self._file.open("wb") as file:
            file.truncate(384 << 20)
        words = ["create", "-o", "cachefile=none", "-O", f"mountpoint={self.top}"]
        for option in ("acltype=posixacl", "xattr=sa", "compression=off", "recordsize=64K"):
            words += ["-O", option]
        self._zpool(*words, self.pool, str(self._file))
        return self

    def __exit__(self, *exc: object) -> None:
        """Destroy the pool, if there is still one."""
        if self.pool in self._zpool("list", "-H", "-o", "name").split():
            self._zpool("destroy", "-f", self.pool)

    def _zpool(self, *words: str) -> str:
        return run(["zpool", *words], timeout=_SECONDS)

    def _zfs(self, *words: str) -> list[list[str]]:
        out = run(["zfs", *words], timeout=_SECONDS)
        return [line.split("\t") for line in out.splitlines()]

    def _datasets(self) -> dict[str, str]:
        """Return the datasets and their mount points, as they are in the pool."""
        words = ("list", "-H", "-t", "filesystem", "-r", "-o", "name,mountpoint", self.pool)
        return dict(Command().table(*words, columns=2))

    def dataset(self, path: Path) -> str:
        """Return the dataset that is mounted at a path."""
        return {target: name for name, target in self._datasets().items()}[str(path)]

    def volume(self, name: str) -> Path:
        """See `Storage`. A dataset cannot have every name that a directory can."""
        path = self.top / name
        datasets = {target: dataset for dataset, target in self._datasets().items()}
        around = next(parent for parent in path.parents if str(parent) in datasets)
        leaf = re.sub(r"[^\w.:-]", "_", str(path.relative_to(around)))
        dataset = f"{datasets[str(around)]}/{leaf}"
        self._zfs("create", "-o", f"mountpoint={path}", dataset)
        return path

    def remove(self, name: str) -> None:
        """See `Storage`."""
        self._zfs("destroy", self.dataset(self.top / name))

    def mount(self, name: str, target: Path) -> Path:
        """See `Storage`."""
        target.mkdir()
        mount = mounting.detached_mount("zfs", {"source": self.dataset(self.top / name)})
        try:
            mounting.mount_setattr(
                mount, clear=mounting.MOUNT_ATTR_RDONLY | mounting.MOUNT_ATTR_NODEV
            )
            mounting.move_mount(mount, str(target))
        finally:
            os.close(mount)
        return target

    def hide_top(self) -> None:
        """See `Storage`."""
        mounting.umount(str(self.top))

    def take_away(self) -> None:
        """See `Storage`."""
        self._zpool("export", self.pool)

    def sync(self) -> None:
        """See `Storage`."""
        self._zpool("sync", self.pool)

    def fill(self) -> None:
        """See `Storage`."""
        size = 16 << 20
        with (self.top / "filler").open("wb", buffering=0) as filler:
            while size >= 4096:
                try:
                    filler.write(bytes(size))
                    os.fsync(filler.fileno())
                except OSError:
                    size //= 4
        self.sync()

    def set_read_only(self, *, read_only: bool) -> None:
        """See `Storage`."""
        self._zpool("export", self.pool)
        self._import(self._directory, "-o", f"readonly={'on' if read_only else 'off'}")

    def _import(self, directory: Path, *words: str) -> None:
        words = ("-d", str(directory), "-o", "cachefile=none", *words)
        self._zpool("import", "-f", *words, self.pool)

    def is_read_only(self) -> bool:
        """See `Storage`."""
        return self._zpool("get", "-H", "-o", "value", "readonly", self.pool).strip() == "on"

    def after_power_loss(self, image: str, target: Path) -> Path:
        """See `Storage`.

        The kernel takes one pool of a name and a GUID at a time: the true one rests meanwhile.
        """
        copies, out = target / "copies", target / "restored"
        copies.mkdir()
        run(["cp", "--sparse=always", str(self._file), str(copies)], timeout=_SECONDS)
        self._zpool("export", self.pool)
        with ExitStack() as undo:
            undo.callback(self._import, self._directory)
            self._import(copies, "-N")
            undo.callback(self._zpool, "export", self.pool)
            (mark,) = (
                found.mark for found in self.provider.inventory().images if found.id == image
            )
            mounts, path = Mounts(str(target / "run")), str(target / "run" / "exposed" / "s" / "c")
            (target / "run").mkdir()
            parts = self.provider.open(mark.volume, image)
            undo.callback(mounts.detach, path)
            try:
                mounts.attach(parts, path)
            finally:
                for _, part in parts:
                    os.close(part)
            run(["cp", "-a", path, str(out)], timeout=_SECONDS)
        return out

    def names(self) -> list[str]:
        """See `Storage`."""
        rows = self._zfs("list", "-H", "-t", "all", "-r", "-o", "name", self.pool)
        home = f"{self.pool}/{ZFS_HOME}"
        found = {below_home(row[0], home).partition("/")[0] for row in rows} - {""}
        found |= {row[0].partition("@rvss-")[2] for row in rows if "@rvss-" in row[0]}
        return sorted(found)

    def parts(self) -> list[str]:
        """See `Storage`."""
        home = f"{self.pool}/{ZFS_HOME}"
        found = self._datasets()
        targets = [os.path.relpath(t, self.top) for t in found.values() if t.startswith("/")]
        clones = [name for name in found if below_home(name, home)]
        return sorted([*(target for target in targets if target != "."), *clones])

    def foreign(self) -> list[str]:
        """See `Storage`."""
        home = f"{self.pool}/{ZFS_HOME}"
        if home not in self._datasets():
            self._zfs("create", "-o", "mountpoint=none", home)
        self._zfs("create", f"{home}/dataset")
        self._zfs("create", "-o", f"{ZFS_MARK}=no JSON", f"{home}/garbled")
        unknown = f'{ZFS_MARK}={{"version": 3, "instance": "one"}}'
        self._zfs("create", "-o", unknown, f"{home}/unknown-version")
        volume = next(name for name in self._datasets() if name.endswith("/vms"))
        self._zfs("snapshot", f"{volume}@rvss-snapshot")
        self._zfs("snapshot", "-o", unknown, f"{volume}@rvss-unknown-snapshot")
        self._zfs("snapshot", f"{volume}@rvss-cloned")
        self._zfs("clone", f"{volume}@rvss-cloned", f"{home}/cloned")
        return self.names()

    def cut_off(self, mark: Mark) -> tuple[list[str], list[str]]:
        """See `Storage`. Snapshots are born with the mark."""
        volume, home = mark.volume.name, f"{self.pool}/{ZFS_HOME}"
        whole = f"{volume}@rvss-{mark.id}"
        ((raw,),) = self._zfs("get", "-H", "-p", "-o", "value", ZFS_MARK, whole)
        names = [f"{mark.id[:-1]}{digit}" for digit in "ghi"]
        for number, name in enumerate(names):
            snapshot = f"{volume}@rvss-{name}"
            self._zfs("snapshot", "-o", f"{ZFS_MARK}={raw.replace(mark.id, name)}", snapshot)
            if number > 0:
                self._zfs("hold", HOLD, snapshot)
            if number > 1:
                self._zfs("clone", snapshot, f"{home}/{name}")
        return [], names


def _zfs(directory: Path, undo: ExitStack) -> Storage:
    require("root", "zfs")
    return undo.enter_context(ZfsStorage(directory))


def _btrfs(directory: Path, undo: ExitStack) -> Storage:
    require("root", "btrfs", "loop")
    return BtrfsStorage(undo.enter_context(LoopBtrfs(directory, size=512 << 20)))


STORAGES: dict[str, Callable[[Path, ExitStack], Storage]] = {"btrfs": _btrfs, "zfs": _zfs}


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, rig_directory: Path) -> Iterator[Storage]:
    """Each file system that we know, one after the other; with the daemon's umask."""
    with ExitStack() as undo:
        undo.callback(os.umask, os.umask(0o077))
        yield STORAGES[request.param](rig_directory, undo)


@pytest.fixture
def instance(rig_directory: Path, storage: "Storage") -> Iterator[Instance]:
    """An instance without a daemon."""
    (rig_directory / "run").mkdir()
    directory = f"{rig_directory}/run"
    config = replace(CONFIG, run_directory=directory, state_directory=directory)
    with closing(Ledger(f"{rig_directory}/ledger.db")) as ledger:
        yield Instance(
            config=config,
            ledger=ledger,
            mounts=Mounts(config.run_directory),
            providers=(storage.provider,),
            samba=Here(),
        )
