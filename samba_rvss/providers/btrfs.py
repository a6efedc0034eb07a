"""Images on btrfs: snapshots in ``/.samba-rvss`` of the file system's top-level tree.

    /.samba-rvss            a subvolume, 0700, so that a snapshot of the top level does not hold it
      <id>/                 a directory with our mark in trusted.samba_rvss
        image               the snapshot; nested ones in place inside it
        flush               a throw-away snapshot, only while an image is being settled

The mark is written before the snapshot, whose own transaction makes both durable, and it stays
outside, so that the image is exactly the volume. Everything is reached through a detached mount of
the top level, whichever subvolume the administrator mounted and wherever; it is made for each
operation (measured: 30 µs), so nothing of ours keeps a file system busy.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import btrfsutil

from samba_rvss import kernel
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Image, Inventory, Mark, Nested, Volume
from samba_rvss.providers import btrfs_ioctl
from samba_rvss.providers.detached import narrow
from samba_rvss.providers.mark import decode, encode

_logger = logging.getLogger(__name__)

HOME = ".samba-rvss"
MARK = "trusted.samba_rvss"
_IMAGE = "image"
_FLUSH = "flush"
_SYSFS = "/sys/fs/btrfs"
_BENEATH = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def _problem(exc: OSError, what: str) -> RvssError:
    if exc.errno == errno.ENOSPC:
        return RvssError(Problem.NO_SPACE, f"{what}: the file system is full", "free some space")
    if exc.errno == errno.EDQUOT:
        return RvssError(
            Problem.NO_SPACE, f"{what}: a quota group's limit is reached", "see 'btrfs qgroup show'"
        )
    if exc.errno == errno.EROFS:
        return RvssError(
            Problem.READ_ONLY, f"{what}: the file system is read-only", "see the kernel's log"
        )
    if exc.errno in (errno.EBUSY, errno.EPERM, errno.ETXTBSY):
        return RvssError(
            Problem.BUSY,
            f"{what}: it is in use ({exc.strerror})",
            "a 'btrfs send' or a swap file may hold it",
        )
    return RvssError(Problem.SYSTEM, f"{what}: {exc.strerror or exc}")


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _device(file_system: str) -> str:
    """Return a block device of a mounted file system, checked against its number."""
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
            with open(f"{directory}/{name}/dev", encoding="ascii") as number:
                major, minor = map(int, number.read().split(":"))
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(major, minor):
            return path
    raise RvssError(
        Problem.NOT_FOUND,
        f"no device of the btrfs file system {file_system} is in /dev",
        "give the container the host's /dev",
    )


class Btrfs:
    """The provider for btrfs.

    Args:
        instance: what tells this instance's images from another's on the same file system.
    """

    name = "btrfs"
    nested_mounts = ""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool = False) -> Volume | None:
        """See `samba_rvss.providers.Provider`."""
        if kernel.file_system_type(fd) != kernel.BTRFS_SUPER_MAGIC:
            return None
        try:
            inode = os.fstat(fd).st_ino
            file_system = btrfs_ioctl.file_system_id(fd)
            tree, directory = btrfs_ioctl.lookup(fd, inode)
            is_top = tree == btrfs_ioctl.FS_TREE_OBJECTID
            name = "" if is_top else btrfsutil.subvolume_path(fd, tree)
            space = os.fstatvfs(fd)
        except OSError as exc:
            raise _problem(exc, f"cannot examine {path}") from exc
        if name == HOME or name.startswith(f"{HOME}/"):
            raise RvssError(Problem.BAD_PATH, f"{path} is itself inside a shadow copy")
        if space.f_flag & os.ST_RDONLY and _is_read_only_super(fd):
            raise RvssError(
                Problem.READ_ONLY, f"the file system of {path} is read-only", "remount it writable"
            )
        # btrfs says 0 as soon as its metadata is used up (fs/btrfs/super.c, btrfs_statfs())
        if space.f_bavail == 0:
            raise RvssError(
                Problem.NO_SPACE, f"the file system of {path} has no room", "free some space"
            )
        if nested is Nested.REFUSE:
            self._refuse_nested(fd, directory, path)
        return Volume(
            provider=self.name,
            file_system=file_system,
            id=str(tree),
            name=name or "/",
            directory=directory,
            inode=inode,
        )

    def create(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        volume = mark.volume
        try:
            with (
                self._top(volume.file_system, writable=True) as top,
                _opened(_home(top, create=True)) as home,
                _opened(_subvolume(top, volume)) as source,
                ExitStack() as undo,
            ):
                inner: list[str] = []
                if mark.nested is Nested.INCLUDE:
                    inner = list(_nested(source, volume.directory))
                else:
                    self._refuse_nested(source, volume.directory, mark.share_path)
                os.mkdir(mark.id, 0o700, dir_fd=home)
                undo.callback(self._remove, home, mark.id)
                with _opened(os.open(mark.id, _READ, dir_fd=home)) as container:
                    os.setxattr(container, MARK, encode(mark, self._instance).encode())
                    _take(source, container, inner, shows_home=_shows_home(volume))
                undo.pop_all()
        except OSError as exc:
            raise _problem(exc, f"cannot take a shadow copy of {mark.share_path}") from exc

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """See `samba_rvss.providers.Provider`. Nested subvolumes need no mounts of their own."""
        with self._image(volume, image, writable=False) as root:
            tree, _ = btrfs_ioctl.lookup(root)
            options = {"source": _device(volume.file_system), "subvolid": str(tree)}
            mount = kernel.detached_mount("btrfs", options, ("ro",))
            return [("", narrow(mount, volume.directory, volume.inode, image))]

    def seal(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        with self._image(volume, image, writable=True) as root:
            for path in _nested(root, ""):
                with _opened(kernel.openat2(root, path, _READ, _BENEATH)) as part:
                    btrfs_ioctl.set_read_only(part, read_only=True)
            btrfs_ioctl.set_read_only(root, read_only=True)

    def settle(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`.

        A snapshot writes out what its source still holds in memory, and nothing else of the file
        system (fs/btrfs/ioctl.c, btrfs_mksnapshot()): syncfs(2) would wait for every other
        writer on it.
        """
        with (
            self._image(volume, image, writable=True) as root,
            _opened(os.open("..", _READ, dir_fd=root)) as container,
        ):
            for path in [".", *_nested(root, "")]:
                with _opened(kernel.openat2(root, path, _READ, _BENEATH)) as part:
                    if not btrfs_ioctl.is_read_only(part):
                        raise RvssError(
                            Problem.NOT_SEALED, f"{path} in the image {image} is still writable"
                        )
                    _delete_tree(container, _FLUSH)
                    btrfs_ioctl.snapshot(part, container, _FLUSH, read_only=True)
                btrfs_ioctl.delete_subvolume(container, _FLUSH)

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        try:
            with self._top(volume.file_system, writable=True) as top:
                try:
                    home = _home(top, create=False)
                except FileNotFoundError:
                    return
                with _opened(home):
                    self._remove(home, image)
        except OSError as exc:
            raise _problem(exc, f"cannot remove the image {image}") from exc

    def inventory(self) -> Inventory:
        """See `samba_rvss.providers.Provider`."""
        seen: set[str] = set()
        images: list[Image] = []
        try:
            file_systems = sorted(name for name in os.listdir(_SYSFS) if name.count("-") == 4)
        except FileNotFoundError:
            file_systems = []
        for file_system in file_systems:
            try:
                images += self._list(file_system)
                seen.add(file_system)
            except (OSError, RvssError) as exc:
                _logger.warning("cannot list the images on btrfs %s: %s", file_system, exc)
        return Inventory(file_systems=frozenset(seen), images=tuple(images))

    def _list(self, file_system: str) -> list[Image]:
        with self._top(file_system, writable=False) as top:
            try:
                home = _home(top, create=False)
            except FileNotFoundError:
                return []
            with _opened(home):
                found = [self._inspect(home, name) for name in sorted(os.listdir(home))]
        return [image for image in found if image is not None]

    def _inspect(self, home: int, name: str) -> Image | None:
        try:
            with _opened(os.open(name, _READ, dir_fd=home)) as container:
                mark = decode(os.getxattr(container, MARK), self._instance, self.name)
                if mark is None:
                    return None
                read_only = _is_read_only(container)
        except OSError as exc:
            if exc.errno in (errno.ENODATA, errno.ENOTDIR, errno.ENOENT, errno.ELOOP):
                return None
            raise
        return Image(
            id=name,
            provider=self.name,
            mark=mark,
            complete=read_only is not None,
            read_only=bool(read_only),
        )

    @contextmanager
    def _top(self, file_system: str, *, writable: bool) -> Iterator[int]:
        # "ro" keeps the kernel from turning a read-only file system writable for our mount
        # (fs/btrfs/super.c, btrfs_reconfigure_for_mount()); the mount alone is opened then.
        options = {"source": _device(file_system), "subvolid": "5"}
        with _opened(kernel.detached_mount("btrfs", options, ("ro",))) as mount:
            if writable:
                kernel.mount_setattr(mount, clear=kernel.MOUNT_ATTR_RDONLY)
            with _opened(os.open(".", _READ, dir_fd=mount)) as top:
                if btrfs_ioctl.file_system_id(top) != file_system:
                    raise RvssError(
                        Problem.SYSTEM, f"{options['source']} is no longer btrfs {file_system}"
                    )
                yield top

    @contextmanager
    def _image(self, volume: Volume, image: str, *, writable: bool) -> Iterator[int]:
        try:
            with (
                self._top(volume.file_system, writable=writable) as top,
                _opened(_home(top, create=False)) as home,
                _opened(os.open(image, _READ, dir_fd=home)) as container,
                _opened(os.open(_IMAGE, _READ, dir_fd=container)) as root,
            ):
                yield root
        except FileNotFoundError as exc:
            raise RvssError(Problem.NOT_FOUND, f"there is no image {image}") from exc
        except OSError as exc:
            raise _problem(exc, f"cannot work on the image {image}") from exc

    def _remove(self, home: int, image: str) -> None:
        """Remove an image's directory with every subvolume in it; gone already is success."""
        try:
            container = os.open(image, _READ, dir_fd=home)
        except FileNotFoundError:
            return
        with _opened(container):
            if self._is_marked(container, image):
                for name in os.listdir(container):
                    _delete_tree(container, name)
        os.rmdir(image, dir_fd=home)

    def _is_marked(self, container: int, image: str) -> bool:
        """Return whether a directory bears our mark, false for one that was cut off before it."""
        try:
            raw = os.getxattr(container, MARK)
            ours = decode(raw, self._instance, self.name) is not None
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                raise
            is_directory = os.fstat(container).st_ino != btrfs_ioctl.FIRST_FREE_OBJECTID
            if is_directory and not os.listdir(container):
                return False
            ours = False
        if not ours:
            raise RvssError(
                Problem.BAD_PATH, f"/{HOME}/{image} does not bear our mark", "see who made it"
            )
        return True

    def _refuse_nested(self, fd: int, directory: str, path: str) -> None:
        for inner in _nested(fd, directory):
            raise RvssError(
                Problem.NESTED,
                f"the subvolume {inner} lies inside {path} and would be empty in a shadow copy",
                "set 'rvss:nested = include' or move it away",
            )


