"""Judging backups: shadow copies that have ended and are kept. Nothing here deletes one.

Place: beside judging copies. Whatever is not as it should be is said; what keeping left undone when
it was cut off is done.
"""

from samba_rvss.model import Foreign, Image, Inventory, Phase, ShadowCopy
from samba_rvss.reconcile.decision import Clear, Delete, Finish, Seal
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation

_CUT_OFF = "that it became a backup was cut off"


def judge(seen: Observation, draft: Draft) -> None:
    """Judge every backup in the ledger."""
    if not seen.backups:
        return
    inventory = seen.inventory
    images: dict[str, list[Image]] = {}
    foreign: dict[str, Foreign] = {}
    if inventory is not None:
        for image in inventory.images:
            images.setdefault(image.id, []).append(image)
        foreign = {found.mark.id if found.mark else found.id: found for found in inventory.foreign}
    for copy in seen.backups:
        if copy.id in seen.changing:
            draft.leave(copy.id, "something is being done with it", seen.options.grace)
        elif inventory is None:
            _leave(seen, draft, copy, "the images cannot be listed")
        else:
            key = inventory.present(copy.volume).key
            there = images.get(copy.id, [])
            own = [image for image in there if inventory.present(image.mark.volume).key == key]
            if own:
                judge_present(seen, draft, copy, own[0])
            elif there:
                other = there[0].mark.volume.key
                reason = f"its record is of the volume {key}, its image of {other}"
                _leave(seen, draft, copy, reason)
            else:
                _judge_missing(seen, inventory, draft, copy, foreign.get(copy.id))


def _leave(seen: Observation, draft: Draft, copy: ShadowCopy, reason: str) -> None:
    """Leave an image that cannot be seen alone, but not what clients can reach of it."""
    draft.leave(copy.id, reason, wrong=True)
    if _is_shown(seen, copy):
        draft.act(Finish(copy=copy, reason=_CUT_OFF))


def _judge_missing(
    seen: Observation, inventory: Inventory, draft: Draft, copy: ShadowCopy, foreign: Foreign | None
) -> None:
    file_system = inventory.present(copy.volume).file_system
    if foreign is not None:
        reason = f"its image is not ours any more: {foreign.whose.value}, at {foreign.where}"
        _leave(seen, draft, copy, f"{reason} on {foreign.file_system}")
    elif file_system in inventory.unlisted:
        reason = inventory.unlisted[file_system]
        _leave(seen, draft, copy, f"its file system cannot be listed: {reason}")
    elif file_system not in inventory.file_systems:
        _leave(seen, draft, copy, f"its file system is not there ({file_system})")
    elif file_system in inventory.homeless:
        reason = "there is no home of images on its file system: was it renamed or deleted?"
        _leave(seen, draft, copy, reason)
    else:
        reason = "its image does not exist any more"
        draft.act(Delete(copy=copy, reason=reason, lost=True))


def judge_present(seen: Observation, draft: Draft, copy: ShadowCopy, image: Image) -> None:
    """Judge a backup whose image is there, on the volume that its record says."""
    if image.empty:
        reason = "its image does not exist any more"
        draft.act(Delete(copy=copy, reason=reason, lost=True))
    elif not image.complete:
        _leave(seen, draft, copy, "a part of its image is missing")
    elif copy.phase is not Phase.KEPT:
        draft.act(Seal(copy=copy, reason="its client has deleted it, and it is to be kept"))
    elif not image.read_only or image.mark.sealed is None:
        reason = "somebody has made its image writable: what is in it may not be what was sealed"
        _leave(seen, draft, copy, reason)
    else:
        unfinished = not image.mark.is_backup or _is_shown(seen, copy)
        if unfinished:
            draft.act(Finish(copy=copy, reason=_CUT_OFF))
        if image.remnants:
            reason = "what recovery wrote to is no part of the sealed image, and still there"
            draft.act(Clear(copy=copy, reason=reason))
        if not unfinished and not image.remnants:
            draft.leave(copy.id, "it is a backup, and lives until it is deleted or pruned")


def _is_shown(seen: Observation, copy: ShadowCopy) -> bool:
    """Return whether something of the shadow copy that it was is left."""
    # Where backups are mounted on demand, it is one as a backup.
    paths = {copy.path} if seen.is_on_demand(copy) else set(copy.paths)
    mounted = bool((seen.mounts or frozenset()) & paths)
    return mounted or copy.path in (seen.shares or {}).values()
