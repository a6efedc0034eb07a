"""Images of the former layout, which are on disks from before: found, shown, sealed and removed.

    <id>/                   a directory with our mark in trusted.samba_rvss
      image                 the snapshot; nested ones in place inside it
      flush                 a throw-away snapshot, from a sealing that was cut off

To seal one it gets a mark in its place among the others, which names what is in it as the writable
parts. This module can go when no such image can be left.
"""

import errno
import os
from contextlib import suppress

from samba_rvss.kernel import files
from samba_rvss.model import Foreign, Identity, Image, Whose
from samba_rvss.providers.btrfs import images, ioctl, marks, parts, subvolumes
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.marks import MARK, PROVIDER, Record
from samba_rvss.providers.btrfs.parts import Part

IMAGE = "image"


def read(home: Home, image: str) -> Record | None:
    """Return the mark of an image in the former layout; None if there is none."""
    try:
        with files.opened(os.open(image, files.DIRECTORY, dir_fd=home.fd)) as fd:
            return marks.parse(image, os.getxattr(fd, MARK))
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENODATA, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def inspect(home: Home, name: str, identity: Identity) -> Image | Foreign | None:
    """Return the image of the former layout that has a name in the home; None if there is none."""
    record = read(home, name)
    if record is None:
        return None
    whose, where = record.whose(home.file_system, identity), ""
    found: list[tuple[str, Subvolume]] = []
    try:
        found = parts_of(home, record.name)
    except OSError as exc:
        if whose in images.OURS:
            whose, where = Whose.UNKNOWN, f"{home.where(record.name)} ({exc.strerror})"
    read_only = bool(found) and all(subvolume.read_only for _, subvolume in found)
    if whose not in images.OURS:
        where = where or home.where(record.name)
        return images.foreign(home, record, whose, where, read_only=read_only)
    return Image(
        id=record.name,
        provider=PROVIDER,
        mark=record.mark,
        complete=bool(found),
        read_only=read_only,
        former=whose is Whose.FORMER,
    )


def parts_of(home: Home, image: str) -> list[tuple[str, Subvolume]]:
    """Return the subvolumes of an image, each with its place in it; none if it is not complete."""
    try:
        with files.opened(os.open(image, files.DIRECTORY, dir_fd=home.fd)) as place:
            root = os.open(IMAGE, files.DIRECTORY, dir_fd=place)
    except FileNotFoundError:
        return []
    with files.opened(root):
        found = [("", ioctl.info(root))]
    for inner in subvolumes.below(home.top, found[0][1].tree):
        with files.opened(subvolumes.opened(home.top, inner.tree)) as fd:
            found.append((inner.path, ioctl.info(fd)))
    return found


def take_over(home: Home, record: Record, identity: Identity) -> Record | None:
    """Give an image a mark of the present layout; return it, or None if it is not complete."""
    found = parts_of(home, record.name)
    if not found:
        return None
    volume = record.mark.volume
    named = [
        Part(
            place=place,
            base=parts.base(place.rpartition("/")[2] if place else _base(volume.name)),
            tree=subvolume.tree if place else int(volume.id),
            recovery=subvolume.uuid,
        )
        for place, subvolume in found
    ]
    with suppress(FileExistsError):  # a try that was cut off made it
        marks.make(home, record.name)
    marks.write(home, record.mark, identity, named, in_place=True)
    return marks.read(home, record.name)


def claim(home: Home, record: Record, identity: Identity) -> None:
    """Put our identity into a mark of the former layout."""
    with files.opened(os.open(record.name, files.DIRECTORY, dir_fd=home.fd)) as fd:
        os.setxattr(fd, MARK, marks.text(record, identity), os.XATTR_REPLACE)


def remove(home: Home, image: str, identity: Identity) -> None:
    """Remove what an image has in the former layout. Gone already is success.

    Raises:
        RvssError: BAD_PATH if what is there does not bear our mark, unless it is an empty
            directory, whose making was cut off before the mark.
    """
    record = read(home, image)
    if record is not None:
        if record.whose(home.file_system, identity) not in images.OURS:
            raise images.not_ours(image, home.where(image))
        with files.opened(os.open(image, files.DIRECTORY, dir_fd=home.fd)) as place:
            for name in os.listdir(place):
                subvolumes.delete(home.top, place, name)
    elif home.subvolume(image) is not None:
        raise images.not_ours(image, home.where(image))
    try:
        os.rmdir(image, dir_fd=home.fd)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise images.not_ours(image, home.where(image)) from exc
        if exc.errno != errno.ENOENT:
            raise


def _base(name: str) -> str:
    leaf = name.rpartition("/")[2]
    return leaf or parts.TOP
