"""What an image says against its record in the ledger, which may be an old one put back.

Place: below judging copies. A sealed mark proves that the image is sealed and what Samba said of
it; where the record says something else, the record is amended or nothing is done.
"""

from dataclasses import replace

from samba_rvss.model import Image, Keep, Phase, Sealed, SetState, ShadowCopy, strongest
from samba_rvss.reconcile.observation import Observation

_UNSEALED = (Phase.CREATING, Phase.TAKEN, Phase.OPEN, Phase.SEALING)


def doubt(seen: Observation, copy: ShadowCopy, image: Image | None) -> str:
    """Return why nothing may be done with a copy because of its image; empty if nothing is odd."""
    if image is None or seen.inventory is None:
        return ""
    record, mark = seen.inventory.present(copy.volume), seen.inventory.present(image.mark.volume)
    if record.key != mark.key:
        return f"its record is of the volume {record.key}, its image of {mark.key}"
    sealed = image.mark.sealed is not None or not image.complete
    if copy.phase is Phase.CREATING and image.read_only and not sealed:
        return "its image is read-only, though its record says that it is being made"
    return ""


def amended(seen: Observation, copy: ShadowCopy, image: Image | None) -> tuple[ShadowCopy, str]:
    """Return the record of a copy as its image's mark wants it, and why."""
    if seen.inventory is None:
        return copy, ""
    reason = "its file system has another name"
    changed = replace(copy, volume=seen.inventory.present(copy.volume))
    sealed = image.mark.sealed if image is not None and image.complete else None
    if sealed is not None and (
        copy.phase in _UNSEALED
        or (copy.phase is Phase.SEALED and not copy.set_id and sealed.set_id)
    ):
        changed = _sealed(changed, sealed)
        if not _is_attested(seen, copy):
            # Its record is from before it was exposed, perhaps of a backup.
            changed = replace(changed, adopted=True)
        reason = "its image is sealed, by its mark"
    if image is None or sealed is None:
        return changed, reason
    kept, wish = image.mark.kept, image.mark.wish(seen.wall)
    if copy.phase is Phase.DELETING and kept is not None and kept.holding(seen.wall):
        # That could not be told when it was to be deleted: whoever deletes looks first.
        changed = replace(_sealed(changed, sealed), phase=Phase.KEPT, adopted=False)
        reason = "its image is held, by its mark"
    same = (copy.set_id, copy.copy_id) == (sealed.set_id, sealed.copy_id)
    if same or wish is Keep.YES:
        changed = replace(changed, keep=strongest(changed.keep, wish))
    if same:
        changed = replace(changed, set_size=max(changed.set_size, sealed.shares))
    if image.mark.is_backup and copy.phase is not Phase.DELETING:
        changed = replace(_sealed(changed, sealed), phase=Phase.KEPT, adopted=False)
        reason = "its image is a backup, by its mark"
    if changed == replace(copy, keep=changed.keep, set_size=changed.set_size):
        reason = "its mark says that it is to be kept"
    return changed, reason


def attested(copy: ShadowCopy, image: Image | None) -> Image | None:
    """Return an image with the mark that says that its recovery is complete; None if it need not.

    Without AUTO_RECOVERY a copy is sealed before its client says RecoveryComplete. A mark that
    does not say so would have an old record of it deleted at the next boot.
    """
    sealed = image.mark.sealed if image is not None and image.complete else None
    if (
        image is None
        or sealed is None
        or copy.phase is not Phase.SEALED
        or copy.state is not SetState.RECOVERED
        or sealed.state is SetState.RECOVERED
        or (copy.set_id, copy.copy_id) != (sealed.set_id, sealed.copy_id)
    ):
        return None
    recovered = replace(sealed, state=SetState.RECOVERED)
    return replace(image, mark=replace(image.mark, sealed=recovered))


def _is_attested(seen: Observation, copy: ShadowCopy) -> bool:
    """Return whether something of Samba's has a copy: its set, or its exposed share."""
    sets = seen.samba.copies if seen.samba else ()
    return any(copy.path == known.path for known in sets) or copy.path in (
        (seen.shares or {}).values()
    )


def _sealed(copy: ShadowCopy, sealed: Sealed) -> ShadowCopy:
    known = bool(copy.set_id) and (copy.set_id, copy.copy_id) == (sealed.set_id, sealed.copy_id)
    states = [state for state in (sealed.state, copy.state if known else None) if state is not None]
    named = bool(sealed.set_id)
    return replace(
        copy,
        phase=Phase.SEALED,
        set_id=sealed.set_id if named else copy.set_id,
        copy_id=sealed.copy_id if named else copy.copy_id,
        context=sealed.context if named else copy.context,
        exposed_share=sealed.exposed_share if named else copy.exposed_share,
        state=max(states, default=None),
        keep=strongest(copy.keep, sealed.keep),
        set_size=max(copy.set_size, sealed.shares),
        transid=copy.transid if copy.taken else sealed.transid,
        taken=copy.taken or sealed.taken,
        adopted=copy.adopted or not known,
    )
