"""Creating a shadow copy: reserve it in the ledger, take the image, publish its mount.

Contract: each step is one function of one copy, so that a set's copies can go through a step
together later on. The record comes first, so that after a crash reconciling finds the copy, and
knows by its phase that no client has it. A caller of the steps calls `undo` when one of them fails.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from samba_rvss.clock import now
from samba_rvss.copies import room
from samba_rvss.copies.delete import withdraw
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import Target
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Mark, Phase, ShadowCopy
from samba_rvss.mounts import way
from samba_rvss.samba import twins

_logger = logging.getLogger(__name__)


def create(instance: Instance, target: Target, uid: int, deadline: float) -> ShadowCopy:
    """Take a shadow copy and mount it, read-only; all is undone if anything fails.

    Args:
        instance: the share's.
        target: what `locate` returned.
        uid: the client's user.
        deadline: time (`time.monotonic`) after which the copy is not wanted any more.

    Raises:
        RvssError: DEADLINE, NO_SPACE, READ_ONLY, NESTED, BAD_PATH, STATE or SYSTEM.
    """
    started = time.monotonic()
    _require_time(deadline)
    copy = reserve(instance, target, uid)
    try:
        take(instance, copy, target)
        _require_time(deadline)
        return publish(instance, copy, started, deadline)
    except BaseException as exc:
        undo(instance, copy, exc)
        raise


def reserve(instance: Instance, target: Target, uid: int) -> ShadowCopy:
    """Give a new copy an id that nothing else has, and record that it is being created.

    Raises:
        RvssError: LIMIT or STATE; BAD_PATH or NOT_SUPPORTED if the way to the share cannot be
            carried over; SYSTEM or BUSY if there can be no directory for Previous Versions.
    """
    share = target.share
    room.refuse_many(share, instance.ledger.counts().get(share.name.lower(), 0))
    gates = way.to(share.path)
    created = now().replace(microsecond=0)
    name = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    copy = ShadowCopy(
        id=name,
        share=share.name,
        share_path=share.path,
        volume=target.volume,
        created=created,
        phase=Phase.CREATING,
        path=instance.mounts.exposed_path(share.name, name, gates),
        uid=uid,
        keep=share.keep,
    )
    if share.previous_versions:
        copy = replace(copy, previous_path=reserve_previous(instance, copy, gates))
    try:
        instance.ledger.add(copy, "create", forced(instance, copy))
    except BaseException as exc:
        undo(instance, copy, exc)
        raise
    instance.reached("create.intent")
    return copy


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


def take(instance: Instance, copy: ShadowCopy, target: Target) -> None:
    """Take the image of a reserved copy, durable on return, and mount it at the copy's path.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.create`, and `attach`.
    """
    mark = Mark(
        id=copy.id,
        share=copy.share,
        share_path=copy.share_path,
        volume=copy.volume,
        created=copy.created,
        nested=target.share.nested,
    )
    parts = instance.provider(copy.volume).create(mark)
    with files.all_opened(fd for _, fd in parts):
        instance.reached("create.image")
        instance.mounts.attach(parts, copy.path)
    instance.reached("create.mounted")


def publish(instance: Instance, copy: ShadowCopy, started: float, deadline: float) -> ShadowCopy:
    """Mount the image for Previous Versions too, and record that Samba may have the copy's path.

    Args:
        instance: the copy's.
        copy: its image has been taken.
        started: when its creation began (`time.monotonic`).
        deadline: time (`time.monotonic`) after which it is not wanted any more.

    Raises:
        RvssError: DEADLINE, BAD_PATH, STATE or SYSTEM.
    """
    attach(instance, copy, copy.paths[1:])
    _require_time(deadline)
    taken = instance.ledger.change(
        copy,
        "taken",
        uid=copy.uid,
        phase=Phase.TAKEN,
        duration=time.monotonic() - started,
        detail=forced(instance, copy),
    )
    if taken is None:
        raise RvssError(Problem.STATE, f"the record of {copy.id} vanished")
    instance.reached("create.taken")
    return taken


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
