"""Where a share sits: its path resolved once, and the volume that can be snapshotted.

Contract: nothing is changed; each obstacle to a shadow copy is refused with a sentence of its own.
"""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from samba_rvss.copies.room import Space
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable
from samba_rvss.model import Nested, Share, Volume
from samba_rvss.mounts import way
from samba_rvss.providers import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A share that can be snapshotted.

    Attributes:
        share: it.
        volume: what it sits in.
        space: what there is of it.
        gates: what is on the way to the share.
    """

    share: Share
    volume: Volume
    space: Space
    gates: tuple[way.Gate, ...] = ()


def locate(
    share: Share, providers: Collection[Provider], run_directory: str, *, thorough: bool
) -> Target:
    """Find the volume of a share, without following symbolic links.

    Args:
        share: one of ours.
        providers: one for each kind of file system.
        run_directory: a path below it is that of a recovery mount, and refused.
        thorough: look for other file systems mounted inside the share too; the cost of that
            grows with the number of mounts on the machine.

    Raises:
        RvssError: BAD_PATH, NOT_SUPPORTED, NESTED, NO_SPACE or READ_ONLY; as `mounts.way.to`.
    """
    if share.obstacle:
        raise RvssError(Problem.NOT_SUPPORTED, f"[{share.name}]: {share.obstacle}")
    path = share.path
    if ".." in path.split("/"):
        raise RvssError(
            Problem.BAD_PATH,
            f"the path {path} of [{share.name}] has a '..'",
            "write the directory's real path into smb.conf",
        )
    if f"{os.path.normpath(path)}/".startswith(f"{run_directory}/"):
        raise RvssError(
            Problem.BAD_PATH, f"the path {path} of [{share.name}] is a shadow copy's own"
        )
    with files.opened(_open(share)) as fd:
        if mounttable.is_idmapped(fd):
            raise _idmapped(path)
        for provider in providers:
            volume = provider.probe(fd, path, share.nested, thorough=thorough)
            if volume is not None:
                _require_utf8(volume, path)
                if thorough:
                    include = share.nested is Nested.INCLUDE
                    _refuse_mounts(path, provider.includes if include else lambda mount: False)
                space = os.fstatvfs(fd)
                return Target(
                    share=share,
                    volume=volume,
                    space=Space(
                        free=space.f_bavail * space.f_frsize,
                        size=space.f_blocks * space.f_frsize,
                    ),
                    gates=way.to(path),
                )
    raise _unknown(path, providers)


def find(share: Share, providers: Collection[Provider]) -> Volume:
    """Find the volume of a share, whether it can be snapshotted or not.

    Raises:
        RvssError: BAD_PATH, NOT_SUPPORTED or SYSTEM.
    """
    with files.opened(_open(share)) as fd:
        volume = volume_of(fd, share.path, providers)
    if volume is None:
        raise _unknown(share.path, providers)
    return volume


def described(volume: Volume, path: str) -> str:
    """Return a volume's file system in words, with where it is mounted; it is not asked.

    Args:
        volume: the volume.
        path: of the share that is in it.
    """
    mount = mounttable.above(path, mounttable.remembered())
    if mount is None or mount.kind != volume.provider:  # it is unmounted
        return f"the {volume.provider} file system {volume.file_system}"
    return f"the file system mounted at {mount.target}"


def volume_of(fd: int, path: str, providers: Iterable[Provider]) -> Volume | None:
    """Return the volume of an open directory; None if its file system has no shadow copies.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.find`.
    """
    found = (provider.find(fd, path) for provider in providers)
    return next((volume for volume in found if volume is not None), None)


def _open(share: Share) -> int:
    how = files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS
    try:
        return files.openat2(files.AT_FDCWD, share.path, os.O_RDONLY | os.O_DIRECTORY, how)
    except OSError as exc:
        raise _path_problem(share, exc) from exc


def _unknown(path: str, providers: Iterable[Provider]) -> RvssError:
    return RvssError(
        Problem.NOT_SUPPORTED,
        f"the file system of {path} cannot take shadow copies",
        f"known are {', '.join(provider.name for provider in providers)}",
    )


def _refuse_mounts(path: str, is_included: Callable[[mounttable.MountInfo], bool]) -> None:
    """Refuse file systems mounted below a share, but for those included (MS-FSRVP 3.1.4.9)."""
    needle = b" " + mounttable.escape_mount_path(path.rstrip("/")) + b"/"
    raw = mounttable.read_mountinfo()
    if needle not in raw:
        return
    for mount in mounttable.mountinfo(raw):
        if not mount.target.startswith(f"{path.rstrip('/')}/"):
            continue
        if not is_included(mount):
            raise RvssError(
                Problem.NESTED,
                f"the {mount.kind} file system mounted at {mount.target} lies inside {path}"
                " and would be missing in a shadow copy",
                "share it on its own or mount it elsewhere",
            )
        if "idmapped" in mount.options:
            raise _idmapped(mount.target)


def _idmapped(path: str) -> RvssError:
    return RvssError(
        Problem.NOT_SUPPORTED,
        f"{path} is on an id-mapped mount, and in a shadow copy files would have other owners",
        "share it through a mount without X-mount.idmap",
    )


def _require_utf8(volume: Volume, path: str) -> None:
    try:
        f"{volume.directory}{volume.name}".encode()
    except UnicodeEncodeError:
        raise RvssError(
            Problem.BAD_PATH, f"{path} lies below a directory whose name is not UTF-8", "rename it"
        ) from None


def _path_problem(share: Share, exc: OSError) -> RvssError:
    where = f"the path {share.path} of [{share.name}]"
    real = os.path.realpath(share.path)
    if real != os.path.normpath(share.path):
        return RvssError(
            Problem.BAD_PATH,
            f"{where} has a symbolic link in it",
            f"if {real} is meant, write that into smb.conf",
        )
    if isinstance(exc, FileNotFoundError):
        return RvssError(Problem.BAD_PATH, f"{where} does not exist")
    if isinstance(exc, NotADirectoryError):
        return RvssError(Problem.BAD_PATH, f"{where} is not a directory")
    return RvssError(Problem.BAD_PATH, f"{where} cannot be opened: {exc.strerror}")
