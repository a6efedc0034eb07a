"""Creating shadow copies: reserve them in the ledger, take their images, publish their mounts.

Images of several shares are taken together, since Samba will ask for one after the other; each is
claimed by the create callout of its share. Contract: the record comes first, so that after a crash
reconciling finds the copy, and knows by its phase that no client has it.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from samba_rvss.clock import now
from samba_rvss.copies import restoring, room
from samba_rvss.copies.delete import delete, withdraw
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import Target, locate
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.permissions import User
from samba_rvss.model import ENDED, Mark, Nested, Phase, ShadowCopy, Share, Taken, Volume
from samba_rvss.mounts import way
from samba_rvss.samba import readable, twins

_logger = logging.getLogger(__name__)

INTENDED = "create"
"""The event of a copy that is about to be taken."""

UNCLAIMED = "unclaimed"
"""The event of an image that was taken along with others, and that nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A copy whose image was taken, and that nobody has yet.

    Attributes:
        copy: its record.
        gates: what is on the way to its share, as its path has it.
        taken: the image; its mounts are the holder's, who claims or discards it.
    """

    copy: ShadowCopy
    gates: Sequence[way.Gate]
    taken: Taken

    def is_of(self, target: Target) -> bool:
        """Return whether it is what a share's copy would be that was taken now."""
        return (self.copy.volume, tuple(self.gates)) == (target.volume, target.gates)


def examine(instance: Instance, share: Share, user: User | None) -> Target:
    """See that a user's shadow copy of a share can be taken and exposed; return where the share is.

    Args:
        instance: the share's.
        share: the share.
        user: who wants it, if he sees the smb.conf that we see.

    Raises:
        RvssError: as `copies.locate.locate`, `copies.room.require` and `samba.readable.require`.
    """
    config = instance.config
    if user is not None:
        forced = twins.forced(twins.of(config.shares, share.path))
        readable.require(config.file, None if forced else user)
    target = locate(share, instance.providers, config.run_directory, thorough=True)
    room.require(instance, target.share, target.space)
    return target


def make_ready(instance: Instance, volume: Volume) -> None:
    """Make what copies of a volume are taken quicker with; if that fails, it is logged."""
    try:
        instance.provider(volume).ready(volume)
    except RvssError as exc:
        _logger.info("%s", exc)


def prepare(
    instance: Instance, asked: Target | None, others: Sequence[Target], uid: int, deadline: float
) -> dict[str, Prepared | RvssError]:
    """Take the images of shares, all at one instant if that can be had in time.

    Args:
        instance: the shares'.
        asked: what is asked for, if any of them is.
        others: what may be asked for next, on the same file system. Those of which there are too
            many copies, or that have too little space, are left out.
        uid: the client's user.
        deadline: time (`time.monotonic`) after which the copies are not wanted any more.

    Returns:
        What was taken, or why it was not (LIMIT if there are too many copies), and has been undone,
        by the shares' names. What is asked for is among them.

    Raises:
        RvssError: DEADLINE or STATE. Nothing is taken then.
    """
    _require_time(deadline)
    limited = any(target.share.maximum_copies for target in (asked, *others) if target)
    counts = instance.ledger.counts() if limited else {}
    found: dict[str, Prepared | RvssError] = {}
    wanted: list[tuple[Target, ShadowCopy]] = []
    if asked is not None:
        try:
            room.refuse_many(asked.share, counts.get(asked.share.name.lower(), 0))
            wanted.append((asked, _new(instance, asked, uid)))
        except RvssError as exc:
            found[asked.share.name] = exc
    for other in others:
        with suppress(RvssError):  # its own callout says why
            room.refuse_many(other.share, counts.get(other.share.name.lower(), 0))
            room.refuse_full(other.share, asked.space if asked else other.space)
            wanted.append((other, _new(instance, other, uid)))
    copies = [copy for _, copy in wanted]
    if not copies:
        return found
    with ExitStack() as undoing:
        for copy in copies:
            undoing.push(partial(_on_failure, instance, copy))
        instance.ledger.add_all(copies, INTENDED, [forced(instance, copy) for copy in copies])
        instance.reached("create.intent")
        marks = [_mark(copy, target.share.nested) for target, copy in wanted]
        made = instance.provider(copies[0].volume).create(marks, deadline)
        for image in made.values():
            if isinstance(image, Taken):
                undoing.push(partial(_close_on_failure, image))
        instance.reached("create.image")
        for target, copy in wanted:
            image = made[copy.id]
            if isinstance(image, RvssError):
                undo(instance, copy, image)
                found[copy.share] = image
            else:
                found[copy.share] = Prepared(copy=copy, gates=target.gates, taken=image)
    return found


