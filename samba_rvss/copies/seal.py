"""Sealing: what recovery left becomes an image that nothing can change, step by step.

    close         the writable layer of the recovery mount goes: in the event loop, needing nothing
    drop          smbd drops its connections, with the files that are open through them
    make_image    the image becomes unchangeable, durably, and its mark says so: the commit point
    mount         the sealed image comes to its paths
    record        the ledger says that it is sealed
    clear         what recovery wrote to, and is no part of the image, goes

Contract: each step can be repeated, also after a crash at any instruction; none waits for a writer.
Nobody has to let go of a file, because handles that are open lead to what is no part of the image.
"""

import logging
import time
from dataclasses import replace

from samba_rvss.clock import moment
from samba_rvss.copies import exposed
from samba_rvss.copies.follow import Step, known_facts, steps
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable
from samba_rvss.model import ENDED, Keep, Phase, Sealed, SetState, ShadowCopy
from samba_rvss.samba import fss_state

_logger = logging.getLogger(__name__)


def close(instance: Instance, copy: ShadowCopy) -> None:
    """Take away the writable layer of a recovery mount, if it has one.

    It comes before anything that could fail or wait.

    Raises:
        RvssError: SYSTEM.
    """
    instance.mounts.close(copy.path)
    instance.reached("seal.closed")


