"""Restoring what is in a backup: beside where it was, elsewhere, or in its own place.

Place: on `reading`, `restoring` and the room `restore`; a command calls it, and no daemon: users'
files are written by a process of its own. Contract: the backup is not deleted meanwhile; nothing
gets its name before it is whole, on the disk and compared; nothing is overwritten that is open, and
nothing at all before there is a backup of what is there now.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from samba_rvss.copies import in_use, machines, manifests, reading, restoring
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import volume_of
from samba_rvss.errors import Problem, RvssError
from samba_rvss.hyperv.layout import Machine
from samba_rvss.kernel import files, mounttable
from samba_rvss.manifests import tree
from samba_rvss.manifests.entry import Kind
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.model import ShadowCopy, Volume
from samba_rvss.mounts import escape
from samba_rvss.restore import beside, build, merge, work
from samba_rvss.restore.build import Source
from samba_rvss.restore.plan import Overwrite
from samba_rvss.restore.selection import Paths, Wanted
from samba_rvss.restore.tally import Tally
from samba_rvss.samba import modules, open_files, values

POINTS = ("restore.made", "restore.built", "restore.placed")
"""Where a test may end it: a place to work in is made; something is there; that has its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be restored, and how.

    Attributes:
        part: the part of a backup.
        path: what of it, from the share's directory; empty for all.
        wanted: what of that.
        directory: where it is put under its own name; empty for beside where it was.
        overwrite: what is done with what is there, in its own place; None for another place.
        dry_run: whether it is only told.
        force: whether it is restored even if a VFS module keeps a part of it elsewhere.
        machine: the GUID of a virtual machine, whose files are meant, whatever `path` and `wanted`
            say; empty for none.
    """

    part: ShadowCopy
    path: bytes
    wanted: Wanted
    directory: str = ""
    overwrite: Overwrite | None = None
    dry_run: bool = False
    force: bool = False
    machine: str = ""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        tally: numbers and names.
        where: the path of what was restored.
        guard: the id of the backup of what was there before; empty if there is none.
        removed: what a restore that was killed had left.
        warnings: what is to be known besides.
        by_manifest: whether it was compared with a manifest, and not with the image alone.
        path: what was restored, from the share's directory.
        machine: the virtual machine that is meant, if one is.
    """

    tally: Tally
    where: str = ""
    guard: str = ""
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_manifest: bool = False
    path: bytes = b""
    machine: Machine | None = None


