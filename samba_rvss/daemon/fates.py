"""What becomes of an action that does not end, or has no effect, as outcomes of reconciling."""

import logging

from samba_rvss.copies.locate import described
from samba_rvss.daemon import journal
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate
from samba_rvss.model import Volume
from samba_rvss.reconcile.decision import Action, OnCopy, OnExposed, OnImage
from samba_rvss.reconcile.report import Outcome

_logger = logging.getLogger(__name__)

_TIMES = 2  # how often the same may be done in reconcilings that follow each other


def stuck(action: Action, seconds: float, *, begun: bool) -> Outcome:
    """Return an action as a failure that a file system, or Samba, causes by not answering.

    Args:
        action: what was to be done.
        seconds: for how long something has been waited for.
        begun: whether that is not the turn of the action's volume.
    """
    what = "has not answered"
    if isinstance(action, OnCopy):
        who = described(action.copy.volume, action.copy.share_path)
    elif isinstance(action, OnImage):
        who = described(action.image.mark.volume, action.image.mark.share_path)
    else:
        who = "Samba, or a mount,"
    if not begun:
        who, what = f"what else is done on {who}", "has not ended"
    line = f"{who} {what} for {seconds:.0f} s; what was begun goes on"
    error = RvssError(Problem.BUSY, line, "see what its disks do")
    about = journal.of_action(journal.Message.NOT_RECONCILED, action)
    _logger.error("reconcile: cannot %s: %s", action.describe(), error, extra=about)
    return Outcome(action=action, fate=Fate.FAILED, error=error)


def name(action: Action) -> tuple[str, str, str]:
    """Return what makes an action the same as one of another plan."""
    return action.verb, action.target, action.reason


def doubted(outcome: Outcome, times: int) -> Outcome:
    """Return what was done, as a failure if it is called for again and again, and so had no effect.

    Args:
        outcome: of something that was done.
        times: in how many reconcilings, one after the other.
    """
    if times <= _TIMES:
        return outcome
    line = f"it was done {times} times one after the other, and is still called for"
    about = journal.of_action(journal.Message.NOT_RECONCILED, outcome.action)
    _logger.error("reconcile: %s: %s", outcome.action.describe(), line, extra=about)
    error = RvssError(Problem.STATE, line, "see what brings it back")
    return Outcome(action=outcome.action, fate=Fate.FAILED, error=error)


def volumes(action: Action) -> tuple[Volume, ...]:
    """Return the volumes whose turn an action needs."""
    if isinstance(action, OnCopy):
        return (action.copy.volume,)
    if isinstance(action, OnExposed) and action.backup is not None:
        return (action.backup.volume, action.image.mark.volume)
    if isinstance(action, OnImage):
        return (action.image.mark.volume,)
    return ()