def _is_read_only_super(fd: int) -> bool:
    number = kernel.mount_id(fd)
    return any("ro" in mount.super_options for mount in kernel.mountinfo() if mount.id == number)


def _is_read_only(container: int) -> bool | None:
    """Return whether the image in a directory is read-only throughout; None if it has none."""
    try:
        root = os.open(_IMAGE, _READ, dir_fd=container)
    except FileNotFoundError:
        return None
    with _opened(root):
        read_only = btrfs_ioctl.is_read_only(root)
        for path in _nested(root, ""):
            with _opened(kernel.openat2(root, path, _READ, _BENEATH)) as part:
                read_only = read_only and btrfs_ioctl.is_read_only(part)
    return read_only


def _home(top: int, *, create: bool) -> int:
    """Open ``/.samba-rvss``, made if wanted; refuse one that others could have made."""
    try:
        fd = os.open(HOME, _READ, dir_fd=top)
    except FileNotFoundError:
        if not create:
            raise
        # Another request may make it just now; the daemon's umask closes it from the beginning.
        with suppress(FileExistsError):
            btrfs_ioctl.create_subvolume(top, HOME)
        fd = os.open(HOME, _READ, dir_fd=top)
        if os.fstat(fd).st_uid == 0:
            os.fchmod(fd, 0o700)
    status = os.fstat(fd)
    if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(fd)
        raise RvssError(
            Problem.BAD_PATH,
            f"/{HOME} in the file system's top-level tree is open to others than root",
            "see who made it, and move it away",
        )
    return fd