def _on_failure(instance: Instance, copy: ShadowCopy, *failure: object) -> None:
    """Undo a copy if a block was left by an exception."""
    reason = failure[1]
    if isinstance(reason, BaseException):
        undo(instance, copy, reason)


def _close_on_failure(taken: Taken, *failure: object) -> None:
    """Close the mounts of an image if a block was left by an exception."""
    if failure[1] is not None:
        for _, fd in taken.mounts:
            os.close(fd)


def take(
    instance: Instance,
    target: Target,
    others: Sequence[Target],
    uid: int,
    started: float,
    deadline: float,
    tell: Callable[[Mapping[str, Prepared | RvssError]], object],
) -> ShadowCopy:
    """Prepare a copy with others, and claim it at once.

    Args:
        instance: the shares'.
        target: what is asked for; the caller has its volume's turn.
        others: as for `prepare`.
        uid: the client's user.
        started: when it was asked for (`time.monotonic`).
        deadline: time (`time.monotonic`) after which the copies are not wanted any more.
        tell: gets what `prepare` returned, before it is claimed.

    Raises:
        RvssError: as `prepare` and `claim`.
    """
    made = prepare(instance, target, others, uid, deadline)
    tell(made)
    found = made[target.share.name]
    if isinstance(found, RvssError):
        raise found
    return _claim(instance, found, uid, started, deadline, fresh=True)


def claim(
    instance: Instance, prepared: Prepared, uid: int, started: float, deadline: float
) -> ShadowCopy:
    """Mount a copy whose image was taken, and record that Samba may have its path.

    All is undone if anything fails.

    Args:
        instance: the copy's.
        prepared: it; nobody else may claim or discard it any more.
        uid: the client's user.
        started: when it was asked for (`time.monotonic`).
        deadline: time (`time.monotonic`) after which it is not wanted any more.

    Raises:
        RvssError: BUSY if somebody deletes it; LIMIT, DEADLINE, NOT_FOUND, BAD_PATH, STATE or
            SYSTEM; BUSY if there can be no directory for Previous Versions.
    """
    return _claim(instance, prepared, uid, started, deadline, fresh=False)


def _claim(
    instance: Instance,
    prepared: Prepared,
    uid: int,
    started: float,
    deadline: float,
    *,
    fresh: bool,
) -> ShadowCopy:
    """Do so; with ``fresh``, its volume's turn has been held since before it was prepared."""
    copy, taken = prepared.copy, prepared.taken
    try:
        with files.all_opened(fd for _, fd in taken.mounts):
            if not fresh:
                _require_unclaimed(instance, copy)
            _require_time(deadline)
            copy = _with_previous(instance, copy, prepared.gates)
            instance.mounts.attach(taken.mounts, copy.path)
        instance.reached("create.mounted")
        attach(instance, copy, copy.paths[1:])
        _require_time(deadline)
        claimed = instance.ledger.change(
            copy,
            "taken",
            unless=(Phase.DELETING, *ENDED),
            uid=uid,
            client=uid,
            phase=Phase.TAKEN,
            previous_path=copy.previous_path,
            transid=taken.transid,
            taken=taken.at,
            duration=time.monotonic() - started,
            detail="; ".join(filter(None, (forced(instance, copy), _several(taken)))),
        )
        if claimed is None:
            instance.mounts.detach(copy.path)
            raise deleted(copy)
        instance.reached("create.taken")
        if restoring.is_under_way(instance.config, copy.volume):
            instance.ledger.note(claimed, restoring.EVENT, detail="half of that may be in it")
    except BaseException as exc:
        undo(instance, copy, exc)
        raise
    return claimed


