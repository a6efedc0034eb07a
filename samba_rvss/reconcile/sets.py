"""Judging Samba's shadow copy sets: a set is removed when none of its copies will be left.

It must be of our shares alone, and no worker may have it in memory, because it would write it back.
So the set stays while clients are connected; but not for ever if, because of it, Samba begins no
other set.
"""

from samba_rvss.model import Moment, SambaCopy, SambaSet, SetState, Worker
from samba_rvss.mounts import image_of
from samba_rvss.reconcile.decision import DeleteSet
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation

_PATIENCE = 30.0
"""How long a committed set without copies is left alone at most, in seconds."""

_LOOK_AGAIN = 5.0
"""After how many seconds to look again whether the client of a blocking set has gone."""

_COMMIT = 60.0
"""How long after a copy's creation Samba may store its set for the first time, in seconds."""


def judge(seen: Observation, draft: Draft) -> None:
    """Judge all sets in srv_fss.tdb; the draft already has which copies leave and which stay."""
    if seen.samba is None:
        return
    alive = {copy.path for copy in seen.copies} - draft.leaving - draft.ended
    members: dict[str, list[SambaCopy]] = {}
    for copy in seen.samba.copies:
        members.setdefault(copy.set_id, []).append(copy)
    for samba_set in seen.samba.sets:
        copies = members.get(samba_set.id, [])
        paths = [copy.path for copy in copies if copy.path]
        if not _is_ours(seen, samba_set, copies):
            if samba_set.state is not SetState.RECOVERED:
                reason = f"it is {samba_set.state.name.lower()} and not of our shares alone"
                draft.leave(samba_set.id, reason, wrong=True)
        elif alive.isdisjoint(paths) and draft.staying.isdisjoint(map(image_of, paths)):
            _judge_set(seen, draft, samba_set, copies)


def _is_ours(seen: Observation, samba_set: SambaSet, members: list[SambaCopy]) -> bool:
    """Return whether a set is of our shares alone.

    A set that was not committed yet is in the file because Samba writes all sets whenever another
    set changes. Either its copies have no path, or it has no copies and so nothing to lose.
    """
    if not members:
        return samba_set.state < SetState.COMMITTED
    return all(
        copy.path.startswith(seen.exposed_directory)
        if copy.path
        else copy.share_path in seen.share_paths
        for copy in members
    )


def _judge_set(
    seen: Observation, draft: Draft, samba_set: SambaSet, members: list[SambaCopy]
) -> None:
    """Judge a set of ours none of whose copies will be left."""
    reason = "no shadow copy of it is left"
    since = draft.found(f"set {samba_set.id}")
    if any(seen.may_have_image(copy.path) for copy in members):
        draft.leave_unlisted(samba_set.id, reason)
        return
    if seen.workers is None:
        draft.leave(samba_set.id, "whether a worker has it in memory cannot be told", wrong=True)
        return
    paths = [copy.path for copy in members if copy.path]
    ended = seen.gone.keys() | {backup.id for backup in seen.backups}
    expired = bool(paths) and all(
        path in draft.leaving | draft.ended or image_of(path) in ended for path in paths
    )
    # Until a set is exposed, Samba begins no other.
    blocking = samba_set.state not in (SetState.EXPOSED, SetState.RECOVERED)
    # A committed set is dead without its copies; before the Commit it may just be without them yet.
    dead = samba_set.state is SetState.COMMITTED
    patience = min(seen.options.grace, _PATIENCE) if dead else seen.options.grace
    begun = seen.starting and (dead or not seen.workers)
    grace = 0.0 if expired or begun else patience
    waited = seen.present.seconds - since.seconds
    busy = [worker for worker in seen.workers if worker.clients != 0]
    quiet, timeout = seen.quiet, seen.options.recovery_timeout
    if not busy:
        left, evidence = grace - waited, "nobody is connected to an rpcd_fsrvp"
    elif quiet is not None and quiet >= timeout:
        left = grace - waited
        evidence = f"clients of its worker have been silent for {quiet:.0f} s"
    else:
        reason = f"{reason}, but a client is connected to its worker"
        left, evidence = timeout - (quiet or 0.0), "nobody got past it"
        if blocking:
            # A client that tries again and again is neither gone nor silent. But if its worker
            # read this set from the file, no other set can be in progress in that worker; nor if
            # it has it in memory.
            read = all(_has_read(seen, worker, since, members) for worker in busy)
            left = (patience if read else timeout) - waited
            if dead and all(samba_set.id in worker.holds for worker in busy):
                left, evidence = grace - waited, "its worker has no other set in progress"
    if left > 0:
        due = min(left, _LOOK_AGAIN) if busy and blocking else left
        draft.leave(samba_set.id, f"{reason}; it has {left:.0f} s left", due)
        return
    draft.act(
        DeleteSet(
            set_id=samba_set.id,
            state=samba_set.state,
            reason="no shadow copy of it is left",
            evidence=(f"the set is {samba_set.state.name.lower()}", evidence),
            idle=not busy,
        )
    )


def _has_read(seen: Observation, worker: Worker, since: Moment, members: list[SambaCopy]) -> bool:
    """Return whether a worker was started after a set had been stored in the file."""
    if worker.started > since.seconds:
        return True
    ages = [(seen.wall - copy.created).total_seconds() for copy in members if copy.path]
    # Samba notes the creation in whole seconds, and stores the set later than that.
    return bool(ages) and worker.started > seen.present.seconds - min(ages) + _COMMIT