def _subvolume(top: int, volume: Volume) -> int:
    """Open a volume's root below the top level, and make sure that it is the one."""
    tree = int(volume.id)
    path = btrfsutil.subvolume_path(top, tree) if tree != btrfs_ioctl.FS_TREE_OBJECTID else "."
    fd = kernel.openat2(top, path, _READ, _BENEATH | kernel.RESOLVE_NO_XDEV)
    if btrfs_ioctl.lookup(fd)[0] != tree:
        os.close(fd)
        raise RvssError(
            Problem.BAD_PATH, f"the subvolume {volume.name} was moved just now", "try again"
        )
    return fd


def _nested(fd: int, directory: str) -> Iterator[str]:
    """Yield the subvolumes below a directory of the one that a descriptor is in.

    Parents come before what is inside them. Paths are relative to the subvolume; our own
    images are left out. Beyond the first, the descriptor must be the subvolume's root.
    """
    inside = btrfs_ioctl.children(fd)
    if not inside:
        return
    tree, _ = btrfs_ioctl.lookup(fd)
    prefix = f"{directory}/" if directory else ""
    for child, holder in inside:
        _, parent = btrfs_ioctl.lookup(fd, holder)
        leaf = btrfsutil.subvolume_path(fd, child).rpartition("/")[2]
        path = f"{parent}/{leaf}" if parent else leaf
        if tree == btrfs_ioctl.FS_TREE_OBJECTID and path == HOME:
            continue
        if not path.startswith(prefix):
            continue
        yield path
        with _opened(kernel.openat2(fd, path, _READ, _BENEATH)) as inner:
            if btrfs_ioctl.lookup(inner)[0] != child:
                raise RvssError(Problem.BUSY, f"{path} was moved just now", "try again")
            for below in _nested(inner, ""):
                yield f"{path}/{below}"


