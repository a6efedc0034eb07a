"""Which backups go and why: the right values, what holds of every plan, and a year of hours."""

import io
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from math import inf, prod
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samba_rvss.backups.plausibility import doubt
from samba_rvss.backups.policy import Policy, Rule, Span, Unit, parse
from samba_rvss.backups.pruning import AHEAD, Backup, Hold, Verdict, plan

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=366)


def _zone(offset: timedelta, rule: str) -> tzinfo:
    """Return a zone of one rule, as in TZ, which needs no database of zones (RFC 8536)."""
    counts = struct.pack(">6L", 0, 0, 0, 0, 1, 4)
    block = b"TZif2" + bytes(15) + counts + struct.pack(">lbb4s", offset.seconds, 0, 0, b"STD")
    return ZoneInfo.from_file(io.BytesIO(block + block + b"\n" + rule.encode() + b"\n"))


BERLIN_RULE = "CET-1CEST,M3.5.0,M10.5.0/3"
BERLIN = _zone(HOUR, BERLIN_RULE)
# Its clocks change by half an hour.
LORD_HOWE = _zone(10.5 * HOUR, "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0")
ZONES = (UTC, BERLIN, LORD_HOWE)


def _time(text: str) -> datetime:
    """Return a time in UTC, of 2026 unless it says another year."""
    return datetime.fromisoformat(f"{text if text.startswith('20') else '2026-' + text}Z")


def _backup(
    taken: str | datetime,
    *groups: str,
    consistent: bool = True,
    holds: tuple[Hold, ...] = (),
    tags: Iterable[str] = (),
    unseen: bool = False,
) -> Backup:
    """Return a backup of the group vms, or of others, which is called as the time is given."""
    return Backup(
        id=taken if isinstance(taken, str) else taken.isoformat(),
        groups=frozenset(groups or ["vms"]),
        taken=_time(taken) if isinstance(taken, str) else taken,
        consistent=consistent,
        holds=holds,
        tags=frozenset(tags),
        unseen=unseen,
    )


