"""What accounts are called: whom that is asked of, and for how long."""

import pwd

import pytest

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