def _shows_home(volume: Volume) -> bool:
    """Return whether a share is the very directory that our own subvolume is in."""
    return volume.id == str(btrfs_ioctl.FS_TREE_OBJECTID) and not volume.directory


def _take(source: int, container: int, inner: list[str], *, shows_home: bool) -> None:
    if not inner and not shows_home:
        btrfs_ioctl.snapshot(source, container, _IMAGE, read_only=False)
        return
    making = "making"
    btrfs_ioctl.snapshot(source, container, making, read_only=False)
    with _opened(os.open(making, _READ, dir_fd=container)) as image:
        if shows_home:
            with _keeping_time(image), suppress(FileNotFoundError):
                os.rmdir(HOME, dir_fd=image)  # the empty directory that stands for it
        for path in inner:
            holder, _, leaf = path.rpartition("/")
            with (
                _opened(kernel.openat2(source, path, _READ, _BENEATH)) as part,
                _opened(kernel.openat2(image, holder or ".", _READ, _BENEATH)) as parent,
                _keeping_time(parent),
            ):
                os.rmdir(leaf, dir_fd=parent)
                btrfs_ioctl.snapshot(part, parent, leaf, read_only=False)
    os.rename(making, _IMAGE, src_dir_fd=container, dst_dir_fd=container)
    os.fsync(container)


@contextmanager
def _keeping_time(directory: int) -> Iterator[None]:
    status = os.fstat(directory)
    yield
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def _delete_tree(parent: int, name: str) -> None:
    """Delete a subvolume and those inside it; gone already is success."""
    try:
        fd = os.open(name, _READ, dir_fd=parent)
    except FileNotFoundError:
        return
    with _opened(fd):
        inner = list(_nested(fd, ""))
        if inner:
            for path in [".", *inner]:
                with _opened(kernel.openat2(fd, path, _READ, _BENEATH)) as part:
                    btrfs_ioctl.set_read_only(part, read_only=False)
        for path in reversed(inner):
            holder, _, leaf = path.rpartition("/")
            with _opened(kernel.openat2(fd, holder or ".", _READ, _BENEATH)) as within:
                btrfs_ioctl.delete_subvolume(within, leaf)
    btrfs_ioctl.delete_subvolume(parent, name)
