"""The manifests of an instance's backups: where they are, from what they are made, what came of it.

    <state>/manifests/<image>.db           see `samba_rvss.manifests.manifest`
    <state>/manifests/<image>.partial
    <state>/manifests/<image>.verified     how the image was verified last, in JSON
    <state>/manifests/<image>.disks        see `samba_rvss.copies.disks`

Place: above leases and the reading of backups; commands call it, and no daemon: users' files are
read by a process of its own. Contract: a manifest goes when its image is destroyed, and can be made
again at any time while that is there. They are in the state directory, and not beside the image: on
ZFS nothing can be written there.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from samba_rvss.clock import now
from samba_rvss.copies import reading
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.manifests import make as making
from samba_rvss.manifests.draft import Draft
from samba_rvss.manifests.make import Last, Progress
from samba_rvss.manifests.manifest import Manifest, remove
from samba_rvss.model import ShadowCopy
from samba_rvss.samba.conf import Config

_logger = logging.getLogger(__name__)

_RACY = timedelta(minutes=5)
"""How long before a backup something that changed a file may have begun, and not have ended.

Its ctime is from the beginning. A busy disk has a large write stand still for seconds between two
pages; what stands still for minutes is told by the kernel (hung_task_timeout_secs).
"""

_ENDS = (".db", ".partial")
_VERIFIED = ".verified"
_DISKS = ".disks"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a manifest as a whole.

    Attributes:
        made: when it was finished.
        entries: how many names are in it.
        files: how many of them are files.
        size: of all files, in bytes.
        unreadable: how many names could not be read.
        left_out: of how many names a part is left out, since there are limits.
        reused: how many files were not read, since they had not changed.
    """

    made: datetime
    entries: int
    files: int
    size: int
    unreadable: int
    left_out: int
    reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How an image was compared with its manifest last.

    Attributes:
        time: when that ended.
        subset: of what; empty for all of it.
        damaged: how many names were not as they should be, at least, since all of it was compared.
        whole: when all of it was compared last; None if it never was.
    """

    time: datetime
    subset: str
    damaged: int
    whole: datetime | None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "time": self.time.isoformat(),
            "subset": self.subset,
            "damaged": self.damaged,
            "whole": self.whole.isoformat() if self.whole else None,
        }


def exists(config: Config, image: str) -> bool:
    """Return whether an image has a manifest, even if it cannot be read."""
    try:
        os.stat(path(config, image))
    except OSError as exc:
        return not isinstance(exc, FileNotFoundError)
    return True


def about(config: Config, image: str) -> About | None:
    """Return what is known of an image's manifest; None if it has none.

    Raises:
        RvssError: STATE if it is damaged.
    """
    try:
        with Manifest(path(config, image), image) as manifest:
            return _about(manifest)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        return None


def _about(manifest: Manifest) -> About:
    told = manifest.about
    try:
        return About(
            made=datetime.fromisoformat(told["made"]),
            entries=int(told["entries"]),
            files=int(told["files"]),
            size=int(told["size"]),
            unreadable=int(told["unreadable"]),
            left_out=int(told["left_out"]),
            reused=int(told["reused"]),
        )
    except (KeyError, ValueError) as exc:
        raise manifest.damaged(f"it does not say what it is ({exc})") from exc


def verification(config: Config, image: str) -> Verification | None:
    """Return how an image was verified last; None if it was not, or nobody knows."""
    try:
        with open(_path(config, image, _VERIFIED), "rb") as file:
            found = json.loads(file.read())
        return Verification(
            time=datetime.fromisoformat(found["time"]),
            subset=str(found["subset"]),
            damaged=int(found["damaged"]),
            whole=datetime.fromisoformat(found["whole"]) if found["whole"] else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(config: Config, image: str, time: datetime, subset: str, damaged: int) -> None:
    """Write down how an image was verified. A part of it tells nothing of damage elsewhere.

    Args:
        config: the instance's.
        image: which one.
        time: when that ended.
        subset: of what; empty for all of it.
        damaged: how many names were not as they should be.

    Raises:
        RvssError: SYSTEM.
    """
    before = verification(config, image) if subset else None
    found = Verification(
        time=time,
        subset=subset,
        damaged=max(damaged, before.damaged) if before else damaged,
        whole=before.whole if before else None if subset else time,
    )
    where = _path(config, image, _VERIFIED)
    try:
        files.replace(where, json.dumps(found.as_data()).encode())
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write {where}: {exc.strerror}") from exc


def forget(config: Config, image: str) -> None:
    """Remove all that is known of an image's files. Gone already is success."""
    try:
        for end in (*_ENDS, _VERIFIED, _DISKS):
            remove(_path(config, image, end))
    except OSError as exc:
        _logger.warning("the manifest of %s is not removed: %s", image, exc.strerror)


