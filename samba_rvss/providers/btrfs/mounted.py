"""The mounted btrfs file systems, each reached through a detached mount of its own.

So the top level can be reached whichever subvolume the administrator mounted, and wherever. The
mount is made for each operation (measured: 30 µs), so nothing of ours keeps a file system busy.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, mounttable
from samba_rvss.providers.btrfs import ioctl
from samba_rvss.providers.patience import Place

_SYSFS = "/sys/fs/btrfs"
_SUPER_OFFSET, _SUPER_SIZE = 65536, 4096  # fs/btrfs/fs.h, BTRFS_SUPER_INFO_OFFSET
_LINE = 100  # bytes, of which a device's number needs fewer


def file_systems() -> list[str]:
    """Return the UUIDs of all mounted btrfs file systems."""
    try:
        return sorted(name for name in os.listdir(_SYSFS) if name.count("-") == 4)
    except FileNotFoundError:
        return []


def device(file_system: str) -> str:
    """Return the path of a block device of a mounted file system, checked against its number.

    Raises:
        RvssError: NOT_FOUND if it is not mounted, or no device of it is in /dev.
    """
    directory = f"{_SYSFS}/{file_system}/devices"
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        raise RvssError(
            Problem.NOT_FOUND, f"the btrfs file system {file_system} is not mounted", "mount it"
        ) from None
    for name in names:
        path = f"/dev/{name.replace('!', '/')}"
        try:
            number = os.open(f"{directory}/{name}/dev", os.O_RDONLY | os.O_CLOEXEC)
            with files.opened(number):
                major, minor = map(int, os.read(number, _LINE).split(b":"))
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(major, minor):
            return path
    raise RvssError(
        Problem.NOT_FOUND,
        f"no device of the btrfs file system {file_system} is in /dev",
        "give the container the disk (--device)",
    )


def require_permission(file_system: str, path: str) -> None:
    """Refuse a mounted file system whose images can be neither made nor listed from here.

    This asks the kernel as whoever opens the device does, and reads nothing from it: control groups
    answer access(2) too (fs/namei.c, inode_permission()).

    Args:
        file_system: its UUID.
        path: what on it is to be snapshotted.

    Raises:
        RvssError: SYSTEM, or as `device`.
    """
    source = device(file_system)
    if not os.access(source, os.R_OK):
        raise RvssError(
            Problem.SYSTEM,
            f"samba-rvss may not open {source}, which {path} is on: it can make no image there, and"
            " list none",
            "give it the permission for that device: --device for a container, DeviceAllow= for a"
            " service",
        )


def places() -> Callable[[str], Place]:
    """Return a function that tells where a mounted file system is, and asks none for that."""
    by_number: dict[int, mounttable.MountInfo] = {}
    for mount in mounttable.mountinfo():
        if mount.kind == "btrfs":
            with suppress(OSError):
                by_number.setdefault(os.stat(mount.source).st_rdev, mount)

    def place(file_system: str) -> Place:
        found = next((by_number[n] for n in _numbers(file_system) if n in by_number), None)
        if found is None:  # in other mount namespaces only
            return Place(device=file_system, words=f"the btrfs file system {file_system}")
        words = f"the btrfs file system {file_system}, mounted at {found.target},"
        return Place(device=found.device, words=words)

    return place


def on(sources: Iterable[str]) -> frozenset[str]:
    """Return the UUIDs of the mounted file systems that devices are of; none is asked.

    Args:
        sources: the devices' paths, as in the mount table; in a container they may not be there.
    """
    by_number: dict[int, str] = {}
    by_name: dict[str, str] = {}
    for file_system in file_systems():
        by_number |= dict.fromkeys(_numbers(file_system), file_system)
        by_name |= dict.fromkeys(_names(file_system), file_system)
    found = set[str]()
    for source in sources:
        try:
            found.add(by_number.get(os.stat(source).st_rdev, ""))
        except OSError:
            found.add(by_name.get(os.path.basename(source), ""))
    return frozenset(found - {""})


def _numbers(file_system: str) -> Iterator[int]:
    """Yield the numbers of the devices of a mounted file system."""
    directory = f"{_SYSFS}/{file_system}/devices"
    with suppress(OSError):
        for name in os.listdir(directory):
            with open(f"{directory}/{name}/dev", encoding="ascii") as number:
                yield os.makedev(*map(int, number.read().split(":")))


def _names(file_system: str) -> Iterator[str]:
    """Yield the names of the devices of a mounted file system, those in /dev/mapper included."""
    directory = f"{_SYSFS}/{file_system}/devices"
    with suppress(OSError):
        for name in os.listdir(directory):
            yield name
            with suppress(FileNotFoundError), open(f"{directory}/{name}/dm/name") as mapped:
                yield mapped.read().strip()


def mount(source: str, tree: int) -> int:
    """Mount a subvolume, detached and read-only; return its root as an O_PATH descriptor.

    Args:
        source: a device of its file system.
        tree: its id.

    Raises:
        OSError: if it cannot be mounted.
    """
    _have_super_block_read(source)
    # "ro" keeps the kernel from turning a read-only file system writable for our mount
    # (fs/btrfs/super.c, btrfs_reconfigure_for_mount()). Our mount can be made writable afterwards.
    options = {"source": source, "subvolid": str(tree)}
    try:
        return mounting.detached_mount("btrfs", options, ("ro",))
    except OSError as exc:
        if exc.errno not in (errno.ENAMETOOLONG, errno.ENOENT) or tree == ioctl.FS_TREE_OBJECTID:
            raise
    # The kernel looks for it by its path (fs/btrfs/super.c, mount_subvol()), which may be too long,
    # or change meanwhile.
    with (
        files.opened(mount(source, ioctl.FS_TREE_OBJECTID)) as top,
        files.opened(os.open(".", files.DIRECTORY, dir_fd=top)) as opened,
        files.opened(ioctl.opened(opened, tree)) as root,
    ):
        return mounting.open_detached_tree(top, root)


def _have_super_block_read(source: str) -> None:
    """Read a file system's super block, so that mounting finds it in memory.

    The kernel reads it while all other mounts of btrfs on the machine wait (fs/btrfs/super.c,
    btrfs_get_tree_super(), uuid_mutex): on a disk that does not answer, nobody waits but us.
    """
    with files.opened(os.open(source, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        os.pread(fd, _SUPER_SIZE, _SUPER_OFFSET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The top level of a mounted file system, open.

    Attributes:
        fd: its descriptor.
        file_system: the UUID.
        source: a device of the file system.
        node: the size of a node of its trees, in bytes.
    """

    fd: int
    file_system: str
    source: str
    node: int


@contextmanager
def top(file_system: str, *, writable: bool) -> Iterator[Top]:
    """Open the top level of a mounted file system.

    Raises:
        RvssError: as `device`; SYSTEM if the device has another file system by now.
        OSError: if it cannot be mounted or made writable.
    """
    source = device(file_system)
    with files.opened(mount(source, ioctl.FS_TREE_OBJECTID)) as root:
        if writable:
            mounting.mount_setattr(root, clear=mounting.MOUNT_ATTR_RDONLY)
        with files.opened(os.open(".", files.DIRECTORY, dir_fd=root)) as opened:
            found, node = ioctl.file_system(opened)
            if found != file_system:
                raise RvssError(Problem.SYSTEM, f"{source} is no longer btrfs {file_system}")
            yield Top(fd=opened, file_system=file_system, source=source, node=node)


def is_read_only(fd: int) -> bool:
    """Return whether the file system of a descriptor is read-only itself, not a mount of it."""
    number = mounttable.mount_id(fd)
    return any(
        "ro" in mount.super_options for mount in mounttable.mountinfo() if mount.id == number
    )
