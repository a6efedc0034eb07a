"""The FSRVP client and a real Samba: what a connection can be, here and in another process."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.fsrvp.copyset import CopySet, Stage
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.plugin import require
from samba_rvss.testing.smbd import PrivateSmbd, plain_share

if TYPE_CHECKING:
    from samba_rvss.samba.logon import Logon
    from samba_rvss.testing.users import BackupOperator


@pytest.fixture
def server(
    samba_rig: Callable[..., PrivateSmbd],
    backup_operator: Callable[[PrivateSmbd], "BackupOperator"],
) -> "tuple[str, Logon]":
    """Address of a Samba, and who may use it."""
    require("root")
    samba = samba_rig()
    operator = backup_operator(samba)
    samba.set_share("vms", plain_share("vms", "/srv"))
    samba.start()
    return samba.address, operator.logon


@pytest.mark.vm(seconds=10, options=(("sign",), ("seal",)))
@pytest.mark.parametrize("options", [(), ("sign",), ("seal",)], ids=lambda words: "".join(words))
def test_connections_of_every_kind(server: "tuple[str, Logon]", options: tuple[str, ...]) -> None:
    """Signed and sealed ones end python-samba's process, unless they are bound the right way."""
    from samba_rvss.testing.remote import Remote

    with Remote(*server, options=options) as client:
        assert client.get_supported_version() == (1, 1)
        begun = CopySet(client)
        begun.start()
        with pytest.raises(FsrvpError) as caught:
            begun.add("nothing")
        assert caught.value.hresult == HResult.E_INVALIDARG
        assert begun.stage is Stage.ABORTED


def test_a_wrong_password(server: "tuple[str, Logon]") -> None:
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.samba.logon import Logon

    address, logon = server
    with pytest.raises(RvssError, match="NT_STATUS_LOGON_FAILURE") as caught:
        Client(address, Logon(user=logon.user, password="wrong"))
    assert caught.value.problem is Problem.SAMBA
    assert logon.password not in repr(logon)