def make(instance: Instance, part: ShadowCopy, progress: Progress, *, anew: bool) -> About:
    """Make the manifest of a part of a backup; the backup is not deleted meanwhile.

    Args:
        instance: the backup's.
        part: which part.
        progress: is told how far it has come.
        anew: whether all of it is read, whatever is known already.

    Raises:
        RvssError: BUSY if it is being made already, or the backup is being deleted; NOT_FOUND,
            NO_DAEMON, STATE or SYSTEM.
    """
    config = instance.config
    make_directory(config)
    with opened(instance, part) as root, ExitStack() as stack:
        draft = stack.enter_context(_draft(config, part.id, anew=anew))
        last = None if anew else _last(instance, part, stack)
        making.fill(draft, root, last, progress)
        sums = draft.sums()
        found = About(
            made=now(),
            entries=sums.entries,
            files=sums.files,
            size=sums.size,
            unreadable=sums.faults,
            left_out=sums.left_out,
            reused=progress.reused,
        )
        told = {name: str(getattr(found, name)) for name in About.__slots__}
        told |= {"made": found.made.isoformat(), "share": part.share}
        _remove(_path(config, part.id, _VERIFIED))
        draft.complete(told, path(config, part.id))
    return found


@contextmanager
def opened(instance: Instance, part: ShadowCopy) -> Iterator[int]:
    """Open a part of a backup for the time of a block, in which it is not deleted.

    Yields:
        Its directory, a mount that no path leads to.

    Raises:
        RvssError: as `reading.leased` and `reading.opened`.
    """
    with reading.leased(instance, (part,)), ExitStack() as undo:
        yield reading.opened(instance, part, undo)


def path(config: Config, image: str) -> str:
    """Return the path of a whole manifest."""
    return _path(config, image, ".db")


def _path(config: Config, image: str, end: str) -> str:
    return f"{config.state_directory}/manifests/{image}{end}"


def disks_path(config: Config, image: str) -> str:
    """Return the path of what was found of an image's virtual disks; see `copies.disks`."""
    return _path(config, image, _DISKS)


def make_directory(config: Config) -> None:
    """Make the directory of manifests, if it is not there.

    Raises:
        RvssError: SYSTEM.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(f"{config.state_directory}/manifests", 0o700)
    except OSError as exc:
        raise RvssError(
            Problem.SYSTEM, f"cannot make {config.state_directory}/manifests: {exc.strerror}"
        ) from exc


def _draft(config: Config, image: str, *, anew: bool) -> Draft:
    """Return the draft of a manifest: what an interrupted attempt has left, or an empty one."""
    where = _path(config, image, ".partial")
    try:
        draft = Draft(where, image)
    except RvssError as exc:
        if exc.problem is not Problem.STATE:
            raise
        _logger.warning("it is begun again: %s", exc.message)
    else:
        if not anew:
            return draft
        draft.close()
    _remove(where)
    return Draft(where, image)


def _remove(where: str) -> None:
    """Remove what is known of an image's files, if it is there.

    Raises:
        RvssError: SYSTEM.
    """
    try:
        remove(where)
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot remove {where}: {exc.strerror}") from exc


def _last(instance: Instance, part: ShadowCopy, stack: ExitStack) -> Last | None:
    """Return the manifest of the backup of the same directory that is nearest in time."""
    others = [
        other
        for other in instance.ledger.backups()
        if other.id != part.id
        and other.volume.group == part.volume.group
        and exists(instance.config, other.id)
    ]
    for other in sorted(others, key=lambda each: abs(each.created - part.created)):
        try:
            manifest = stack.enter_context(Manifest(path(instance.config, other.id), other.id))
        except RvssError as exc:
            _logger.warning("nothing is taken from it: %s", exc)
            continue
        until = min(part.created, other.created) - _RACY
        return Last(manifest=manifest, until=int(until.timestamp()) * 10**9)
    return None
