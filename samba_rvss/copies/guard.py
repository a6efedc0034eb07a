"""A guard: a backup of what a share has now, before something is restored into it.

Place: on `create` and `keep`. Contract: it is a backup as others are, but that no client of Samba
asked for it; it has a tag, and is held for some days. What fails is undone, or left to reconciling.
"""

import os
import time
from datetime import timedelta

from samba_rvss.clock import now
from samba_rvss.copies import create, holds, keep, room
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import Target
from samba_rvss.errors import RvssError
from samba_rvss.model import ENDED, Keep, Phase, Sealed, ShadowCopy, Taken

TAG = "before-restore"
"""Its tag, and as what it is held."""

HELD = timedelta(days=7)
"""For how long it is held."""


def take(instance: Instance, target: Target, uid: int) -> ShadowCopy:
    """Back up a share as it is now; return the record of the backup.

    Args:
        instance: the share's.
        target: the share, and where it is.
        uid: who wants it.

    Raises:
        RvssError: LIMIT, NO_SPACE or DEADLINE if there can be none; as
            `samba_rvss.providers.Provider.create` and `seal`, and as `holds.hold`.
    """
    started = time.monotonic()
    room.require(instance, target.share, target.space)
    deadline = started + instance.config.commit_deadline
    prepared = create.prepare(instance, target, (), uid, deadline)[target.share.name]
    if isinstance(prepared, RvssError):
        raise prepared
    for _, fd in prepared.taken.mounts:
        os.close(fd)
    copy = prepared.copy
    try:
        kept = _kept(instance, copy, prepared.taken, uid, started)
    except BaseException as exc:
        create.undo(instance, copy, exc)
        raise
    holds.tag_with(instance, kept, TAG, uid)
    holds.hold(instance, kept, TAG, now().replace(microsecond=0) + HELD, uid)
    return kept


def _kept(
    instance: Instance, copy: ShadowCopy, taken: Taken, uid: int, started: float
) -> ShadowCopy:
    provider = instance.provider(copy.volume)
    sealed = Sealed(
        set_id="",
        copy_id="",
        context=0,
        exposed_share="",
        state=None,
        uid=uid,
        keep=Keep.YES,
        transid=taken.transid,
        taken=taken.at,
    )
    provider.seal(copy.volume, copy.id, sealed, opened=False)
    provider.keep(copy.volume, copy.id)
    record = instance.ledger.change(
        copy,
        "sealed",
        unless=(Phase.DELETING, *ENDED),
        uid=uid,
        phase=Phase.SEALED,
        keep=Keep.YES,
        transid=taken.transid,
        taken=taken.at,
        duration=time.monotonic() - started,
        detail="as it is before a restore",
    )
    if record is None:
        raise create.deleted(copy)
    keep.keep(instance, record, uid)
    return instance.ledger.get(copy.id) or record
