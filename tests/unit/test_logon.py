"""Who logs on, as python-samba has it."""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("samba.credentials", reason="needs python3-samba")

from samba.credentials import DONT_USE_KERBEROS, MUST_USE_KERBEROS, Credentials

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import authentication
from samba_rvss.samba.credentials import credentials, load_parm, ticket
from samba_rvss.samba.logon import Logon


def test_ntlm_unless_kerberos_is_wanted() -> None:
    logon = Logon(user="operator", password="secret")
    lp = load_parm(logon)
    made = credentials(logon, lp)
    assert (made.get_username(), made.get_domain(), made.get_password()) == (
        "operator",
        "WORKGROUP",
        "secret",
    )
    assert made.get_kerberos_state() == DONT_USE_KERBEROS
    assert lp.get("client use kerberos") == "no"  # as it shows "disabled"
    assert not made.is_anonymous()


_TEXT = st.text(" \t=%a\u00e9\u2028\x0b\x85\r;#", max_size=6)
_LINES = st.lists(
    st.tuples(st.sampled_from(["password", "Pass word", " PASSWORD\t", "domain", "other"]), _TEXT)
)


@given(lines=_LINES, end=st.sampled_from(["\n", "\r\n"]))
def test_a_file_is_read_as_samba_reads_it(lines: list[tuple[str, str]], end: str) -> None:
    """Above all a password, of which each character counts."""
    text = end.join(f"{name}={value}" for name, value in [*lines, ("username", "operator")])
    with NamedTemporaryFile("wb") as file:
        file.write(f"{text}{end}".encode())
        file.flush()
        found = authentication.from_file(file.name)
        theirs = Credentials()
        theirs.parse_file(file.name)
    assert found.password == (theirs.get_password() or "")
    assert found.user == theirs.get_username()


def test_nobody() -> None:
    logon = Logon()
    made = credentials(logon, load_parm(logon))
    assert made.is_anonymous()
    assert made.get_kerberos_state() == DONT_USE_KERBEROS


def test_kerberos_with_a_password() -> None:
    logon = Logon(user="host$", password="secret", domain="EXAMPLE.COM", use_kerberos=True)
    lp = load_parm(logon)
    made = credentials(logon, lp)
    assert made.get_kerberos_state() == MUST_USE_KERBEROS
    assert made.get_realm() == "EXAMPLE.COM"
    assert lp.get("client use kerberos") == "yes"  # as it shows "required"


def test_kerberos_without_a_ticket(tmp_path: Path) -> None:
    logon = Logon(use_kerberos=True, ccache=f"FILE:{tmp_path / 'ccache'}")
    with pytest.raises(RvssError, match=r"there is no ticket in FILE:.*ccache") as caught:
        credentials(logon, load_parm(logon))
    assert caught.value.problem is Problem.NOT_FOUND
    assert logon.who == f"the owner of {logon.ccache}"


def test_a_ticket_that_nobody_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = tmp_path / "krb5.conf"
    nobody.write_text("[libdefaults]\n dns_lookup_kdc = false\n dns_lookup_realm = false\n")
    monkeypatch.setenv("KRB5_CONFIG", str(nobody))
    monkeypatch.setenv("KRB5CCNAME", "FILE:mine")
    logon = Logon(user="host$", password="secret", domain="EXAMPLE.COM", use_kerberos=True)
    with pytest.raises(RvssError, match=r"kinit for host\$@EXAMPLE.COM failed"):
        ticket(logon, load_parm(logon)).__enter__()
    assert os.environ["KRB5CCNAME"] == "FILE:mine"


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Logon(user="operator", password="secret"))
