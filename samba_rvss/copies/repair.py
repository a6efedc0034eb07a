"""Repairing: what reconciling does with copies, images and sets that are not as they should be."""

import logging
from dataclasses import replace

from samba_rvss.clock import moment, now
from samba_rvss.copies import exposed, seal
from samba_rvss.copies.create import attach, reserve_previous
from samba_rvss.copies.delete import hide
from samba_rvss.copies.follow import facts_of
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.model import ENDED, Image, Mark, Phase, SambaCopy, SetState, ShadowCopy
from samba_rvss.mounts import way
from samba_rvss.samba import fss_state, twins

_logger = logging.getLogger(__name__)

_LIVING = [phase for phase in Phase if phase is not Phase.GONE]


def adopt(instance: Instance, image: Image, path: str = "") -> ShadowCopy:
    """Write a lost record anew from an image's mark.

    What the mark says of a sealed copy is all that is to know. Another one waits for what Samba
    says of it.

    Args:
        instance: the image's.
        image: which one.
        path: where Samba has it; empty if that is not known.

    Raises:
        RvssError: STATE; if it is sealed, as `samba_rvss.copies.seal.mount`.
    """
    mark, mounts, sealed = image.mark, instance.mounts, image.mark.sealed
    gates = _gates(mark.share_path)
    gone = instance.ledger.get(image.id)
    if gone is not None and mark.kept is not None and mark.kept.holding(now()):
        instance.ledger.change(gone, "came back held", unless=_LIVING, lost=True)
    copy = ShadowCopy(
        id=image.id,
        share=mark.share,
        share_path=mark.share_path,
        volume=mark.volume,
        created=mark.created,
        phase=_phase(mark),
        uid=sealed.uid if sealed else -1,
        keep=mark.wish(now()),
        # Samba knows it by the path that it has got, whatever the way to the share is like now.
        path=mounts.standing(image.id)
        or (path if mounts.is_place(path) else mounts.exposed_path(mark.share, image.id, gates)),
        set_id=sealed.set_id if sealed else "",
        copy_id=sealed.copy_id if sealed else "",
        context=sealed.context if sealed else 0,
        exposed_share=sealed.exposed_share if sealed else "",
        state=sealed.state if sealed else None,
        set_size=sealed.shares if sealed else 0,
        transid=sealed.transid if sealed else 0,
        taken=sealed.taken if sealed else None,
        adopted=not mark.is_backup,
    )
    copy = replace(copy, share=exposed.share_name(instance.config, copy))
    share = next((share for share in instance.config.shares if share.name == copy.share), None)
    if copy.phase is Phase.KEPT:
        hide(instance, copy)
        instance.ledger.add(copy, "adopted", "its record is made anew from its mark")
        return copy
    if share and twins.shown_by(twins.of(instance.config.shares, share.path)):
        copy = replace(copy, previous_path=reserve_previous(instance, copy, gates))
    if sealed:
        # Before the record: a mount that is there may lead to what recovery wrote to.
        seal.mount(instance, copy, anew=True)
    instance.ledger.add(copy, "adopted", "its record is made anew from its mark")
    return copy


def _phase(mark: Mark) -> Phase:
    if mark.sealed is None:
        return Phase.TAKEN
    return Phase.KEPT if mark.is_backup else Phase.SEALED


def _gates(share_path: str) -> tuple[way.Gate, ...]:
    """Return the gates on the way to a share that may not be there any more: then one for root."""
    try:
        return way.to(share_path)
    except RvssError as exc:
        _logger.warning("only root can reach the copy: %s", exc)
        return (way.CLOSED,)


def amend(instance: Instance, copy: ShadowCopy, amended: ShadowCopy, reason: str) -> None:
    """Amend a record to what its image's mark proves; its time stays.

    Raises:
        RvssError: STATE; if it is sealed, as `samba_rvss.copies.seal.mount`.
    """
    if amended.phase is Phase.SEALED and copy.phase is not Phase.SEALED:
        seal.mount(instance, amended, anew=True)
    names = (
        "phase",
        "set_id",
        "copy_id",
        "context",
        "exposed_share",
        "state",
        "adopted",
        "keep",
        "set_size",
        "transid",
        "taken",
    )
    values = {
        name: getattr(amended, name)
        for name in names
        if getattr(amended, name) != getattr(copy, name)
    }
    name = exposed.share_name(instance.config, amended)
    if name != copy.share:
        values["share"] = name
    if amended.volume != copy.volume:
        values["file_system"] = amended.volume.file_system
    instance.ledger.change(
        copy, "amended", unless=(Phase.GONE,), detail=reason, since=copy.since, **values
    )


