"""The home: the directory of a provider's images, where images are files and directories.

    .samba-rvss             the home: root's, 0700
      <id>/                 the place of an image, a directory with our mark in trusted.samba_rvss

The provider says what is in a place. The mark is there before anything else, so it tells at any
instant whose the place is; a place without a mark, or with another instance's, is left alone. Only
root can write a trusted attribute.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Foreign, Identity, Image, Mark, Whose
from samba_rvss.providers.mark import Marked, decode, encode

NAME = ".samba-rvss"
MARK = "trusted.samba_rvss"


class Home:
    """One instance's images in a home, which `opened` opens and closes.

    Args:
        fd: the home's descriptor.
        provider: the name of the provider whose images these are.
        identity: whose images are ours.
        file_system: which one the home is on.
    """

    def __init__(self, fd: int, provider: str, identity: Identity, file_system: str) -> None:
        self._fd = fd
        self._provider = provider
        self._identity = identity
        self._file_system = file_system

    def make(self, mark: Mark) -> int:
        """Make the place of an image, with its mark; return a descriptor, which the caller closes.

        Leaves nothing behind when it fails.

        Raises:
            OSError: if it cannot be made; FileExistsError if it is there.
        """
        os.mkdir(mark.id, 0o700, dir_fd=self._fd)
        with ExitStack() as undo:
            undo.callback(os.rmdir, mark.id, dir_fd=self._fd)
            place = self.open(mark.id)
            undo.callback(os.close, place)
            os.setxattr(place, MARK, encode(mark, self._identity).encode())
            undo.pop_all()
        return place

    def open(self, image: str) -> int:
        """Open the place of an image; return a descriptor, which the caller closes.

        Raises:
            OSError: FileNotFoundError if there is none.
        """
        return os.open(image, files.DIRECTORY, dir_fd=self._fd)

    def mark(self, image: str) -> Mark:
        """Return the mark of an image.

        Raises:
            OSError: if it cannot be read.
            RvssError: BAD_PATH if it is not ours.
        """
        with files.opened(self.open(image)) as place:
            marked = decode(os.getxattr(place, MARK), self._provider)
        if marked is None or not self._is_ours(marked, image):
            raise RvssError(Problem.BAD_PATH, f"/{NAME}/{image} does not bear our mark")
        return marked.mark

    def write(self, mark: Mark) -> None:
        """Write the mark of an image that is there anew; in one step.

        Raises:
            OSError: if it cannot be written.
        """
        with files.opened(self.open(mark.id)) as place:
            os.setxattr(place, MARK, encode(mark, self._identity).encode(), os.XATTR_REPLACE)

    def images(self, look: Callable[[int], bool | None]) -> list[Image | Foreign]:
        """Return the images in the home, ours and others'.

        Args:
            look: given an open place, returns whether all of the image in it is read-only; None
                if the image is not complete.

        Raises:
            OSError: if the home or a place cannot be read.
        """
        found = [self._inspect(name, look) for name in sorted(os.listdir(self._fd))]
        return [image for image in found if image is not None]

    def remove(self, image: str, destroy: Callable[[int, str], None]) -> None:
        """Remove the place of an image with all in it. Gone already is success.

        Args:
            image: its id.
            destroy: given an open place and a name in it, destroys what has that name.

        Raises:
            RvssError: BAD_PATH if it does not bear this instance's mark, unless it is an empty
                directory, whose making was cut off before the mark.
            OSError: if it cannot be removed.
        """
        try:
            place = self.open(image)
        except FileNotFoundError:
            return
        with files.opened(place):
            if self._is_marked(place, image):
                for name in os.listdir(place):
                    destroy(place, name)
        os.rmdir(image, dir_fd=self._fd)

    def _inspect(self, name: str, look: Callable[[int], bool | None]) -> Image | Foreign | None:
        try:
            with files.opened(self.open(name)) as place:
                marked = decode(os.getxattr(place, MARK), self._provider)
                read_only = look(place)
        except OSError as exc:
            if exc.errno in (errno.ENODATA, errno.ENOTDIR, errno.ENOENT, errno.ELOOP):
                return None
            raise
        whose = Whose.UNKNOWN if marked is None else self._whose(marked, name)
        if marked is None or whose not in (Whose.OURS, Whose.FORMER):
            return Foreign(
                id=name,
                provider=self._provider,
                file_system=self._file_system,
                where=f"/{NAME}/{name}",
                whose=whose,
                instance=marked.instance if marked else "",
                machine=marked.machine if marked else "",
                mark=marked.mark if marked else None,
                read_only=bool(read_only),
            )
        return Image(
            id=name,
            provider=self._provider,
            mark=marked.mark,
            complete=read_only is not None,
            read_only=bool(read_only),
            former=whose is Whose.FORMER,
        )

    def _whose(self, marked: Marked, name: str) -> Whose:
        if marked.mark.volume.file_system != self._file_system:
            return Whose.CLONE
        if marked.mark.id != name:
            return Whose.RENAMED
        return self._identity.whose(marked.instance, marked.machine)

    def _is_ours(self, marked: Marked, name: str) -> bool:
        return self._whose(marked, name) in (Whose.OURS, Whose.FORMER)

    def _is_marked(self, place: int, image: str) -> bool:
        """Return whether a place bears our mark; False if its making was cut off before that."""
        try:
            marked = decode(os.getxattr(place, MARK), self._provider)
            ours = marked is not None and self._is_ours(marked, image)
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                raise
            # A subvolume or the like has a device number of its own; our places have the home's.
            is_directory = os.fstat(place).st_dev == os.fstat(self._fd).st_dev
            if is_directory and not os.listdir(place):
                return False
            ours = False
        if not ours:
            raise RvssError(
                Problem.BAD_PATH, f"/{NAME}/{image} does not bear our mark", "see who made it"
            )
        return True


@contextmanager
def opened(
    top: int,
    provider: str,
    identity: Identity,
    file_system: str,
    make: Callable[[int, str], None] | None = None,
) -> Iterator[Home]:
    """Open the home in a directory; refuse a home that others than root could have made.

    Args:
        top: the directory.
        provider: see `Home`.
        identity: see `Home`.
        file_system: see `Home`.
        make: given the directory and the name, makes a home that is not there. By the daemon's
            umask it is open to root alone from the beginning.

    Raises:
        RvssError: BAD_PATH if the home is open to others than root.
        OSError: FileNotFoundError if there is no home and no ``make``.
    """
    try:
        fd = os.open(NAME, files.DIRECTORY, dir_fd=top)
    except FileNotFoundError:
        if make is None:
            raise
        with suppress(FileExistsError):  # another request may make it just now
            make(top, NAME)
        fd = os.open(NAME, files.DIRECTORY, dir_fd=top)
        if os.fstat(fd).st_uid == 0:
            os.fchmod(fd, 0o700)
    with files.opened(fd):
        status = os.fstat(fd)
        if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o077:
            raise RvssError(
                Problem.BAD_PATH,
                f"/{NAME} in the file system's top-level tree is open to others than root",
                "see who made it, and move it away",
            )
        yield Home(fd, provider, identity, file_system)
