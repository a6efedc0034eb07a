"""What was decided and done, as findings: for admin.sock, and for commands that print it."""

from collections.abc import Iterator
from dataclasses import dataclass

from samba_rvss.copies.adopt import Candidate
from samba_rvss.errors import RvssError
from samba_rvss.findings import Fate, Finding
from samba_rvss.reconcile.decision import Action, LeftAlone, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one action.

    Attributes:
        fate: DONE, BEGUN, STALE or FAILED.
        error: why it failed, if it did.
    """

    action: Action
    fate: Fate
    error: RvssError | None = None


def of_action(action: Action, fate: Fate = Fate.TO_DO, error: str = "") -> Finding:
    """Return an action as a finding."""
    return Finding(
        fate=fate,
        action=action.verb,
        target=action.target,
        reason=action.reason,
        evidence=action.evidence,
        error=error,
    )


def of_outcome(outcome: Outcome) -> Finding:
    """Return what came of an action as a finding."""
    error = outcome.error.line() if outcome.error else ""
    return of_action(outcome.action, outcome.fate, error)


def of_left_alone(left: LeftAlone) -> Finding:
    """Return something that is left alone as a finding."""
    fate = Fate.WRONG if left.wrong else Fate.LEFT_ALONE
    return Finding(fate=fate, target=left.target, reason=left.reason, due=left.due)


def of_candidate(candidate: Candidate, fate: Fate = Fate.TO_DO, error: str = "") -> Finding:
    """Return an image that is to be adopted, or is refused, as a finding."""
    if candidate.mark is None:
        reason = f"{candidate.refusal} ({candidate.where})"
        return Finding(fate=Fate.WRONG, target=candidate.id, reason=reason)
    reason = f"it is of [{candidate.mark.share}], {candidate.where}"
    return Finding(fate=fate, action="adopt", target=candidate.id, reason=reason, error=error)


def not_done(plan: Plan) -> Iterator[Finding]:
    """Yield what a plan leaves alone, and what could not be seen for it."""
    for left in plan.left_alone:
        yield of_left_alone(left)
    for problem in plan.problems:
        yield Finding(fate=Fate.UNSEEN, reason=problem)


def of_plan(plan: Plan) -> Iterator[Finding]:
    """Yield all that a plan says, before any of it is done."""
    for action in plan.actions:
        yield of_action(action)
    yield from not_done(plan)
