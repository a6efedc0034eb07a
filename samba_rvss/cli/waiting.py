"""What a shadow copy waits for, in a few words: pure, from its record and the configuration.

What the daemon will do about it, `reconcile --dry-run` tells.
"""

from datetime import timedelta

from samba_rvss.model import Context, Moment, Phase, SetState, ShadowCopy
from samba_rvss.output import span
from samba_rvss.samba.conf import Config


def waits_for(copy: ShadowCopy, config: Config, present: Moment, age: float, said: str) -> str:
    """Return what has to happen before a shadow copy is as it is to be, or goes.

    Args:
        copy: its record.
        config: the instance's.
        present: now.
        age: how many seconds ago it was taken.
        said: what was last said of it in the ledger, where that may be why it waits.
    """
    if copy.phase is Phase.CREATING:
        return "its image"
    if copy.phase in (Phase.TAKEN, Phase.OPEN):
        return _recovery(copy, config, _elapsed(copy, present))
    if copy.phase is Phase.SEALING or copy.ended:
        return f"its seal: {said}" if said else "its seal"
    if copy.phase is Phase.SEALED:
        return _end(copy, config, min(age, _elapsed(copy, present, age)))
    if copy.phase is Phase.DELETING:
        return f"its image to go: {said}" if said else "its image to go"
    return ""


def _recovery(copy: ShadowCopy, config: Config, elapsed: float) -> str:
    if copy.state is SetState.RECOVERED:
        return "its seal"
    if copy.state is SetState.EXPOSED:
        return f"RecoveryComplete{_left(config.recovery_timeout - elapsed)}"
    if copy.state is SetState.COMMITTED:
        left = min(config.grace, config.recovery_timeout) - elapsed
        return f"its client to expose it{_left(left)}"
    return "its client's Commit"


def _end(copy: ShadowCopy, config: Config, age: float) -> str:
    if copy.adopted or not copy.set_id or copy.context & Context.NO_AUTO_RELEASE:
        return "whoever deletes it"
    return f"its client to delete it{_left(config.maximum_age - age)}"


def _left(seconds: float) -> str:
    return f", {span(timedelta(seconds=seconds))} left" if seconds > 0 else ", overdue"


def _elapsed(copy: ShadowCopy, present: Moment, before: float = 0.0) -> float:
    """Return for how long it has had its phase and state; of another boot that is not known."""
    if copy.since.boot != present.boot:
        return before
    return max(0.0, present.seconds - copy.since.seconds)