def restore(
    instance: Instance,
    wish: Wish,
    tally: Tally,
    guard: Callable[[], str],
    reached: Callable[[str], None] = lambda point: None,
) -> Outcome:
    """Restore something.

    Args:
        instance: the backup's.
        wish: what, and how.
        tally: is told how far it has come.
        guard: backs up what the share has now, and returns the id of that.
        reached: called with each name of `POINTS`; for tests of crashes.

    Raises:
        RvssError: NOT_FOUND if it is not in the backup; BAD_PATH if there is no place for it;
            BUSY if a file that is to be replaced is open, or its volume is being backed up;
            NOT_SUPPORTED if a VFS module keeps a part of it elsewhere; NOT_OURS, NO_SPACE,
            READ_ONLY, SAMBA or SYSTEM; as `reading.leased` and `reading.opened`.
    """
    config, part = instance.config, wish.part
    outcome = Outcome(tally=tally)
    share = config.share(part.share)
    base = share.path if share else values.directory(part.share_path)
    _require_modules(instance, wish, outcome)
    if not wish.dry_run:
        removed, failed = work.clear(config.state_directory)
        outcome.removed, outcome.warnings = tuple(removed), (*outcome.warnings, *failed)
    with ExitStack() as closing:
        closing.enter_context(reading.leased(instance, (part,)))
        image = reading.opened(instance, part, closing)
        if wish.machine:
            outcome.machine = machines.find(image, wish.machine, part.id)
            scope, paths = machines.common(outcome.machine), Paths(outcome.machine.paths)
            wish = replace(wish, path=scope, wanted=paths)
        outcome.path = wish.path
        source = Source(root=image, wanted=wish.wanted, trusted=True, tally=tally)
        _require(source, wish)
        manifest = _manifest(instance, wish, outcome, closing)
        closing.enter_context(_reported())
        if wish.overwrite is None:
            _beside(instance, wish, source, base, manifest, outcome, reached)
        else:
            target = partial(
                merge.Target,
                state=config.state_directory,
                overwrite=wish.overwrite,
                dry_run=wish.dry_run,
                manifest=manifest,
                reached=reached,
            )
            _in_place(instance, wish, source, base, target, guard, outcome)
        if not wish.dry_run:
            build.tell_links(source)
    return outcome


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what fails as a whole into a problem; what fails for one file has been told."""
    try:
        yield
    except OSError as exc:
        reason = f"it cannot be restored: {exc.strerror or exc}"
        raise work.full(exc) or RvssError(Problem.SYSTEM, reason) from exc


def _require_modules(instance: Instance, wish: Wish, outcome: Outcome) -> None:
    """Refuse what would lose what a VFS module keeps elsewhere, or warn of it."""
    found = modules.by_inode(instance.config.modules(wish.part.share))
    if not found:
        return
    what = (
        f"[{wish.part.share}] has {', '.join(found)} in 'vfs objects', which keeps streams or ACLs"
        " under inode numbers, and a restored file has another one"
    )
    if not wish.force:
        raise RvssError(
            Problem.NOT_SUPPORTED, what, "with --force, they are restored without those"
        )
    outcome.warnings = (*outcome.warnings, f"{what}: they are restored without those")


def _require(source: Source, wish: Wish) -> None:
    """Refuse what is not in the backup, or cannot be in any."""
    names = wish.path.split(b"/") if wish.path else []
    if any(name in (b"", b".", b"..") for name in names):
        raise RvssError(
            Problem.USAGE,
            f"{os.fsdecode(wish.path)} is no path from the share's directory",
            "such as 'machines/one/disk.vhdx'",
        )
    try:
        with tree.handle(source.root, wish.path):
            pass
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            reason = "there is a symbolic link in that path"
        elif exc.errno in (errno.ENOENT, errno.ENOTDIR):
            reason = "'samba-rvss backup mount' lets you look into it"
        else:
            reason = exc.strerror or str(exc)
        raise RvssError(
            Problem.NOT_FOUND, f"{os.fsdecode(wish.path)} is not in {wish.part.id}", reason
        ) from exc


def _manifest(
    instance: Instance, wish: Wish, outcome: Outcome, closing: ExitStack
) -> Manifest | None:
    """Return the manifest of the backup; None if it has none that can be read."""
    config, image = instance.config, wish.part.id
    if wish.dry_run or not manifests.exists(config, image):
        return None
    try:
        found = closing.enter_context(Manifest(manifests.path(config, image), image))
    except RvssError as exc:
        line = f"{exc.line()}; what is restored is compared with the image itself"
        outcome.warnings = (*outcome.warnings, line)
        return None
    outcome.by_manifest = True
    return found


def _beside(
    instance: Instance,
    wish: Wish,
    source: Source,
    base: str,
    manifest: Manifest | None,
    outcome: Outcome,
    reached: Callable[[str], None],
) -> None:
    """Restore under a name that nothing has."""
    above, name = os.path.split(wish.path)
    with ExitStack() as closing:
        root = _opened(base)
        if root is not None:
            closing.callback(os.close, root)
        if wish.directory:
            parent = _directory(os.path.abspath(wish.directory))
            name = name or os.fsencode(escape(wish.part.share))
        elif not wish.path:
            parent = _directory(os.path.dirname(base))
        else:
            parent = _beneath(base, root, above)
        closing.callback(os.close, parent)
        source.trusted = root is not None and _is_same_mount(root, parent)
        if not (wish.path or wish.directory or source.trusted):
            raise RvssError(
                Problem.BAD_PATH,
                f"{base} is where a file system is mounted, and beside it is another one",
                "say where with --target",
            )
        where = _place(parent, base)
        around = parent if root is None or wish.directory or not wish.path else root
        closing.enter_context(_lock(instance, wish, around, parent))
        free = beside.names(
            name or os.fsencode(os.path.basename(base)),
            b"" if wish.directory else wish.part.id.partition("-")[0].encode(),
            is_file=_kind(source, wish.path) is Kind.FILE,
        )
        found = beside.make(
            source,
            beside.Place(parent=parent, names=free, state=instance.config.state_directory),
            wish.path,
            manifest,
            reached,
            dry_run=wish.dry_run,
        )
        if found is not None:
            outcome.where = os.path.join(where, os.fsdecode(found))


def _in_place(
    instance: Instance,
    wish: Wish,
    source: Source,
    base: str,
    target_at: Callable[..., merge.Target],
    guard: Callable[[], str],
    outcome: Outcome,
) -> None:
    """Restore under its own name, whatever is there."""
    config = instance.config
    if config.share(wish.part.share) is None:
        raise RvssError(
            Problem.NOT_OURS,
            f"[{wish.part.share}] is no share any more of which backups can be taken",
            "restore to another place with --target",
        )
    with ExitStack() as closing:
        root = _directory(base)
        closing.callback(os.close, root)
        parent = _beneath(base, root, os.path.dirname(wish.path))
        closing.callback(os.close, parent)
        closing.enter_context(_lock(instance, wish, root, parent))
        found = open_files.look(config.file)
        known = {(each.device, each.inode) for each in found}
        target = target_at(root=root, in_use=lambda *number: number in known)
        if not wish.dry_run:
            share = wish.part.share
            in_use.require_closed(source, target, wish.path, share, base, found)
            outcome.guard = guard()
        outcome.where = os.path.join(base, os.fsdecode(wish.path)).rstrip("/")
        try:
            merge.merge(source, target, wish.path)
        except RvssError as exc:
            if not outcome.guard:
                raise
            before = f"what was there before is the backup {outcome.guard}"
            raise RvssError(
                exc.problem, exc.message, f"{exc.hint}; {before}" if exc.hint else before
            ) from exc


def _opened(path: str) -> int | None:
    """Open the share's directory; None if it is not there any more."""
    try:
        return _directory(path)
    except RvssError:
        return None


