"""Repairing: what reconciling does with copies, images and sets that are not as they should be."""

import logging
import os
from dataclasses import replace

from samba_rvss.copies.create import attach, reserve_previous
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.model import Image, Phase, SetState, ShadowCopy
from samba_rvss.mounts import way
from samba_rvss.samba import fss_state

_logger = logging.getLogger(__name__)


def adopt(instance: Instance, image: Image) -> ShadowCopy:
    """Write a lost record anew from an image's mark.

    Raises:
        RvssError: STATE.
    """
    mark, mounts = image.mark, instance.mounts
    share = next((share for share in instance.config.shares if share.name == mark.share), None)
    gates = _gates(mark.share_path)
    copy = ShadowCopy(
        id=image.id,
        share=mark.share,
        share_path=mark.share_path,
        volume=mark.volume,
        created=mark.created,
        phase=Phase.SEALING if image.read_only else Phase.TAKEN,
        # Samba knows it by the path that it has got, whatever the way to the share is like now.
        path=mounts.standing(image.id) or mounts.exposed_path(mark.share, image.id, gates),
    )
    if share is not None and share.previous_versions:
        copy = replace(copy, previous_path=reserve_previous(instance, copy, gates))
    instance.ledger.add(copy, "adopted", "its record was lost and is made anew from its mark")
    return copy


def _gates(share_path: str) -> tuple[way.Gate, ...]:
    """Return the gates on the way to a share that may not be there any more: then one for root."""
    try:
        return way.to(share_path)
    except RvssError as exc:
        _logger.warning("only root can reach the copy: %s", exc)
        return (way.CLOSED,)


def mount_again(instance: Instance, copy: ShadowCopy) -> None:
    """Mount a copy again, read-only, at those of its paths that have no mount.

    A copy that is being deleted is left alone.

    Raises:
        RvssError: NOT_FOUND, BAD_PATH or SYSTEM.
    """
    current = instance.ledger.get(copy.id)
    if current is None or current.phase in (Phase.DELETING, Phase.GONE):
        return
    # A mount that is there stays: clients may have files open through it, and closing a second
    # mount over it would not keep them from writing.
    missing = [path for path in copy.paths if not os.path.ismount(path)]
    if copy.path in missing and current.phase is Phase.OPEN:
        # Recorded first: a crash must not leave a closed mount with a record that says open.
        instance.ledger.change(copy, "no longer mounted", phase=Phase.TAKEN)
    attach(instance, copy, missing)
    instance.ledger.note(copy, "mounted again")


def seal_again(instance: Instance, copy: ShadowCopy, reason: str) -> ShadowCopy | None:
    """Record that a copy is to be sealed (again); the watcher, which follows it, seals it.

    Raises:
        RvssError: STATE.
    """
    return instance.ledger.change(
        copy,
        "to be sealed",
        unless=(Phase.DELETING, Phase.GONE),
        detail=reason,
        phase=Phase.SEALING,
    )


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
