"""Planning: from an observation to decisions, purely, with a reason for each, also to leave alone.

What cannot be proven is not touched, and what is unaccounted for is given time. `Plan.due` says
when another look is worth while.
"""

from samba_rvss.reconcile import backups, copies, exposures, images, sets, strays
from samba_rvss.reconcile.decision import Plan
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation


def plan(seen: Observation) -> Plan:
    """Decide what brings everything back into one state.

    Shadow copies and backups are judged first, then what is exposed, images, strays and sets: later
    ones depend on which copies are deleted and which images stay.

    Args:
        seen: an observation; what does not bear our mark is not in it, or is left alone.
    """
    draft = Draft(present=seen.present, grace=seen.options.grace, before=seen.findings)
    copies.judge(seen, draft)
    backups.judge(seen, draft)
    exposures.judge(seen, draft)
    images.judge(seen, draft)
    strays.judge(seen, draft)
    sets.judge(seen, draft)
    return draft.finish(seen.problems)