def note_lost(instance: Instance, copy: ShadowCopy, reason: str) -> None:
    """Take away what is left of a copy whose image has vanished, and destroy nothing.

    Should the image come back, it is not one that we deleted.

    Raises:
        RvssError: as `samba_rvss.copies.delete.hide`; STATE.
    """
    hide(instance, copy)
    instance.ledger.change(
        copy, "lost", unless=(Phase.GONE,), detail=reason, phase=Phase.GONE, lost=True
    )


def mount_again(instance: Instance, copy: ShadowCopy) -> None:
    """Mount a copy again, read-only, at those of its paths that have no mount.

    One that should be open, and is not, is opened again by whoever follows it. A copy that is being
    deleted is left alone.

    Raises:
        RvssError: NOT_FOUND, BAD_PATH or SYSTEM.
    """
    current = instance.ledger.get(copy.id)
    if current is None or current.phase in ENDED:
        return
    # A mount that is there stays: clients may have files open through it.
    missing = [path for path in copy.paths if not instance.mounts.is_mounted(path)]
    if current.phase is Phase.OPEN and copy.path not in instance.mounts.opened():
        # Recorded first: a crash must not leave a closed mount with a record that says open. What
        # srv_fss.tdb says is due opens it again.
        past = (Phase.SEALING, Phase.SEALED, *ENDED)
        instance.ledger.change(copy, "no longer open", unless=past, phase=Phase.TAKEN)
    if missing:
        attach(instance, copy, missing)
        instance.ledger.note(copy, "mounted again")


def seal_again(
    instance: Instance, copy: ShadowCopy, reason: str, known: SambaCopy | None = None
) -> ShadowCopy | None:
    """Record that a copy is to be sealed (again); the watcher, which follows it, seals it.

    Args:
        instance: the copy's.
        copy: which one.
        reason: why.
        known: what Samba says of it, which a daemon that died may not have recorded. Its state is
            not recorded here: that is for the sealing, once it is on disk.

    Raises:
        RvssError: STATE.
    """
    return instance.ledger.change(
        copy,
        "to be sealed",
        unless=ENDED,
        detail=reason,
        since=copy.since if copy.ended or _was_complete(copy) else None,
        phase=Phase.SEALING,
        **(facts_of(copy, known) if known else {}),
    )


def _was_complete(copy: ShadowCopy) -> bool:
    """Return whether the recovery of a copy has been complete since its record says."""
    return copy.phase is Phase.SEALING and copy.since.boot == moment().boot


def claim(instance: Instance, image: Image) -> None:
    """Write our identity, and what Samba has said since, into the mark of an image of ours.

    What else the mark says by now stays.

    Raises:
        RvssError: NOT_FOUND, READ_ONLY or SYSTEM.
    """
    seen = image.mark
    mark = instance.mark(seen.volume, image.id)
    sealed = mark.sealed
    if sealed is not None and seen.sealed is not None:
        sealed = replace(sealed, state=seen.sealed.state)
    instance.provider(seen.volume).claim(replace(mark, volume=seen.volume, sealed=sealed))


def destroy_image(instance: Instance, image: Image) -> None:
    """Destroy an image that no shadow copy accounts for.

    Raises:
        RvssError: BUSY, READ_ONLY or SYSTEM.
    """
    instance.provider(image.mark.volume).destroy(image.mark.volume, image.id)


def delete_set(instance: Instance, set_id: str, state: SetState, reason: str) -> None:
    """Remove a set from srv_fss.tdb, if it is still in this state; no rpcd_fsrvp may live.

    Raises:
        RvssError: BUSY or SAMBA.
    """
    config = instance.config
    if instance.samba.call(
        fss_state.delete_sets, config.fss_state, config.samba_lock_directory, {set_id: state}
    ):
        instance.ledger.note_set(set_id, "removed from srv_fss.tdb", detail=reason)
