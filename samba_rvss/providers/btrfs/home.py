"""The home of our images on one file system: a subvolume, known by its id and its uuid.

    /.samba-rvss            root's, 0700; so a snapshot of the top level has no images in it

Whatever users do to its name, owner and mode, it stays ours; what stands under its name and was
made by others is not used.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.providers.btrfs import ioctl, mounted, parts, subvolumes
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.mounted import Top
from samba_rvss.providers.homes import Homes, Known

NAME = ".samba-rvss"

_logger = logging.getLogger(__name__)


class Home:
    """An open home; `opened` opens and closes it.

    Attributes:
        fd: its descriptor.
        top: that of the top level.
        known: what is remembered of it, or is to be.
        file_system: which one it is on.
        source: a device of that.
        node: the size of a node of its trees, in bytes.
    """

    def __init__(self, fd: int, top: Top, known: Known) -> None:
        self.fd = fd
        self.top = top.fd
        self.known = known
        self.file_system = top.file_system
        self.source = top.source
        self.node = top.node

    @property
    def tree(self) -> int:
        """Its id."""
        return self.known.tree

    def names(self) -> list[str]:
        """Return the names of everything directly in it."""
        with files.opened(os.open(".", files.DIRECTORY, dir_fd=self.fd)) as fresh:
            return sorted(os.listdir(fresh))

    def subvolume(self, name: str) -> Subvolume | None:
        """Return the subvolume that has a name in it; None if there is none, but perhaps a file.

        Args:
            name: as for `delete`.
        """
        try:
            with files.opened(os.open(name, files.DIRECTORY, dir_fd=self.fd)) as fd:
                found = ioctl.info(fd)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        return found if found.tree != self.tree else None

    def find(self, uuid: str) -> Subvolume | None:
        """Return the subvolume that has a uuid, wherever on the file system it is."""
        tree = ioctl.tree_of(self.top, uuid)
        if tree is None:
            return None
        try:
            with files.opened(subvolumes.opened(self.top, tree)) as fd:
                return ioctl.info(fd)
        except OSError as exc:
            if exc.errno in subvolumes.GONE:
                return None
            raise

    def open(self, subvolume: Subvolume) -> int:
        """Open the root of a subvolume; return a descriptor, which the caller closes."""
        return subvolumes.opened(self.top, subvolume.tree)

    def delete(self, name: str) -> None:
        """Delete a subvolume in it, with all that is inside. Gone already is success.

        Args:
            name: its name, or a path below the home in which every name is ours.
        """
        holder, _, leaf = name.rpartition("/")
        with (
            suppress(FileNotFoundError),
            files.opened(os.open(holder or ".", files.DIRECTORY, dir_fd=self.fd)) as parent,
        ):
            subvolumes.delete(self.top, parent, leaf)

    def delete_inside(self, name: str) -> None:
        """Delete the subvolumes inside a subvolume in it; what is made meanwhile may stay."""
        subvolumes.delete_inside(self.top, self.fd, name)

    def where(self, name: str = "") -> str:
        """Return the path of something in it from the top level, for messages."""
        path = subvolumes.path_of(self.top, self.tree)
        return f"/{path}/{name}" if name else f"/{path}"

    def where_is(self, subvolume: Subvolume) -> str:
        """Return the path of a subvolume from the top level, for messages."""
        return f"/{subvolumes.path_of(self.top, subvolume.tree)}"


@contextmanager
def opened(top: Top, homes: Homes, *, make: bool = False, remember: bool = True) -> Iterator[Home]:
    """Open the home on a file system, and give it back to root if it was taken.

    Args:
        top: the top level.
        homes: what is remembered.
        make: make a home where there is none.
        remember: whether there is, or will be, an image of ours in it.

    Raises:
        RvssError: BAD_PATH if others than root could have made what stands in its place.
        OSError: FileNotFoundError if there is no home, or it has been deleted.
    """
    known = homes.known(top.file_system)
    fd = _known(top.fd, known) if known is not None else None
    ours = fd is not None
    if fd is None:
        if known is not None and not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), NAME)
        fd = _by_name(top.fd, make=make)
    with files.opened(fd):
        status = os.fstat(fd)
        taken = bool(status.st_uid or stat.S_IMODE(status.st_mode) & 0o077)
        if not ours and (taken or status.st_ino != ioctl.FIRST_FREE_OBJECTID):
            raise RvssError(
                Problem.BAD_PATH,
                f"/{NAME} in the file system's top-level tree is open to others than root,"
                " or no subvolume",
                "see who made it, and move it away",
            )
        if not ours or known is None:
            found = ioctl.info(fd)
            known = Known(tree=found.tree, uuid=found.uuid)
        if remember:
            homes.remember(top.file_system, known)
        if taken:
            _give_back(top.file_system, known.tree)
        yield Home(fd, top, known)


def remembered(fd: int, file_system: str, homes: Homes) -> int | None:
    """Return the id of the home that is remembered, if it is still there; else None.

    Args:
        fd: a descriptor of the file system.
        file_system: its identity.
        homes: what is remembered.
    """
    known = homes.known(file_system)
    return known.tree if known and ioctl.tree_of(fd, known.uuid) == known.tree else None


def _known(top: int, known: Known) -> int | None:
    with ExitStack() as undo:
        try:
            fd = subvolumes.opened(top, known.tree)
            undo.callback(os.close, fd)
            if ioctl.info(fd).uuid != known.uuid:
                return None
        except OSError as exc:
            if exc.errno in subvolumes.GONE:
                return None
            raise
        undo.pop_all()
        return fd


def _by_name(top: int, *, make: bool) -> int:
    try:
        return os.open(NAME, files.DIRECTORY, dir_fd=top)
    except FileNotFoundError:
        if not make:
            raise
    # By the daemon's umask it is open to root alone from the beginning.
    with suppress(FileExistsError):  # another request may make it just now
        ioctl.create_subvolume(top, NAME)
    fd = os.open(NAME, files.DIRECTORY, dir_fd=top)
    status = os.fstat(fd)
    if status.st_uid == 0:
        os.fchmod(fd, 0o700)
    return fd


def _give_back(file_system: str, tree: int) -> None:
    """Make the home root's alone again; on a read-only file system it stays as it is."""
    with (
        mounted.top(file_system, writable=True) as top,
        files.opened(subvolumes.opened(top.fd, tree)) as fd,
    ):
        try:
            _take_back_marks(fd)
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o700)
        except OSError as exc:
            if exc.errno != errno.EROFS:
                raise
            return
    _logger.warning("the home of the images on btrfs %s was given back to root", file_system)


def _take_back_marks(home: int) -> None:
    """Do the same with the directories of marks: somebody may have one of them open."""
    with suppress(FileNotFoundError), _directory(home, parts.PLACE) as place:
        os.fchown(place, 0, 0)
        os.fchmod(place, 0o700)
        for name in os.listdir(place):
            with suppress(FileNotFoundError, NotADirectoryError), _directory(place, name) as fd:
                os.fchown(fd, 0, 0)
                os.fchmod(fd, 0o700)


def _directory(holder: int, name: str) -> AbstractContextManager[int]:
    return files.opened(os.open(name, files.DIRECTORY, dir_fd=holder))
