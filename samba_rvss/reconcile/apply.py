"""Carrying out a plan, one action at a time.

Every action is idempotent, and looks once more at what it rests on: a plan ages from the moment
in which it is made.
"""

from samba_rvss.errors import Problem, RvssError
from samba_rvss.lifecycle import Lifecycle
from samba_rvss.model import Image, Phase, SambaCopy, ShadowCopy
from samba_rvss.reconcile.decision import Action, Kind
from samba_rvss.samba import control, fss_state


def is_current(lifecycle: Lifecycle, action: Action) -> bool:
    """Return whether what an action rests on is still as it was seen.

    Raises:
        RvssError: STATE or SAMBA if that cannot be told.
    """
    copy = action.copy
    if copy is not None and lifecycle.ledger.get(copy.id) != copy:
        return False
    if action.kind is Kind.FORGET_SET:
        paths = [one.path for one in _samba(lifecycle) if one.set_id == action.target]
        return not any(_is_left(lifecycle, path) for path in paths if path)
    if copy is not None and action.believes:
        known = [one.state for one in _samba(lifecycle) if one.path == copy.path]
        return (known[0] if known else None) in action.believes
    if action.image is not None:
        record = lifecycle.ledger.get(action.image.id)
        if action.kind is Kind.ADOPT:
            return record is None
        return record is None or record.phase is Phase.GONE
    return True


def _samba(lifecycle: Lifecycle) -> tuple[SambaCopy, ...]:
    return fss_state.settled(lifecycle.config.fss_state).copies


def _is_left(lifecycle: Lifecycle, path: str) -> bool:
    """Return whether there is a copy that nobody has begun to remove."""
    copy = lifecycle.ledger.by_path(path)
    return copy is not None and copy.phase not in (Phase.DELETING, Phase.GONE)


def perform(lifecycle: Lifecycle, action: Action) -> None:
    """Do one thing.

    Raises:
        RvssError: of the verb that does it.
    """
    match action:
        case Action(kind=Kind.DELETE, copy=ShadowCopy() as copy):
            lifecycle.withdraw(copy, action.reason)
        case Action(kind=Kind.REMOUNT, copy=ShadowCopy() as copy):
            lifecycle.remount(copy)
        case Action(kind=Kind.SEAL, copy=ShadowCopy() as copy):
            lifecycle.reseal(copy, action.reason)
        case Action(kind=Kind.DESTROY, image=Image() as image):
            lifecycle.destroy_image(image)
        case Action(kind=Kind.ADOPT, image=Image() as image):
            lifecycle.remount(lifecycle.adopt(image))
        case Action(kind=Kind.UNMOUNT):
            lifecycle.mounts.detach(action.target)
        case Action(kind=Kind.UNSHARE):
            lifecycle.forget_share(action.target)
        case Action(kind=Kind.FORGET_SECURITY):
            lifecycle.forget_security(action.target)
        case Action(kind=Kind.FORGET_SET):
            _forget_set(lifecycle, action)
        case _:
            raise AssertionError(action)


def _forget_set(lifecycle: Lifecycle, action: Action) -> None:
    """Remove a set from srv_fss.tdb, after ending the workers that would write it back."""
    config = lifecycle.config
    workers = control.workers(config.file, config.samba_lock_directory)
    if action.idle and any(worker.clients != 0 for worker in workers):
        raise RvssError(Problem.BUSY, "a client has connected to rpcd_fsrvp just now")
    for worker in workers:
        lifecycle.ledger.note_set(action.target, "worker ended", detail=f"pid {worker.pid}")
        if not control.end_worker(worker.pid, config.samba_lock_directory):
            raise RvssError(Problem.BUSY, f"rpcd_fsrvp {worker.pid} does not end on SIGTERM")
    lifecycle.forget_set(action.target, action.believes[0], action.reason)
