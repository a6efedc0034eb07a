"""How an image is sealed: read-only snapshots of what recovery left take the place of its parts.

Whoever still has something open, has it open in a subvolume that is no part of the image any more.

    seal.snapshot   there are snapshots under staging names
    seal.renamed    they have their own names
    seal.marked     the mark names them, durably: from here on they are the image

Until the mark names them the writable parts are the image, and the others are cleared away by the
next try; afterwards the writable parts are remnants.
"""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Identity, Sealed
from samba_rvss.providers.btrfs import images, ioctl, marks, parts, subvolumes
from samba_rvss.providers.btrfs.failure import problem
from samba_rvss.providers.btrfs.home import Home
from samba_rvss.providers.btrfs.images import State
from samba_rvss.providers.btrfs.ioctl import Subvolume
from samba_rvss.providers.btrfs.marks import Record
from samba_rvss.providers.btrfs.parts import Part

_NAMED = 5  # subvolumes in one warning

_logger = logging.getLogger(__name__)


def seal(
    home: Home,
    record: Record,
    identity: Identity,
    sealed: Sealed,
    reached: Callable[[str], None],
) -> None:
    """Seal an image, durable and verified on return. Again is success, and changes nothing.

    Args:
        home: where it is.
        record: its mark.
        identity: whose it is.
        sealed: what the mark is to say.
        reached: called with the name of each step that is done.

    Raises:
        RvssError: BAD_PATH if it is not ours, NOT_FOUND if a part is missing, NOT_SEALED.
        OSError: if btrfs refuses.
    """
    found = images.ours(home, record, identity)
    if not found.complete:
        raise RvssError(Problem.NOT_FOUND, f"a part of the image {record.name} is missing")
    if not record.is_sealed:
        _tell_inner(home, record, found)
        record = _replace(home, record, found, identity, sealed, reached)
    _finish_renames(home, record)
    ioctl.commit(home.fd)
    reached("seal.marked")
    _verify(home, record, identity)


def _replace(
    home: Home,
    record: Record,
    found: State,
    identity: Identity,
    sealed: Sealed,
    reached: Callable[[str], None],
) -> Record:
    """Make the sealed parts and name them in the mark; until then nothing has changed."""
    for name in list(images.unfinished(home, record)):
        home.delete(name)
    mark = replace(record.mark, sealed=sealed)
    with ExitStack() as undo:
        try:
            named = [
                _snapshot(home, record, index, subvolume, undo)
                for index, subvolume in enumerate(found.subvolumes)
            ]
            reached("seal.snapshot")
            _finish_renames(home, replace(record, parts=tuple(named)))
            reached("seal.renamed")
            marks.write(home, mark, identity, named, in_place=record.in_place)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _only_read_only(home, record, found, exc) from exc
        undo.pop_all()
    marked = replace(record.readable, mark=mark)
    return replace(record, marked=marked, parts=tuple(named))


def _snapshot(home: Home, record: Record, index: int, source: Subvolume, undo: ExitStack) -> Part:
    part = record.parts[index]
    name = parts.staged(record.name, part)
    with files.opened(home.open(source)) as fd:
        undo.callback(_discard, home, record.name, part)
        ioctl.snapshot(fd, home.fd, name, read_only=True)
    made = home.subvolume(name)
    if made is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return replace(part, recovery=source.uuid, sealed=made.uuid)


def _discard(home: Home, image: str, part: Part) -> None:
    for name in (parts.staged(image, part), parts.final(image, part)):
        try:
            home.delete(name)
        except OSError as exc:  # the next try begins with it
            _logger.warning("cannot remove %s: %s", home.where(name), exc.strerror)


def _finish_renames(home: Home, record: Record) -> None:
    """Give sealed parts their own names, where a crash left them with the staging ones."""
    for part in record.parts:
        staged = parts.staged(record.name, part)
        subvolume = home.subvolume(staged)
        if subvolume is not None and subvolume.uuid == part.sealed:
            final = parts.final(record.name, part)
            os.rename(staged, final, src_dir_fd=home.fd, dst_dir_fd=home.fd)


def _only_read_only(home: Home, record: Record, found: State, exc: OSError) -> RvssError:
    """Make the writable parts read-only, for which there is always room; return the error."""
    cause = problem(exc, f"the image {record.name} cannot be sealed")
    try:
        for subvolume in found.subvolumes:
            with files.opened(home.open(subvolume)) as fd:
                ioctl.set_read_only(fd, read_only=True)
    except OSError as worse:
        return RvssError(
            Problem.NOT_SEALED,
            f"{cause.message}, and not made read-only either ({worse.strerror})",
            cause.hint,
        )
    return RvssError(
        Problem.NOT_SEALED,
        f"the image {record.name} is read-only, but handles that were open before are not"
        f" excluded: {cause.message}",
        cause.hint,
    )


def _tell_inner(home: Home, record: Record, found: State) -> None:
    """Name the subvolumes that somebody made in the image: they are no part of the backup."""
    known = {subvolume.tree for subvolume in found.subvolumes}
    told: list[str] = []
    count = 0
    for part, subvolume in zip(record.parts, found.subvolumes, strict=True):
        with suppress(FileNotFoundError), files.opened(home.open(subvolume)) as fd:
            for inner in subvolumes.inside(fd, besides=known):
                count += 1
                if len(told) < _NAMED:
                    path = f"{part.place}/{inner.path}" if part.place else inner.path
                    told.append(subvolumes.shown(path, inner.tree))
    if count:
        more = f" and {count - len(told)} more" if count > len(told) else ""
        _logger.warning(
            "what was made inside the image %s is no part of the backup: the subvolume %s%s",
            record.name,
            ", ".join(told),
            more,
        )


def _verify(home: Home, record: Record, identity: Identity) -> None:
    found = images.ours(home, record, identity)
    for index, subvolume in enumerate(found.found):
        name = parts.final(record.name, record.parts[index])
        if subvolume is None or subvolume.name != name or not subvolume.read_only:
            raise RvssError(Problem.NOT_SEALED, f"{home.where(name)} is missing or not read-only")
