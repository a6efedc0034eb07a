"""Providers take, seal and remove images of volumes, each on one kind of file system.

A provider knows nothing of Samba, recovery mounts or the ledger. Every image bears the mark of its
instance; an image without that mark is never touched, nor one that is not on the file system, or
not under the name, that its mark says. Methods may block for as long as the file system does, never
hold the interpreter's lock meanwhile, and may run side by side for different volumes.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Protocol

from samba_rvss.errors import RvssError
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Image, Inventory, Mark, Nested, Sealed, Taken, Volume


class Provider(Protocol):
    """One file system's way to take, seal and remove images.

    Attributes:
        name: what marks and records call it.
    """

    name: str

    def find(self, fd: int, path: str) -> Volume | None:
        """Find the volume that a directory sits in, whether it can be snapshotted or not.

        Args:
            fd: the directory, opened for reading.
            path: its path, for messages.

        Returns:
            The volume, or None if the directory is on another kind of file system.

        Raises:
            RvssError: BAD_PATH if it is in a shadow copy; NOT_SUPPORTED or SYSTEM.
        """

    def around(self, fd: int, volume: Volume) -> Sequence[Volume]:
        """Return the volumes that a volume is nested in; each may be backed up with all in it.

        Args:
            fd: a directory of the volume, opened for reading.
            volume: as `find` has it.

        Raises:
            RvssError: SYSTEM.
        """

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

    def ready(self, volume: Volume) -> None:
        """Make what images of a volume need besides themselves, so that taking them is quicker.

        It outlives them. What it cannot make, `create` makes, or does without.

        Args:
            volume: as it was probed just now.

        Raises:
            RvssError: as `create` returns it.
        """

    def includes(self, mount: MountInfo) -> bool:
        """Return whether ``rvss:nested = include`` captures what is mounted below a share.

        Args:
            mount: a mount below the directory of a volume of this provider.
        """

    def create(self, marks: Sequence[Mark], deadline: float) -> Mapping[str, Taken | RvssError]:
        """Take writable images of volumes, with our marks, durable on return.

        They are of one instant, if that can be had in time; see `Taken`. What is nested in a volume
        is always taken with it. What fails of one harms no other, and leaves nothing behind.

        Args:
            marks: those of the images: one or more, all of one file system.
            deadline: time (`time.monotonic`) by which they are needed.

        Returns:
            What was taken, or why it was not, by the images' ids: NO_SPACE, READ_ONLY, NESTED,
            BAD_PATH if the volume is not the one that was probed, BUSY if a nested volume is moved
            meanwhile, or SYSTEM.
        """

    def branch(self, volume: Volume, image: str, mark: Mark) -> Volume:
        """Make a writable image beside a sealed one, with the same in it; durable on return.

        Leaves nothing behind when it fails. The sealed image is only read.

        Args:
            volume: which the sealed one is an image of.
            image: its id.
            mark: that of the new one, which says of which it is a branch, and that it is not ready.

        Returns:
            What the new one is an image of, for all further calls: on ZFS that is the clone.

        Raises:
            RvssError: NOT_SEALED, NOT_FOUND, BAD_PATH, NO_SPACE, READ_ONLY or SYSTEM.
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

    def shows(self, mount: MountInfo, volume: Volume, image: str) -> bool:
        """Return whether a mount is one of an image, or of a part of it; it is not looked into.

        Args:
            mount: any mount.
            volume: which it would be an image of.
            image: its id.
        """

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """Make an image unchangeable, with everything nested in it; durable and verified on return.

        Handles that are open on what recovery wrote to lead to nothing that is part of the sealed
        image. That it is sealed is in its mark when this returns, in one step; until then it can be
        sealed again from what recovery left. Sealing again is success, and changes nothing.

        Args:
            volume: which it is an image of.
            image: its id.
            sealed: what the mark is to say.
            opened: whether it can have been written to; if not, what is there may stay the image.

        Returns:
            Whether the sealed image is another one than what `open` returned before, so that it
            has to be mounted anew.

        Raises:
            RvssError: NOT_SEALED if it is read-only, but open handles cannot be excluded;
                NOT_FOUND, NO_SPACE or SYSTEM.
        """

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """Remove what recovery wrote to and is no part of the sealed image. Gone is success.

        Args:
            volume: which it is an image of.
            image: its id.
            link: whether it is to be left, hidden and read-only, where without it nothing leads
                from the sealed image to its volume: on btrfs, for btrbk.

        Raises:
            RvssError: HELD or NOT_SEALED if others have put or written something there; BUSY,
                READ_ONLY or SYSTEM.
        """

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """Return the mark of an image of ours; None if there is no such image.

        Raises:
            RvssError: NOT_FOUND if its file system is not there, BAD_PATH if it is not ours, or
                SYSTEM.
        """

    def keep(self, volume: Volume, image: str) -> None:
        """See that the state of a sealed image can be carried away as it is. Again is success.

        On ZFS that takes a snapshot of the clone, held as the image's own is. On btrfs the sealed
        image is what is carried away.

        Raises:
            RvssError: NOT_FOUND, NOT_SEALED, NO_SPACE or SYSTEM.
        """

    def hold(self, volume: Volume, image: str, tags: Sequence[str]) -> None:
        """Have the file system refuse to destroy an image, where it can: those tags, and no others.

        On ZFS they become holds of the image's snapshots. On btrfs the mark alone has them.

        Args:
            volume: which it is an image of.
            image: its id.
            tags: all that are to hold it; other holds of ours are released.

        Raises:
            RvssError: NOT_FOUND or SYSTEM.
        """

    def require_free(self, volume: Volume, image: str) -> None:
        """Refuse to go on where others keep an image from being destroyed: it is theirs as well.

        On ZFS those are holds that are not ours, and clones. On btrfs there is nothing of the kind.

        Raises:
            RvssError: HELD; NOT_FOUND if its file system is not there, BAD_PATH or SYSTEM.
        """

    def claim(self, mark: Mark) -> None:
        """Write the mark of an image anew, with our identity and that of its file system.

        Until this returns the image is whose it was; then that is durable. Claiming again is
        success. Whoever calls this has made sure that the image is ours.

        Args:
            mark: what the mark is to say, besides whose it is; with the file system on which it was
                found, if that is not the one in its mark.

        Raises:
            RvssError: NOT_FOUND, READ_ONLY or SYSTEM.
        """

    def destroy(self, volume: Volume, image: str) -> None:
        """Remove an image and everything in it. Gone already is success.

        Raises:
            RvssError: NOT_FOUND if its file system is not there; HELD if its mark says so; BUSY if
                something else holds it, READ_ONLY or SYSTEM.
        """

    def sizes(self, images: Sequence[Image]) -> Mapping[str, int]:
        """Return how many bytes come free when an image is destroyed, and nothing else.

        Args:
            images: what to tell it of: one or more of ours, all on one file system.

        Returns:
            That, by the ids of those images of which the file system tells it exactly, and without
            its trees being walked.

        Raises:
            RvssError: BUSY if the file system does not answer, NOT_FOUND or SYSTEM.
        """

    def file_systems(self, mounts: Iterable[MountInfo]) -> frozenset[str]:
        """Return which file systems mounts are of; none is asked, as one may not answer.

        Each is what the `Volume.file_system` of a volume on it is. Mounts of other kinds count for
        nothing.
        """

    def remembered(self) -> frozenset[str]:
        """Return the file systems that images of ours are, or were, on, whether mounted or not.

        Those count that were made or found since there is such a memory, and no others'.
        """

    def inventory(self, only: Container[str] | None = None) -> Inventory:
        """List the images on mounted file systems, this instance's and those that are not.

        Args:
            only: the file systems to look at; no other is asked for anything. None for all.

        A file system that cannot be listed is ``unlisted``, with the reason. One that was listed
        is there by all that a `Volume.file_system` may call it: a pool by its guid, and by its
        name, which records and marks of the first form have.
        """