def _directory(path: str) -> int:
    """Open a directory, for names in it; return its O_PATH descriptor.

    Raises:
        RvssError: BAD_PATH if it is not there, or there is a symbolic link in its path, which
            others could have put there.
    """
    how = files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS
    try:
        return files.openat2(files.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, how)
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH,
            f"cannot restore into {path}: {reading.why(exc)}",
            "it has to be there, without symbolic links in its path",
        ) from exc


def _beneath(base: str, root: int | None, path: bytes) -> int:
    """Open a directory of the share, without being led out of it."""
    where = f"{base}/{os.fsdecode(path)}".rstrip("/")
    if root is None:
        raise RvssError(Problem.BAD_PATH, f"there is no {base}", "say where with --target")
    try:
        return tree.beneath(root, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH,
            f"cannot restore into {where}: {reading.why(exc)}",
            "restore the directory as a whole, or say where with --target",
        ) from exc


def _is_same_mount(one: int, other: int) -> bool:
    return mounttable.mount_id(one) == mounttable.mount_id(other)


@contextmanager
def _lock(instance: Instance, wish: Wish, *targets: int) -> Iterator[None]:
    """Keep others from backing up what is restored into; nobody backs up other file systems.

    One that is nested in another is backed up with that too.
    """
    volumes, around = dict[str, Volume](), dict[str, Volume]()
    for target in () if wish.dry_run else targets:
        with files.opened(os.open(".", files.DIRECTORY, dir_fd=target)) as fd:
            volume = volume_of(fd, files.path_of(target) or "the target", instance.providers)
            if volume is not None:
                volumes[volume.key] = volume
                around |= {v.key: v for v in instance.provider(volume).around(fd, volume)}
    with ExitStack() as closing:
        for volume in volumes.values():
            closing.enter_context(restoring.restoring(instance.config, volume))
        for key in around.keys() - volumes.keys():
            closing.enter_context(restoring.inside(instance.config, around[key]))
        yield


def _kind(source: Source, path: bytes) -> Kind:
    with tree.handle(source.root, path) as found:
        return tree.stated(path, os.fstat(found)).kind


def _place(parent: int, base: str) -> str:
    """Return the path of a directory in which something is to get a name.

    Raises:
        RvssError: BAD_PATH if it has none: what a killed restore leaves there would not be found.
    """
    if path := files.path_of(parent):
        return path
    raise RvssError(
        Problem.BAD_PATH,
        f"what is to be restored has its place in {base}, below more than 4095 bytes of a path",
        "say where with --target, or restore it in its own place with --overwrite",
    )