def close_recovered(instance: Instance) -> None:
    """Close every copy whose recovery was completed while nobody followed Samba.

    What fails is logged and left to reconciling.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    ledger = instance.ledger
    copies = {copy.path: copy for copy in (*ledger.copies(), *ledger.backups())}
    due = [copy for copy in copies.values() if copy.phase is Phase.SEALING]
    try:
        known_copies = fss_state.settled(instance.config.fss_state).copies
    except RvssError as exc:
        _logger.warning("%s", exc)
        known_copies = ()
    for known in known_copies:
        copy = copies.get(known.path)
        if copy is not None and Step.SEAL in steps(copy, known):
            due.append(copy)
    for copy in due:
        try:
            close(instance, copy)
        except RvssError as exc:
            _logger.error("%s is not closed: %s", copy.title, exc)


def is_torn(copy: ShadowCopy) -> bool:
    """Return whether what recovery wrote to a copy that is not sealed may be lost.

    Only sealing brings it to the disk for certain, and there was a boot since.
    """
    return copy.auto_recovery and copy.since.boot not in ("", moment().boot)


def is_recovered(copy: ShadowCopy) -> bool:
    """Return whether the record of a copy says that recovery is complete and on disk.

    `record` says so. A copy that was adopted with a read-only image counts too.
    """
    if copy.phase is Phase.SEALING:
        return copy.state is SetState.RECOVERED or not copy.set_id
    return copy.phase is Phase.SEALED


def drop(instance: Instance, copy: ShadowCopy) -> None:
    """Have smbd drop every connection to a copy's exposed share.

    Raises:
        RvssError: SAMBA.
    """
    if copy.exposed_share:
        exposed.drop_connections(instance, copy.exposed_share)


def note(instance: Instance, copy: ShadowCopy) -> None:
    """Record that a copy is being sealed, since now, and why; nothing waits for that.

    What Samba says of it is recorded, but for the state: that is for `record`. One that was being
    sealed before has been so since then.

    Raises:
        RvssError: STATE.
    """
    if copy.phase is Phase.SEALING:
        event = "sealing again"
    else:
        event = "recovered" if copy.state is SetState.RECOVERED else "sealing"
    _note(instance, copy, event)


def _note(instance: Instance, copy: ShadowCopy, event: str, detail: str = "") -> None:
    begun = instance.ledger.change(
        copy,
        event,
        unless=(Phase.SEALING, Phase.SEALED, *ENDED),
        detail=detail,
        phase=Phase.SEALING,
        **known_facts(copy),
    )
    if begun is None:
        instance.ledger.note(copy, event, detail=detail)


def is_due(instance: Instance, copy: ShadowCopy) -> bool:
    """Return whether a copy is still to be sealed; also if the ledger does not say."""
    try:
        found = instance.ledger.get(copy.id)
    except RvssError as exc:
        _logger.error("%s is sealed, its record unseen: %s", copy.title, exc)
        return True
    return found is not None and found.phase not in (Phase.SEALED, *ENDED)


def sealed_record(instance: Instance, copy: ShadowCopy) -> ShadowCopy | None:
    """Return the record of a copy if that says that it is sealed.

    Raises:
        RvssError: STATE.
    """
    found = instance.ledger.get(copy.id)
    return found if found is not None and found.phase is Phase.SEALED else None


def is_open_to_writers(instance: Instance, copy: ShadowCopy) -> bool:
    """Return whether somebody can have written to a copy before it is sealed.

    That is so if it was to be opened for recovery, or nobody has recorded whether it was; and on
    btrfs, where root may write to our home, if a share shows the top level of a file system:
    clients may be root there, by ``force user``.
    """
    if copy.auto_recovery or not copy.set_id:
        return True
    shared = {section.path.rstrip("/") for section in instance.config.sections if section.path}
    return any(
        f"{mount.target.rstrip('/')}/".startswith(f"{path}/")
        for mount in mounttable.whole("btrfs")
        for path in shared
    )


def make_image(instance: Instance, copy: ShadowCopy) -> tuple[ShadowCopy, bool]:
    """Make the image of a closed copy unchangeable.

    Returns:
        The copy in the state that it has now, and whether it has to be mounted anew.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.seal`.
    """
    # What a client may write to is sealed at RecoveryComplete, or at its end, and never before.
    complete = copy.auto_recovery and not copy.ended
    sealed = replace(copy, state=SetState.RECOVERED if complete else copy.state)
    if copy.ended and is_torn(copy):
        sealed = replace(sealed, state=SetState.EXPOSED)
    provider, wish = instance.provider(copy.volume), _wish(instance, sealed)
    is_another = provider.seal(
        copy.volume,
        copy.id,
        Sealed(
            set_id=sealed.set_id,
            copy_id=sealed.copy_id,
            context=sealed.context,
            exposed_share=sealed.exposed_share,
            state=sealed.state,
            uid=sealed.uid,
            shares=sealed.set_size,
            keep=wish,
            transid=sealed.transid,
            taken=sealed.taken,
        ),
        opened=is_open_to_writers(instance, copy),
    )
    if wish is not Keep.NO:
        provider.keep(copy.volume, copy.id)
    return sealed, is_another


def _wish(instance: Instance, copy: ShadowCopy) -> Keep:
    """Return whether a copy is to be kept, as recorded by now. Sealing waits for no ledger."""
    try:
        found = instance.ledger.get(copy.id)
    except RvssError as exc:
        _logger.error("%s: its record is unseen: %s", copy.title, exc)
        found = None
    return found.keep if found else copy.keep


def mount(instance: Instance, copy: ShadowCopy, *, anew: bool) -> None:
    """See that the sealed image of a copy is mounted where it belongs, and nothing else is.

    Args:
        instance: the copy's.
        copy: what `make_image` returned.
        anew: whether what is mounted there has to be replaced.

    Raises:
        RvssError: NOT_SEALED, NOT_FOUND, BAD_PATH or SYSTEM.
    """
    for path in copy.paths:
        if not anew and instance.mounts.is_mounted(path) and instance.mounts.is_closed(path):
            continue
        parts = instance.provider(copy.volume).open(copy.volume, copy.id)
        with files.all_opened(fd for _, fd in parts):
            instance.mounts.replace(parts, path)
        if not instance.mounts.is_closed(path):
            raise RvssError(Problem.NOT_SEALED, f"the mount {path} is still writable")
    instance.reached("seal.mounted")


def record(instance: Instance, copy: ShadowCopy, started: float) -> ShadowCopy | None:
    """Record that a copy is sealed.

    Args:
        instance: the copy's.
        copy: what `make_image` returned.
        started: when the sealing began (`time.monotonic`).

    Returns:
        The record as it is now, sealed; None if the copy is being deleted.

    Raises:
        RvssError: STATE.
    """
    sealed = instance.ledger.change(
        copy,
        "sealed",
        unless=(Phase.SEALED, *ENDED),
        phase=Phase.SEALED,
        share=exposed.share_name(instance.config, copy),
        state=copy.state,
        duration=time.monotonic() - started,
        **known_facts(copy),
    )
    instance.reached("seal.sealed")
    return sealed or sealed_record(instance, copy)


def clear(instance: Instance, copy: ShadowCopy) -> None:
    """Remove what recovery wrote to, once the sealed image is recorded.

    Raises:
        RvssError: BUSY, READ_ONLY or SYSTEM.
    """
    clear_away(instance, copy)
    instance.reached("seal.cleared")


def clear_away(instance: Instance, copy: ShadowCopy) -> None:
    """Do the same, at any time.

    Raises:
        RvssError: BUSY, READ_ONLY or SYSTEM.
    """
    share = instance.config.share(copy.share)
    wanted = share is None or share.recovery_link
    link = wanted and _wish(instance, copy) is not Keep.NO
    instance.provider(copy.volume).clear(copy.volume, copy.id, link=link)


def delay(instance: Instance, copy: ShadowCopy, reason: str) -> None:
    """Record that a copy is closed, but cannot be sealed yet, and why.

    Raises:
        RvssError: STATE.
    """
    _note(instance, copy, "not sealed yet", reason)
