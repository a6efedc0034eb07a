"""Restoring into a directory that is there already: name by name, what is missing or different.

Contract: what the image does not have stays as it is. A directory that is missing is made whole
before it gets its name; a file is replaced in one step. What is damaged replaces nothing.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from samba_rvss.kernel import files
from samba_rvss.manifests import tree
from samba_rvss.manifests.entry import Entry, Kind
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.restore import attributes, build, check, place
from samba_rvss.restore.build import Source, join
from samba_rvss.restore.plan import Overwrite, State, decide
from samba_rvss.restore.work import PREFIX, Work, full, is_one

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(slots=True, kw_only=True)
class Target:
    """Where it is restored, and how.

    Attributes:
        root: a descriptor of the share's directory.
        state: the state directory.
        overwrite: what is done with what is there.
        dry_run: whether it is only told.
        in_use: tells whether somebody has a file open, by its device and inode number.
        manifest: the image's manifest, if it has one.
        reached: called with the name of each step; for tests of crashes.
    """

    root: int
    state: str
    overwrite: Overwrite
    dry_run: bool
    in_use: Callable[[int, int], bool]
    manifest: Manifest | None
    reached: Callable[[str], None] = lambda point: None
    works: dict[int, Work] = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack)

    def work(self, around: int) -> Work:
        """Return the work directory of the volume that a directory is in.

        Raises:
            RvssError: as `Work`.
            OSError: ENAMETOOLONG if there is no place for one that a path leads to.
        """
        device = os.fstat(around).st_dev
        if device not in self.works:
            above = around
            if not files.path_of(around):  # a record could not say where it is
                if device != os.fstat(self.root).st_dev:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                above = self.root
            self.works[device] = self.closing.enter_context(Work(self.state, above))
        return self.works[device]


def merge(source: Source, target: Target, path: bytes) -> None:
    """Restore what a path of the image leads to, under its own name.

    Args:
        source: the image.
        target: where it is restored.
        path: from the share's directory; the directory that it is in has to be there.

    Raises:
        RvssError: NO_SPACE, READ_ONLY or SYSTEM; STATE if the manifest is damaged.
        OSError: it is not in the image, or the directory that it is in is not there.
    """
    later: list[bytes] = []
    with target.closing:
        above, name = os.path.split(path)
        with _both(source, target, above) as (inside, around):
            is_there = _one(source, target, inside, around, name, path, later)
        directories = [path] if is_there else []
        for here in directories:  # it grows
            if build.is_left_out(source, here):
                continue
            try:
                with _both(source, target, here) as (inside, around):
                    for each in tree.names(inside):
                        below = join(here, each)
                        if _one(source, target, inside, around, each, below, later):
                            directories.append(below)
            except OSError as exc:
                _fails(source, here, exc)
        # When all that stays is known: of several names of a file, one may be there already.
        for below in later:
            above, name = os.path.split(below)
            try:
                with _both(source, target, above) as (inside, around):
                    if _one(source, target, inside, around, name, below):
                        what = "somebody has made a directory there meanwhile: restore it again"
                        source.tally.faults.add(below, what)
            except OSError as exc:
                _fails(source, below, exc)
    for here in reversed(directories):  # nothing is made in them any more
        _directory(source, target, here)


@contextmanager
def _both(source: Source, target: Target, path: bytes) -> Iterator[tuple[int, int]]:
    with tree.handle(source.root, path) as inside, tree.handle(target.root, path) as around:
        yield inside, around


def _one(
    source: Source,
    target: Target,
    inside: int,
    around: int,
    name: bytes,
    path: bytes,
    later: list[bytes] | None = None,
) -> bool:
    """Restore what a name leads to, or note its path for later; return whether to go into it.

    That is so where both sides have a directory.
    """
    if not source.wanted.enters(path):
        return False
    try:
        with ExitStack() as closing:
            found = closing.enter_context(tree.handle(inside, name))
            entry = check.entry_of(path, found)
            present = _present(around, name, closing)
            if entry.kind is Kind.DIRECTORY and name.startswith(PREFIX) and is_one(found):
                source.tally.notes.add(path, "what another restore was making is left out")
                return False
            is_directory = entry.kind is Kind.DIRECTORY
            if is_directory and present is not None and stat.S_ISDIR(os.fstat(present).st_mode):
                return True
            if not is_directory and not source.wanted.has(path):
                return False
            state = _state(target, entry, found, present)
            if state is State.UNCHANGED and present is not None:
                build.known(source, entry, found, target.root, present)
            if later is not None and state in (State.RESTORED, State.UPDATED):
                later.append(path)
                return False
            _apply(source, target, state, around, name, path, present)
    except BlockingIOError:  # somebody has a lease on it
        _tell(source, State.IN_USE, path)
    except OSError as exc:
        _fails(source, path, exc)
    return False


def _present(around: int, name: bytes, closing: ExitStack) -> int | None:
    """Return a descriptor of what a name leads to; None if that is nothing."""
    with suppress(FileNotFoundError):
        return closing.enter_context(tree.handle(around, name))
    return None


def _state(target: Target, entry: Entry, found: int, present: int | None) -> State:
    if present is None:
        return decide(entry, None, target.overwrite)
    status = os.fstat(present)
    return decide(
        entry,
        check.entry_of(entry.path, present),
        target.overwrite,
        in_use=target.in_use(status.st_dev, status.st_ino),
        same=lambda: check.same_content(found, present, entry.size),
    )


def _apply(
    source: Source,
    target: Target,
    state: State,
    around: int,
    name: bytes,
    path: bytes,
    present: int | None,
) -> None:
    """Do what is to be done with a name."""
    if state is State.IN_WAY:
        source.tally.faults.add(path, "a directory is there now, and it was none: move it away")
    if target.dry_run and state is State.RESTORED:
        before = source.tally.states[state]
        build.count(source, path)
        if source.tally.states[state] > before:
            source.tally.changes.add(path, state.value)
        return
    if target.dry_run or state not in (State.RESTORED, State.UPDATED):
        _tell(source, state, path)
        return
    work = target.work(around)
    target.reached("restore.made")
    made = build.make(source, path, work)
    if made is None:
        return
    target.reached("restore.built")
    _sync(work, made)
    found = list(check.differences(source, target.manifest, path, work.fd, made))
    for difference in found:
        source.tally.differs(difference)
    if present is None:
        place.give_name(work, made, around, name)
        # All that is new in a directory has been counted.
        source.tally.changes.add(path, state.value)
    elif found or path in source.missing:
        source.tally.states[State.RESTORED] -= 1
        source.tally.faults.add(path, "it is not restored, and what is there stays")
        work.remove(made)
        return
    else:
        source.tally.states[State.RESTORED] -= 1
        try:
            place.replace(work, made, around, name, os.fstat(present))
        except BlockingIOError:
            state = State.IN_USE
            work.remove(made)
        _tell(source, state, path)
    target.reached("restore.placed")
    build.placed(source, path, target.root, path)


def _tell(source: Source, state: State, path: bytes) -> None:
    source.tally.states[state] += 1
    if state is not State.UNCHANGED:
        source.tally.changes.add(path, state.value)


def _sync(work: Work, made: bytes) -> None:
    """Have what was made on the disk before it gets its name."""
    with tree.handle(work.fd, made) as found:
        status = os.fstat(found)
        if stat.S_ISREG(status.st_mode):
            with tree.content(found) as fd:
                os.fsync(fd)
        elif stat.S_ISDIR(status.st_mode):
            files.syncfs(work.fd)


def _directory(source: Source, target: Target, path: bytes) -> None:
    """Give a directory that was there what it has besides what is in it."""
    if target.overwrite is Overwrite.NEVER or not source.wanted.has(path):
        return
    try:
        with _both(source, target, path) as (found, present):
            entry, there = check.entry_of(path, found), check.entry_of(path, present)
            state = decide(entry, there, target.overwrite)
            if state is State.UPDATED and not target.dry_run:
                for failure in attributes.write(present, attributes.read(found)):
                    source.tally.faults.add(path, failure)
                place.sync(present)
            _tell(source, state, path)
    except OSError as exc:
        _fails(source, path, exc)


def _fails(source: Source, path: bytes, exc: OSError) -> None:
    """Tell what could not be done.

    Raises:
        RvssError: NO_SPACE or READ_ONLY: then it is useless to go on.
    """
    stop = full(exc)
    if stop is not None:
        raise stop from exc
    what = "somebody has moved it meanwhile" if exc.errno in _GONE else "it is not restored"
    source.tally.fails(path, what, exc)
