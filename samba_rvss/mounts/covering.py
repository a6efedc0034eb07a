"""An autofs that comes over a directory of Previous Versions, or goes, with mounts carried over.

Place: below `demand`, which says when. Contract: what is mounted at a name in the directory is
there before and after, and files that are open through it stay open.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import autofs, files, mounting, mounttable
from samba_rvss.mounts import way
from samba_rvss.mounts.layers import NOT_MOUNTED

ENTRY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open what is to be mounted on."""

LETTING_GO = "letting go"
"""The name of the threads that let go of what was mounted."""


def wake(run: str) -> None:
    """Let go of whoever waits for daemons that were killed; who is served notices nothing.

    The kernel notices that nobody reads a mount's questions when it asks the next one: for a name
    that nobody waits for already. This waits for an answer, if anybody answers: it must be given a
    time limit.

    Args:
        run: the run directory.
    """
    for path in places(run, mounttable.read_mountinfo()):
        with suppress(OSError):
            os.stat(f"{path}/.{secrets.token_hex(8)}")


def give_up(run: str, backups: Collection[str], served: Collection[str] = ()) -> list[str]:
    """Take away what daemons have left that were killed: as `Demand.close`.

    Args:
        run: the run directory.
        backups: the paths that backups have in Previous Versions.
        served: the directories that are our own, and stay.

    Returns:
        A sentence on each directory of which that could not be done. Nobody waits there either.
    """
    left = [path for path in places(run, mounttable.read_mountinfo()) if path not in served]
    failed = []
    for path in left:
        with suppress(OSError), files.opened(os.open(path, files.DIRECTORY)) as root:
            autofs.silence(root)
    for path in left:
        try:
            failed += _give_up(path, backups)
        except OSError as exc:
            failed.append(f"{path} cannot be taken over: {exc.strerror}")
    return failed


def _give_up(path: str, backups: Collection[str]) -> list[str]:
    """Take one away; return a sentence on each mount that is lost, for reconciling to make anew."""
    with files.opened(os.open(path, files.DIRECTORY)) as root:
        autofs.silence(root)
        names = [name for name in os.listdir(root) if f"{path}/{name}" not in backups]
        # What comes to light lets pass nobody whom the autofs has not.
        with files.opened(beneath(path)) as plain:
            way.apply(plain, way.let_by(root), listed=True)
    lost: list[str] = []
    with clones(path, names, lost) as found, letting_go() as hold:
        for name in os.listdir(path):
            if name not in found:
                hold(f"{path}/{name}")
        mounting.umount(path)
        with files.opened(os.open(path, files.DIRECTORY)) as plain:
            put(plain, found)
    return lost


def places(run: str, raw: bytes) -> list[str]:
    """Return the directories with an autofs over them, one as often as it has one.

    Args:
        run: the run directory.
        raw: what `samba_rvss.kernel.mounttable.read_mountinfo` returned.
    """
    lines = [line for line in raw.split(b"\n") if b" - autofs " in line]
    found = mounttable.mountinfo(b"\n".join(lines)) if lines else ()
    above = f"{run}/previous"
    return [mount.target for mount in found if os.path.dirname(mount.target) == above]


def passing(path: str) -> way.Ownership | None:
    """Return what lets pass whom a directory does, for its autofs; None if nobody passes it.

    Raises:
        RvssError: NOT_SUPPORTED if nothing does: an autofs has no ACL.
        OSError: if it cannot be opened.
    """
    gate = way.read(path)
    if gate == way.CLOSED:
        return None
    who = way.ownership(gate, listed=True)
    if who is None:
        raise RvssError(
            Problem.NOT_SUPPORTED,
            f"the ACL on the way to the share is carried over to {path}, where backups"
            " cannot be mounted on demand",
            "give the way to the share a group instead of the ACL, or set"
            " 'rvss:previous versions limit = 0'",
        )
    return who


def beneath(path: str) -> int:
    """Open the directory that an autofs hides; the caller closes it."""
    above, name = os.path.split(path)
    with files.opened(mounting.open_tree(above)) as clone:  # nothing is mounted in it
        return os.open(name, files.DIRECTORY, dir_fd=clone)


