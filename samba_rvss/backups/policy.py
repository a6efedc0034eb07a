"""What ``rvss:retention`` and its companions say, as a value.

Contract: whoever has a policy has one that keeps something; a text that keeps nothing, or cannot
be understood, is a ValueError, which says what is wanted instead. The letters are btrbk's
(btrbk.conf(5), RETENTION POLICY); what they mean is restic's (restic-forget(1)): see
`samba_rvss.backups.pruning`.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

MOST = 9999
"""The largest number in a rule."""

_WANTED = "'latest N', Nh, Nd, Nw, Nm, Ny, 'within TIME' or * is wanted"
_NUMBER = f"a number from 1 to {MOST} is wanted"
_TIME = "a time such as 24h, 7d, 4w, 12m (months) or 3y is wanted"
# What separates words in Samba's lists: lib/util/util_strlist.c, LIST_SEP.
_SEPARATORS = re.compile(r"[ \t,;\n\r]+")
# A unit may stand apart from its number, as in all other options.
_APART = re.compile(r"(?<!\S)([+-]?[0-9]+) (?=[hdwmy](?!\S))")
_PART = re.compile(r"(?:(?:latest|within) )?\S+")
# Neither a shell nor `zfs hold` takes any of these for something else.
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,63}")


class Unit(Enum):
    """A period of the calendar, by its letter."""

    HOUR = "h"
    DAY = "d"
    WEEK = "w"
    MONTH = "m"
    YEAR = "y"

    @property
    def adjective(self) -> str:
        """What a backup that is kept for such a period is called."""
        return _ADJECTIVES[self]

    @property
    def length(self) -> timedelta:
        """How long it is at most, without a changed clock: 31 days a month, 366 a year."""
        return _LENGTHS[self]


_ADJECTIVES = {
    Unit.HOUR: "hourly",
    Unit.DAY: "daily",
    Unit.WEEK: "weekly",
    Unit.MONTH: "monthly",
    Unit.YEAR: "yearly",
}
_LENGTHS = {
    Unit.HOUR: timedelta(hours=1),
    Unit.DAY: timedelta(days=1),
    Unit.WEEK: timedelta(weeks=1),
    Unit.MONTH: timedelta(days=31),
    Unit.YEAR: timedelta(days=366),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A length of time, as it was given: ``24h``."""

    count: int
    unit: Unit

    @property
    def length(self) -> timedelta:
        """How long it is."""
        return self.count * self.unit.length

    @property
    def words(self) -> str:
        """The length for people: ``24 h``, ``7 days``."""
        if self.unit is Unit.HOUR:
            return f"{self.count} h"
        return f"{self.count} {self.unit.name.lower()}{'s' if self.count > 1 else ''}"

    def __str__(self) -> str:
        return f"{self.count}{self.unit.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Keep the newest backup of each of so many periods; None is all of them."""

    unit: Unit
    count: int | None

    def __str__(self) -> str:
        return f"{'*' if self.count is None else self.count}{self.unit.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one group of backups. Each keeps what it keeps, whatever the others do.

    Raises ValueError where nothing would be kept. Its text is one that `parse` gives it back for,
    but for ``minimum`` and ``requires``, which are options of their own.

    Attributes:
        everything: keep all.
        latest: keep so many, the newest.
        rules: for periods, the shorter ones first, each unit once.
        within: keep all that are younger than the newest by less than this.
        minimum: remove none that is younger than this; None if any may go.
        requires: remove none that lacks one of these tags.
    """

    everything: bool = False
    latest: int = 0
    rules: tuple[Rule, ...] = ()
    within: Span | None = None
    minimum: Span | None = None
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what keeps nothing."""
        keeps = any(rule.count is None or rule.count > 0 for rule in self.rules)
        within = self.within is not None and self.within.count > 0
        if not (self.everything or self.latest > 0 or keeps or within):
            raise ValueError(f"no rule keeps anything: {_WANTED}")

    @property
    def longest(self) -> timedelta:
        """How far its longest rule that has an end reaches back; zero if none has."""
        spans = [rule.count * rule.unit.length for rule in self.rules if rule.count is not None]
        spans += [span.length for span in (self.within, self.minimum) if span]
        return max(spans, default=timedelta())

    def __str__(self) -> str:
        if self.everything:
            return "*"
        words = [f"latest {self.latest}"] if self.latest else []
        words += map(str, self.rules)
        words += [f"within {self.within}"] if self.within else []
        return " ".join(words)


