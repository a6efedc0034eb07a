"""What the options of retention may say, what they mean, and what each bad one is told."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.backups.policy import (
    MOST,
    Policy,
    Rule,
    Span,
    Unit,
    parse,
    parse_minimum,
    parse_requires,
    parse_tag,
)

FULL = Policy(
    latest=3,
    rules=(
        Rule(unit=Unit.HOUR, count=24),
        Rule(unit=Unit.DAY, count=7),
        Rule(unit=Unit.WEEK, count=4),
        Rule(unit=Unit.MONTH, count=12),
        Rule(unit=Unit.YEAR, count=3),
    ),
)


@pytest.mark.parametrize(
    ("text", "policy", "canonical"),
    [
        ("latest 3 24h 7d 4w 12m 3y", FULL, "latest 3 24h 7d 4w 12m 3y"),
        ("3Y 12M, 4 w;7D 24 H Latest 3", FULL, "latest 3 24h 7d 4w 12m 3y"),
        ("\t007d\n", Policy(rules=(Rule(unit=Unit.DAY, count=7),)), "7d"),
        ("latest 1", Policy(latest=1), "latest 1"),
        ("WITHIN 7d", Policy(within=Span(count=7, unit=Unit.DAY)), "within 7d"),
        (
            "within 2 w 7d",
            Policy(rules=(Rule(unit=Unit.DAY, count=7),), within=Span(count=2, unit=Unit.WEEK)),
            "7d within 2w",
        ),
        ("*m 9999h", None, "9999h *m"),
        (" * ", Policy(everything=True), "*"),
    ],
)
def test_what_is_understood(text: str, policy: Policy | None, canonical: str) -> None:
    found = parse(text)
    assert str(found) == canonical
    assert found == (policy or found)
    assert parse(canonical) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it says nothing: 'latest N', Nh, Nd, Nw, Nm, Ny, 'within TIME' or * is wanted"),
        (" ,\t", "it says nothing"),
        ("7x", "'7x' is no rule: 'latest N', Nh, Nd, Nw, Nm, Ny, 'within TIME' or * is wanted"),
        ("last 3", "'last' is no rule"),
        ("7d4w", "'7d4w' is no rule"),
        ("1.5d", "'1.5d' is no rule"),
        ("\N{ARABIC-INDIC DIGIT THREE}d", "is no rule"),
        ("7d\0", r"'7d\x00' is no rule"),
        ("latest", "'latest' is no rule: 'latest N'"),
        ("within", "'within' is no rule"),
        ("7", "'7' has no unit: h, d, w, m (months) or y is wanted"),
        ("no", "'no' keeps nothing: * keeps all"),
        ("0h 0d 0w 0m 0y", "'0h' keeps nothing: a number from 1 to 9999 is wanted"),
        ("7d latest 0", "'latest 0' keeps nothing"),
        ("within 0d", "'within 0d' keeps nothing"),
        ("-7d", "'-7d' is refused: a number from 1 to 9999 is wanted"),
        ("latest -1", "'latest -1' is refused"),
        ("10000d", "'10000d' is refused: a number from 1 to 9999 is wanted"),
        ("latest " + "9" * 5000, "a number from 1 to 9999 is wanted"),
        ("within 10000d", "'within 10000d' is refused: a number"),
        ("latest 3 d", "'latest 3d' is refused: a number from 1 to 9999 is wanted"),
        ("within 7", "'within 7' is refused: a time such as 24h, 7d, 4w, 12m (months) or 3y"),
        ("within 1y2m", "'within 1y2m' is refused: a time such as"),
        ("7d 24h 14D", "'14d' is the second rule of its kind: one is wanted"),
        ("*d 7d", "'7d' is the second rule of its kind"),
        ("latest 2 latest 2", "'latest 2' is the second rule of its kind"),
        ("within 7d within 8d", "'within 8d' is the second rule of its kind"),
        ("* 7d", "'*' keeps all: no other rule can stand beside it"),
        ("* *", "'*' keeps all: no other rule can stand beside it"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"\A.") as caught:
        parse(text)
    assert said in str(caught.value)


def test_no_policy_keeps_nothing() -> None:
    """Not only no text: nobody can make the value, and a minimum alone is no rule."""
    for empty in (
        {},
        {"rules": tuple(Rule(unit=unit, count=0) for unit in Unit)},
        {"within": Span(count=0, unit=Unit.DAY)},
        {"minimum": Span(count=1, unit=Unit.DAY), "requires": ("offsite",)},
    ):
        with pytest.raises(ValueError, match="no rule keeps anything"):
            Policy(**empty)


@pytest.mark.parametrize(
    ("text", "span", "words"),
    [
        ("24h", Span(count=24, unit=Unit.HOUR), "24 h"),
        ("1 H", Span(count=1, unit=Unit.HOUR), "1 h"),
        ("7D", Span(count=7, unit=Unit.DAY), "7 days"),
        ("1w", Span(count=1, unit=Unit.WEEK), "1 week"),
        ("12m", Span(count=12, unit=Unit.MONTH), "12 months"),
    ],
)
def test_minimum(text: str, span: Span, words: str) -> None:
    assert parse_minimum(text) == span
    assert span.words == words
    assert parse_minimum(str(span)) == span


def test_no_minimum() -> None:
    assert [parse_minimum(text) for text in ("0", "0h", " 00 d ")] == [None] * 3
    for bad in ("", "7", "7d 4w", "*", "*d", "7s", "-7d", "10000d", "latest 3"):
        with pytest.raises(ValueError, match="wanted"):
            parse_minimum(bad)


def test_required_tags() -> None:
    assert parse_requires("") == ()
    assert parse_requires(" offsite, Tape-2;offsite\tzrepl:done@x ") == (
        "offsite",
        "Tape-2",
        "zrepl:done@x",
    )
    for bad in ("-n", ".x", "a/b", "a'b", "a$b", "ä", "a\n", "x" * 65):
        with pytest.raises(ValueError, match="is no tag: at most 64 letters"):
            parse_tag(bad)
    with pytest.raises(ValueError, match="'-n' is no tag"):
        parse_requires("offsite -n")


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("latest 9", 0),
        ("*", 0),
        ("48h", 2),
        ("24h 4w 3d", 28),
        ("12m", 372),
        ("within 3y 7d", 1098),
    ],
)
def test_how_far_the_longest_rule_reaches(text: str, days: int) -> None:
    assert parse(text).longest == timedelta(days=days)


def test_a_rule_without_end_has_no_length() -> None:
    assert parse("*y 7d").longest == timedelta(days=7)
    minimum = Span(count=2, unit=Unit.WEEK)
    assert Policy(latest=1, minimum=minimum).longest == timedelta(days=14)


_numbers = st.integers(0, MOST)


@given(
    latest=_numbers, counts=st.tuples(*[_numbers] * 5), within=_numbers, unit=st.sampled_from(Unit)
)
def test_a_policy_is_its_text(
    latest: int, counts: tuple[int, ...], within: int, unit: Unit
) -> None:
    policy = Policy(
        latest=latest or 1,
        rules=tuple(
            Rule(unit=each, count=count if count < MOST else None)
            for each, count in zip(Unit, counts, strict=True)
            if count
        ),
        within=Span(count=within, unit=unit) if within else None,
    )
    assert parse(str(policy)) == policy
    assert parse(str(policy).upper().replace(" ", " ,\t")) == policy


@given(text=st.text("latestwhin *0123456789hdwmy,-") | st.text())
def test_a_text_is_understood_or_refused_with_a_sentence(text: str) -> None:
    for read in (parse, parse_minimum):
        try:
            found = str(read(text))
        except ValueError as exc:
            said = str(exc)
        else:
            said = "it is understood, and wanted"
            assert found == "None" or read(found) == read(text)
        assert "wanted" in said or "keeps" in said
