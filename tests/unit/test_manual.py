"""The manual tells of every problem and every option that the code knows, and of no others."""

import re
from pathlib import Path

import pytest

from samba_rvss.errors import Problem
from samba_rvss.samba.options import OPTIONS

MAN = Path(__file__).parents[2] / "packaging" / "man"


@pytest.fixture(scope="module")
def manual() -> str:
    return (MAN / "samba-rvss.8").read_text()


def test_problems(manual: str) -> None:
    told = re.findall(r"^\.It (\d+) Pq Dv (\w+)$", manual, re.MULTILINE)
    assert told == [(str(problem.value), problem.name) for problem in sorted(Problem)]


def test_options_and_defaults(manual: str) -> None:
    told = dict(re.findall(r"^\.It Cm rvss:(.+?) No = (.+)$", manual, re.MULTILINE))
    assert told == {name: option.default for name, option in OPTIONS.items()}


def test_where_options_belong(manual: str) -> None:
    """The first list is of [global] only, the second of what a share may have too."""
    first, second = manual.index("In [global] only"), manual.index("or in a share:")
    for name, option in OPTIONS.items():
        place = manual.index(f".It Cm rvss:{name} No = ")
        assert first < place, name
        assert option.per_share == (place > second), name


def test_options_that_the_text_mentions_exist(manual: str) -> None:
    mentioned = {name.strip() for name in re.findall(r"rvss:([a-z ]+)", manual)}
    assert mentioned == set(OPTIONS)


def test_hook_manual_has_its_verbs_and_option() -> None:
    text = (MAN / "samba-rvss-hook.8").read_text()
    for word in ("Cm check", "Cm create", "Cm delete", "Fl S"):
        assert f".{word}" in text or f"It {word}" in text, word
