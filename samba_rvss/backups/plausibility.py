"""Whether the clock can be believed, before anything goes by it.

Contract: pure, and beside `samba_rvss.backups.pruning`, which is safe without it: this is for the
command to refuse with, before it shows or does anything, unless it was told to trust the clock.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from samba_rvss.backups.policy import Policy
from samba_rvss.backups.pruning import Backup

SLACK = timedelta(hours=1)
"""By how much the clock may be behind; a computer's that is taken for another zone's is by this."""

PRUNED, UNPRUNED = "pruned", "not pruned"
"""The events of a run that went by the clock, and of one that did not believe it."""

DEFERRED = "pruning deferred"
"""The event of a backup that a run found in use: it comes before the run's own."""

DAYS = 3
"""On so many days the clock has to be doubted, one after the other, until it is believed."""

PAUSE = timedelta(days=7)
"""For so long a machine may have been off without a word, however short its rules are."""


def doubt(
    backups: Iterable[Backup],
    policies: Iterable[Policy | None],
    *,
    now: datetime,
    last: datetime | None = None,
    doubted: Iterable[datetime] = (),
) -> str:
    """Return why the clock cannot be believed, a sentence without a full stop; empty if it can.

    Args:
        backups: all that there are.
        policies: all that are in effect.
        now: aware, what the clock says.
        last: when pruning last went by the clock; None if it never did.
        doubted: when it would have since, and the clock was doubted: an administrator had time to
            see that, and a clock that is ahead goes on from there as a right one does.
    """
    clock = f"the clock says {_utc(now)}"
    newest = max(backups, key=lambda backup: backup.taken, default=None)
    if newest and newest.taken - now > SLACK:
        return f"{clock}, but the backup {newest.id} was taken at {_utc(newest.taken)}"
    if last is None:
        return ""
    if last - now > SLACK:
        return f"{clock}, but the last pruning was at {_utc(last)}"
    if len({when.date() for when in doubted if last < when <= now}) >= DAYS:
        return ""
    longest = max([PAUSE, *(policy.longest for policy in policies if policy)])
    if now - last > longest:
        return (
            f"{clock}, {(now - last).days} days after the last pruning: more than"
            f" {longest.days} are believed of no clock"
        )
    return ""


def _utc(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
