"""Carrying out a plan, one action at a time.

Contract: every action is idempotent. Before each, `is_current` looks once more at what it rests on,
because things may have changed since the observation.
"""

from contextlib import ExitStack

from samba_rvss.clock import now
from samba_rvss.copies import branches, exposed, exposing, keep, repair, seal
from samba_rvss.copies.delete import withdraw
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ENDED, Image, Phase, SambaCopy
from samba_rvss.reconcile.decision import (
    Action,
    Adopt,
    Amend,
    Attest,
    Clear,
    Conceal,
    Delete,
    DeleteDescriptor,
    DeleteSet,
    DeleteShare,
    Destroy,
    Discard,
    Expose,
    Finish,
    Keep,
    MountAgain,
    OnCopy,
    OnExposed,
    Seal,
    Settle,
    TakeOver,
    Unmount,
)
from samba_rvss.samba import control, fss_state


def is_current(instance: Instance, action: Action) -> bool:
    """Return whether what an action rests on is still as it was seen.

    Raises:
        RvssError: STATE or SAMBA if that cannot be told.
    """
    if isinstance(action, OnCopy) and instance.ledger.get(action.copy.id) != action.copy:
        return False
    match action:
        case Delete(copy=copy, believes=believes) if believes:
            known = fss_state.copy_at(instance.config.fss_state, copy.path)
            return (known.state if known else None) in believes
        case Adopt(image=image):
            found = instance.ledger.get(image.id)
            held = bool(image.mark.kept and image.mark.kept.holding(now()))
            return found is None or found.lost or (held and found.phase is Phase.GONE)
        case TakeOver(image=image) | Attest(image=image):
            found = instance.ledger.get(image.id)
            return found is not None and found.phase is not Phase.GONE
        case Discard(image=image):
            mark = instance.provider(image.mark.volume).mark(image.mark.volume, image.id)
            return mark is not None and mark.branch is not None and not mark.branch.ready
        case Destroy(image=image):
            return _is_no_copys(instance, image)
        case OnExposed(image=image):
            mark = instance.provider(image.mark.volume).mark(image.mark.volume, image.id)
            if mark is None or mark.exposed != image.mark.exposed:
                return False
            again = isinstance(action, Expose) and not action.anew
            return not (again and exposing.is_shown(instance, mark))
        case DeleteSet(set_id=set_id):
            paths = [known.path for known in _samba(instance) if known.set_id == set_id]
            return not any(_is_left(instance, path) for path in paths if path)
    return True


def _samba(instance: Instance) -> tuple[SambaCopy, ...]:
    return fss_state.settled(instance.config.fss_state).copies


def _is_no_copys(instance: Instance, image: Image) -> bool:
    copy = instance.ledger.get(image.id)
    return copy is None or copy.phase is Phase.GONE


def _is_left(instance: Instance, path: str) -> bool:
    """Return whether there is a copy with a path that is not being deleted."""
    copy = instance.ledger.by_path(path)
    return copy is not None and copy.phase not in ENDED and not copy.ended


def perform(instance: Instance, action: Action) -> None:
    """Carry out an action.

    Raises:
        RvssError: as the verb that does it.
    """
    match action:
        case TakeOver(image=image) | Attest(image=image):
            repair.claim(instance, image)
        case Amend(copy=copy, amended=amended, reason=reason):
            repair.amend(instance, copy, amended, reason)
        case Delete(copy=copy, reason=reason, lost=True):
            repair.note_lost(instance, copy, reason)
        case Keep(copy=copy, reason=reason):
            instance.ledger.note(copy, "withdrawn", detail=reason)
            keep.keep(instance, copy)
            keep.clear(instance, copy)
        case Finish(copy=copy):
            keep.finish(instance, copy)
        case Delete(copy=copy, reason=reason):
            withdraw(instance, copy, reason)
        case MountAgain(copy=copy):
            repair.mount_again(instance, copy)
        case Seal(copy=copy, reason=reason, known=known):
            with ExitStack() as remaining:  # it is sealed even if something of it stays shown
                remaining.callback(repair.seal_again, instance, copy, reason, known)
                if copy.ended:
                    keep.finish(instance, copy)
        case Clear(copy=copy):
            seal.clear_away(instance, copy)
        case Destroy(image=image) | Discard(image=image):
            repair.destroy_image(instance, image)
        case Adopt(image=image, path=path):
            copy = repair.adopt(instance, image, path)
            repair.mount_again(instance, copy)
            if copy.phase in (Phase.SEALED, Phase.KEPT) and image.remnants:
                seal.clear_away(instance, copy)
        case Conceal(image=image, reason=reason):
            exposing.conceal(instance, image.mark, detail=reason)
        case Expose(image=image):
            exposing.show(instance, image.mark)
        case Settle(copy=copy):
            branches.settle(instance, copy)
        case Unmount(path=path):
            instance.mounts.detach(path)
        case DeleteShare(share=share, of_backup=True):
            exposing.unshare(instance, (share,))
        case DeleteShare(share=share):
            exposed.delete_share(instance, share)
        case DeleteDescriptor(share=share):
            exposed.delete_descriptor(instance, share)
        case DeleteSet():
            _delete_set(instance, action)
        case _:
            raise AssertionError(action)


def _delete_set(instance: Instance, action: DeleteSet) -> None:
    """Remove a set from srv_fss.tdb, after ending the workers that would write it back."""
    config = instance.config
    workers = control.workers(config.file, config.samba_lock_directory)
    if action.idle and any(worker.clients != 0 for worker in workers):
        raise RvssError(Problem.BUSY, "a client has connected to rpcd_fsrvp just now")
    for worker in workers:
        control.end_worker(worker.pid, config.samba_lock_directory, idle=action.idle)
        instance.ledger.note_set(action.set_id, "worker ended", detail=f"pid {worker.pid}")
    repair.delete_set(instance, action.set_id, action.state, action.reason)
