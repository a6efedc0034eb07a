"""Which backups go, which stay, and why: a pure function of values.

Contract: every backup gets one verdict, with reasons. Rules are independent, and what one of them
keeps stays. A rule for periods keeps the *newest* backup of each; only periods that hold a backup
count, and ``within`` is counted back from the newest backup: it is new backups that push old ones
out, never time. So a pause of any length costs nothing, and a clock that is behind removes nothing
that the right one would have left. The calendar is the zone's, weeks begin on Monday (ISO 8601),
and an hour that comes twice is one; which of two is newer, the instant in UTC tells.

Pruning often and pruning once at the end leave the same, given the same policy, the same
consistency, and holds and required tags that only ever were added: whatever the last run keeps of
all that there ever was, each earlier run kept as well.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from samba_rvss.backups.policy import Policy, Rule, Span, Unit

AHEAD = timedelta(minutes=5)
"""By how much a backup's time may be ahead of the clock: clocks are set by that much every day."""

Hold = tuple[str, datetime | None]
"""The tag of a hold, and until when it holds (aware); None is until it is released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A kept backup, as far as pruning looks at it.

    Attributes:
        id: each has another.
        groups: what it is one of the backups of: identities of volumes, or names of backups. Over
            several shares it is one backup in several groups.
        taken: in UTC.
        consistent: whether all of it is application-consistent.
        unseen: whether its image cannot be seen: it may be held, or have tags.
        damaged: whether a part of its image is missing or can be written to: no rule counts it.
        unfinished: whether a part of its set is still a shadow copy, or to be sealed.
        size: how many bytes would come free; None if the file system does not tell.
    """

    id: str
    groups: frozenset[str]
    taken: datetime
    consistent: bool
    holds: tuple[Hold, ...] = ()
    tags: frozenset[str] = frozenset()
    unseen: bool = False
    damaged: bool = False
    unfinished: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a backup stays or goes, as a sentence without a full stop.

    Attributes:
        group: the group in which that is so; empty if it does not depend on one.
    """

    text: str
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a backup, and why.

    Attributes:
        reasons: each of them alone is enough.
        notes: what else there is to say of it, and decides nothing.
    """

    backup: Backup
    removed: bool
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that there is to say, each sentence once, whichever group it is about."""
        return tuple(dict.fromkeys([*(reason.text for reason in self.reasons), *self.notes]))


def plan(
    backups: Iterable[Backup],
    policies: Mapping[str, Policy | None],
    *,
    now: datetime,
    zone: tzinfo | None = None,
) -> tuple[Verdict, ...]:
    """Return what becomes of each backup, the newest first. Nothing is touched.

    A backup goes only if each of its groups lets it go. Those that stay are counted as what they
    are, the held and the unseen too; those dated in the future are not counted at all.

    Args:
        backups: all that there are, in any order.
        policies: of each group; without one nothing of the group goes.
        now: aware.
        zone: whose calendar counts; None is the machine's, as the C library knows it.
    """
    ordered = sorted(backups, key=lambda backup: (backup.taken, backup.id), reverse=True)
    kept: dict[str, list[Reason]] = {backup.id: [] for backup in ordered}
    if len(kept) != len(ordered):
        raise ValueError("two backups have the same id")
    members: defaultdict[str, list[Backup]] = defaultdict(list)
    for backup in ordered:
        if backup.taken - now > AHEAD:
            kept[backup.id].append(Reason(text="dated in the future"))
            continue
        if backup.damaged:
            kept[backup.id].append(Reason(text="it is damaged"))
            continue
        for group in backup.groups:
            members[group].append(backup)
        if not backup.groups:
            kept[backup.id].append(Reason(text="no retention is set"))
    for group in sorted(members):
        for name, text in _kept(members[group], policies.get(group), now, zone):
            kept[name].append(Reason(text=text, group=group))
    return tuple(_verdict(backup, kept[backup.id], now, zone) for backup in ordered)


def _verdict(backup: Backup, reasons: list[Reason], now: datetime, zone: tzinfo | None) -> Verdict:
    notes = []
    for tag, until in backup.holds:
        when = f"{_local(until, zone):%Y-%m-%d %H:%M}" if until else ""
        if until is None:
            reasons.append(Reason(text=f"held: {tag}"))
        elif now < until:
            reasons.append(Reason(text=f"held: {tag}, until {when}"))
        else:
            notes.append(f"the hold {tag} ended at {when}")
    if backup.unseen:
        reasons.append(Reason(text="its image cannot be seen"))
    if backup.unfinished:
        reasons.append(Reason(text="a part of its set is no backup yet"))
    return Verdict(
        backup=backup,
        removed=not reasons,
        reasons=tuple(reasons) or (Reason(text="no rule keeps it"),),
        notes=tuple(notes),
    )


def _kept(
    members: Sequence[Backup], policy: Policy | None, now: datetime, zone: tzinfo | None
) -> Iterator[tuple[str, str]]:
    """Yield the id of each member that stays, and why; ``members`` has the newest first."""
    if policy is None:
        yield from ((backup.id, "no retention is set") for backup in members)
        return
    yield from _by_rules(members, policy, zone)
    yield members[0].id, "newest"
    consistent = next((backup for backup in members if backup.consistent), None)
    if consistent:
        yield consistent.id, "newest application-consistent"
    if policy.minimum:
        text = f"younger than the minimum of {policy.minimum.words}"
        yield from ((young.id, text) for young in _within(members, now, policy.minimum))
    for tag in policy.requires:
        lacking = (backup for backup in members if tag not in backup.tags)
        yield from ((backup.id, f"lacks the tag {tag}") for backup in lacking)


def _by_rules(
    members: Sequence[Backup], policy: Policy, zone: tzinfo | None
) -> Iterator[tuple[str, str]]:
    if policy.everything:
        yield from ((backup.id, "all are kept") for backup in members)
    for number, backup in enumerate(members[: policy.latest], 1):
        yield backup.id, f"latest {number} of {policy.latest}"
    local = [_local(backup.taken, zone) for backup in members] if policy.rules else []
    for rule in policy.rules:
        for number, found in enumerate(_newest_of_periods(local, rule), 1):
            yield members[found].id, f"{rule.unit.adjective} {number} of {rule.count or 'all'}"
    if policy.within:
        text = f"within {policy.within.words}"
        newest = members[0].taken
        yield from ((young.id, text) for young in _within(members, newest, policy.within))


def _within(members: Sequence[Backup], end: datetime, span: Span) -> Iterator[Backup]:
    """Return those that are younger than a span, seen from its end."""
    length = span.length
    return (backup for backup in members if end - backup.taken < length)


# What two local times have in common that are in the same period.
_PERIODS: Mapping[Unit, Callable[[datetime], tuple[int, ...]]] = {
    Unit.HOUR: lambda local: (local.year, local.month, local.day, local.hour),
    Unit.DAY: lambda local: (local.year, local.month, local.day),
    Unit.WEEK: lambda local: local.isocalendar()[:2],
    Unit.MONTH: lambda local: (local.year, local.month),
    Unit.YEAR: lambda local: (local.year,),
}


def _newest_of_periods(local: Sequence[datetime], rule: Rule) -> Iterator[int]:
    """Yield where in ``local``, which has the newest first, each period's newest one is."""
    period, seen = _PERIODS[rule.unit], set[tuple[int, ...]]()
    for index, when in enumerate(local):
        if len(seen) == rule.count:
            return
        if (key := period(when)) not in seen:
            seen.add(key)
            yield index


def _local(when: datetime, zone: tzinfo | None) -> datetime:
    try:
        return when.astimezone(zone)
    except (OverflowError, ValueError, OSError):  # years in which the zone has no calendar
        return when
