"""Keeping: a shadow copy that ends becomes a backup.

Contract: nothing is copied. The record says first that the copy has ended; then its share and its
mounts go, and it is over for its client; then its mark says that it is a backup. From the record on
no timer touches the image, and from the mark on a ledger that is lost loses nothing. Each step can
be repeated.

One that its client deletes before it is sealed is sealed afterwards, as recovery left it: nobody
waits for that.
"""

from collections.abc import Callable
from dataclasses import replace

from samba_rvss.clock import now
from samba_rvss.copies import seal
from samba_rvss.copies.delete import delete, hide
from samba_rvss.copies.follow import known_facts, with_news
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ENDED, Keep, Kept, Phase, SetState, ShadowCopy, strongest
from samba_rvss.samba import fss_state


def is_due(copy: ShadowCopy) -> bool:
    """Return whether a shadow copy becomes a backup when it ends."""
    return copy.phase is Phase.SEALED and is_wanted(copy)


def is_wanted(copy: ShadowCopy) -> bool:
    """Return whether a shadow copy is to be kept, given that it is or will be sealed."""
    recovered = copy.keep is Keep.RECOVERED and copy.state is SetState.RECOVERED
    return copy.keep is Keep.YES or recovered


def end(
    instance: Instance,
    copy: ShadowCopy,
    uid: int = -1,
    hidden: Callable[[], object] = lambda: None,
    detail: str = "",
) -> bool:
    """End a shadow copy for its client: it becomes a backup, or is deleted.

    Args:
        instance: the copy's.
        copy: which one.
        uid, hidden, detail: see `samba_rvss.copies.delete.delete`.

    Returns:
        Whether it is still to be sealed.

    Raises:
        RvssError: as `samba_rvss.copies.delete.delete`.
    """
    current = instance.ledger.get(copy.id) or copy
    if current.keep is not Keep.NO and current.phase not in ENDED:
        current = _as_samba_has_it(instance, current)
    if current.phase is Phase.KEPT or is_due(current):
        keep(instance, current, uid, hidden, detail)
    elif _is_wanted_unsealed(current):
        _end_unsealed(instance, current, uid, hidden, detail)
        return True
    else:
        delete(instance, copy, uid, hidden, detail)
    return False


def _as_samba_has_it(instance: Instance, copy: ShadowCopy) -> ShadowCopy:
    """Return a copy with what Samba says of it, which may not be recorded yet.

    What recovery wrote before this boot may not be on the disk, whatever Samba says.

    Raises:
        RvssError: SAMBA if that cannot be told.
    """
    if copy.ended or is_due(copy):
        return copy
    known = fss_state.copy_at(instance.config.fss_state, copy.path)
    current = with_news(copy, known) if known is not None else copy
    states = [state for state in (copy.state, current.state) if state is not None]
    if copy.phase is Phase.SEALING and copy.auto_recovery:
        states.append(SetState.RECOVERED)  # nothing else has it sealed
    state = max(states, default=None)
    if copy.phase is not Phase.SEALED and seal.is_torn(current) and state is SetState.RECOVERED:
        state = SetState.EXPOSED
    return replace(current, state=state)


def _is_wanted_unsealed(copy: ShadowCopy) -> bool:
    """Return whether a copy that is not sealed yet is to be kept when its client deletes it.

    Samba lets a client delete what is exposed, and nothing before (srv_fss_agent.c,
    _fss_DeleteShareMapping()).
    """
    unsealed = copy.phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
    exposed = copy.state in (SetState.EXPOSED, SetState.RECOVERED)
    return unsealed and exposed and is_wanted(copy)


def _end_unsealed(
    instance: Instance,
    copy: ShadowCopy,
    uid: int,
    hidden: Callable[[], object],
    detail: str,
) -> None:
    seal.close(instance, copy)
    ended = instance.ledger.change(
        copy,
        "ended",
        unless=(Phase.SEALED, *ENDED),
        uid=uid,
        detail=detail,
        phase=Phase.SEALING,
        ended=True,
        state=copy.state,
        **known_facts(copy),
    )
    if ended is None:
        raise RvssError(Problem.BUSY, f"{copy.id} has changed just now", "try again")
    instance.reached("keep.ended")
    finish(instance, ended, hidden)  # whoever follows it seals it


