"""A verb's module is loaded when the verb is given; what is said of all of them stays as it is."""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest

import samba_rvss
from samba_rvss import cli
from samba_rvss.cli import backup
from samba_rvss.errors import RvssError

ROOT = Path(samba_rvss.__file__).parents[1]
ALL = [verb for verbs in cli.VERBS.values() for verb in verbs]
OF_BACKUP = [verb for verbs in backup.VERBS.values() for verb in verbs]


def verbs_of(parser: argparse.ArgumentParser, *words: str) -> list[str]:
    """Return the verbs that a parser has, or those of its verb ``words``."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return verbs_of(action.choices[words[0]], *words[1:]) if words else list(action.choices)


@pytest.mark.parametrize("modules", [cli.VERBS, backup.VERBS])
def test_each_module_adds_the_verbs_of_its_line(modules: Mapping[str, Sequence[str]]) -> None:
    for module, verbs in modules.items():
        parser = argparse.ArgumentParser()
        import_module(f"samba_rvss.cli.{module}").register(parser.add_subparsers())
        assert verbs_of(parser) == list(verbs)


@pytest.mark.parametrize(
    ("argv", "verbs"),
    [
        (["list"], ["list", "show"]),
        (["-s", "file", "show", "x"], ["list", "show"]),
        (["-sfile", "delete", "--", "list"], ["delete"]),
        (["--configfile=list", "prune", "--help"], ["prune"]),
        (["--config", "list", "prune"], ["prune"]),
        (["backup", "list", "--json"], ["backup"]),
        (["notify", "-s", "list"], ["notify"]),
    ],
)
def test_only_the_verb_that_is_given(argv: Sequence[str], verbs: Sequence[str]) -> None:
    assert verbs_of(cli.parser(argv)) == verbs


@pytest.mark.parametrize(
    "argv",
    [
        *([], ["-s"], ["-s", "list"], ["--help"], ["--help", "list"], ["--version", "list"]),
        *(["lst"], ["lst", "list"], ["--json", "list"], ["--", "list"], ["LIST"], ["kept"], [""]),
    ],
)
def test_all_where_none_is_surely_given(argv: Sequence[str]) -> None:
    assert verbs_of(cli.parser(argv)) == ALL


@pytest.mark.parametrize(
    ("argv", "verbs"),
    [
        (["backup", "list", "--json"], ["list", "show"]),
        (["-s", "file", "backup", "umount", "x"], ["exec", "mount", "umount"]),
        *((["backup", *words], OF_BACKUP) for words in ([], ["--help"], ["lst"], ["-h", "list"])),
    ],
)
def test_the_verbs_of_backup(argv: Sequence[str], verbs: Sequence[str]) -> None:
    assert verbs_of(cli.parser(argv), "backup") == verbs


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["lst"], "'samba-rvss list' may be meant"),
        (["backup", "lst"], "'samba-rvss backup list' may be meant"),
    ],
)
def test_a_wrong_verb_is_told_among_all(argv: list[str], hint: str) -> None:
    with pytest.raises(RvssError) as caught:
        cli.parser(argv).parse_args(argv)
    assert "lst" in caught.value.line()
    assert hint in caught.value.line()


@pytest.mark.parametrize(
    ("verb", "other"),
    [("delete", "asyncio"), ("keep", "samba_rvss.cli.kept"), ("list", "samba_rvss.cli.restore")],
)
def test_others_are_not_loaded(verb: str, other: str) -> None:
    code = f"""
import sys
from samba_rvss import cli
cli.parser([{verb!r}])
print({other!r} in sys.modules)
"""
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