def _hours(first: datetime, last: datetime, step: timedelta = HOUR) -> list[Backup]:
    return [_backup(first + number * step) for number in range((last - first) // step + 1)]


def _plan(
    backups: Iterable[Backup],
    policy: str | Policy | Mapping[str, Policy | None],
    now: str | datetime = "12-31T23:59",
    zone: tzinfo | None = UTC,
) -> tuple[Verdict, ...]:
    policies = (
        {"vms": parse(policy) if isinstance(policy, str) else policy}
        if isinstance(policy, str | Policy)
        else policy
    )
    return plan(backups, policies, now=_time(now) if isinstance(now, str) else now, zone=zone)


def _why(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """Return all that is said of each backup, by its id."""
    return {verdict.backup.id: list(verdict.sentences) for verdict in verdicts}


def _removed(verdicts: Iterable[Verdict]) -> set[str]:
    return {verdict.backup.id for verdict in verdicts if verdict.removed}


def _left(verdicts: Iterable[Verdict]) -> list[Backup]:
    return [verdict.backup for verdict in verdicts if not verdict.removed]


GOES = ["no rule keeps it"]
EACH = ("hourly", "daily", "weekly", "monthly")
NEWEST = ["newest", "newest application-consistent"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            "latest 2",
            {
                "05-05T10:00": ["latest 1 of 2", *NEWEST],
                "05-05T09:30": ["latest 2 of 2"],
                "05-05T09:00": GOES,
            },
        ),
        (
            "latest 9",
            {
                "05-05T10:00": ["latest 1 of 9", *NEWEST],
                "05-05T09:00": ["latest 2 of 9"],
            },
        ),
        (  # the newest of an hour; hours without a backup do not count
            "3h",
            {
                "05-05T10:59": ["hourly 1 of 3", *NEWEST],
                "05-05T10:00": GOES,
                "05-05T09:59:59": ["hourly 2 of 3"],
                "05-04T09:30": ["hourly 3 of 3"],
                "05-04T09:29": GOES,
                "05-04T08:00": GOES,
            },
        ),
        (
            "4d",
            {
                "05-05T10:00": ["daily 1 of 4", *NEWEST],
                "05-04T09:00": ["daily 2 of 4"],
                "05-02T11:00": ["daily 3 of 4"],
                "05-02T08:00": GOES,
                "05-01T08:00": ["daily 4 of 4"],
                "04-30T23:59": GOES,
            },
        ),
        (  # from Monday; 2026 has a week 53, which ends in 2027
            "3w",
            {
                "2027-01-04T00:00": ["weekly 1 of 3", *NEWEST],
                "2027-01-03T23:59": ["weekly 2 of 3"],
                "2026-12-28T00:00": GOES,
                "2026-12-27T23:59": ["weekly 3 of 3"],
                "2026-12-20T23:59": GOES,
            },
        ),
        (
            "2m 2y",
            {
                "2026-02-01T00:00": ["monthly 1 of 2", "yearly 1 of 2", *NEWEST],
                "2026-01-31T23:59": ["monthly 2 of 2"],
                "2026-01-01T00:00": GOES,
                "2025-12-31T23:59": ["yearly 2 of 2"],
                "2024-12-31T23:59": GOES,
            },
        ),
        (  # the same hour, day, month and week of other months and years
            "3h 3d 3w 3m",
            {
                "2026-05-05T10:00": [f"{each} 1 of 3" for each in EACH] + NEWEST,
                "2026-04-05T10:00": [f"{each} 2 of 3" for each in EACH],
                "2025-05-05T10:00": [f"{each} 3 of 3" for each in EACH],
                "2025-04-05T10:00": GOES,
            },
        ),
        (
            "*y",
            {
                "2026-02-01T00:00": ["yearly 1 of all", *NEWEST],
                "2026-01-31T00:00": GOES,
                "2017-12-31T00:00": ["yearly 2 of all"],
                "2000-12-31T00:00": ["yearly 3 of all"],
            },
        ),
        (  # counted back from the newest one, not from now
            "within 7d",
            {
                "05-08T10:00": ["within 7 days", *NEWEST],
                "05-01T10:00:01": ["within 7 days"],
                "05-01T10:00": GOES,
            },
        ),
        (
            "*",
            {
                "05-08T10:00": ["all are kept", *NEWEST],
                "05-08T09:00": ["all are kept"],
                "2000-05-08T09:00": ["all are kept"],
            },
        ),
        (  # independent of each other
            "latest 1 2h 2d",
            {
                "05-05T10:30": ["latest 1 of 1", "hourly 1 of 2", "daily 1 of 2", *NEWEST],
                "05-05T10:00": GOES,
                "05-05T09:00": ["hourly 2 of 2"],
                "05-05T08:00": GOES,
                "05-04T23:00": ["daily 2 of 2"],
            },
        ),
    ],
)
def test_what_each_rule_keeps(policy: str, expected: dict[str, list[str]]) -> None:
    verdicts = _plan([_backup(taken) for taken in expected], policy, "2027-02-01T00:00")
    assert _why(verdicts) == expected
    assert _removed(verdicts) == {name for name, why in expected.items() if why == GOES}
    assert [verdict.backup.id for verdict in verdicts] == list(expected), "the newest first"


def test_what_is_never_removed() -> None:
    now = _time("06-01T12:00")
    offsite: Hold = ("offsite", None)
    backups = [
        _backup("06-01T12:06", consistent=False, holds=(offsite,)),
        _backup("06-01T12:05", consistent=False),
        _backup("06-01T11:00", consistent=False, unseen=True),
        _backup("05-31T12:00:01"),
        _backup("05-31T12:00", tags=["offsite"]),
        _backup("05-30T12:00", holds=(offsite, ("legal", _time("06-01T12:01")))),
        _backup("05-29T12:00", holds=(("legal", now), offsite)),
        _backup("05-28T12:00", holds=(("legal", now),)),
        _backup("05-27T12:00"),
    ]
    assert _why(_plan(backups, "latest 1", now)) == {
        "06-01T12:06": ["dated in the future", "held: offsite"],
        "06-01T12:05": ["latest 1 of 1", "newest"],
        "06-01T11:00": ["its image cannot be seen"],
        "05-31T12:00:01": ["newest application-consistent"],
        "05-31T12:00": GOES,
        "05-30T12:00": ["held: offsite", "held: legal, until 2026-06-01 12:01"],
        "05-29T12:00": ["held: offsite", "the hold legal ended at 2026-06-01 12:00"],
        "05-28T12:00": [*GOES, "the hold legal ended at 2026-06-01 12:00"],
        "05-27T12:00": GOES,
    }
    minimum = replace(
        parse("latest 1"), minimum=Span(count=24, unit=Unit.HOUR), requires=("offsite", "tape")
    )
    assert _why(_plan(backups[3:5], minimum, now)) == {
        "05-31T12:00:01": [
            "latest 1 of 1",
            *NEWEST,
            "younger than the minimum of 24 h",
            "lacks the tag offsite",
            "lacks the tag tape",
        ],
        "05-31T12:00": ["lacks the tag tape"],
    }


def test_a_set_is_one_backup_that_goes_only_if_each_of_its_groups_lets_it_go() -> None:
    backups = [
        _backup("05-03T00:00", "vms"),
        _backup("05-02T00:00", "vms", "sql"),
        _backup("05-01T00:00", "vms", "sql"),
        _backup("04-30T00:00", "vms", "sql", "old"),
    ]
    one, two = parse("latest 1"), parse("2d")
    verdicts = _plan(backups, {"vms": one, "sql": two, "old": one})
    assert _why(verdicts) == {
        "05-03T00:00": ["latest 1 of 1", *NEWEST],
        "05-02T00:00": ["daily 1 of 2", *NEWEST],
        "05-01T00:00": ["daily 2 of 2"],
        "04-30T00:00": ["latest 1 of 1", *NEWEST],
    }
    assert {reason.group for reason in verdicts[2].reasons} == {"sql"}
    verdicts = _plan(backups, {"vms": one, "sql": one})
    assert _removed(verdicts) == {"05-01T00:00"}
    assert _why(verdicts)["04-30T00:00"] == ["no retention is set"]


def test_without_a_policy_or_a_group_nothing_goes() -> None:
    backups = [_backup(f"05-0{day}T00:00") for day in range(1, 9)]
    policies: list[Mapping[str, Policy | None]] = [{}, {"vms": None}, {"VMs": parse("1d")}]
    for known in policies:
        assert set(map(tuple, _why(_plan(backups, known)).values())) == {("no retention is set",)}
    nowhere = [replace(backup, groups=frozenset()) for backup in backups]
    assert _removed(_plan(nowhere, "1d")) == set()
    assert _plan([], "1d") == ()


def test_what_was_taken_at_one_instant_is_told_apart_by_its_id() -> None:
    twins = [replace(_backup("05-01T00:00"), id=name) for name in "bac"]
    assert _removed(_plan(twins, "latest 1")) == {"a", "b"}
    with pytest.raises(ValueError, match="the same id"):
        _plan([twins[0], twins[0]], "latest 1")


def test_days_and_hours_are_local() -> None:
    """Berlin: 25 October has the hour from two to three twice, 29 March has none."""
    assert _why(
        _plan([_backup(f"10-25T0{hour}:30") for hour in (2, 1, 0)], "3h", "10-26T00:00", BERLIN)
    ) == {
        "10-25T02:30": ["hourly 1 of 3", *NEWEST],  # 03:30
        "10-25T01:30": ["hourly 2 of 3"],  # 02:30 again
        "10-25T00:30": GOES,  # 02:30
    }
    assert _why(
        _plan([_backup(f"03-29T{hour}:30") for hour in ("02", "01", "00")], "2h", zone=BERLIN)
    ) == {
        "03-29T02:30": ["hourly 1 of 2", *NEWEST],  # 04:30
        "03-29T01:30": ["hourly 2 of 2"],  # 03:30
        "03-29T00:30": GOES,  # 01:30
    }
    late = [_backup("06-01T22:30"), _backup("06-01T21:30"), _backup("06-01T20:30")]
    assert _removed(_plan(late, "2d", zone=BERLIN)) == {"06-01T20:30"}
    assert _removed(_plan(late, "2d")) == {"06-01T21:30", "06-01T20:30"}


def test_half_an_hour_that_comes_twice() -> None:
    """On Lord Howe Island, from half past one to two on 5 April; three hours are five halves."""
    backups = _hours(_time("04-04T14:00"), _time("04-04T16:00"), HOUR / 2)
    assert _removed(_plan(backups, "9h", zone=LORD_HOWE)) == {
        _time(f"04-04T{taken}").isoformat() for taken in ("14:00", "14:30", "15:30")
    }


def test_the_machines_own_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    backups = _hours(_time("10-24T20:00"), _time("10-25T03:00"), HOUR / 2)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", BERLIN_RULE)
            time.tzset()
            here = _plan(backups, "9h 2d", zone=None)
    finally:
        time.tzset()
    assert here == _plan(backups, "9h 2d", zone=BERLIN)


def test_a_year_without_a_calendar_stops_nothing() -> None:
    first = replace(_backup("05-01T00:00"), id="first", taken=datetime.min.replace(tzinfo=UTC))
    behind = _zone(-5 * HOUR, "EST5")
    held = replace(first, id="held", holds=(("x", datetime.max.replace(tzinfo=UTC)),))
    backups = [_backup("05-01T00:00"), first, held]
    assert _removed(_plan(backups, "1d", zone=behind)) == {"first"}
    assert _removed(_plan(backups, "2d", zone=LORD_HOWE)) == {"first"}


# --- a year of hourly backups ---------------------------------------------------------------------

# All of 2026 in Berlin.
YEAR_OF_HOURS = _hours(_time("2025-12-31T23:00"), _time("12-31T22:00"))
RULES = "latest 3 24h 7d 4w 12m 3y"


def _one_by_one(backups: Sequence[Backup], policy: Policy, zone: tzinfo) -> list[Backup]:
    """Return what is left if pruning follows each backup."""
    left: list[Backup] = []
    for backup in backups:
        left = _left(_plan([*left, backup], policy, backup.taken, zone))
    return left


def test_a_year_of_hours() -> None:
    """Pruned once at the end, or after each of them: what is left is the same, and right."""
    assert len(YEAR_OF_HOURS) == 365 * 24
    last = YEAR_OF_HOURS[-1].taken
    expected = {last - number * HOUR for number in range(24)}
    expected |= {last - number * DAY for number in range(7)}
    expected |= {_time(f"12-{sunday}T22:00") for sunday in (27, 20, 13)}
    expected |= {
        _time(f"{end}T{21 if '03-31' <= end <= '09-30' else 22}:00")  # summer time
        for end in (
            *("01-31", "02-28", "03-31", "04-30", "05-31", "06-30"),
            *("07-31", "08-31", "09-30", "10-31", "11-30", "12-31"),
        )
    }
    once = _left(_plan(YEAR_OF_HOURS, RULES, last, BERLIN))
    assert {backup.taken for backup in once} == expected
    assert len(expected) == 24 + 6 + 2 + 11
    assert _one_by_one(YEAR_OF_HOURS, parse(RULES), BERLIN) == once


@pytest.mark.parametrize(("change", "hours"), [("03-29", 23), ("10-25", 24)])
def test_the_days_on_which_clocks_change(change: str, hours: int) -> None:
    """All hours of that day by the clock on the wall, be they 23 or 25, pruned after each."""
    last = _time(f"{change}T21:00" if hours == 23 else f"{change}T22:00")
    backups = [backup for backup in YEAR_OF_HOURS if last - 4 * DAY < backup.taken <= last]
    left = _one_by_one(backups, parse("48h"), BERLIN)
    assert left == _left(_plan(backups, "48h", last, BERLIN))
    local = [backup.taken.astimezone(BERLIN) for backup in left]
    assert len(local) == 48
    assert len([when for when in local if when.day == local[0].day]) == hours


# --- what holds of every plan ---------------------------------------------------------------------

BASE = _time("2025-10-25T20:00")  # a few hours before the clocks of Berlin change
_GROUPS = ("vms", "sql")


class _Digits:
    """One number that stands for several choices: to draw many small ones takes hypothesis long."""

    def __init__(self, number: int) -> None:
        self.left = number

    def below(self, base: int) -> int:
        """Return the next choice; of zero, all are the first."""
        self.left, digit = divmod(self.left, base)
        return digit


def _numbers(*bases: int) -> st.SearchStrategy[_Digits]:
    assert prod(bases) < 2**24, "larger ones are not drawn evenly"
    return st.integers(0, prod(bases) - 1).map(_Digits)


def _a_time(drawn: _Digits) -> datetime:
    """Return a time within hours, days or years, so that periods of each kind hold several."""
    minutes = (1, 30, 1440)[drawn.below(3)] * drawn.below(1300)
    return BASE + timedelta(minutes=minutes)


def _a_span(drawn: _Digits) -> Span | None:
    count = drawn.below(9)
    return Span(count=count, unit=tuple(Unit)[drawn.below(5)]) if count else None


def _a_policy(rules: _Digits, others: _Digits) -> Policy:
    latest, within = rules.below(4), _a_span(others)
    counts = [(unit, rules.below(6)) for unit in Unit]
    return Policy(
        latest=latest or int(not within and not any(count for _, count in counts)),
        rules=tuple(
            Rule(unit=unit, count=count if count < 5 else None) for unit, count in counts if count
        ),
        within=within,
        minimum=_a_span(others),
        requires=((), (), ("tape",), ("tape", "offsite"))[others.below(4)],
    )


def _a_backup(name: int, time: _Digits, others: _Digits) -> Backup:
    return Backup(
        id=f"{name}",
        taken=_a_time(time),
        groups=frozenset((("vms",), ("sql",), _GROUPS, ())[others.below(4)]),
        consistent=bool(others.below(2)),
        tags=frozenset(((), ("offsite",), ("tape", "offsite"))[others.below(3)]),
        unseen=others.below(5) == 4,
        holds=((), (), (("offsite", BASE + others.below(40) * 30 * DAY),), (("legal", None),))[
            others.below(4)
        ],
    )


def _a_world(rows: list[tuple[_Digits, _Digits]]) -> tuple[Backup, ...]:
    return tuple(_a_backup(number, *row) for number, row in enumerate(rows))


def _freed(world: tuple[Backup, ...]) -> tuple[Backup, ...]:
    """Return backups with which new ones alone have to do, and neither time nor people."""
    return tuple(replace(backup, holds=(), unseen=False) for backup in world)


def _alone(policy: Policy) -> Policy:
    """Return a policy with which neither time nor tags have to do."""
    return replace(policy, minimum=None, requires=())


_times = _numbers(3, 1300)
_when = _times.map(_a_time)
_policies = st.builds(_a_policy, _numbers(4, *[6] * 5), _numbers(9, 5, 9, 5, 4))
_plain = _policies.map(_alone)
_by_group = st.fixed_dictionaries({"vms": _policies, "sql": _policies | st.none()})
_zones = st.sampled_from(ZONES)
_rows = st.tuples(_times, _numbers(4, 2, 3, 5, 4, 40))
_worlds = st.lists(_rows, max_size=11).map(_a_world)
_free = _worlds.map(_freed)


@given(backups=_worlds, policies=_by_group, now=_when, zone=_zones)
def test_what_never_goes(
    backups: tuple[Backup, ...],
    policies: dict[str, Policy | None],
    now: datetime,
    zone: tzinfo,
) -> None:
    verdicts = _plan(backups, policies, now, zone)
    assert {verdict.backup for verdict in verdicts} == set(backups)
    assert len(verdicts) == len(backups)
    gone = [verdict.backup for verdict in verdicts if verdict.removed]
    for backup in gone:
        assert backup.groups
        assert backup.taken - now <= AHEAD
        assert not backup.unseen
        assert all(until and until <= now for _, until in backup.holds)
        for group in backup.groups:
            newer = [
                other
                for other in backups
                if group in other.groups and other.taken - now <= AHEAD
                if (other.taken, other.id) > (backup.taken, backup.id)
            ]
            assert newer, "the newest"
            assert not backup.consistent or any(other.consistent for other in newer)
            policy = policies[group]
            assert policy is not None
            assert backup.tags >= set(policy.requires)
            assert policy.minimum is None or now - backup.taken >= policy.minimum.length
    for verdict in verdicts:
        why = [reason.text for reason in verdict.reasons]
        assert why
        assert verdict.removed == (why == GOES)


@given(backups=_worlds, policies=_by_group, now=_when, zone=_zones, first=st.integers(0, 10))
def test_looking_again_or_in_another_order_changes_nothing(
    backups: tuple[Backup, ...],
    policies: dict[str, Policy | None],
    now: datetime,
    zone: tzinfo,
    first: int,
) -> None:
    verdicts = _plan(backups, policies, now, zone)
    shuffled = [backups[(number * 17 + first) % len(backups)] for number in range(len(backups))]
    assert _plan(shuffled, policies, now, zone) == verdicts
    assert _removed(_plan(_left(verdicts), policies, now, zone)) == set()


def _size(count: int | None) -> float:
    return inf if count is None else count


def _merged(first: Policy, second: Policy) -> Policy:
    """Return the policy that has of each rule the larger one of two."""
    counts: dict[Unit, int | None] = {}
    for rule in (*first.rules, *second.rules):
        counts[rule.unit] = max(counts.get(rule.unit, 0), rule.count, key=_size)
    within = [span for span in (first.within, second.within) if span]
    return Policy(
        latest=max(first.latest, second.latest),
        rules=tuple(Rule(unit=unit, count=counts[unit]) for unit in Unit if unit in counts),
        within=max(within, key=lambda span: span.length, default=None),
    )


@given(backups=_worlds, first=_plain, second=_plain, now=_when, zone=_zones)
def test_stricter_keeps_less(
    backups: tuple[Backup, ...], first: Policy, second: Policy, now: datetime, zone: tzinfo
) -> None:
    """Two policies in one keep what either keeps: no rule, and no larger number, removes more."""
    both, one, other = (
        _removed(_plan(backups, dict.fromkeys(_GROUPS, policy), now, zone))
        for policy in (_merged(first, second), first, second)
    )
    assert both == one & other


@given(backups=_free, count=st.integers(1, 4), unit=st.sampled_from(Unit), zone=_zones)
def test_a_rule_by_its_definition(
    backups: tuple[Backup, ...], count: int, unit: Unit, zone: tzinfo
) -> None:
    """No newer one in its period, and fewer than so many periods among the newer."""
    form = {"h": "%Y-%m-%d %H", "d": "%Y-%m-%d", "w": "%G %V", "m": "%Y-%m", "y": "%Y"}[unit.value]

    def period(backup: Backup) -> str:
        return backup.taken.astimezone(zone).strftime(form)

    members = [replace(backup, groups=frozenset({"vms"})) for backup in backups]
    for verdict in _plan(members, f"{count}{unit.value}", "2030-01-01T00:00", zone):
        this = verdict.backup
        newer = {
            period(other) for other in members if (other.taken, other.id) > (this.taken, this.id)
        }
        kept = [reason.text for reason in verdict.reasons if reason.text.startswith(unit.adjective)]
        expected = period(this) not in newer and len(newer) < count
        assert kept == ([f"{unit.adjective} {len(newer) + 1} of {count}"] if expected else [])


@given(backups=_worlds, policies=_by_group, times=st.tuples(_when, _when), zone=_zones)
def test_a_clock_that_is_behind_removes_nothing_more(
    backups: tuple[Backup, ...],
    policies: dict[str, Policy | None],
    times: tuple[datetime, datetime],
    zone: tzinfo,
) -> None:
    behind, right = (_plan(backups, policies, now, zone) for now in sorted(times))
    assert _removed(behind) <= _removed(right)


@given(backups=_free, policy=_plain, years=st.integers(1, 9), zone=_zones)
@example(
    backups=tuple(_hours(BASE, BASE + 30 * HOUR)), policy=parse("within 1d"), years=1, zone=UTC
)
def test_a_pause_costs_nothing(
    backups: tuple[Backup, ...], policy: Policy, years: int, zone: tzinfo
) -> None:
    """Time removes nothing. The first backup after it takes the place of one for each rule."""
    policies = dict.fromkeys(_GROUPS, policy)
    last = max((backup.taken for backup in backups), default=BASE)
    before = _plan(backups, policies, last, zone)
    later = last + years * YEAR
    assert _plan(backups, policies, later, zone) == before
    if policy.within is None:
        again = _plan([*_left(before), _backup(later, *_GROUPS)], policies, later, zone)
        rules = bool(policy.latest) + len(policy.rules)
        assert len(_removed(again)) <= len(_GROUPS) * (rules + len(NEWEST))


@given(backups=_free, policies=_by_group, every=st.integers(1, 4), zone=_zones)
def test_pruning_often_and_once_leave_the_same(
    backups: tuple[Backup, ...], policies: dict[str, Policy | None], every: int, zone: tzinfo
) -> None:
    """In whatever order they come, as from another machine."""
    left: list[Backup] = []
    now = BASE
    for number, backup in enumerate(backups, 1):
        left.append(backup)
        now = max(now, backup.taken)
        if number % every == 0 or number == len(backups):
            left = _left(_plan(left, policies, now, zone))
    assert left == _left(_plan(backups, policies, now, zone))


# --- clocks that jump -----------------------------------------------------------------------------


def test_a_backup_from_a_clock_that_was_ahead() -> None:
    """It is no one's newest, takes no one's place, and does not go."""
    backups = _hours(_time("05-01T00:00"), _time("05-03T12:00"))
    ahead = _backup("2031-01-01T00:00")
    now = _time("05-03T12:00")
    right = _plan(backups, RULES, now)
    with_it = _plan([*backups, ahead], RULES, now)
    assert with_it[1:] == right
    assert _why(with_it[:1]) == {"2031-01-01T00:00": ["dated in the future"]}
    # A clock that begins again finds all of them in the future.
    assert _removed(_plan(backups, RULES, "2000-01-01T00:00")) == set()


def test_a_clock_that_jumps_and_comes_back() -> None:
    """What was taken meanwhile costs what as many backups cost, and no more."""
    backups = _hours(_time("05-01T00:00"), _time("05-08T00:00"), 6 * HOUR)
    left = _left(_plan(backups, "7d", "05-08T00:00"))
    ahead = [_backup(f"2031-01-0{day}T00:00") for day in (1, 2)]
    left = _left(_plan([*left, *ahead], "7d", "2031-01-02T00:01"))
    assert [backup.taken.day for backup in left] == [2, 1, 8, 7, 6, 5, 4]
    back = _plan([*left, _backup("05-08T06:00")], "7d", "05-08T06:00")
    assert _removed(back) == {_time("05-08T00:00").isoformat()}


@pytest.mark.parametrize(
    ("now", "last", "policy", "said"),
    [
        ("05-03T12:00", None, RULES, ""),
        ("05-03T11:00", None, RULES, ""),
        (
            "05-03T10:59",
            None,
            RULES,
            "10:59 UTC, but the backup 05-03T12:00 was taken at 2026-05-03 12:00 UTC",
        ),
        ("2000-01-01T00:00", "05-03T12:00", RULES, "but the backup 05-03T12:00 was taken"),
        ("05-03T12:00", "05-03T13:00", RULES, ""),
        (
            "05-03T12:00",
            "05-03T13:01",
            RULES,
            "the clock says 2026-05-03 12:00 UTC, but the last pruning was at 2026-05-03 13:01 UTC",
        ),
        ("2029-05-05T12:00", "05-03T12:00", RULES, ""),
        (
            "2029-05-05T12:01",
            "05-03T12:00",
            RULES,
            "12:01 UTC, 1098 days after the last pruning: more than 1098 are believed of no clock",
        ),
        # A week without a machine is no jump, however short the rules are.
        ("05-10T12:00", "05-03T12:00", "24h", ""),
        ("05-10T12:01", "05-03T12:00", "24h", "7 days after the last pruning"),
        ("05-10T12:01", "05-03T12:00", "latest 3", "7 days after the last pruning"),
        ("2036-05-10T12:01", "05-03T12:00", "*y 8d", "more than 8 are believed of no clock"),
        ("2036-05-10T12:01", None, RULES, ""),
    ],
)
def test_whether_the_clock_can_be_believed(
    now: str, last: str | None, policy: str, said: str
) -> None:
    backups = [_backup("05-01T00:00"), _backup("05-03T12:00"), _backup("05-02T00:00")]
    found = doubt(
        backups,
        [None, parse(policy)],
        now=_time(now),
        last=_time(last) if last else None,
    )
    assert (said in found) if said else found == ""


def test_without_backups_only_the_last_pruning_tells() -> None:
    assert doubt([], [], now=_time("05-03T12:00")) == ""
    assert doubt([], [], now=_time("05-03T12:00"), last=_time("05-03T14:00"))


@pytest.mark.parametrize(
    ("doubted", "believed"),
    [
        ([], False),
        (["06-01T04:30", "06-01T05:30", "06-02T04:30"], False),
        (["06-01T04:30", "06-02T04:30", "06-03T04:30"], True),
        (["05-01T04:30", "05-02T04:30", "05-03T04:30"], False),
    ],
    ids=["never", "two days", "three days", "before the last pruning"],
)
def test_a_clock_that_goes_on_is_believed(doubted: list[str], believed: bool) -> None:  # noqa: FBT001
    """A machine that was off for long prunes again, once an administrator had time to look."""
    times = [_time(when) for when in doubted]
    found = doubt([], [], now=_time("06-03T05:00"), last=_time("05-03T12:00"), doubted=times)
    assert (found == "") == believed
    # A clock that is behind is never right.
    assert doubt([], [], now=_time("05-03T05:00"), last=_time("05-03T12:00"), doubted=times)


def test_what_is_damaged_counts_for_nothing() -> None:
    """Neither it nor a set of which a part is still to come goes, and no good one goes for it."""
    backups = [
        replace(_backup("06-03T12:00"), damaged=True, consistent=False),
        replace(_backup("06-02T12:00", consistent=False), unfinished=True),
        _backup("06-01T12:00"),
        _backup("05-31T12:00"),
    ]
    assert _why(_plan(backups, "latest 1", "06-03T13:00")) == {
        "06-03T12:00": ["it is damaged"],
        "06-02T12:00": ["latest 1 of 1", "newest", "a part of its set is no backup yet"],
        "06-01T12:00": ["newest application-consistent"],
        "05-31T12:00": GOES,
    }
