"""Whether an instance is well, judged purely from a look: what is wrong, and how Samba differs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import normpath

from samba_rvss.backups.plausibility import UNPRUNED
from samba_rvss.cli.deferred import PATIENCE
from samba_rvss.cli.look import Look
from samba_rvss.copies.backup import OfShare, of_shares
from samba_rvss.copies.follow import Step, steps
from samba_rvss.model import NOTHING, Phase, SambaCopy, SambaState, SetState, ShadowCopy
from samba_rvss.output import local_time, span
from samba_rvss.reconcile.decision import MountAgain
from samba_rvss.reconcile.images import explain
from samba_rvss.reconcile.observation import Observation

_UNSEALED = (Phase.TAKEN, Phase.OPEN, Phase.SEALING)
_IN_WORK = (Phase.CREATING, Phase.DELETING)
# From a client's Commit to its Expose, which follows at once; Windows gives a Commit as long.
_EXPOSE_SECONDS = 60.0

ELSEWHERE = ""
"""In the place of a check's name: its own check tells more of it than a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an instance stands.

    Attributes:
        found: what is wrong, each with the name of the check of `doctor` that it belongs to.
        phases: how many copies are in each phase.
        oldest: the oldest copy, None if there is none.
        unsealed: ids of the copies that are not sealed though their recovery is complete, and for
            how many seconds they have had their phase and state.
        sets: how many of Samba's sets are in each state, None if srv_fss.tdb cannot be read.
        samba_copies: how many of Samba's copies have a set in each state, or None likewise.
        foreign: the images that are not ours, a line each. That alone is not wrong either.
        differences: where srv_fss.tdb and the registry differ from the ledger. That alone is not
            wrong: after a boot, for example, srv_fss.tdb has no sets.
        backups: of each share that has some, or is to have some.
    """

    found: tuple[tuple[str, str], ...]
    phases: Mapping[Phase, int]
    oldest: ShadowCopy | None
    unsealed: Mapping[str, float]
    sets: Mapping[SetState, int] | None
    samba_copies: Mapping[SetState, int] | None
    differences: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    backups: tuple[OfShare, ...] = ()

    @property
    def wrong(self) -> tuple[str, ...]:
        """What is wrong, a line each; empty if nothing is."""
        return tuple(dict.fromkeys(line for _, line in self.found))

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.found


def standing(look: Look, unsupported: Mapping[str, str]) -> Standing:
    """Judge what was seen.

    Args:
        look: what was seen.
        unsupported: shares of ours that can have no shadow copies, or soon no more, and why.
    """
    seen = look.seen
    unsealed = dict(_unsealed(seen))
    return Standing(
        found=tuple(_wrong(look, unsealed, unsupported)),
        phases=Counter(
            copy.phase for copy in (*seen.copies, *seen.backups) if copy.phase is not Phase.KEPT
        ),
        oldest=min(seen.copies, key=lambda copy: copy.created, default=None),
        unsealed=unsealed,
        sets=Counter(known.state for known in seen.samba.sets) if seen.samba else None,
        samba_copies=Counter(known.state for known in seen.samba.copies) if seen.samba else None,
        differences=tuple(_differences(seen, seen.samba)) if seen.samba else (),
        foreign=tuple(
            f"{found.id}: {explain(found)}" for found in (seen.inventory or NOTHING).foreign
        ),
        backups=tuple(of_shares(look.backups, look.config.shares, look.time)),
    )


def _wrong(
    look: Look, unsealed: Mapping[str, float], unsupported: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    if look.presence is None:
        yield "daemon", look.silence
    else:
        failed = (f"the last reconciling failed: {line}" for line in look.presence.failed)
        yield from _of("reconciling", failed)
        yield from _of("sealed", look.presence.unsealed)
        yield from _of("blocked", look.presence.refused)
        yield from _of("late", look.presence.late)
        yield from _of("permissions", look.presence.lacking)
        yield from _of("notify", look.presence.unnotified)
    for file in look.damaged:
        line = (
            f"the ledger was damaged and set aside as {file}, and what it lacked made anew from the"
            " images' marks: see 'samba-rvss list', delete what nobody needs, and remove that file"
        )
        yield "ledger", line
    deadline = look.config.seal_deadline
    for copy, seconds in unsealed.items():
        if seconds > deadline:
            line = f"{copy} is not sealed {seconds:.0f} s after its recovery: see the journal"
            yield "sealed", line
    yield from _of("blocked", _unexposed(look.seen))
    left = (f"{left.target}: {left.reason}" for left in look.plan.left_alone if left.wrong)
    yield from _of("orphans", left)
    yield from _of("reconciling", look.plan.problems)
    yield from _of("held", look.holding)
    for action in look.plan.actions:
        # The daemon does by itself what is to be done, when it is due; but nothing tells it of a
        # mount that somebody else has taken away.
        if isinstance(action, MountAgain):
            yield "orphans", f"{action.target}: {action.reason}: run samba-rvss reconcile"
    yield from _of("backups", stale(look).values())
    yield from _of("backups", _of_definitions(look))
    yield from _of("backups", look.undefined)
    yield from _of("backups", _unpruned(look))
    yield from _of("backups", look.altered)
    yield from _of("orphans", _without_share(look))
    reasons = (f"[{share}]: {reason}" for share, reason in unsupported.items())
    yield from _of("path", reasons)
    yield from _of("space", roomless(look))
    yield from _of(ELSEWHERE, look.config.warnings)
    yield from _of(ELSEWHERE, look.samba)
    if look.unnotified:
        yield "notify", look.unnotified


def _of(check: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((check, line) for line in lines)


def _unexposed(seen: Observation) -> Iterator[str]:
    """Yield what is wrong with a set that was committed long ago and is not exposed."""
    for samba_set in seen.samba.sets if seen.samba else ():
        copies = [
            copy
            for copy in seen.copies
            if copy.set_id == samba_set.id and copy.state is SetState.COMMITTED
        ]
        if samba_set.state is not SetState.COMMITTED or not copies:
            continue
        seconds = min(_age(copy, seen) for copy in copies)
        if seconds > _EXPOSE_SECONDS:
            shares = ", ".join(sorted({f"[{copy.share}]" for copy in copies}))
            ids = " ".join(copy.id for copy in copies)
            yield (
                f"Samba's set {samba_set.id} of {shares} was committed {seconds:.0f} s ago and is"
                " not exposed, and until it is, no other client can begin one: reconciling deletes"
                f" it in time if its client stays away, and 'samba-rvss delete {ids}' at once"
            )


def _age(copy: ShadowCopy, seen: Observation) -> float:
    """Return for how many seconds of this boot a copy has had its phase and state."""
    since = copy.since.seconds if copy.since.boot == seen.present.boot else 0.0
    return seen.present.seconds - since


def stale(look: Look) -> dict[str, str]:
    """Return what is wrong with the shares whose newest backup is too old, by their names."""
    found = {}
    for of in of_shares(look.backups, look.config.shares, look.time):
        if of.is_stale(look.time):
            age = f"is {span(look.time - of.newest)} old" if of.newest else "does not exist"
            most = span(of.warn_age) if of.warn_age else ""
            found[of.share] = (
                f"[{of.share}]: its newest backup {age}, and 'rvss:backup warn age' is {most}"
            )
    return found


def _of_definitions(look: Look) -> Iterator[str]:
    """Yield what is wrong with managed backups: that one is too old, and how a run went."""
    for of in look.definitions:
        if of.is_stale(look.time):
            age = f"is {span(look.time - of.newest)} old" if of.newest else "does not exist"
            most = span(of.warn_age) if of.warn_age else ""
            yield f"the newest backup {of.name} {age}, and its 'warn age' is {most}"
        if of.trouble:
            yield f"the last run of the backup {of.name} did not go well: {of.trouble}"


def roomless(look: Look) -> Iterator[str]:
    """Yield the shares whose last shadow copy found no room."""
    for event in look.roomless:
        share = look.config.share(event.share)
        if share is not None:
            when = local_time(event.time)
            yield f"[{share.name}]: no shadow copy could be taken at {when}: {event.detail}"


def _unpruned(look: Look) -> Iterator[str]:
    """Yield what the last pruning could not do, and no other one will do by itself."""
    for each in look.deferred:
        if look.time - each.since > PATIENCE:
            yield (
                f"{each.id} has been in use whenever it was to go since"
                f" {local_time(each.since)}: {each.reason}"
            )
    if look.pruned is None or not look.pruned.detail:
        return
    when = local_time(look.pruned.time)
    if look.pruned.what == UNPRUNED:
        hint = "if the clock is right, run samba-rvss prune --trust-clock"
        yield f"nothing was pruned at {when}: {look.pruned.detail}: {hint}"
    else:
        yield f"pruning at {when} left what was to go: {look.pruned.detail}: run samba-rvss prune"


def _without_share(look: Look) -> Iterator[str]:
    """Yield what became of shares that have copies: renamed, removed, or not ours any more.

    Samba finds the share of a copy by its name and its path; without it, a client's request to
    delete the copy does not reach us.
    """
    counts = Counter(
        (copy.share, copy.share_path)
        for copy in look.seen.copies
        if copy.phase not in _IN_WORK and copy.exposed_share
    )
    for (name, path), count in sorted(counts.items()):
        share = look.config.share(name)
        if share is not None and normpath(share.path) == normpath(path):
            continue
        others = [o.name for o in look.config.shares if normpath(o.path) == normpath(path)]
        if share is not None:
            what = f"leads to {share.path} now, and no longer to {path}"
        elif others:
            what = f"has another name now: {', '.join(others)}"
        else:
            what = f"is no share of ours any more in {look.config.file}"
        yield (
            f"[{name}] has {count} exposed shadow copies, and {what}: as soon as Samba has read"
            " that, clients cannot delete them; put it back until they are gone, or use"
            " 'samba-rvss delete'"
        )


def _unsealed(seen: Observation) -> Iterator[tuple[str, float]]:
    """Yield the copies that are not sealed though their recovery is complete, and for how long."""
    recovered = {
        copy.path
        for copy in (seen.samba.copies if seen.samba else ())
        if copy.state is SetState.RECOVERED
    }
    for copy in (*seen.copies, *(kept for kept in seen.backups if kept.ended)):
        if copy.id in seen.changing and copy.phase is not Phase.SEALING:
            continue  # it is being sealed, since just now
        over = copy.state is SetState.RECOVERED or copy.path in recovered
        if copy.phase is Phase.SEALING or (copy.phase in _UNSEALED and over):
            yield copy.id, _age(copy, seen)


def _differences(seen: Observation, samba: SambaState) -> Iterator[str]:
    """Yield where Samba's view differs from ours, but for our copies that are being worked on."""
    known = {copy.path: copy for copy in samba.copies}
    ours = {copy.path: copy for copy in seen.copies}
    shares = {path: share for share, path in (seen.shares or {}).items()}
    for copy in seen.copies:
        if copy.phase not in _IN_WORK and copy.id not in seen.changing:
            yield from _differences_of(copy, known.get(copy.path))
            if seen.shares is not None and copy.exposed_share and copy.path not in shares:
                yield f"{copy.id} has lost its share {copy.exposed_share}"
    for theirs in samba.copies:
        if theirs.path not in ours:
            where = theirs.path or "nowhere"
            yield f"Samba has {theirs.copy_id} of [{theirs.share}] at {where}, which we have not"
    used = {copy.set_id for copy in samba.copies}
    for samba_set in samba.sets:
        if samba_set.id not in used:
            yield f"Samba's set {samba_set.id} is {samba_set.state.name.lower()} and empty"
    yield from _lost_shares(shares, ours, seen.exposed_directory)


def _differences_of(copy: ShadowCopy, known: SambaCopy | None) -> Iterator[str]:
    if known is None:
        yield f"{copy.id} is {copy.phase.value}, and in no set of Samba's"
        return
    due = set(steps(copy, known))
    reopened = copy.phase is Phase.SEALED and known.state < SetState.RECOVERED
    if due & {Step.OPEN, Step.SEAL} or (reopened and copy.auto_recovery):
        yield f"{copy.id} is {copy.phase.value}, and its set {known.state.name.lower()}"
    elif due:
        yield f"{copy.id}: that its set is {known.state.name.lower()} is not recorded yet"


def _lost_shares(shares: Mapping[str, str], ours: Iterable[str], directory: str) -> Iterator[str]:
    paths = set(ours)
    for path, share in shares.items():
        if path.startswith(directory) and path not in paths:
            yield f"the share {share} leads to {path}, which we have not"
