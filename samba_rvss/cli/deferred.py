"""Backups that were to go when `prune` last ran, and were in use: they go the next time.

Place: for `look`, and a pure function of events. That somebody reads a backup while a timer prunes
is nothing that an administrator has to see to; that it is in use each time is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from samba_rvss.backups.plausibility import DEFERRED
from samba_rvss.model import Event

PATIENCE = timedelta(days=3)
"""For so long a backup may be in use whenever it is to go; the timer prunes once a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """A part of a backup that the last run found in use.

    Attributes:
        id: the part's.
        since: the first of all the runs, one after the other, that did.
        reason: what the last of them was told.
    """

    id: str
    since: datetime
    reason: str


def deferred(events: Iterable[Event]) -> tuple[Deferred, ...]:
    """Return what the last run found in use.

    Args:
        events: all of DEFERRED, and those with which runs end; the oldest first. Those of a run
            that was cut off count besides those of the run before.
    """
    before: dict[str, Deferred] = {}
    present: dict[str, Deferred] = {}
    for event in events:
        if event.what != DEFERRED:
            before, present = present, {}
            continue
        known = present.get(event.copy) or before.get(event.copy)
        since = known.since if known else event.time
        present[event.copy] = Deferred(id=event.copy, since=since, reason=event.detail)
    return tuple((before | present).values())