@contextmanager
def clones(
    path: str, names: Iterable[str], lost: list[str] | None = None
) -> Iterator[dict[str, int]]:
    """Clone what is mounted at some names in a directory, for a block; -1 where nothing is.

    Args:
        path: the directory.
        names: the names.
        lost: gets a sentence on each that cannot be cloned, and is not carried over then.

    Raises:
        OSError: without that, if one cannot be cloned.
    """
    found: dict[str, int] = {}
    with ExitStack() as closing:
        for name in names:
            found[name] = -1
            try:
                clone = _clone(f"{path}/{name}")
            except OSError as exc:
                if lost is None:
                    raise
                lost.append(f"what is mounted at {path}/{name} is not carried over: {exc.strerror}")
                continue
            if clone >= 0:
                closing.callback(os.close, clone)
                found[name] = clone
        yield found


def _clone(path: str) -> int:
    """Clone what is mounted at a path; return -1 if nothing is."""
    if not is_mounted(path):
        return -1
    clone = mounting.open_tree(path, recursive=True)
    try:
        # A peer of what it is put on would be mounted on itself as well, and what is unmounted
        # elsewhere would be unmounted in it.
        mounting.mount_setattr(clone, propagation=mounting.MS_PRIVATE)
    except OSError:
        os.close(clone)
        raise
    return clone


def is_mounted(path: str) -> bool:
    """Return whether something is mounted at a path; its file system is not asked.

    Raises:
        OSError: if it cannot be told; not if nothing is there.
    """
    above, name = os.path.split(path)
    try:
        with (
            files.opened(os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory,
            files.opened(os.open(name, ENTRY, dir_fd=directory)) as entry,
        ):
            return mounttable.mount_id(entry) != mounttable.mount_id(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False


def joined(made: int, root: int, carried: Mapping[str, int]) -> int:
    """Return one detached mount of an autofs, given its root, with clones at their names in it."""
    parts = [(made, -1, -1)]
    with ExitStack() as closing:
        for name, clone in carried.items():
            os.mkdir(name, 0o700, dir_fd=root)
            if clone >= 0:
                parts.append((clone, os.open(name, ENTRY, dir_fd=root), 0))
                closing.callback(os.close, parts[-1][1])
        return os.dup(made) if len(parts) == 1 else mounting.assemble(parts)[0]


def put(directory: int, carried: Mapping[str, int]) -> None:
    """Put clones where they belong; one that cannot be put does not keep the others from it."""
    with ExitStack() as putting:
        for name, clone in carried.items():
            putting.callback(_put_one, directory, name, clone)


def _put_one(directory: int, name: str, clone: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)
    if clone >= 0:
        with files.opened(os.open(name, ENTRY, dir_fd=directory)) as entry:
            if mounttable.mount_id(entry) != mounttable.mount_id(directory):
                return  # it has been put there before
            mounting.move_mount(clone, entry)


@contextmanager
def letting_go(seconds: float = 0) -> Iterator[Callable[[str], None]]:
    """Unmount without waiting for a file system, for a block.

    Whoever takes the last mount of a file system away shuts that down, and waits for its disks,
    which may never answer. So what is mounted is held, and a thread of its own lets go of it, which
    nobody waits for in the end.

    Args:
        seconds: how long to wait for that thread all the same, after the block: a file system that
            answers is shut down when this returns.

    Yields:
        A function that holds what is to be unmounted at a path, and in that.
    """
    held: list[int] = []

    def hold(path: str) -> None:
        with suppress(OSError):  # without a descriptor it is unmounted all the same
            clone = _clone(path)
            if clone >= 0:
                held.append(clone)

    try:
        yield hold
    finally:
        end = time.monotonic() + seconds
        threads = [Thread(target=os.close, args=(fd,), name=LETTING_GO, daemon=True) for fd in held]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def unmount(path: str, hold: Callable[[str], None]) -> None:
    """Unmount all that is mounted at a path. Nothing is success.

    Args:
        path: the path.
        hold: from `letting_go`.
    """
    try:
        while True:
            hold(path)
            mounting.umount(path)
    except OSError as exc:
        if exc.errno not in NOT_MOUNTED:
            raise


def remove(path: str, hold: Callable[[str], None]) -> None:
    """Unmount all that is mounted at a path, and remove the directory. Gone is success.

    Args:
        path: the path.
        hold: from `letting_go`.
    """
    unmount(path, hold)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def failed(path: str, exc: OSError) -> RvssError:
    """Return the error for a directory that no autofs could be put over."""
    message = f"backups cannot be mounted on demand at {path}"
    if exc.errno not in (errno.ENODEV, errno.EPERM):
        return RvssError(Problem.SYSTEM, f"{message}: {exc.strerror}")
    return RvssError(
        Problem.NOT_SUPPORTED,
        f"{message}: the kernel lets us have no autofs here ({exc.strerror})",
        "see that the kernel has the module autofs4 (modprobe autofs4), and that samba-rvss may"
        " mount it",
    )
