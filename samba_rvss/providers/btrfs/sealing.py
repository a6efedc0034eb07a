"""How an image is sealed: read-only snapshots of what recovery left take the place of its parts.

Whoever still has something open, has it open in a subvolume that is no part of the image any more.
Parts that were never open become read-only themselves.

    seal.snapshot   there are snapshots under staging names
    seal.renamed    they have their own names
    seal.marked     the mark names them, durably: from here on they are the image

Until the mark names them the writable parts are the image, and the others are cleared away by the
next try; afterwards the writable parts are remnants.
"""

import errno
import logging
import os
from collections.abc import Callable, Sequence
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


class Sealing:
    """The sealing of an image.

    Args:
        home: where it is.
        identity: whose it is.
        reached: called with the name of each step that is done.
    """

    def __init__(self, home: Home, identity: Identity, reached: Callable[[str], None]) -> None:
        self._home = home
        self._identity = identity
        self._reached = reached

    def run(self, record: Record, sealed: Sealed, *, opened: bool) -> bool:
        """Seal an image, durable and verified on return. Again is success, and changes nothing.

        Args:
            record: its mark.
            sealed: what the mark is to say.
            opened: see `samba_rvss.providers.Provider.seal`; so is what it returns.

        Raises:
            RvssError: BAD_PATH if it is not ours, NOT_FOUND if a part is missing, NOT_SEALED.
            OSError: if btrfs refuses.
        """
        home = self._home
        found = images.ours(home, record, self._identity)
        if not found.complete:
            raise RvssError(Problem.NOT_FOUND, f"a part of the image {record.name} is missing")
        if not record.is_sealed:
            for name in list(images.unfinished(home, record)):
                home.delete(name)
            at_home = record.in_place or _bring_home(home, record, found)
            if opened or record.in_place or not at_home:
                _tell_inner(home, record, found)
                record = self._replace(record, found, sealed)
            else:
                record = self._keep(record, found, sealed)
        _finish_renames(home, record)
        marks.make_durable(home, record.name)
        self._reached("seal.marked")
        _verify(home, record, self._identity)
        return any(part.sealed != part.recovery for part in record.parts)

    def _replace(self, record: Record, found: State, sealed: Sealed) -> Record:
        """Make the sealed parts and name them in the mark; until then nothing has changed."""
        home = self._home
        with ExitStack() as undo:
            try:
                named = [
                    _snapshot(home, record, index, subvolume, undo)
                    for index, subvolume in enumerate(found.subvolumes)
                ]
                self._reached("seal.snapshot")
                _finish_renames(home, replace(record, parts=tuple(named)))
                self._reached("seal.renamed")
                marked = self._write(record, named, sealed)
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise _only_read_only(home, record, found, exc) from exc
            undo.pop_all()
        return marked

    def _keep(self, record: Record, found: State, sealed: Sealed) -> Record:
        """Make parts that nobody could write to the sealed ones."""
        self._reached("seal.snapshot")
        named = []
        for part, subvolume in zip(record.parts, found.subvolumes, strict=True):
            with files.opened(self._home.open(subvolume)) as fd:
                ioctl.set_read_only(fd, read_only=True)
            named.append(replace(part, recovery=subvolume.uuid, sealed=subvolume.uuid))
        self._reached("seal.renamed")  # they are renamed when the mark tells them from remnants
        return self._write(record, named, sealed)

    def _write(self, record: Record, named: Sequence[Part], sealed: Sealed) -> Record:
        mark = replace(record.mark, sealed=sealed)
        marks.write(self._home, mark, self._identity, named, in_place=record.in_place)
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


def _bring_home(home: Home, record: Record, found: State) -> bool:
    """Put writable parts in their places, where a loss of power undid that; return success."""
    for index, subvolume in enumerate(found.subvolumes):
        name = parts.writable(record.name, record.parts, index)
        if subvolume.name != name:
            try:
                os.rename(subvolume.name, name, src_dir_fd=home.fd, dst_dir_fd=home.fd)
            except OSError as exc:
                if exc.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                    raise
                return False
    return True


def _discard(home: Home, image: str, part: Part) -> None:
    for name in (parts.staged(image, part), parts.final(image, part)):
        try:
            home.delete(name)
        except (OSError, RvssError) as exc:  # the next try begins with it
            _logger.warning("cannot remove %s: %s", home.where(name), exc)


def _finish_renames(home: Home, record: Record) -> None:
    """Give sealed parts their own names, where they have those that they had before."""
    for index, part in enumerate(record.parts):
        for name in (
            parts.staged(record.name, part),
            parts.writable(record.name, record.parts, index),
        ):
            subvolume = home.subvolume(name)
            if subvolume is not None and subvolume.uuid == part.sealed:
                final = parts.final(record.name, part)
                os.rename(name, final, src_dir_fd=home.fd, dst_dir_fd=home.fd)


def _only_read_only(home: Home, record: Record, found: State, exc: OSError) -> RvssError:
    """Make the writable parts read-only, for which there is always room; return the error."""
    cause = problem(exc, "")
    reason = cause.message.removeprefix(": ")
    try:
        for subvolume in found.subvolumes:
            with files.opened(home.open(subvolume)) as fd:
                ioctl.set_read_only(fd, read_only=True)
    except OSError as worse:
        return RvssError(
            Problem.NOT_SEALED,
            f"the image {record.name} cannot be sealed, and not made read-only either"
            f" ({worse.strerror}): {reason}",
            cause.hint,
        )
    return RvssError(
        Problem.NOT_SEALED,
        f"the image {record.name} is read-only, but handles that were open before are not"
        f" excluded: {reason}",
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
