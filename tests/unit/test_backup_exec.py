"""What the words of ``samba-rvss backup exec`` mean."""

from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss import cli
from samba_rvss.cli import reading
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase
from tests.unit.values import copy_of


@pytest.mark.parametrize(
    ("words", "tag", "command"),
    [
        (["ID", "--", "git", "log", "--", "file"], "", ["git", "log", "--", "file"]),
        (["ID", "--tag", "offsite", "--", "tar", "--tag", "x"], "offsite", ["tar", "--tag", "x"]),
        (["--tag", "offsite", "ID", "--", "-h"], "offsite", ["-h"]),
        (["ID", "--"], "", []),
        (["ID"], "", []),
    ],
)
def test_what_stands_after_two_hyphens_is_the_programs(
    words: list[str], tag: str, command: list[str]
) -> None:
    found = cli.parser().parse_args(["-s", "file", "backup", "exec", *words])
    assert (found.copy, found.tag, found.command) == ("ID", tag, command)


def test_without_a_program_nothing_is_done() -> None:
    found = cli.parser().parse_args(["-s", "/no/such", "backup", "exec", "ID", "--"])
    with pytest.raises(RvssError) as refused:
        reading.run_exec(found)
    assert refused.value.problem is Problem.USAGE


def test_only_a_backup_can_be_read(tmp_path: Path) -> None:
    ledger = Ledger(f"{tmp_path}/ledger.db")
    phases = (Phase.KEPT, Phase.KEPT, Phase.SEALED, Phase.GONE)
    for name, phase in zip("abcd", phases, strict=True):
        copy = replace(copy_of(name, phase), set_id="set" if name != "c" else "other")
        ledger.add(copy, "create")
    for word in ("a", "b", "set"):
        assert [copy.id for copy in reading.parts_of(ledger, word)] == ["a", "b"]
    for word, said in (
        ("c", "is a shadow copy, and no backup"),
        ("d", "is no backup"),
        ("x", "no"),
    ):
        with pytest.raises(RvssError, match=said) as refused:
            reading.parts_of(ledger, word)
        assert refused.value.problem is Problem.NOT_FOUND
    ledger.close()
