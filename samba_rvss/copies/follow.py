"""Following Samba: what srv_fss.tdb says of a copy, and what that calls for.

Contract: `steps` decides, purely; the other functions do one step each. Opening records nothing
beforehand, because a client's first write may follow within milliseconds; after a crash srv_fss.tdb
still says what is due.
"""

from dataclasses import replace
from enum import Enum
from typing import Any

from samba_rvss.copies import exposed
from samba_rvss.copies.instance import Instance
from samba_rvss.model import ENDED, Phase, SambaCopy, SetState, ShadowCopy


class Step(Enum):
    """What the state of a copy in srv_fss.tdb calls for."""

    LEARN = "learn"
    OPEN = "open"
    SEAL = "seal"


def steps(copy: ShadowCopy, known: SambaCopy) -> tuple[Step, ...]:
    """Decide what the state of a copy in srv_fss.tdb calls for.

    A copy is opened only while its set is committed or exposed and has AUTO_RECOVERY. It is sealed
    at RecoveryComplete, and without AUTO_RECOVERY at once. A sealed copy is never opened again.

    Args:
        copy: as the ledger has it.
        known: as srv_fss.tdb has it.
    """
    found: list[Step] = []
    if copy.phase in (Phase.CREATING, *ENDED) or copy.ended:
        return ()
    automatic = replace(copy, context=known.context).auto_recovery
    if copy.phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING):
        if known.state is SetState.RECOVERED:
            found.append(Step.SEAL)
        elif known.state in (SetState.COMMITTED, SetState.EXPOSED):
            if not automatic:
                found.append(Step.SEAL)
            elif copy.phase is Phase.TAKEN:
                found.append(Step.OPEN)
    # A seal records RECOVERED itself: it must not wait for another write to the ledger before it.
    news = copy.state is not known.state and not (
        known.state is SetState.RECOVERED and Step.SEAL in found
    )
    if copy.copy_id != known.copy_id or news:
        found.insert(0, Step.LEARN)
    return tuple(found)


def with_news(copy: ShadowCopy, known: SambaCopy) -> ShadowCopy:
    """Return a copy with what Samba says of it: ids, context, exposed share, state."""
    return replace(copy, state=known.state, **facts_of(copy, known))


def facts_of(copy: ShadowCopy, known: SambaCopy) -> dict[str, Any]:
    """Return what Samba says of a copy and of its set, but the set's state, as columns.

    A set becomes smaller when its client deletes one copy after the other: it is as large as it
    ever was.
    """
    return {
        "set_id": known.set_id,
        "copy_id": known.copy_id,
        "context": known.context,
        "exposed_share": known.exposed_share,
        "set_size": max(copy.set_size, known.set_size),
    }


def known_facts(copy: ShadowCopy) -> dict[str, Any]:
    """Return the same columns as a copy has them by now."""
    return {
        "set_id": copy.set_id,
        "copy_id": copy.copy_id,
        "context": copy.context,
        "exposed_share": copy.exposed_share,
        "set_size": copy.set_size,
    }


def learn(instance: Instance, copy: ShadowCopy, known: SambaCopy) -> ShadowCopy | None:
    """Record what Samba says of a copy: ids, context, share, exposed share, state.

    Returns:
        Its record; None if it is deleted, or was sealed after Samba had said that.

    Raises:
        RvssError: STATE.
    """
    past, news = [*ENDED], with_news(copy, known)
    if news.auto_recovery and known.state is not SetState.RECOVERED:
        past.append(Phase.SEALED)
    return instance.ledger.change(
        copy,
        known.state.name.lower(),
        unless=past,
        state=known.state,
        share=exposed.share_name(instance.config, news),
        **facts_of(copy, known),
    )


def open_mount(instance: Instance, copy: ShadowCopy) -> None:
    """Open the recovery mount for auto-recovery; `record_open` records it afterwards.

    Raises:
        RvssError: NOT_FOUND or SYSTEM.
    """
    instance.reached("open.intent")
    instance.mounts.open(copy.path)
    instance.reached("open.opened")


def record_open(instance: Instance, copy: ShadowCopy) -> ShadowCopy | None:
    """Record that the recovery mount is open; None if the copy is sealing, sealed or deleted.

    Raises:
        RvssError: STATE.
    """
    past = (Phase.SEALING, Phase.SEALED, *ENDED)
    return instance.ledger.change(copy, "opened", unless=past, phase=Phase.OPEN)
