"""What reconciling found, as findings: what goes over admin.sock and what commands print."""

from collections.abc import Iterator

from samba_rvss.reconcile.decision import Action, Kept, Plan
from samba_rvss.wire import Fate, Finding


def of_action(action: Action, fate: Fate = Fate.TO_DO, error: str = "") -> Finding:
    """Return an action as a finding."""
    return Finding(
        fate=fate,
        action=action.kind.value,
        target=action.target,
        reason=action.reason,
        evidence=action.evidence,
        error=error,
    )


def of_kept(kept: Kept) -> Finding:
    """Return something that is left alone as a finding."""
    fate = Fate.WRONG if kept.wrong else Fate.KEPT
    return Finding(fate=fate, target=kept.target, reason=kept.reason, due=kept.due)


def left(decided: Plan) -> Iterator[Finding]:
    """Return what a plan leaves alone, and what could not be seen for it."""
    for kept in decided.kept:
        yield of_kept(kept)
    for problem in decided.problems:
        yield Finding(fate=Fate.UNSEEN, reason=problem)


def of_plan(decided: Plan) -> Iterator[Finding]:
    """Return all that a plan says, before any of it is done."""
    for action in decided.actions:
        yield of_action(action)
    yield from left(decided)
