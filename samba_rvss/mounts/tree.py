"""An image's parts, put together: one detached mount, closed, with the nested parts in it.

Contract: a nested part is mounted in the directory that its path leads to inside the image, and
nowhere else: clients can write there, so symbolic links are not followed and no path is used twice.
What they have removed or replaced cannot stop us: that part is left out, and named.
"""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from samba_rvss.kernel import files, mounting

_logger = logging.getLogger(__name__)

_ATTRIBUTES = (
    mounting.MOUNT_ATTR_RDONLY
    | mounting.MOUNT_ATTR_NOSUID
    | mounting.MOUNT_ATTR_NODEV
    | mounting.MOUNT_ATTR_NOEXEC
    | mounting.MOUNT_ATTR_NOATIME
)
_HOW = files.BENEATH | files.RESOLVE_NO_XDEV
# What a tree that its users own may answer for a directory that was there.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG})
# PATH_MAX is 4096, and a name may have 255 (linux/limits.h).
_STEP_BYTES = 3800


def build(parts: Sequence[tuple[str, int]], path: str) -> int:
    """Return one detached mount of all parts: read-only, nosuid, nodev, noexec, noatime.

    Args:
        parts: as `samba_rvss.providers.Provider.open` returns them; the descriptors stay the
            caller's, and nothing else can be done with them afterwards but closing.
        path: where they will be, for messages.

    Raises:
        OSError: if the kernel refuses.
    """
    for _, part in parts:
        # Private: what is mounted inside it must not appear where it was cloned from.
        mounting.mount_setattr(
            part,
            set_=_ATTRIBUTES,
            clear=mounting.MOUNT_ATTR__ATIME,
            propagation=mounting.MS_PRIVATE,
        )
    with ExitStack() as undo:
        placed = [(parts[0][1], -1, -1)]
        names = [""]
        for below, part in parts[1:]:
            around = _around(names, below)
            relative = below.removeprefix(f"{names[around]}/") if names[around] else below
            try:
                directory = _walk(placed[around][0], relative)
            except OSError as exc:
                if exc.errno not in _GONE:
                    raise
                _warn(path, below)
                continue
            undo.callback(os.close, directory)
            placed.append((part, directory, around))
            names.append(below)
        if len(placed) == 1:
            return os.dup(placed[0][0])
        whole, lost = mounting.assemble(placed)
        for index in lost:
            _warn(path, names[index])
        return whole


def _around(names: Sequence[str], below: str) -> int:
    """Return the index of the innermost part that a part is in."""
    inside = [index for index, name in enumerate(names) if not name or below.startswith(f"{name}/")]
    return max(inside, key=lambda index: len(names[index]))


def _walk(root: int, relative: str) -> int:
    """Open a directory of a mount, by a path of any length; return a descriptor."""
    where = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    for step in _steps(relative):
        with files.opened(where):
            where = files.openat2(where, step, os.O_PATH | os.O_DIRECTORY, _HOW)
    return where


def _steps(path: str) -> Iterator[str]:
    """Yield a path in pieces that are short enough for the kernel."""
    names: list[str] = []
    size = 0
    for name in path.split("/"):
        length = len(os.fsencode(name)) + 1
        if size + length > _STEP_BYTES:
            yield "/".join(names)
            names, size = [], 0
        names.append(name)
        size += length
    yield "/".join(names)


def _warn(path: str, below: str) -> None:
    _logger.warning(
        "%s is without %s: the directory in the image is not there any more", path, below
    )
