"""What is made of what zfs(8) says about the snapshots of several images."""

import errno
import json
from pathlib import Path

import pytest

from samba_rvss.errors import Problem
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.snapshots import Snapshots, take

POOL = Pool(guid="1", name="tank")
WANTED = {
    name: Snapshots(names=[f"tank/{name}@rvss-{name}"], mark=f"mark {name}") for name in "abc"
}

_PROGRAM = """#!/bin/sh
echo "$*" >> "{log}"
test "$1" = program || exit 0
cat > "{log}.program"
{answer}
"""


class _Zfs:
    """A zfs(8) that answers to a channel program as a test wants it, and succeeds in all else."""

    def __init__(self, directory: Path, answer: str) -> None:
        self._log = directory / "log"
        program = directory / "zfs"
        program.write_text(_PROGRAM.format(log=self._log, answer=answer))
        program.chmod(0o755)
        self.command = Command(search=f"{directory}:/usr/bin:/bin")

    @property
    def alone(self) -> set[str]:
        """Which images were taken alone."""
        lines = self._log.read_text().splitlines()
        return {line.rpartition("rvss-")[2] for line in lines if line.startswith("snapshot ")}

    @property
    def program(self) -> str:
        """The program that was run, with its arguments."""
        return self._log.with_name("log.program").read_text() + self._log.read_text()


def _answers(*codes: int) -> str:
    told = {str(place): code for place, code in enumerate(codes, 1)}
    return f"echo '{json.dumps({'return': told})}'"


def test_each_image_has_its_own_answer(tmp_path: Path) -> None:
    zfs = _Zfs(tmp_path, _answers(0, errno.ENOSPC, errno.ENOENT))
    failures = take(zfs.command, POOL, WANTED)
    problems = {name: failure.problem for name, failure in failures.items()}
    assert problems == {"b": Problem.NO_SPACE, "c": Problem.NOT_FOUND}
    assert zfs.alone == set()
    assert "1 mark a tank/a@rvss-a 1 mark b" in zfs.program
    assert "zfs.check.snapshot" in zfs.program


def test_what_would_be_of_the_same_group_is_taken_in_the_next(tmp_path: Path) -> None:
    zfs = _Zfs(tmp_path, _answers(0, errno.EAGAIN, 0))
    assert take(zfs.command, POOL, WANTED) == {}
    assert zfs.alone == {"b"}


@pytest.mark.parametrize(
    "said",
    [
        "Channel program execution failed: samba-rvss: not run",
        "Channel programs may only be run by root: Permission denied",
        "unrecognized command 'program'",
    ],
)
def test_a_program_that_was_not_run(tmp_path: Path, said: str) -> None:
    zfs = _Zfs(tmp_path, f'echo "{said}" >&2; exit 1')
    assert take(zfs.command, POOL, WANTED) == {}
    assert zfs.alone == set(WANTED)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    """Not even its arguments fit: the kernel takes no more than 2 MiB of them (ARG_MAX)."""
    zfs = _Zfs(tmp_path, _answers(0))
    many = {
        str(number): Snapshots(names=[f"tank/{number}@rvss-{number}"], mark="m" * 100_000)
        for number in range(30)
    }
    assert take(zfs.command, POOL, many) == {}
    assert zfs.alone == set(many)


def test_a_program_that_failed_half_way(tmp_path: Path) -> None:
    """What it made is there: nothing is taken again, and all are undone."""
    zfs = _Zfs(tmp_path, 'echo "Channel program execution failed: I/O error" >&2; exit 1')
    failures = take(zfs.command, POOL, WANTED)
    assert failures.keys() == WANTED.keys()
    assert zfs.alone == set()


def test_one_image_needs_no_program(tmp_path: Path) -> None:
    zfs = _Zfs(tmp_path, "exit 1")
    assert take(zfs.command, POOL, {"a": WANTED["a"]}) == {}
    assert zfs.alone == {"a"}
