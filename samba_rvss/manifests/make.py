"""Making a manifest: a tree is listed, and then what is in its files is read.

Contract: memory does not grow with the tree, nor with a file. Whatever interrupts it, the next
attempt goes on where the draft was written down last. What cannot be read is named in the manifest
and does not stop the rest.
"""

import logging
import os
from dataclasses import dataclass, replace

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import chunks, tree
from samba_rvss.manifests.chunks import Digest, Reader
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.entry import BEYOND, Entry, Kind, is_beyond, is_unchanged
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.walk import joined

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far it has come; who shows it reads it from another thread.

    Attributes:
        entries: how many names have been looked at.
        size: how many bytes are to be read, once that is known.
        read: how many of them have been.
        reused: how many files were not read, since the last manifest has what is in them.
    """

    entries: int = 0
    size: int = 0
    read: int = 0
    reused: int = 0

    def told(self) -> str:
        """Return it in words."""
        if not self.size:
            return f"{self.entries} names listed"
        return f"{self.read >> 20} of {self.size >> 20} MiB read, {100 * self.read // self.size} %"


@dataclass(slots=True, kw_only=True)
class Last:
    """The manifest of another backup of the same directory, of which digests may be taken.

    Attributes:
        manifest: it; None once it has failed.
        until: see `samba_rvss.manifests.entry.is_unchanged`.
        device: of which st_dev files have to be; None if that is all the same.
    """

    manifest: Manifest | None
    until: int
    device: int | None = None

    def limit(self, root: int) -> None:
        """Take nothing of what is nested in a tree of btrfs, given the tree's directory.

        Whoever can write there can have two snapshots of one subvolume, write to both within one
        tick, and put the second in the place of the first: inode, size and times are the same.
        """
        if files.file_system_type(root) == files.BTRFS_SUPER_MAGIC:
            self.device = os.fstat(root).st_dev

    def take(self, draft: Draft, present: Entry, device: int) -> Entry | None:
        """Return an entry with what was found in it before, if nothing has changed since.

        The digests of its chunks are in the draft then.
        """
        if self.manifest is None or self.device not in (None, device):
            return None
        try:
            before = self.manifest.get(present.path)
            if before is None or not is_unchanged(before, present, self.until):
                return None
            if not _copy_chunks(draft, self.manifest, before, present.path):
                return None
        except RvssError as exc:
            _logger.warning("everything is read: %s", exc)
            self.manifest = None
            return None
        return replace(
            present,
            target=before.target,
            acl=before.acl,
            xattrs=before.xattrs,
            digest=before.digest,
        )


def fill(draft: Draft, root: int, last: Last | None, progress: Progress) -> None:
    """Write all of a tree into a draft.

    Args:
        draft: what is there already stays.
        root: the tree's directory, for example a detached mount of it; it must not change.
        last: where the digests of unchanged files may be taken from.
        progress: is told how far it has come.

    Raises:
        RvssError: STATE if a manifest fails; SYSTEM if the tree is not there.
    """
    _list(draft, root, last, progress)
    progress.size = draft.sums().left
    for entry in draft.left_over(Kind.FILE):
        before = progress.read
        _read(draft, root, entry, progress)
        progress.read = before + entry.size


def _list(draft: Draft, root: int, last: Last | None, progress: Progress) -> None:
    try:
        with tree.handle(root, b"") as found:
            top = tree.stated(b"", os.fstat(found))
            target, acl, xattrs = tree.completed(found)
            if last is not None:
                last.limit(found)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot look into the backup: {exc.strerror}") from exc
    draft.add(replace(top, target=target, acl=acl, xattrs=xattrs), done=False)
    for directory in draft.left_over(Kind.DIRECTORY):
        if is_beyond(directory.path):
            draft.finish(directory.path, fault=directory.fault or BEYOND)
            continue
        fault = ""
        try:
            with tree.handle(root, directory.path) as found:
                within = _Within(entry=directory, fd=found, device=os.fstat(found).st_dev)
                for name in tree.names(found):
                    _add(draft, within, name, last, progress)
                    progress.entries += 1
        except OSError as exc:
            fault = f"it cannot be listed: {exc.strerror}"
        draft.finish(directory.path, fault=fault or directory.fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Within:
    """A directory that is being listed: its entry, a descriptor of it, and its device."""

    entry: Entry
    fd: int
    device: int


def _add(draft: Draft, within: _Within, name: bytes, last: Last | None, progress: Progress) -> None:
    """Add what a name in a directory leads to."""
    path = joined(within.entry.path, name)
    entry = Entry(path=path, kind=Kind.UNKNOWN)
    volume = within.entry.volume
    try:
        status = os.stat(name, dir_fd=within.fd, follow_symlinks=False)
        if status.st_dev != within.device:
            volume = draft.next_volume()
        entry = replace(tree.stated(path, status), volume=volume)
        known = last.take(draft, entry, status.st_dev) if last else None
        if known is not None:
            draft.add(known, done=known.kind is not Kind.DIRECTORY)
            progress.reused += known.kind is Kind.FILE
            return
        with tree.handle(within.fd, name) as found:
            entry = replace(tree.stated(path, os.fstat(found)), volume=volume)
            target, acl, xattrs = tree.completed(found)
    except OSError as exc:
        entry = replace(entry, fault=f"it cannot be looked at: {exc.strerror}")
        draft.add(entry, done=entry.kind is not Kind.DIRECTORY)
        return
    entry = replace(entry, target=target, acl=acl, xattrs=xattrs)
    draft.add(entry, done=entry.kind not in (Kind.DIRECTORY, Kind.FILE))


def _copy_chunks(draft: Draft, source: Manifest, entry: Entry, path: bytes) -> bool:
    """Take over the digests of a file's chunks; return whether all of them were there.

    Raises:
        RvssError: STATE. Nothing of it is left in the draft then.
    """
    if entry.kind is not Kind.FILE or chunks.count(entry.size) == 1:
        return True
    whole = Digest(entry.size)
    is_right = False
    try:
        for first, digests in source.runs(entry):
            draft.add_chunks(path, first, digests)
            whole.add(first, digests)
        is_right = whole.value() == entry.digest
    finally:
        if not is_right:
            draft.drop_chunks(path)
    return is_right


def _read(draft: Draft, root: int, entry: Entry, progress: Progress) -> None:
    """Read a file, or what is left of it."""
    try:
        with tree.handle(root, entry.path) as found:
            twin = _twin(draft, root, entry, found) if entry.links > 1 else None
            if twin is not None and _copy_chunks(draft, draft, twin, entry.path):
                digest = twin.digest
            else:
                with tree.content(found) as fd:
                    digest = _content(draft, fd, entry, progress)
    except OSError as exc:
        draft.finish(entry.path, fault=f"it cannot be read: {exc.strerror}")
    else:
        draft.finish(entry.path, digest=digest)


def _twin(draft: Draft, root: int, entry: Entry, found: int) -> Entry | None:
    """Return another name of a file that has been read already.

    Inode numbers are those of one volume, and an image can have several.
    """
    for other in draft.linked(entry.inode):
        with tree.handle(root, other.path) as fd:
            if os.path.sameopenfile(fd, found):
                return other
    return None


def _content(draft: Draft, fd: int, entry: Entry, progress: Progress) -> bytes:
    """Return the digest of a file, and write those of its chunks down.

    Raises:
        OSError: a chunk cannot be read; its text says which.
    """
    whole = Digest(entry.size)
    start = 0
    for first, digests in draft.runs(entry):  # of an attempt that was interrupted
        whole.add(first, digests)
        start = first // chunks.IN_A_ROW + 1
    count = chunks.count(entry.size)
    reader = Reader(fd, entry.size)
    for row in reader.rows(start):
        first = row * chunks.IN_A_ROW
        found: list[bytes] = []
        for number in range(first, min(first + chunks.IN_A_ROW, count)):
            try:
                found.append(reader.digest(number))
            except OSError as exc:
                at = f"{exc.strerror}, at byte {number * chunks.SIZE}"
                raise OSError(exc.errno, at) from exc
            progress.read += min(chunks.SIZE, entry.size - number * chunks.SIZE)
        first, digests = chunks.trimmed(first, found) if count > 1 else (0, found[0])
        whole.add(first, digests)
        if count > 1 and digests:
            draft.add_chunks(entry.path, first, digests)
    return whole.value()
