"""A member of a domain, as in production: who logs on how, and what its administrator sees."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.model import Context
from samba_rvss.run import ToolError
from samba_rvss.samba.fsrvp.copyset import take
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.samba.names import names
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.domain import Domain
    from samba_rvss.testing.remote import Remote

_NO_SUCH_USER = 299_999  # in the domain's range, but nobody's


def _json(domain: "Domain", *words: str) -> Any:
    return json.loads(domain.files.run("samba-rvss", *words, "--json"))


def _take(client: "Remote") -> str:
    """Take a shadow copy and write to it; delete it, and return Samba's id of it."""
    from samba_rvss.testing.domain import DATA, SHARE

    taken = take(client, [SHARE], Context.AUTO_RECOVERY)
    client.hold(taken.exposed_shares[0], DATA)
    taken.complete()
    taken.delete()
    return str(taken.copies[SHARE])


@pytest.mark.vm(seconds=150, long=True, binding="seal", how="ticket")
@pytest.mark.parametrize(
    ("binding", "how"),
    [
        *(("", "password"), ("connect", "password"), ("packet", "password")),
        *(("sign", "password"), ("sign", "ticket"), ("sign", "ntlm")),
        *(("seal", "password"), ("seal", "ticket"), ("seal", "ntlm")),
    ],
)
def test_a_computer_and_a_service_account(domain: "Domain", binding: str, how: str) -> None:
    from samba_rvss.testing.domain import HV1, SERVICE

    account = SERVICE if how == "ntlm" else HV1
    logon = domain.ticket(account) if how == "ticket" else account.logon(kerberos=how != "ntlm")
    with domain.client(logon, options=[binding] if binding else []) as client:
        _take(client)
    wait_until("nothing is left", lambda: _json(domain, "list")["copies"] == [])


def test_others_are_refused(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN, SHARE

    with domain.client(ANN) as client, pytest.raises(FsrvpError) as caught:
        take(client, [SHARE])
    assert caught.value.hresult == HResult.E_ACCESSDENIED


def test_rpcclient_with_a_ticket(domain: "Domain") -> None:
    from samba_rvss.testing.domain import HV1, SERVER, SHARE

    ccache = domain.ticket(HV1).ccache
    for binding in ("sign", "seal"):

        def rpcclient(command: str, binding: str = binding) -> str:
            return domain.hv1.run(
                "rpcclient",
                "--configfile=/dev/null",
                "--use-kerberos=required",
                f"--use-krb5-ccache={ccache}",
                f"ncacn_np:{SERVER}[{binding}]",
                "-c",
                command,
                env={"KRB5CCNAME": ccache},
            )

        made = rpcclient(f"fss_create_expose backup rw {SHARE}")
        found = re.search(r"^(\S{36})\((\S{36})\): .* shadow-copy added", made, re.MULTILINE)
        assert found, made
        copy_set, copy = found.groups()
        assert f"share {SHARE}@{{{copy}}} exposed" in made
        rpcclient(f"fss_recovery_complete {copy_set}")
        rpcclient(f"fss_delete {SHARE} {copy_set} {copy}")
    wait_until("nothing is left", lambda: _json(domain, "list")["copies"] == [])


def test_doctor_with_a_ticket(domain: "Domain") -> None:
    """As clients do, it calls the server by its NetBIOS name."""
    from samba_rvss.testing.domain import HV1, REALM, SHARE

    ccache = "FILE:/tmp/hv1.ccache"
    domain.files.run("kinit", "-k", "-t", HV1.keytab, "-c", ccache, f"{HV1.name}@{REALM}")
    words = ["samba-rvss", "doctor", "--json", "--probe", "--use-krb5-ccache"]
    statuses = frozenset({0, 1, 3})
    found = json.loads(domain.files.run(*words, ccache, SHARE, allow=statuses))["findings"]
    (probed,) = [finding for finding in found if finding["check"] == "probe"]
    assert probed["severity"] == "good", probed
    assert f"the owner of {ccache} took a shadow copy through Samba" in probed["what"]
    none = "FILE:/tmp/none"
    found = json.loads(domain.files.run(*words, none, SHARE, allow=statuses))["findings"]
    (probed,) = [finding for finding in found if finding["check"] == "probe"]
    assert f"there is no ticket in {none}" in probed["what"]
    assert _json(domain, "list")["copies"] == []


def _user(domain: "Domain", copy: str) -> tuple[int, str]:
    """Return who took a shadow copy, as the command says at once."""
    return next(
        (event["uid"], event["user"])
        for event in _json(domain, "events", copy)["events"]
        if event["what"] == "taken"
    )


@contextmanager
def _standing_still(domain: "Domain", program: str) -> Iterator[None]:
    pids = " ".join(map(str, domain.files.pids(program)))
    domain.files.run("sh", "-c", f"kill -STOP {pids}")
    try:
        yield
    finally:
        domain.files.run("sh", "-c", f"kill -CONT {pids}")


def test_events_call_an_account_by_its_name(domain: "Domain") -> None:
    from samba_rvss.testing.domain import DOMAIN, HV1

    with domain.client(HV1) as client:
        copy = _take(client)
    uid, name = _user(domain, copy)
    assert name.lower() == HV1.full.lower()
    assert name.startswith(f"{DOMAIN}\\")
    # Where winbindd does not answer, the command does all the same, and so does the daemon.
    with _standing_still(domain, "winbindd"):
        assert _user(domain, copy) == (uid, "")
        domain.files.run("samba-rvss", "reconcile")
    assert _user(domain, copy) == (uid, name)
    # What has no name any more has a SID.
    found = domain.files.call(names, [0, uid, _NO_SUCH_USER], 60.0)
    sid = found.pop(_NO_SUCH_USER)
    assert re.fullmatch(r"S-1-5-21-\d+-\d+-\d+-99999", sid)
    assert found == {0: "root", uid: name}


def test_a_managed_backup_by_the_account_of_the_machine(domain: "Domain") -> None:
    """The file server takes it of itself, with a ticket that its own secrets get it."""
    from samba_rvss.testing.domain import DOMAIN, SHARE

    member = ("BUILTIN\\Backup Operators", f"{DOMAIN}\\FILES$")
    section = f"[nightly]\n    shares = {SHARE}\n    machine account = yes\n"
    domain.files.write("/etc/samba/rvss-backup.conf", section)
    with pytest.raises(ToolError, match="E_ACCESSDENIED"):
        _json(domain, "backup", "run", "nightly")
    domain.files.run("net", "sam", "addmem", *member)
    try:
        made = _json(domain, "backup", "run", "nightly")
        assert (made["consistency"], made["problems"]) == ("crash", [])
        (backup,) = _json(domain, "backup", "list")["backups"]
        assert (backup["id"], backup["run"]["name"]) == (made["id"], "nightly")
        domain.files.run("samba-rvss", "delete", made["id"])
    finally:
        domain.files.run("net", "sam", "delmem", *member)
        domain.files.path("/etc/samba/rvss-backup.conf").unlink()
