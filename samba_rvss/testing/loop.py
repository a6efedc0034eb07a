"""A btrfs file system of its own in a sparse file.

Place: a rig for tests and for the demonstration; it stands on `run` and `kernel`.
Contract: entering makes the image, the loop device and the mount; leaving takes away every mount
of that device in our mount namespace, whoever made it, then the device and the file, and goes on
with the rest where one step fails. What could not be removed is one error with a name.
Subvolumes are made by btrfs(8), so that the rig does not share a fault with what it tests.
"""

import errno
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.run import run
from samba_rvss.testing.undoing import Undoing

_SECONDS = 60.0
MINIMUM = 114 << 20  # bytes; mkfs.btrfs refuses less


def unmount_all(device: str) -> None:
    """Take every mount of a block device off its path, the newest first.

    Raises:
        OSError: a path could not be freed; the others have been.
    """
    targets = [mount.target for mount in mounttable.mountinfo() if mount.source == device]
    with ExitStack() as rest:
        for target in targets:
            rest.callback(mounting.umount, target)


def _remove_directory(path: Path) -> None:
    # A directory inside the file system has gone with its mount.
    with suppress(FileNotFoundError):
        path.rmdir()


class LoopBtrfs(Undoing):
    """A context manager: a btrfs file system on a loop device, mounted at `path`.

    Args:
        directory: where to put the sparse file and the mount points; it must exist. Samba
            follows paths as its clients' users, so they must be able to walk to it.
        size: the file system's, in bytes; at least MINIMUM.
        mixed: whether data and metadata share their room, as small file systems have it; else what
            mkfs.btrfs(8) makes by itself.
        options: mount options, such as ``("compress=zstd",)``.
        disk: an empty file of that size, to be used instead; it stays.

    Attributes:
        path: where the top-level subvolume is mounted; mode 0755.
        device: the loop device, while it exists.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 256 << 20,
        mixed: bool = True,
        options: Sequence[str] = (),
        disk: Path | None = None,
    ) -> None:
        super().__init__()
        tag = secrets.token_hex(4)
        self.path = directory / f"btrfs-{tag}"
        self.image = disk or directory / f"btrfs-{tag}.img"
        self._is_ours = disk is None
        self.device = ""
        self._size = size
        self._mixed = mixed
        self._options = tuple(options)

    def _set_up(self) -> None:
        if self._is_ours:
            self.image.touch(mode=0o600, exist_ok=False)
            self._undo.callback(self.image.unlink)
            os.truncate(self.image, self._size)
        kind = ["--mixed"] if self._mixed else []
        run(["mkfs.btrfs", "-q", *kind, str(self.image)], timeout=_SECONDS)
        self.device = run(
            ["losetup", "--find", "--show", "--nooverlap", str(self.image)], timeout=_SECONDS
        ).strip()
        self._undo.callback(self._detach)
        self.mount(self.path, options=self._options)
        self.path.chmod(0o755)

    def mount(self, target: Path, *, subvol: str = "", options: Sequence[str] = ()) -> Path:
        """Mount a subvolume, or the whole file system, at one more place.

        Args:
            target: a directory, made if it is missing and then removed in the end.
            subvol: path of the subvolume from the top level; empty for the default one.
            options: more mount options.
        """
        if not target.is_dir():
            target.mkdir()
            self._undo.callback(_remove_directory, target)
        words = [*options, *([f"subvol={subvol}"] if subvol else [])]
        given = ["-o", ",".join(words)] if words else []
        self._undo.callback(unmount_all, self.device)
        run(["mount", "-t", "btrfs", *given, self.device, str(target)], timeout=_SECONDS)
        return target

    def subvolume(self, name: str, mode: int = 0o777) -> Path:
        """Create a subvolume, by its path from the top level; return its directory."""
        path = self.path / name
        run(["btrfs", "-q", "subvolume", "create", str(path)], timeout=_SECONDS)
        path.chmod(mode)
        return path

    def snapshot(self, source: str, name: str, *, read_only: bool = False) -> Path:
        """Create a snapshot of a subvolume; both are paths from the top level."""
        words = ["-r"] if read_only else []
        path = self.path / name
        run(
            ["btrfs", "-q", "subvolume", "snapshot", *words, str(self.path / source), str(path)],
            timeout=_SECONDS,
        )
        return path

    def delete_subvolume(self, name: str) -> None:
        """Delete a subvolume, also a read-only one; it must have no other inside."""
        run(["btrfs", "-q", "subvolume", "delete", str(self.path / name)], timeout=_SECONDS)

    def subvolumes(self) -> list[str]:
        """Return the paths, from the top level, of all subvolumes."""
        out = run(["btrfs", "subvolume", "list", str(self.path)], timeout=_SECONDS)
        return sorted(line.split(" path ", 1)[1] for line in out.splitlines())

    def _detach(self) -> None:
        """Free the loop device, and see that it has really gone.

        losetup reports success for a device in use too, which is freed when its last user lets go.
        """
        run(["losetup", "--detach", self.device], timeout=_SECONDS)
        backing = Path("/sys/block") / Path(self.device).name / "loop" / "backing_file"
        deadline = time.monotonic() + 10
        while self._still(backing):
            if time.monotonic() > deadline:
                raise RvssError(
                    Problem.BUSY,
                    f"{self.device} of {self.image} is still in use",
                    "find who has a file open on it or holds a detached mount of it",
                )
            time.sleep(0.01)

    def _still(self, backing: Path) -> bool:
        try:
            return backing.read_text("utf-8", "surrogateescape").startswith(str(self.image))
        except OSError as exc:
            # It has gone, or goes while it is read (drivers/block/loop.c, loop_attr_do_show_*).
            if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise
            return False
