"""What zfs(8) prints, as OpenZFS 2.3.9 does, and what we make of it."""

from pathlib import Path

import pytest

from samba_rvss.errors import Problem
from samba_rvss.providers.zfs.command import Command, problem, rows

SAID = {
    "cannot create snapshots : out of space": Problem.NO_SPACE,
    "cannot set property for 'tank/busy': pool is read-only": Problem.READ_ONLY,
    "cannot open 'tank/v': pool I/O is currently suspended": Problem.SYSTEM,
    "cannot mount '/t/v': encryption key not loaded": Problem.BUSY,
    "cannot destroy snapshot tank/read-only@x: dataset is busy": Problem.BUSY,
    "cannot destroy snapshot tank/v@x: it's being held. Run 'zfs holds -r tank/v@x' to see"
    " holders.": Problem.BUSY,
    "cannot destroy 'tank/v@x': snapshot has dependent clones use '-R' to destroy the following"
    " datasets: tank/theirs": Problem.BUSY,
    "cannot open 'tank/no such pool': dataset does not exist usage: snapshot [-r] busy":
        Problem.NOT_FOUND,
    "cannot create 'tank/n': name is too long": Problem.NOT_SUPPORTED,
    "cannot set property for 'tank/v': property value too long": Problem.NOT_SUPPORTED,
    "cannot do this with 'tank/held read-only full': something new": Problem.SYSTEM,
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_message_is_told_by_its_phrase(said: str) -> None:
    """Not by a word: that could be a dataset's name."""
    assert problem(said).problem is SAID[said]
    assert "usage" not in problem(said).message


def test_table() -> None:
    assert rows("", 1) == []
    assert rows("one\ntwo words\n", 1) == [["one"], ["two words"]]
    assert rows("a\tb\nc\t-\n", 2) == [["a", "b"], ["c", "-"]]


def test_last_field_of_a_table_is_any_text() -> None:
    out = "a\tyes\t/mnt/tab\tand\nline\n\nbreaks\rin it\nb\tno\t/mnt/b\n"
    assert rows(out, 3) == [
        ["a", "yes", "/mnt/tab\tand\nline\n\nbreaks\rin it"],
        ["b", "no", "/mnt/b"],
    ]


def test_more_names_than_a_program_can_be_given(tmp_path: Path) -> None:
    program = tmp_path / "zfs"
    program.write_text('#!/bin/sh\nshift 2\nprintf "%s\\theld\\n" "$@"\n')
    program.chmod(0o755)
    zfs = Command(search=f"{tmp_path}:/usr/bin:/bin")
    names = [f"{'n' * 240}@{number}" for number in range(12_000)]  # ARG_MAX is 2 MiB
    assert zfs.about(names, "holds", "-H", columns=2) == [[name, "held"] for name in names]
    assert zfs.about([], "holds", "-H", columns=2) == []
