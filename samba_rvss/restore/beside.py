"""Restoring under a name that nothing has: made whole, on the disk, compared, and then named."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import tree
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.restore import build, check, place
from samba_rvss.restore.build import Source
from samba_rvss.restore.plan import State
from samba_rvss.restore.work import Work, full

_LONGEST = 255  # bytes of a name (linux/limits.h, NAME_MAX)
_LONGEST_END = 32  # of a name; what is behind a dot and longer is no file's type
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it is put.

    Attributes:
        parent: a descriptor of the directory.
        names: which names it may have there, the best first.
        state: the state directory.
    """

    parent: int
    names: Sequence[bytes]
    state: str


def names(name: bytes, stamp: bytes, *, is_file: bool) -> list[bytes]:
    """Return which names something may have.

    Args:
        name: its own.
        stamp: when its backup was taken; empty if it is to have its own name and no other.
        is_file: whether it is a file, which keeps what its name ends with.
    """
    if not stamp:
        return [name]
    stem, end = os.path.splitext(name) if is_file else (name, b"")
    if len(end) > _LONGEST_END:
        stem, end = name, b""
    found = []
    for number in range(1, _ATTEMPTS + 1):
        added = b".restored-" + stamp + (b"-%d" % number if number > 1 else b"") + end
        found.append(_cut(stem, _LONGEST - len(added)) + added)
    return found


def _cut(name: bytes, length: int) -> bytes:
    """Return as much of a name as there is room for, and no part of a letter."""
    if len(name) <= length:
        return name
    return name[: max(1, length)].decode("utf-8", "ignore").encode() or name[: max(1, length)]


def make(
    source: Source,
    where: Place,
    path: bytes,
    manifest: Manifest | None,
    reached: Callable[[str], None],
    *,
    dry_run: bool,
) -> bytes | None:
    """Restore what a path of the image leads to.

    Args:
        source: the image.
        where: where it is put.
        path: from the share's directory.
        manifest: the image's manifest, if it has one.
        reached: called with the name of each step; for tests of crashes.
        dry_run: whether it is only told.

    Returns:
        Its name; None if nothing was restored.

    Raises:
        RvssError: BAD_PATH if there is something of its name; NO_SPACE, READ_ONLY or SYSTEM;
            STATE if the manifest is damaged.
    """
    free = [name for name in where.names if not _is_there(where.parent, name)]
    if not free:
        raise _taken(where)
    if dry_run:
        build.count(source, path)
        if not source.tally.states[State.RESTORED]:
            return None
        source.tally.changes.add(path, State.RESTORED.value)
        return free[0]
    with Work(where.state, where.parent) as work:
        reached("restore.made")
        made = build.make(source, path, work)
        if made is None:
            return None
        reached("restore.built")
        files.syncfs(work.fd)
        for difference in check.differences(source, manifest, path, work.fd, made):
            source.tally.differs(difference)
        for name in free:
            try:
                place.give_name(work, made, where.parent, name)
            except FileExistsError:
                continue
            except OSError as exc:
                reason = f"cannot give what is restored its name: {exc.strerror}"
                raise full(exc) or RvssError(Problem.SYSTEM, reason) from exc
            reached("restore.placed")
            source.tally.changes.add(path, State.RESTORED.value)
            return name
    raise _taken(where)


def _is_there(parent: int, name: bytes) -> bool:
    try:
        with tree.handle(parent, name):
            return True
    except OSError as exc:
        return exc.errno != errno.ENOENT


def _taken(where: Place) -> RvssError:
    place_of = os.readlink(f"/proc/self/fd/{where.parent}")
    return RvssError(
        Problem.BAD_PATH,
        f"{place_of}/{os.fsdecode(where.names[0])} is there already",
        "say where with --target, or move it away",
    )