def keep(
    instance: Instance,
    copy: ShadowCopy,
    uid: int = -1,
    hidden: Callable[[], object] = lambda: None,
    detail: str = "",
) -> None:
    """Make a backup of a sealed shadow copy: share and mounts go, the image stays.

    Raises:
        RvssError: NOT_SEALED; BUSY, SAMBA, SYSTEM or READ_ONLY: reconciling does the rest then.
    """
    if copy.phase is not Phase.KEPT:
        kept = instance.ledger.change(
            copy,
            "kept",
            unless=_all_but(Phase.SEALED),
            uid=uid,
            phase=Phase.KEPT,
            state=copy.state,
            set_size=copy.set_size,
            detail=detail,
        )
        if kept is None:
            raise RvssError(Problem.NOT_SEALED, f"{copy.id} is not sealed, and cannot be kept")
        copy = kept
        instance.reached("keep.recorded")
    finish(instance, copy, hidden)


def finish(
    instance: Instance, copy: ShadowCopy, hidden: Callable[[], object] = lambda: None
) -> None:
    """Take away what a copy that has ended had for clients; see that its mark says what it is.

    Args:
        instance: the copy's.
        copy: its record: kept, or ended and not sealed yet.
        hidden: called when nobody can reach it any more.

    Raises:
        RvssError: BUSY, NOT_FOUND, NOT_SEALED, READ_ONLY, SAMBA or SYSTEM.
    """
    hide(instance, copy)
    hidden()
    instance.reached("keep.hidden")
    if copy.phase is Phase.KEPT:
        attest(instance, copy)
        instance.reached("keep.marked")


def conclude(instance: Instance, copy: ShadowCopy) -> ShadowCopy:
    """Record of a copy that has ended, and is sealed now, that it is kept; return its record.

    Args:
        instance: the copy's.
        copy: what `samba_rvss.copies.seal.make_image` returned.

    Raises:
        RvssError: STATE; as `attest`.
    """
    instance.reached("keep.sealed")
    mark = instance.provider(copy.volume).mark(copy.volume, copy.id)
    states = [copy.state, mark.sealed.state if mark and mark.sealed else None]
    kept = instance.ledger.change(
        copy,
        "kept",
        unless=_all_but(Phase.SEALING),
        phase=Phase.KEPT,
        state=max((state for state in states if state is not None), default=None),
    )
    if kept is None:  # it may have been recorded, and not marked
        kept = instance.ledger.get(copy.id)
        if kept is None or kept.phase is not Phase.KEPT:
            raise RvssError(Problem.STATE, f"{copy.id} has changed just now", "try again")
    instance.reached("keep.recorded")
    attest(instance, kept)
    instance.reached("keep.marked")
    return kept


def clear(instance: Instance, copy: ShadowCopy) -> None:
    """Remove what a backup has no need of, now that its clients have nothing of it any more.

    Raises:
        RvssError: BUSY, READ_ONLY or SYSTEM: reconciling finds what is left.
    """
    current = instance.ledger.get(copy.id)
    if current is not None and current.phase is Phase.KEPT:
        seal.clear_away(instance, current)


def attest(instance: Instance, copy: ShadowCopy) -> None:
    """See that the mark of a backup says that it is one.

    Raises:
        RvssError: NOT_FOUND, NOT_SEALED, NO_SPACE, READ_ONLY or SYSTEM.
    """
    provider, mark = instance.provider(copy.volume), instance.mark(copy.volume, copy.id)
    if mark.is_backup:
        return
    if mark.sealed is None:
        raise RvssError(Problem.NOT_SEALED, f"the mark of {copy.id} does not say that it is sealed")
    # Without AUTO_RECOVERY it was sealed before its client said RecoveryComplete.
    sealed = replace(
        mark.sealed,
        state=copy.state,
        keep=strongest(mark.sealed.keep, copy.keep),
        shares=max(mark.sealed.shares, copy.set_size),
    )
    kept = replace(mark.kept or Kept(), since=now().replace(microsecond=0))
    provider.keep(copy.volume, copy.id)  # once more: the wish may have come while it was sealed
    provider.claim(replace(mark, sealed=sealed, kept=kept))


def _all_but(*phases: Phase) -> list[Phase]:
    return [phase for phase in Phase if phase not in phases]
