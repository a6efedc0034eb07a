"""Clients that are not Samba's: whole sequences with impacket, in a domain."""

import json
from typing import TYPE_CHECKING

import pytest

from samba_rvss.testing.example import share_section
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.domain import Domain

pytestmark = pytest.mark.require("impacket")


def _assert_nothing_left(domain: "Domain") -> None:
    def listed() -> object:
        return json.loads(domain.files.run("samba-rvss", "list", "--json"))["copies"]

    wait_until("nothing is left", lambda: not listed())


@pytest.mark.parametrize(
    ("level", "protocol"),
    [("none", "kerberos"), ("none", "ntlm"), ("sign", "ntlm"), ("seal", "ntlm")],
)
def test_whole_sequences(domain: "Domain", level: str, protocol: str) -> None:
    from samba_rvss.testing.domain import DATA, HV1, SERVER, SHARE
    from tests.samba.impacket_fsrvp import sequence

    ccache = ""
    if protocol == "kerberos":
        ccache = domain.ticket(HV1).ccache.removeprefix("FILE:")
        # impacket 0.10 does not ask for one as this domain controller wants it.
        domain.hv1.run("kvno", "-c", ccache, f"cifs/{SERVER}")
    domain.hv1.call(sequence, HV1.name, level, SHARE, DATA, ccache)
    _assert_nothing_left(domain)


def test_authentication_that_protects_nothing(domain: "Domain") -> None:
    """Samba's "allow dcerpc auth level connect = no", its default (smb.conf(5))."""
    from samba_rvss.testing.domain import DATA, HV1, SHARE
    from tests.samba.impacket_fsrvp import sequence

    with pytest.raises(RuntimeError, match="rpc_s_access_denied"):
        domain.hv1.call(sequence, HV1.name, "connect", SHARE, DATA, "")
    _assert_nothing_left(domain)


def test_durable_handles(domain: "Domain") -> None:
    """One on the share lasts across a shadow copy; an exposed share grants none."""
    from samba_rvss.testing.domain import HV1, SHARE, SHARE_PATH
    from tests.samba.impacket_fsrvp import durable

    # Without these, Samba grants none to anybody (source3/smbd/durable.c).
    section = share_section(SHARE, str(SHARE_PATH))
    more = "    kernel share modes = no\n    posix locking = no\n"
    domain.configure(share=section + more)
    domain.files.run("smbcontrol", "smbd", "reload-config")
    try:
        domain.hv1.call(durable, HV1.name, SHARE, "disk")
    finally:
        domain.configure()
        domain.files.run("smbcontrol", "smbd", "reload-config")
    _assert_nothing_left(domain)
