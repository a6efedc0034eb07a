"""What accounts are called: whom that is asked of, and for how long."""

import pwd
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samba_rvss import run
from samba_rvss.samba import names

_NOBODY = 4_000_000_001


def test_this_machines_own_are_asked_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "Child", None)
    mail = pwd.getpwnam("mail").pw_uid
    assert names.names([0, mail, 0]) == {0: "root", mail: "mail"}
    assert names.names([]) == {}


def test_whom_nobody_knows() -> None:
    assert names.names([0, _NOBODY], 60.0) == {0: "root"}


def test_there_is_an_end_to_it() -> None:
    assert names.names([0, _NOBODY], 0.0) == {0: "root"}


@pytest.fixture
def wbinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Have wbinfo do something."""
    monkeypatch.setattr(run, "_PATH", str(tmp_path))
    run.tool.cache_clear()

    def made(script: str) -> None:
        program = tmp_path / "wbinfo"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    yield made
    run.tool.cache_clear()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1104"),
        ("S-1-22-1-4000000001", ""),
        ("S-1-5-21-1\\n2", ""),
        ("S-1-5-21-\\033[2J", ""),
        (f"S-1-5-21-{'1' * 1000}", ""),
    ],
    ids=["domain", "unix", "lines", "terminal", "long"],
)
def test_only_a_sid_is_a_name(wbinfo: Callable[[str], None], said: str, name: str) -> None:
    wbinfo(f"printf '{said}\\n'")
    assert names.names([_NOBODY], 60.0) == ({_NOBODY: name} if name else {})


def test_many_are_asked_for_no_longer_than_one(wbinfo: Callable[[str], None]) -> None:
    """Where winbindd hangs each question would take its time."""
    wbinfo("exec /bin/sleep 3600")
    began = time.monotonic()
    assert names.names([0, *range(_NOBODY, _NOBODY + 500)], 1.0) == {0: "root"}
    assert time.monotonic() - began < 60.0  # one second each would be 500