EVERYTHING = Policy(everything=True)
"""Of shares that have no rules."""


def parse(text: str) -> Policy:
    """Return the policy that ``rvss:retention`` gives, without minimum and required tags."""
    said = _words(text)
    if not said:
        raise ValueError(f"it says nothing: {_WANTED}")
    if "*" in said.split():
        if said != "*":
            raise ValueError("'*' keeps all: no other rule can stand beside it")
        return Policy(everything=True)
    latest, within, rules = 0, None, dict[Unit, Rule]()
    seen = set[str]()
    for part in _PART.findall(said):
        kind, _, value = part.rpartition(" ")
        if kind == "latest":
            latest = _number(value, part)
        elif kind == "within":
            within = _span(value, part)
        else:
            rule = _rule(part)
            kind, rules[rule.unit] = rule.unit.value, rule
        if kind in seen:
            raise ValueError(f"{part!r} is the second rule of its kind: one is wanted")
        seen.add(kind)
    return Policy(
        latest=latest,
        rules=tuple(rules[unit] for unit in Unit if unit in rules),
        within=within,
    )


def parse_minimum(text: str) -> Span | None:
    """Return what ``rvss:retention minimum`` gives; None if there is none, which is 0."""
    said = _words(text)
    return None if re.fullmatch(r"0+[hdwmy]?", said) else _span(said, said)


def parse_requires(text: str) -> tuple[str, ...]:
    """Return the tags that ``rvss:prune requires`` names, each once; none if it is empty."""
    return tuple(dict.fromkeys(map(parse_tag, _SEPARATORS.sub(" ", text).split())))


def parse_tag(text: str) -> str:
    """Return a tag, which may be a hold's as well; unlike rules it is told by its case too."""
    if not _TAG.fullmatch(text):
        raise ValueError(
            f"{text!r} is no tag: at most 64 letters, digits and . _ : @ + - are wanted, a letter"
            " or a digit first"
        )
    return text


def _words(text: str) -> str:
    """Return a text in small letters, with one blank between what belongs apart."""
    return _APART.sub(r"\1", _SEPARATORS.sub(" ", text.lower()).strip())


def _rule(word: str) -> Rule:
    match = re.fullmatch(r"(\*|[+-]?[0-9]+)([hdwmy])", word)
    if match:
        count = None if match[1] == "*" else _number(match[1], word)
        return Rule(unit=Unit(match[2]), count=count)
    if re.fullmatch(r"[+-]?[0-9]+", word):
        raise ValueError(f"{word!r} has no unit: h, d, w, m (months) or y is wanted")
    if word == "no":
        raise ValueError("'no' keeps nothing: * keeps all")
    raise ValueError(f"{word!r} is no rule: {_WANTED}")


def _span(text: str, said: str) -> Span:
    match = re.fullmatch(r"([+-]?[0-9]+)([hdwmy])", text)
    if match is None:
        raise ValueError(f"{said!r} is refused: {_TIME}")
    return Span(count=_number(match[1], said), unit=Unit(match[2]))


def _number(digits: str, said: str) -> int:
    if re.fullmatch(r"[+-]?0+", digits):
        raise ValueError(f"{said!r} keeps nothing: {_NUMBER}")
    if not re.fullmatch(r"0*[1-9][0-9]{0,3}", digits):
        raise ValueError(f"{said!r} is refused: {_NUMBER}")
    return int(digits.lstrip("0"))
