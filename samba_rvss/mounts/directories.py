"""The directories of recovery mounts, and the gates before them.

Contract: all belong to root, who alone writes there, so paths below the run directory can be
trusted. A gate that leads to nothing is removed by whoever took away what was behind it; others may
make one at the same moment.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from samba_rvss.kernel import mounting
from samba_rvss.mounts import places, way

# Somebody who removes gates that lead nowhere may be in between that often.
_ATTEMPTS = 100


def make(run: str, path: str) -> None:
    """Make a directory below the run directory, and those above it, as their names say.

    Raises:
        OSError: if it cannot be made.
    """
    made = run
    for name in path.removeprefix(f"{run}/").split("/"):
        made = f"{made}/{name}"
        gate = way.Gate.named(name)
        if gate is not None:
            way.make(made, gate)
        elif os.path.dirname(made) == f"{run}/previous":
            # `previous` says who may walk through; nobody if it has not yet.
            with suppress(FileExistsError):
                os.mkdir(made, 0o700)
        else:
            try:
                os.mkdir(made, 0o711)
            except FileExistsError:
                if stat.S_IMODE(os.lstat(made).st_mode) == 0o711:
                    continue
            # Clients' users walk through, and see nothing.
            os.chmod(made, 0o711)  # noqa: S103 - as above


def put(run: str, mount: int, path: str) -> None:
    """Make a path's directories and put a detached mount there; undo that if it fails.

    Raises:
        OSError: if it cannot be done.
    """
    parent = os.path.dirname(path)
    for _ in range(_ATTEMPTS):
        try:
            make(run, parent)
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            mounting.move_mount(mount, path)
        except FileNotFoundError:
            continue  # somebody removed a gate just then
        except OSError:
            with suppress(OSError):
                os.rmdir(path)
            remove_gates(parent)
            raise
        return
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def remove(path: str) -> None:
    """Remove a directory, and the gates before it that lead to nothing then.

    Raises:
        OSError: if it is there and cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.rmdir(path)
    remove_gates(os.path.dirname(path))


def remove_gates(path: str) -> None:
    """Remove a gate, and those before it, if nothing is behind them."""
    with suppress(OSError):
        while places.is_gate(path):
            os.rmdir(path)
            path = os.path.dirname(path)


def found(run: str) -> Iterator[str]:
    """Yield every directory made for a recovery mount, and gates that lead to none."""
    for kind in places.KINDS:
        top = f"{run}/{kind}"
        for share in _names(top):
            for name in _names(f"{top}/{share}"):
                yield from _behind(f"{top}/{share}/{name}")


def _behind(path: str) -> Iterator[str]:
    """Yield a path, or if it is a gate, what is behind it; a gate to nothing is yielded itself."""
    names = _names(path) if places.is_gate(path) else []
    if not names:
        yield path
    for name in names:
        yield from _behind(f"{path}/{name}")


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
