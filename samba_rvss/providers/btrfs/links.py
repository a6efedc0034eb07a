"""Links: what recovery wrote to, left beside a backup that was sealed from it.

btrbk takes a snapshot for one of a subvolume only where the chain of `parent_uuid` reaches that
through subvolumes that exist (btrbk 0.32, tried). A sealed part is a snapshot of the writable one,
and that one of the volume: so the writable one stays as the link between them, read-only, hidden
and mounted nowhere, until the backup is deleted. It costs next to nothing, for what is in it is in
the sealed part as well. Where it is missing, nothing else suffers.
"""

import os
from collections.abc import Iterator

from samba_rvss.kernel import files
from samba_rvss.providers.btrfs import ioctl, parts
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.marks import Record


def name(image: str, among: tuple[parts.Part, ...], index: int) -> str:
    """Return what the link of a part is called."""
    return f".{parts.writable(image, among, index)}"


def names(home: Home, record: Record) -> Iterator[str]:
    """Yield the names in the home of the links of an image."""
    for index, part in enumerate(record.parts):
        link = name(record.name, record.parts, index)
        subvolume = home.subvolume(link)
        if subvolume is not None and part.recovery in ("", subvolume.uuid):
            yield link


def make(home: Home, remnant: str) -> None:
    """Make a link of what recovery wrote to; again is success.

    Args:
        home: where it is.
        remnant: its name there, or its path below it.

    Raises:
        RvssError: BUSY if somebody goes on making subvolumes in it.
        OSError: if btrfs refuses.
    """
    leaf = remnant.rpartition("/")[2]
    # A read-only subvolume can be renamed, but not moved.
    if leaf != remnant:
        os.rename(remnant, leaf, src_dir_fd=home.fd, dst_dir_fd=home.fd)
    home.delete_inside(leaf)
    with files.opened(os.open(leaf, files.DIRECTORY, dir_fd=home.fd)) as fd:
        ioctl.set_read_only(fd, read_only=True)
    os.rename(leaf, f".{leaf}", src_dir_fd=home.fd, dst_dir_fd=home.fd)
