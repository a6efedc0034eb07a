"""Recovery mounts: the share's own directory inside an image, at a path that Samba can serve.

    <run>/exposed/<share>/<id>                  the path that Samba gets; closed, open, closed
    <run>/previous/<share>/@GMT-…               always read-only, for shadow_copy2

Each is a mount of one directory, so nothing else of the volume can be reached through it. It is
read-only, nosuid, nodev and noexec before any path leads to it; `Mounts.open` makes it writable,
`Mounts.close` read-only again. It outlives the daemon: it stays until `Mounts.detach`.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable, processes

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_LONGEST = 200
_ATTRIBUTES = (
    mounting.MOUNT_ATTR_RDONLY
    | mounting.MOUNT_ATTR_NOSUID
    | mounting.MOUNT_ATTR_NODEV
    | mounting.MOUNT_ATTR_NOEXEC
)


def escape(share: str) -> str:
    """Return a share's name as a directory's: without blanks, slashes and a leading dot."""
    raw = os.fsencode(share)
    text = "".join(
        chr(byte) if byte in _PLAIN and (index or byte != ord(".")) else f"%{byte:02X}"
        for index, byte in enumerate(raw)
    )
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}%{hashlib.sha256(raw).hexdigest()[:16]}"
    return text


def image_of(path: str) -> str:
    """Return the id of the image that is mounted at an exposed path: the path's last part."""
    return path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that has a file open for writing on a recovery mount."""

    pid: int
    command: str
    path: str


class Mounts:
    """The recovery mounts of one instance.

    Args:
        run_directory: the mounts are below it; only root may write there.
    """

    def __init__(self, run_directory: str) -> None:
        self._run = run_directory

    def exposed_path(self, share: str, copy: str) -> str:
        """Return where a shadow copy will be mounted."""
        return f"{self._run}/exposed/{escape(share)}/{copy}"

    def make_previous(self, share: str) -> str:
        """Make the directory that ``shadow:snapdir`` names, and return it.

        It must be there before the first copy: shadow_copy2 lists it as the client's user, and
        fails where it cannot (source3/modules/vfs_shadow_copy2.c,
        shadow_copy2_get_shadow_copy_data()).

        Raises:
            RvssError: SYSTEM.
        """
        path = f"{self._run}/previous/{escape(share)}"
        try:
            self._make(path)
            os.chmod(path, 0o755)  # noqa: S103 - it shows nothing but times
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot make {path}: {exc.strerror}") from exc
        return path

    def reserve_previous(self, share: str, created: datetime) -> str:
        """Make the directory of a Previous Versions mount and return its path.

        Names that begin with @GMT have a resolution of one second
        (source3/modules/vfs_shadow_copy2.c reads nothing but the time): a second copy within the
        same second gets the next second that is free.

        Raises:
            RvssError: BUSY if 3600 seconds are taken, or SYSTEM.
        """
        parent = self.make_previous(share)
        for offset in range(3600):
            stamp = created + timedelta(seconds=offset)
            path = f"{parent}/@GMT-{stamp:%Y.%m.%d-%H.%M.%S}"
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
            return path
        raise RvssError(Problem.BUSY, f"{parent} has 3600 copies for one hour already")

    def attach(self, parts: Sequence[tuple[str, int]], path: str) -> None:
        """Put detached mounts at a path and below it, read-only.

        Leaves nothing behind when it fails. A detached mount can be put at one path only: for a
        second path, open the image again.

        Args:
            parts: as `samba_rvss.providers.Provider.open` returns them; the
                descriptors stay the caller's.
            path: where the first of them belongs.

        Raises:
            RvssError: SYSTEM.
        """
        with ExitStack() as undo:
            try:
                self._make(os.path.dirname(path))
                with suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                undo.callback(self.detach, path)
                for below, part in parts:
                    mounting.mount_setattr(
                        part,
                        set_=_ATTRIBUTES | mounting.MOUNT_ATTR_NOATIME,
                        clear=mounting.MOUNT_ATTR__ATIME,
                    )
                    mounting.move_mount(part, os.path.join(path, below) if below else path)
            except OSError as exc:
                raise RvssError(Problem.SYSTEM, f"cannot mount {path}: {exc.strerror}") from exc
            undo.pop_all()

    def open(self, path: str) -> None:
        """Make a recovery mount writable, also for clients that are connected already.

        Raises:
            RvssError: NOT_FOUND if nothing is mounted there, or SYSTEM.
        """
        self._set(path, clear=mounting.MOUNT_ATTR_RDONLY)

    def close(self, path: str) -> bool:
        """Make a recovery mount read-only.

        Returns:
            False if a file is still open for writing through it, and nothing has changed.

        Raises:
            RvssError: NOT_FOUND if nothing is mounted there, or SYSTEM.
        """
        try:
            self._set(path, set_=mounting.MOUNT_ATTR_RDONLY)
        except RvssError as exc:
            if exc.problem is Problem.BUSY:
                return False
            raise
        return True

    def is_closed(self, path: str) -> bool:
        """Return whether the mount at a path and all mounts below it are read-only."""
        raw = mounttable.read_mountinfo()
        below = mounttable.escape_mount_path(f"{path}/") in raw
        targets = [path]
        if below:
            targets += [
                m.target for m in mounttable.mountinfo(raw) if m.target.startswith(f"{path}/")
            ]
        return all(os.statvfs(target).f_flag & os.ST_RDONLY for target in targets)

    def detach(self, path: str) -> None:
        """Unmount, lazily if it is in use, and remove the directory. Gone already is success.

        Raises:
            RvssError: SYSTEM.
        """
        try:
            while True:
                mounting.umount(path)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOENT):
                raise RvssError(Problem.SYSTEM, f"cannot unmount {path}: {exc.strerror}") from exc
        try:
            _rmdir(path)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot remove {path}: {exc.strerror}") from exc

    def listing(self) -> list[str]:
        """Return the paths of this instance's recovery mounts."""
        depth = f"{self._run}/exposed/share/copy".count("/")
        prefixes = (f"{self._run}/exposed/", f"{self._run}/previous/")
        targets = [target for target in mounttable.mount_targets() if target.startswith(prefixes)]
        return [target for target in targets if target.count("/") == depth]

    def directories(self) -> list[str]:
        """Return every directory made for a recovery mount, whether one is on it or not."""
        found = []
        for kind in ("exposed", "previous"):
            top = f"{self._run}/{kind}"
            with suppress(FileNotFoundError):
                for share in os.listdir(top):
                    found += [f"{top}/{share}/{leaf}" for leaf in os.listdir(f"{top}/{share}")]
        return found

    def holders(self, path: str) -> list[Holder]:
        """Return who has files open for writing through a recovery mount, as far as /proc tells."""
        numbers = frozenset(
            mount.id
            for mount in mounttable.mountinfo()
            if mount.target == path or mount.target.startswith(f"{path}/")
        )
        found = []
        for pid in processes.pids():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
                for file in chain(processes.open_files(pid), processes.writable_mappings(pid)):
                    if file.writable and file.mount in numbers:
                        command = processes.command(pid)
                        found.append(Holder(pid=pid, command=command, path=file.path))
        return found

    def _set(self, path: str, *, set_: int = 0, clear: int = 0) -> None:
        try:
            mounting.mount_setattr(path, set_=set_, clear=clear)
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOENT):
                raise RvssError(Problem.NOT_FOUND, f"nothing is mounted at {path}") from exc
            problem = Problem.BUSY if exc.errno == errno.EBUSY else Problem.SYSTEM
            raise RvssError(problem, f"cannot change the mount {path}: {exc.strerror}") from exc

    def _make(self, parent: str) -> None:
        path = self._run
        for part in os.path.relpath(parent, self._run).split("/"):
            path = f"{path}/{part}"
            try:
                os.mkdir(path, 0o711)
            except FileExistsError:
                continue
            os.chmod(path, 0o711)  # noqa: S103 - clients' users walk through, and see nothing


def _rmdir(path: str) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(path)
