"""Who logs on, as python-samba has it."""

import os
from pathlib import Path

import pytest

pytest.importorskip("samba.credentials", reason="needs python3-samba")

from samba.credentials import DONT_USE_KERBEROS, MUST_USE_KERBEROS

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.logon import Logon, credentials, load_parm, ticket


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
