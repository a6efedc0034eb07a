"""Backups that are mounted for looking into: in our mount namespace, on demand, read-only.

    <run>/backups/<id of the backup>/<share>      where nothing else was asked for; made and
                                                  removed by us
    DIR, or DIR/<share> if there are several      an empty directory of the administrator's

Place: beside `carry`. Contract: the mount table is all that tells where one is mounted. Paths that
others may have changed are neither mounted on nor unmounted.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from samba_rvss.copies import reading
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, mounttable, processes
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import ShadowCopy
from samba_rvss.mounts import escape

_NAME = "backups"
_HINT = "name a directory that exists, by its path without symbolic links"
_SHOWN = 5


def mount(instance: Instance, parts: Sequence[ShadowCopy], where: str = "") -> list[str]:
    """Mount a backup, all of it or nothing; return the paths of its parts. Again is success.

    Args:
        instance: the backup's.
        parts: those of the backup.
        where: an existing empty directory; if empty, below the run directory.

    Raises:
        RvssError: BAD_PATH if the directory is not there or not empty; as `reading.leased` and
            `reading.opened`.
    """
    with ExitStack() as end, ExitStack() as undo:
        end.enter_context(reading.leased(instance, parts))
        there = {mount.target for mount in reading.mounts(instance, parts)}
        base = end.enter_context(_base(instance, where))
        paths = []
        for part in parts:
            names = [] if where and len(parts) == 1 else [escape(part.share)]
            if not where:
                names = [_NAME, parts[0].id, *names]
            with _made(base, names, undo) as (fd, path):
                if path not in there:
                    tree = reading.opened(instance, part, end)
                    _attach(tree, fd, path)
                    undo.callback(_umount, path)
            paths.append(path)
        undo.pop_all()
    return paths


@contextmanager
def _base(instance: Instance, where: str) -> Iterator[int]:
    """Open the directory in which, or on which, something is to be mounted."""
    path = where or instance.config.run_directory
    with files.opened(reading.directory(path, _HINT)) as fd:
        if where:
            with files.opened(os.open(".", files.DIRECTORY, dir_fd=fd)) as readable:
                if os.listdir(readable):
                    raise RvssError(Problem.BAD_PATH, f"{where} is not empty", "name another")
        yield fd


@contextmanager
def _made(base: int, names: Sequence[str], undo: ExitStack) -> Iterator[tuple[int, str]]:
    """Make directories one in the other; give the last, and its path, to a block."""
    fd = os.dup(base)
    try:
        for name in names:
            with files.opened(fd) as around:
                fd = -1
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=around)
                    undo.callback(_rmdir, f"{_path(around)}/{name}")
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=around)
        yield fd, _path(fd)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot make {exc.filename}: {exc.strerror}") from exc
    finally:
        if fd >= 0:
            os.close(fd)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _attach(tree: int, fd: int, path: str) -> None:
    try:
        mounting.move_mount(tree, fd)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot mount at {path}: {exc.strerror}") from exc


def umount(instance: Instance, parts: Sequence[ShadowCopy]) -> list[str]:
    """Unmount a backup, wherever it is mounted; return the paths.

    Args:
        instance: the backup's.
        parts: those of the backup.

    Raises:
        RvssError: BUSY if it is in use, BAD_PATH if somebody has changed its path, or SYSTEM.
    """
    paths = _umount_all(instance, parts, list(mounttable.mountinfo()))
    _remove_own(instance, parts)  # a mount that was cut off may have left them
    return paths


def umount_at(instance: Instance, backups: Iterable[Sequence[ShadowCopy]], where: str) -> list[str]:
    """Unmount what `mount` has put at a path; return the paths.

    Args:
        instance: theirs.
        backups: the parts of each that there is.
        where: an absolute path.

    Raises:
        RvssError: as `umount`.
    """
    inside = f"{where.rstrip('/')}/"
    table = [mount for mount in mounttable.mountinfo() if f"{mount.target}/".startswith(inside)]
    paths = []
    for parts in backups if table else ():
        found = _umount_all(instance, parts, table, where)
        if found:
            _remove_own(instance, parts)
        paths += found
    return paths


def _remove_own(instance: Instance, parts: Sequence[ShadowCopy]) -> None:
    own = f"{instance.config.run_directory}/{_NAME}/{parts[0].id}"
    for path in (*(f"{own}/{escape(part.share)}" for part in parts), own):
        _rmdir(path)


def _umount_all(
    instance: Instance, parts: Sequence[ShadowCopy], table: Sequence[MountInfo], where: str = ""
) -> list[str]:
    found = {mount.id: mount for mount in reading.mounts(instance, parts, table)}
    names = {escape(part.share) for part in parts}
    paths = []
    for top in [mount for mount in found.values() if mount.parent not in found]:
        above, name = os.path.split(top.target)
        if where not in ("", top.target) and (where != above or name not in names):
            continue
        if all(top.id != mount.id for mount in mounttable.mountinfo()):
            continue  # it went with another, of which it was an image
        tree = _with_inner(top, found)
        _require_unused(tree)  # all of it goes, or nothing
        for mount in reversed(tree):
            _umount(mount.target, mount)
        paths.append(top.target)
        if len(parts) > 1 and name in names:
            _rmdir(top.target)
    return sorted(paths)


def _with_inner(top: MountInfo, found: Mapping[int, MountInfo]) -> list[MountInfo]:
    """Return a mount and those inside it, each after the one that it is on."""
    tree = [top]
    for mount in tree:
        tree += [inner for inner in found.values() if inner.parent == mount.id]
    return tree


def _require_unused(tree: Sequence[MountInfo]) -> None:
    """Refuse to unmount what somebody uses, as far as can be seen.

    Raises:
        RvssError: BUSY.
    """
    ids, path = {mount.id for mount in tree}, tree[0].target
    ours = processes.mount_namespace(os.getpid())
    users = []
    for pid in processes.pids():
        with suppress(OSError):  # it has ended
            if processes.mount_namespace(pid) == ours and (
                f"{processes.working_directory(pid)}/".startswith(f"{path}/")
                or any(file.mount in ids for file in processes.open_files(pid))
            ):
                users.append(f"{processes.command(pid)} (pid {pid})")
    if users:
        raise _in_use(path, f" by {', '.join(users[:_SHOWN])}")


def _in_use(path: str, by: str = "") -> RvssError:
    hint = "end what uses it, and try again"
    return RvssError(Problem.BUSY, f"{path} is in use{by}", hint)


def _umount(path: str, expected: MountInfo | None = None) -> None:
    """Take away what is mounted at a path, if nobody uses it, and nobody has changed the path."""
    above, name = os.path.split(path)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with files.opened(reading.directory(above, "see 'findmnt'")) as fd:
        try:
            with files.opened(os.open(name, flags, dir_fd=fd)) as top:
                number = mounttable.mount_id(top)
            if expected is not None and number != expected.id:
                raise RvssError(
                    Problem.BAD_PATH, f"something else is mounted at {path}", "see 'findmnt'"
                )
            mounting.umount(f"/proc/self/fd/{fd}/{name}", lazily=False)
        except OSError as exc:
            if exc.errno == errno.EBUSY:
                raise _in_use(path) from exc
            raise RvssError(Problem.SYSTEM, f"cannot unmount {path}: {exc.strerror}") from exc


def _rmdir(path: str) -> None:
    """Remove a directory that we have made, if it is empty."""
    above, name = os.path.split(path)
    with suppress(OSError, RvssError), files.opened(reading.directory(above, "")) as fd:
        os.rmdir(name, dir_fd=fd)
