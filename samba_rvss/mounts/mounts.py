"""All recovery mounts of one instance.

Place: above `layers`, `tree` and `way`. Contract: what is closed shows one mount, or sealed ones,
all read-only; what is open shows one more over them. Every method can be repeated after a crash
inside it.
"""

import errno
import logging
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from datetime import datetime
from threading import RLock

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, mounttable
from samba_rvss.mounts import alone, covering, directories, places, previous, sharing, tree
from samba_rvss.mounts.demand import Demand
from samba_rvss.mounts.layers import NOT_MOUNTED, OPEN_MARK, Layer, layers
from samba_rvss.mounts.way import Gate

_logger = logging.getLogger(__name__)

_SHOWN = 10
_LETTING_GO_SECONDS = 1.0


class Mounts:
    """The recovery mounts of one instance.

    Args:
        run_directory: the mounts are below it; only root may write there.
        beneath: whether `replace` may put a mount beneath another where the kernel can.

    Attributes:
        demand: the backups that are mounted on demand in Previous Versions.
    """

    def __init__(self, run_directory: str, *, beneath: bool = True) -> None:
        self._run = run_directory
        self._beneath = beneath
        self._table: mounttable.OpenTable | None = None
        self._lock = RLock()  # directories of Previous Versions change under it
        self.demand = Demand(run_directory, self._lock)

    def _changing(self, path: str) -> AbstractContextManager[object]:
        return self._lock if path.startswith(f"{self._run}/previous/") else nullcontext()

    def prepare(self, cleanup: ExitStack) -> None:
        """Prepare for changing mounts: have them seen by others, and be able to close them.

        The run directory becomes a mount that is shared, if it is not on one already, so that
        mount namespaces that follow ours see what is mounted there. It stays.

        Args:
            cleanup: closes what is held open for closing.

        Raises:
            RvssError: SYSTEM.
        """
        try:
            sharing.share(self._run)
            self._table = mounttable.OpenTable()
        except OSError as exc:
            message = f"cannot prepare {self._run} for mounts: {exc.strerror}"
            hint = "give samba-rvss the capability CAP_SYS_ADMIN"
            hint = hint if exc.errno == errno.EPERM else ""
            raise RvssError(Problem.SYSTEM, message, hint) from exc
        cleanup.callback(self._end)

    def take_over(self, backups: Collection[str]) -> list[str]:
        """Take away what a daemon that was killed has left of backups in Previous Versions.

        Args:
            backups: the paths that backups have there.

        Returns:
            A sentence on each directory of which that could not be done; none of it is shown.
        """
        if set(self.on_demand()).issubset(self.demand.covered):
            return []  # nobody waits for us while the mount table is read
        with self._lock:
            return covering.give_up(self._run, backups, self.demand.covered)

    def on_demand(self) -> list[str]:
        """Return the directories of Previous Versions in which backups are mounted on demand."""
        return covering.places(self._run, self._read())

    def _end(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.close()

    # paths

    def exposed_path(self, share: str, copy: str, gates: Sequence[Gate] = ()) -> str:
        """Return where a shadow copy will be mounted.

        Args:
            share: the share's name.
            copy: the copy's id.
            gates: what the way to the share has (`way.to`).
        """
        return places.exposed(self._run, share, [gate.name for gate in gates], copy)

    def shared_path(self, share: str, image: str, gates: Sequence[Gate] = ()) -> str:
        """Return where an image will be mounted that is a share again.

        Args:
            share: the base share's name.
            image: the image's id.
            gates: what the way to the share has (`way.to`).
        """
        return places.shared(self._run, share, [gate.name for gate in gates], image)

    def is_place(self, path: str) -> bool:
        """Return whether a recovery mount may be at a path."""
        return places.is_place(self._run, path)

    def standing(self, copy: str) -> str:
        """Return where a shadow copy's directory is; empty if there is none.

        Args:
            copy: the copy's id.
        """
        prefix = f"{self._run}/exposed/"
        found = (p for p in self.directories() if p.startswith(prefix))
        return next((path for path in found if places.image_of(path) == copy), "")

    def shared(self, image: str) -> list[str]:
        """Return where an image's directories, mounts or not, are that were made to share it."""
        prefix = f"{self._run}/shared/"
        found = (p for p in self.directories() if p.startswith(prefix))
        return [path for path in found if places.image_of(path) == image]

    def make_previous(self, share: str, gates: Sequence[Gate] = ()) -> str:
        """Make the directory that ``shadow:snapdir`` names; see `previous.make`."""
        path = places.previous(self._run, share)
        with self._lock:
            try:
                if self.demand.give(path, gates):
                    return path
            except OSError as exc:
                raise RvssError(Problem.SYSTEM, f"cannot make {path}: {exc.strerror}") from exc
            return previous.make(self._run, share, gates)

    def reserve_previous(self, share: str, created: datetime, gates: Sequence[Gate] = ()) -> str:
        """Make the directory of a Previous Versions mount; see `previous.reserve`."""
        with self._lock:
            return previous.reserve(self.make_previous(share, gates), created)

    # changes

    def attach(self, parts: Sequence[tuple[str, int]], path: str) -> None:
        """Put detached mounts at a path and below it in one go, closed.

        Leaves nothing behind when it fails. A part whose directory in the image is not there any
        more is left out, and logged. If something is mounted there by now, that stays.

        Args:
            parts: as `samba_rvss.providers.Provider.open` returns them; the descriptors stay the
                caller's, who closes them.
            path: where the first of them belongs.

        Raises:
            RvssError: SYSTEM.
        """
        try:
            with files.opened(tree.build(parts, path)) as whole, self._changing(path):
                if not mounttable.is_mount_root(path):
                    directories.put(self._run, whole, path)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot mount {path}: {exc.strerror}") from exc

    def open(self, path: str) -> None:
        """Make a copy writable: a writable layer goes over the closed one.

        What somebody has opened before leads to the closed one still. Waits for no file system.

        Raises:
            RvssError: NOT_FOUND if nothing is mounted there, or SYSTEM.
        """
        try:
            found = self._layers(path)
            if not found:
                raise RvssError(Problem.NOT_FOUND, f"nothing is mounted at {path}")
            if not found[-1].read_only:
                return
            with files.opened(mounting.open_tree(path, recursive=True)) as clone:
                # Private: a peer of what it is put on would be mounted on itself as well.
                mounting.mount_setattr(
                    clone,
                    set_=OPEN_MARK,
                    clear=mounting.MOUNT_ATTR_RDONLY,
                    propagation=mounting.MS_PRIVATE,
                )
                mounting.move_mount(clone, path)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot open {path}: {exc.strerror}") from exc

    def close(self, path: str) -> None:
        """Take the writable layers of a path away; closed ones stay.

        Who has a file open through them keeps it. A mount that an older version made writable has
        no closed layer beneath it: nothing is mounted there then. After `prepare` it needs no
        descriptor, and it waits for no file system.

        Raises:
            RvssError: SYSTEM if it may still be writable.
        """
        try:
            try:
                found = self._layers(path)
            finally:
                # For those who keep what is unmounted as their working directory.
                with suppress(OSError):
                    mounting.mount_setattr(path, set_=mounting.MOUNT_ATTR_RDONLY)
            opened = [index for index, layer in enumerate(found) if layer.opened]
            if opened:
                self._unmount(path, len(found) - opened[0])
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot close {path}: {exc.strerror}") from exc

    def replace(self, parts: Sequence[tuple[str, int]], path: str) -> None:
        """Put detached mounts in the place of what is mounted at a path; they are closed.

        Clients see one or the other and nothing else. Where the kernel can, the old layers are
        gone then; before Linux 6.5 the lowest closed one stays, hidden.

        Args:
            parts: as for `attach`.
            path: where the first of them belongs.

        Raises:
            RvssError: SYSTEM; NOT_SEALED if something writable is left.
        """
        self.close(path)
        try:
            with files.opened(tree.build(parts, path)) as whole, self._changing(path):
                found = self._layers(path)
                # Left by a crash in here: one of both is enough.
                self._unmount(path, len(found) - 1)
                if not found:
                    directories.put(self._run, whole, path)
                elif self._put_beneath(whole, path):
                    self._unmount(path, 1)
                else:
                    mounting.move_mount(whole, path)
            found = self._layers(path)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot mount {path}: {exc.strerror}") from exc
        if not all(layer.read_only for layer in found):
            raise RvssError(Problem.NOT_SEALED, f"something writable is left at {path}")

    def _put_beneath(self, whole: int, path: str) -> bool:
        if not self._beneath:
            return False
        try:
            mounting.move_mount(whole, path, beneath=True)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return False  # the kernel does not know how
        return True

    def detach(self, path: str) -> None:
        """Unmount every layer, lazily if it is in use, and remove the directory.

        Gates that lead to nothing afterwards go too. Gone already is success. So it is if the
        directory cannot be removed for now because backups in it are shown no more.

        Raises:
            RvssError: SYSTEM.
        """
        # What is shut down in time is destroyed right after.
        with covering.letting_go(_LETTING_GO_SECONDS) as hold, self._changing(path):
            try:
                covering.unmount(path, hold)
            except OSError as exc:
                message = f"cannot unmount {path}: {exc.strerror}"
                raise RvssError(Problem.SYSTEM, message) from exc
            try:
                directories.remove(path)
            except OSError as exc:
                message = f"cannot remove {path}: {exc.strerror}"
                if exc.errno != errno.EACCES:
                    raise RvssError(Problem.SYSTEM, message) from exc
                # An autofs that asks nothing any more: it goes with that, and nobody reaches it.
                _logger.warning("%s", message)

    # what is there

    def is_mounted(self, path: str) -> bool:
        """Return whether something is mounted at a path."""
        return bool(self._layers(path))

    def is_closed(self, path: str) -> bool:
        """Return whether something is mounted at a path, and nobody can write through it."""
        found = self._layers(path)
        return bool(found) and found[-1].read_only

    def listing(self) -> list[str]:
        """Return the paths of this instance's recovery mounts, each once."""
        found = dict.fromkeys(mounttable.mount_targets(self._read()))
        return [target for target in found if places.is_place(self._run, target)]

    def opened(self) -> list[str]:
        """Return the paths of those that somebody can write through."""
        topmost = {mount.target: mount for mount in mounttable.mountinfo(self._read())}
        return [path for path in self.listing() if "ro" not in topmost[path].options]

    def holding(self) -> tuple[str, ...]:
        """Return a sentence on each file system that nothing but mounts of ours keeps in use."""
        found = alone.found(self._run, self._read())
        return tuple(_held(name, holders) for name, holders in sorted(found.items()))

    def directories(self) -> list[str]:
        """Return every directory made for a recovery mount, whether one is on it or not."""
        return list(directories.found(self._run))

    def _read(self) -> bytes:
        return mounttable.read_mountinfo() if self._table is None else self._table.read()

    def _layers(self, path: str) -> list[Layer]:
        return layers(self._read(), path)

    def _unmount(self, path: str, count: int) -> None:
        """Take the topmost layers of a path away; those that are gone already are no error."""
        for _ in range(count):
            try:
                mounting.umount(path)
            except OSError as exc:
                if exc.errno not in NOT_MOUNTED:
                    raise


def _held(name: str, holders: alone.Holders) -> str:
    """Return the sentence on a file system that only these keep in use."""
    where, how = [], []
    if holders.copies:
        where.append(f"at the recovery mounts of {len(holders.copies)} shadow copies")
        how.append(f"'samba-rvss delete {_some(holders.copies)}'")
    if holders.backups:
        where.append(f"where 'backup mount' shows {len(holders.backups)} backups")
        how.append(f"'samba-rvss backup umount {holders.backups[0]}'")
    if holders.shared:
        where.append(f"where clients see {len(holders.shared)} exposed backups")
        how.append(f"'samba-rvss backup conceal {holders.shared[0]}'")
    each = " and the like" if max(len(holders.backups), len(holders.shared)) > 1 else ""
    return (
        f"{name} is mounted nowhere but {' and '.join(where)}, which keep it in use, so that it"
        f" cannot be checked, nor mounted anew: {' and '.join(how)}{each} lets go of it"
    )


def _some(ids: Sequence[str]) -> str:
    """Return ids as words of a command, not too many."""
    more = [] if len(ids) <= _SHOWN else ["..."]
    return " ".join([*ids[:_SHOWN], *more])