def _require_unclaimed(instance: Instance, copy: ShadowCopy) -> None:
    """Refuse a copy that somebody has deleted since it was prepared, or one too many.

    Raises:
        RvssError: BUSY, LIMIT or STATE.
    """
    current = instance.ledger.get(copy.id)
    if current is None or current.phase is not Phase.CREATING:
        raise deleted(copy)
    share = instance.config.share(copy.share)
    if share is not None:
        room.refuse_many(share, instance.ledger.counts().get(share.name.lower(), 0))


def deleted(copy: ShadowCopy) -> RvssError:
    return RvssError(Problem.BUSY, f"{copy.id} was deleted before anybody had it", "try again")


def _several(taken: Taken) -> str:
    if taken.transid:
        return ""
    return (
        "not all of it is of one instant: its file system was too busy, or short of metadata, or"
        " too many subvolumes are in its set"
    )


def discard(instance: Instance, prepared: Prepared, reason: str) -> None:
    """Remove a copy that was prepared, and that nobody has asked for.

    Raises:
        RvssError: as `copies.delete.delete`; reconciling tries it again then.
    """
    copy = prepared.copy
    for _, fd in prepared.taken.mounts:
        os.close(fd)
    instance.ledger.note(copy, UNCLAIMED, detail=reason)
    delete(instance, copy)


def _new(instance: Instance, target: Target, uid: int) -> ShadowCopy:
    """Return a new copy, with an id that nothing else has."""
    share = target.share
    created = now().replace(microsecond=0)
    name = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    return ShadowCopy(
        id=name,
        share=share.name,
        share_path=share.path,
        volume=target.volume,
        created=created,
        phase=Phase.CREATING,
        path=instance.mounts.exposed_path(share.name, name, target.gates),
        uid=uid,
        keep=share.keep,
    )


def _with_previous(instance: Instance, copy: ShadowCopy, gates: Sequence[way.Gate]) -> ShadowCopy:
    """Give a copy its directory for Previous Versions; users see that as soon as it is there."""
    share = instance.config.share(copy.share)
    if share is None or not share.previous_versions:
        return copy
    return replace(copy, previous_path=reserve_previous(instance, copy, gates))


def _mark(copy: ShadowCopy, nested: Nested) -> Mark:
    return Mark(
        id=copy.id,
        share=copy.share,
        share_path=copy.share_path,
        volume=copy.volume,
        created=copy.created,
        nested=nested,
    )


def forced(instance: Instance, copy: ShadowCopy) -> str:
    """Return a sentence for a callout's event if its user is not the client's own; else ""."""
    config = instance.config
    share = config.share(copy.share) if copy.exposed_share else None
    return twins.forced((share,) if share else twins.of(config.shares, copy.share_path))


def reserve_previous(instance: Instance, copy: ShadowCopy, gates: Sequence[way.Gate]) -> str:
    """Make the directory of a copy's Previous Versions; return its path, or "" if it has none.

    That is logged: what comes besides a shadow copy does not cost the copy.

    Args:
        instance: the copy's.
        copy: its share, the directory of that, and its time matter.
        gates: of the way to its share.
    """
    shown = twins.shown_by(twins.of(instance.config.shares, copy.share_path)) or copy.share
    try:
        return instance.mounts.reserve_previous(shown, copy.created, gates)
    except RvssError as exc:
        _logger.error("%s is not in Previous Versions: %s", copy.title, exc)
        return ""


def attach(instance: Instance, copy: ShadowCopy, paths: Sequence[str]) -> None:
    """Mount the share's directory in the image, read-only, at some of the copy's paths.

    Raises:
        RvssError: NOT_FOUND, BAD_PATH or SYSTEM.
    """
    for path in paths:
        parts = instance.provider(copy.volume).open(copy.volume, copy.id)
        with files.all_opened(fd for _, fd in parts):
            instance.mounts.attach(parts, path)
        instance.reached("create.mounted")


def undo(instance: Instance, copy: ShadowCopy, reason: BaseException) -> None:
    """Remove what a failed create made; if that fails, log it and leave it to reconciling."""
    try:
        if copy.previous_path:
            instance.mounts.detach(copy.previous_path)
        if instance.ledger.get(copy.id) is not None:
            withdraw(instance, copy, str(reason))
    except RvssError:
        _logger.exception("%s: cannot undo a failed create yet", copy.title)


def _require_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RvssError(
            Problem.DEADLINE,
            "the shadow copy was not ready within 'rvss:commit deadline' and was undone",
            "see what keeps the file system busy",
        )
