"""The directories of Previous Versions: one a share, which smb.conf names, and one a copy in it.

Contract: as smb.conf names it, no gates fit before it; it stands for the gate on the way to the
share itself, if there is one.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from samba_rvss.errors import Problem, RvssError
from samba_rvss.mounts import directories, places, way


def make(run: str, share: str, gates: Sequence[way.Gate]) -> str:
    """Make the directory that ``shadow:snapdir`` names, and return it.

    It must be there before the first copy: shadow_copy2 lists it as the client's user, and fails
    where it cannot (source3/modules/vfs_shadow_copy2.c, shadow_copy2_get_shadow_copy_data()).

    Args:
        run: the run directory.
        share: the share's name.
        gates: on the way to the share, as `way.to` returns them.

    Raises:
        RvssError: NOT_SUPPORTED if there are several gates; only root passes the directory then.
            SYSTEM.
    """
    path = places.previous(run, share)
    try:
        directories.make(run, os.path.dirname(path))
        way.make(path, standing_for(gates), listed=len(gates) < 2)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot make {path}: {exc.strerror}") from exc
    if len(gates) > 1:
        raise RvssError(
            Problem.NOT_SUPPORTED,
            f"the way to [{share}] leads through {len(gates)} directories that are closed to"
            f" different people, and {path} cannot stand for all of them",
            "let the same people into each of them, or take 'rvss:previous versions' away",
        )
    return path


def standing_for(gates: Sequence[way.Gate]) -> way.Gate:
    """Return whom the directory of a share lets pass, by all gates on the way to the share."""
    if len(gates) > 1:
        return way.CLOSED
    return gates[0] if gates else way.OPEN


def reserve(parent: str, created: datetime) -> str:
    """Make the directory of one copy and return its path.

    Args:
        parent: what `make` returned.
        created: when the copy was taken.

    Raises:
        RvssError: BUSY if 3600 seconds are taken; SYSTEM.
    """
    for name in names(created):
        path = f"{parent}/{name}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot make {path}: {exc.strerror}") from exc
        return path
    raise RvssError(Problem.BUSY, f"{parent} has 3600 copies for one hour already")


def names(created: datetime) -> Iterator[str]:
    """Yield the names that a copy may have, the first free one of which it gets.

    Names that begin with @GMT have a resolution of one second (source3/modules/vfs_shadow_copy2.c
    reads nothing but the time): a second copy within the same second gets the next second that is
    free.

    Args:
        created: when the copy was taken.
    """
    for offset in range(3600):
        yield f"@GMT-{created + timedelta(seconds=offset):%Y.%m.%d-%H.%M.%S}"
