"""Sealing: a copy becomes read-only for good, and that is verified before it is recorded.

    begin         the image becomes read-only: new opens for writing fail from here on
    finish        the mount is closed, which fails while somebody still has a file open for writing;
                  then what recovery wrote is brought to the disk, all is verified, and recorded
    write_out     while a writer prevents `finish`: what recovery wrote is brought to the disk

Contract: none of them waits for a writer; the caller decides how long to try.
"""

import time
from dataclasses import replace

from samba_rvss.copies import exposed
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, Sealed, SetState, ShadowCopy


def begin(instance: Instance, copy: ShadowCopy) -> ShadowCopy | None:
    """Make the image read-only; None if the copy is sealed or being deleted already.

    Files that are open for writing are left to `finish`. RECOVERED is not recorded yet, because a
    loss of power could still take what recovery wrote.

    Raises:
        RvssError: NOT_FOUND, STATE or SYSTEM.
    """
    sealing = instance.ledger.change(
        copy,
        _event(copy),
        unless=(Phase.SEALED, Phase.DELETING, Phase.GONE),
        phase=Phase.SEALING,
    )
    if sealing is None:
        return None
    instance.reached("seal.intent")
    # What a client may write to is sealed at RecoveryComplete and never before.
    return replace(sealing, state=SetState.RECOVERED if copy.auto_recovery else copy.state)


def write_out(instance: Instance, copy: ShadowCopy) -> None:
    """Bring to the disk what recovery wrote, and record that recovery is complete.

    For a copy that cannot be sealed yet because of a writer: from here on it outlives a reboot.

    Args:
        instance: the copy's.
        copy: what `begin` returned.

    Raises:
        RvssError: NOT_SEALED, NOT_FOUND, STATE or SYSTEM.
    """
    instance.provider(copy.volume).seal(copy.volume, copy.id, _sealed(copy))
    past = (Phase.SEALED, Phase.DELETING, Phase.GONE)
    instance.ledger.change(copy, "written out", unless=past, since=copy.since, state=copy.state)


def finish(instance: Instance, copy: ShadowCopy, started: float) -> ShadowCopy | None:
    """Close the recovery mount for good, verify, and record it.

    Args:
        instance: the copy's.
        copy: what `begin` returned.
        started: when the sealing began (`time.monotonic`).

    Returns:
        The sealed copy, or the copy with phase DELETING if it is being deleted. None while
        somebody still has a file open for writing; nothing has changed then.

    Raises:
        RvssError: NOT_SEALED, NOT_FOUND, STATE or SYSTEM.
    """
    if not instance.mounts.close(copy.path):
        return None
    instance.reached("seal.closed")
    instance.provider(copy.volume).seal(copy.volume, copy.id, _sealed(copy))
    if not instance.mounts.is_closed(copy.path):
        raise RvssError(Problem.NOT_SEALED, f"the mount {copy.path} is still writable")
    instance.reached("seal.settled")
    sealed = instance.ledger.change(
        copy,
        "sealed",
        unless=(Phase.DELETING, Phase.GONE),
        phase=Phase.SEALED,
        state=copy.state,
        duration=time.monotonic() - started,
    )
    instance.reached("seal.sealed")
    return sealed or replace(copy, phase=Phase.DELETING)


def drop_writers(instance: Instance, copy: ShadowCopy) -> None:
    """Have smbd drop every connection to a copy's exposed share.

    Raises:
        RvssError: SAMBA.
    """
    if copy.exposed_share:
        exposed.drop_connections(instance, copy.exposed_share)


def describe_writers(instance: Instance, copy: ShadowCopy) -> str:
    """Return which processes have files of a copy open for writing, for a message."""
    holders = instance.mounts.holders(copy.path)
    said = [f"{who.command} (pid {who.pid}) {who.path}" for who in holders[:5]]
    return ", ".join(said) or "nobody seen"


def _sealed(copy: ShadowCopy) -> Sealed:
    return Sealed(
        set_id=copy.set_id,
        copy_id=copy.copy_id,
        context=copy.context,
        exposed_share=copy.exposed_share,
        state=copy.state,
    )


def _event(copy: ShadowCopy) -> str:
    if copy.phase is Phase.SEALING:
        return "sealing again"
    return "recovered" if copy.state is SetState.RECOVERED else "sealing"
