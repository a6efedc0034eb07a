"""The manual tells of every problem and every option that the code knows, and of no others."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from samba_rvss import cli
from samba_rvss.cli import doctor, reconcile, status
from samba_rvss.cli.doctor.finding import CHECKS
from samba_rvss.errors import Problem
from samba_rvss.samba.options import OPTIONS
from samba_rvss.testing import plugin

MAN = Path(__file__).parents[2] / "packaging" / "man"


@pytest.fixture(scope="module")
def manual() -> str:
    return (MAN / "samba-rvss.8").read_text()


def test_problems(manual: str) -> None:
    told = re.findall(r"^\.It (\d+) Pq Dv (\w+)$", manual, re.MULTILINE)
    assert told == [(str(problem.value), problem.name) for problem in sorted(Problem)]


def test_options_and_defaults(manual: str) -> None:
    told = dict(re.findall(r"^\.It Cm rvss:(.+?) No =(?: (.+))?$", manual, re.MULTILINE))
    assert told == {name: option.default for name, option in OPTIONS.items()}


def test_where_options_belong(manual: str) -> None:
    """The first list is of [global] only, the second of what a share may have too."""
    first, second = manual.index("In [global] only"), manual.index("or in a share:")
    for name, option in OPTIONS.items():
        place = manual.index(f".It Cm rvss:{name} No =")
        assert first < place, name
        assert option.per_share == (place > second), name


def test_options_that_the_text_mentions_exist(manual: str) -> None:
    mentioned = {name.strip() for name in re.findall(r"rvss:([a-z ]+)", manual)}
    assert mentioned == set(OPTIONS)


def _verbs() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs."""
    top = cli.parser()
    (action,) = [one for one in top._actions if isinstance(one, argparse._SubParsersAction)]
    found: dict[str, argparse.ArgumentParser] = {}
    for verb, parser in action.choices.items():
        inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
        deeper = {f"{verb} {name}": each for one in inner for name, each in one.choices.items()}
        found |= deeper or {verb: parser}
    return found


def _commands(manual: str) -> dict[str, set[str]]:
    """Return the options of each command in the manual's list of them."""
    section = manual[manual.index("The commands are as follows:") :]
    section = section[: section.index("\n.El\n")]
    lines = re.findall(r"^\.It Cm ([a-z]+(?: [a-z]+)?)\b(.*)$", section, re.MULTILINE)
    return {verb: set(re.findall(r"Fl (\S+)", rest)) for verb, rest in lines}


def test_commands_and_their_options(manual: str) -> None:
    known = {}
    for verb, parser in _verbs().items():
        words = [word for action in parser._actions for word in action.option_strings]
        known[verb] = {word.removeprefix("-") for word in words} - {"h", "-help"}
    told = _commands(manual)
    told["daemon"] |= {"d", "-debug"}  # for who looks for a defect; --help has them
    assert told == known


def test_exit_statuses_of_single_commands(manual: str) -> None:
    told = set(re.findall(r"^\.It Cm (\w+) No (\d+)$", manual, re.MULTILINE))
    statuses = {
        "status": (0, status.UNHEALTHY),
        "doctor": (0, doctor.ERRORS, doctor.WARNINGS),
        "reconcile": (0, reconcile.FAILED, reconcile.LEFT),
    }
    assert told == {(verb, str(one)) for verb, known in statuses.items() for one in known}


def test_checks_of_doctor(manual: str) -> None:
    section = manual[manual.index(".Ss What doctor checks") :]
    section = section[: section.index("\n.Ss ", 1)]
    told = re.findall(r"^\.It Cm (\S+) Pq (.+)$", section, re.MULTILINE)
    assert told == [(name, check.severity.value) for name, check in CHECKS.items()]


def test_hook_manual_has_its_verbs_and_option() -> None:
    text = (MAN / "samba-rvss-hook.8").read_text()
    for word in ("Cm check", "Cm create", "Cm delete", "Fl S"):
        assert f".{word}" in text or f"It {word}" in text, word


def test_the_rigs_are_in_their_manual() -> None:
    text = (MAN / "samba-rvss-testing.7").read_text()
    assert set(re.findall(r"^\.It Va (\w+)$", text, re.MULTILINE)) == plugin.RIGS
    assert plugin.LEFTOVERS in text
    assert plugin.REQUIRE in text
