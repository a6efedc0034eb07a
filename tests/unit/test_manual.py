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
from samba_rvss.samba import clocks, needs
from samba_rvss.samba.options import OPTIONS
from samba_rvss.testing import plugin
from samba_rvss.testing.example import readme_block
from tests.samba.microsoft import GAPS
from tests.samba.test_member_lines import LINES

MAN = Path(__file__).parents[2] / "packaging" / "man"


PAGES = {page.name: page.read_text() for page in sorted(MAN.iterdir())}


@pytest.fixture(scope="module")
def manual() -> str:
    return PAGES["samba-rvss.8"]


@pytest.fixture(scope="module")
def of_conf() -> str:
    return PAGES["samba-rvss.conf.5"]


def test_problems(manual: str) -> None:
    told = re.findall(r"^\.It (\d+) Pq Dv (\w+)$", manual, re.MULTILINE)
    assert told == [(str(problem.value), problem.name) for problem in sorted(Problem)]


def test_options_and_defaults(of_conf: str) -> None:
    told = dict(re.findall(r"^\.It Cm rvss:(.+?) No =(?: (.+))?$", of_conf, re.MULTILINE))
    assert told == {name: option.default for name, option in OPTIONS.items()}


def test_where_options_belong(of_conf: str) -> None:
    """The first list is of [global] only, the second of what a share may have too."""
    first, second = of_conf.index("In [global] only"), of_conf.index("or in a share:")
    for name, option in OPTIONS.items():
        place = of_conf.index(f".It Cm rvss:{name} No =")
        assert first < place, name
        assert option.per_share == (place > second), name


@pytest.mark.parametrize("page", PAGES)
def test_options_that_a_page_mentions_exist(page: str) -> None:
    mentioned = {name.strip() for name in re.findall(r"(?<![\w-])rvss:([a-z ]+)", PAGES[page])}
    assert mentioned - set(OPTIONS) == set()


def test_the_configuration_is_the_tested_one(of_conf: str) -> None:
    """Its first example is the README's, which tests run with, without the comments."""
    (example, *_) = re.findall(r"^\.Bd -literal.*\n(\[global\].*?)^\.Ed$", of_conf, re.M | re.S)
    tested = re.sub(r"^ +#.*\n", "", readme_block(), flags=re.MULTILINE)
    assert example == tested


def test_options_of_samba_that_doctor_judges(of_conf: str) -> None:
    told = re.findall(r"^\.It Cm (.+?)(?: No = .+)?$", of_conf, re.MULTILINE)
    of_samba = {name for line in told for name in line.split(" , ")}
    judged = {needs.WORKERS, needs.PRUNE_STALE, clocks.IDLE, clocks.SEQUENCE, "registry shares"}
    assert judged <= of_samba


def test_pages_refer_to_each_other() -> None:
    """To those that there are, by their sections; each is reached from samba-rvss(8)."""
    known = {f"{name} {section}" for name, section in (page.rsplit(".", 1) for page in PAGES)}
    referred = {
        page: set(re.findall(r"^\.Xr (samba-rvss\S*) (\d)", text, re.MULTILINE))
        for page, text in PAGES.items()
    }
    for page, found in referred.items():
        assert {" ".join(one) for one in found} <= known, page
    told = {" ".join(one) for one in referred["samba-rvss.8"]}
    assert told | {"samba-rvss 8"} == known


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


def test_what_samba_answers_otherwise() -> None:
    """Each gap that the cases of Microsoft's suite show, and no other."""
    text = PAGES["samba-rvss-limits.7"]
    told = re.findall(
        r"^\.It Cm (\w+) No answers Dv (\w+) , No not Dv (\w+) Pq Fn (\w+)$", text, re.M
    )
    assert told == [(gap.method, gap.got.name, gap.wanted.name, gap.function) for gap in GAPS]


def test_each_line_for_a_member_is_tried() -> None:
    """In the order in which an administrator writes them."""
    told = re.findall(r"^\.It Cm (.+)$", PAGES["samba-rvss-domain.7"], re.MULTILINE)
    markup = {r"\&": "", r"\e": "\\", r"\(dq": '"'}
    for escape, text in markup.items():
        told = [title.replace(escape, text) for title in told]
    assert told == LINES
