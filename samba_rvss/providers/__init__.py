"""Providers take, seal and remove images of volumes, each on one kind of file system.

A provider knows nothing of Samba, recovery mounts or the ledger. Every image bears the mark of its
instance; an image without that mark is never touched. Methods may block for as long as the file
system does, never hold the interpreter's lock meanwhile, and may run side by side for different
volumes.
"""

from typing import Protocol

from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Inventory, Mark, Nested, Volume


class Provider(Protocol):
    """One file system's way to take, seal and remove images."""

    name: str

    def probe(self, fd: int, path: str, nested: Nested, *, thorough: bool) -> Volume | None:
        """Find the volume that a directory sits in, and see that it can be snapshotted.

        Args:
            fd: the directory, opened for reading.
            path: its path, for messages.
            nested: whether volumes nested below the directory are allowed.
            thorough: look also for obstacles that take time to find.

        Returns:
            The volume, or None if the directory is on another kind of file system.

        Raises:
            RvssError: NESTED, NO_SPACE, READ_ONLY, BAD_PATH, NOT_SUPPORTED or SYSTEM.
        """

    def includes(self, mount: MountInfo) -> bool:
        """Return whether ``rvss:nested = include`` captures what is mounted below a share.

        Args:
            mount: a mount below the directory of a volume of this provider.
        """

    def create(self, mark: Mark) -> None:
        """Take a writable image of a volume, with our mark, durable on return.

        Leaves nothing behind when it fails.

        Raises:
            RvssError: NO_SPACE, READ_ONLY, NESTED, BAD_PATH if the volume is not the one that was
                probed, BUSY if a nested volume is moved meanwhile, or SYSTEM.
        """

    def open(self, volume: Volume, image: str) -> list[tuple[str, int]]:
        """Return detached mounts of the share's directory in an image, and of what is nested in it.

        Each is a path below the share's directory and the descriptor of the mount that belongs
        there: first "", the directory itself, and parents before what is inside them. The mounts
        are read-only, nosuid, nodev and noexec. The descriptors are the caller's; when they are
        closed, mounts that are attached nowhere are gone.

        Raises:
            RvssError: NOT_FOUND if there is no such image, BAD_PATH if the directory in it is not
                the one that was probed.
        """

    def seal(self, volume: Volume, image: str) -> None:
        """Make an image read-only at file-system level, with everything nested in it.

        Raises:
            RvssError: NOT_FOUND or SYSTEM.
        """

    def settle(self, volume: Volume, image: str) -> None:
        """Make durable what was written into a sealed image, and verify that it is sealed.

        Raises:
            RvssError: NOT_SEALED, NOT_FOUND or SYSTEM.
        """

    def destroy(self, volume: Volume, image: str) -> None:
        """Remove an image and everything in it. Gone already is success.

        Raises:
            RvssError: BUSY if something holds it, READ_ONLY or SYSTEM.
        """

    def inventory(self) -> Inventory:
        """List the images that bear this instance's mark, on every mounted file system.

        A file system that cannot be listed is left out of the inventory, and logged.
        """
