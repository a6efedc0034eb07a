"""Reading backups: their parts opened under leases, and where they are mounted.

Place: above `leases`; below what mounts a backup or runs a program over it. Contract: what is being
read, or mounted where we can see it, is not deleted; nothing of a backup is, while a part of it is.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from samba_rvss.copies import leases, restoring
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable
from samba_rvss.kernel.mounttable import MountInfo
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.mounts import tree

_HOW = files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS


@contextmanager
def leased(instance: Instance, parts: Iterable[ShadowCopy]) -> Iterator[list[int]]:
    """Have a lease of each part of a backup for the time of a block, and whatever inherits them.

    Who inherits one can end it as well: so we have another one of our own.

    Raises:
        RvssError: BUSY or NOT_FOUND if one is being deleted, or has been; NO_DAEMON or SYSTEM.
    """
    with ExitStack() as undo:
        own: list[int] = []
        held: list[int] = []
        for part in parts:
            for leases_of in (own, held):
                leases_of.append(leases.take(instance.config.run_directory, part.id))
                undo.callback(os.close, leases_of[-1])
            current = instance.ledger.get(part.id)
            if current is None or current.phase is not Phase.KEPT:
                raise RvssError(Problem.NOT_FOUND, f"the backup {part.id} has just been deleted")
        yield held


@contextmanager
def barred(instance: Instance, copy: ShadowCopy) -> Iterator[None]:
    """Have nobody begin to read a part of a backup for the time of a block, which deletes it.

    Raises:
        RvssError: BUSY if somebody reads the backup, it is mounted, or something is restored into
            its volume; NO_DAEMON or SYSTEM.
    """
    run = instance.config.run_directory
    restoring.require_none(instance.config, copy.volume)
    others = [part for part in instance.ledger.of_set(copy.set_id) if part.phase is Phase.KEPT]
    with leases.ending(run, copy.id):
        for part in others:
            if part.id != copy.id:
                leases.require_none(run, part.id)
        places = mounts(instance, (copy, *others))
        if places:
            raise RvssError(
                Problem.BUSY,
                f"{copy.id} is mounted at {places[0].target}",
                f"'samba-rvss backup umount {copy.id}' takes it away",
            )
        yield


def mounts(
    instance: Instance, parts: Sequence[ShadowCopy], table: Sequence[MountInfo] | None = None
) -> list[MountInfo]:
    """Return the mounts of backups in our mount namespace, but for what shadow copies left.

    Args:
        instance: theirs.
        parts: which parts.
        table: the mount table, if it has been read.
    """
    known = list(mounttable.mountinfo()) if table is None else table
    return [
        mount
        for mount in known
        if not instance.mounts.is_place(mount.target)
        and any(instance.provider(p.volume).shows(mount, p.volume, p.id) for p in parts)
    ]


def opened(instance: Instance, part: ShadowCopy, undo: ExitStack) -> int:
    """Return a detached mount of a part, closed, with all that is nested in it.

    Args:
        instance: the backup's.
        part: which part.
        undo: closes it.

    Raises:
        RvssError: NOT_FOUND if its image or its file system is not there, BUSY if a key is not
            loaded, BAD_PATH or SYSTEM.
    """
    with ExitStack() as closing:
        found = instance.provider(part.volume).open(part.volume, part.id)
        for _, fd in found:
            closing.callback(os.close, fd)
        try:
            whole = tree.build(found, part.share)
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot mount {part.id}: {exc.strerror}") from exc
    undo.callback(os.close, whole)
    return whole


def directory(path: str, hint: str) -> int:
    """Open a directory for mounting on it; return its O_PATH descriptor.

    Args:
        path: it must not lead through a symbolic link, which others could have put there.
        hint: what to do if it does, or is not there.

    Raises:
        RvssError: BAD_PATH.
    """
    try:
        return files.openat2(files.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, _HOW)
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH,
            f"cannot mount at {path}: {why(exc)}",
            hint,
        ) from exc


def why(exc: OSError) -> str:
    """Return why a directory could not be opened."""
    if isinstance(exc, FileNotFoundError):
        return "it does not exist"
    if isinstance(exc, NotADirectoryError):
        return "it is not a directory"
    if exc.errno == errno.ELOOP:
        return "there is a symbolic link in it"
    return exc.strerror or str(exc)
