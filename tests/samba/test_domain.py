"""A member of a domain, as in production: Kerberos and NTLM, signed and sealed."""

import json
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Context
from samba_rvss.samba.fsrvp.copyset import take
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult

if TYPE_CHECKING:
    from samba_rvss.testing.domain import Domain


@pytest.mark.parametrize("protocol", ["kerberos", "ntlm"])
@pytest.mark.parametrize("options", [(), ("sign",), ("seal",)], ids=lambda words: "".join(words))
def test_members_of_a_domain_group(
    domain: "Domain", options: tuple[str, ...], protocol: str
) -> None:
    from samba_rvss.testing.domain import HV1, SERVICE, SHARE

    for account in (HV1, SERVICE):
        with domain.client(account, options=options, kerberos=protocol == "kerberos") as client:
            taken = take(client, [SHARE], Context.AUTO_RECOVERY)
            taken.complete()
            taken.delete()
    assert not json.loads(domain.files.run("samba-rvss", "list", "--json"))["copies"]


def test_others_are_refused(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN, SHARE

    with domain.client(ANN) as client, pytest.raises(FsrvpError) as caught:
        take(client, [SHARE])
    assert caught.value.hresult == HResult.E_ACCESSDENIED
