"""The FSRVP client and a real Samba: what a connection can be, here and in another process."""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.fsrvp.copyset import CopySet, Stage
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.plugin import require
from samba_rvss.testing.smbd import PrivateSmbd, plain_share
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.samba.logon import Logon
    from samba_rvss.testing.users import BackupOperator


@pytest.fixture
def samba(samba_rig: Callable[..., PrivateSmbd]) -> PrivateSmbd:
    """A Samba with the share ``vms``."""
    require("root")
    samba = samba_rig()
    samba.set_share("vms", plain_share("vms", "/srv"))
    return samba


@pytest.fixture
def server(
    samba: PrivateSmbd, backup_operator: Callable[[PrivateSmbd], "BackupOperator"]
) -> "tuple[str, Logon]":
    """Address of a Samba, and who may use it."""
    operator = backup_operator(samba)
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


def _end_worker(samba: PrivateSmbd) -> None:
    for pid in samba.worker_pids():
        os.kill(pid, signal.SIGTERM)
    wait_until("it has ended", lambda: not samba.worker_pids())


def test_who_is_cut_off_at_the_beginning_comes_again(
    samba: PrivateSmbd, server: "tuple[str, Logon]"
) -> None:
    """Who ends an idle rpcd_fsrvp cuts off the client that has just been given to it."""
    from samba_rvss.samba.fsrvp.client import Client

    with Client(*server) as client:
        _end_worker(samba)
        assert client.get_supported_version() == (1, 1)
        _end_worker(samba)
        assert client.get_supported_version() == (1, 1)
        CopySet(client).start()
        _end_worker(samba)
        for _ in range(2):
            with pytest.raises(RvssError, match="did not answer GetSupportedVersion") as caught:
                client.get_supported_version()
            assert caught.value.problem is Problem.SAMBA
    with pytest.raises(RvssError, match="it has been closed"):
        client.get_supported_version()


def test_who_is_cut_off_and_cannot_come_again(
    samba: PrivateSmbd, server: "tuple[str, Logon]"
) -> None:
    """What is said is why he cannot connect; once he can, nothing has been lost."""
    from samba_rvss.samba.fsrvp.client import Client

    with Client(*server) as client:
        samba.stop()
        for _ in range(2):
            with pytest.raises(RvssError, match="cannot connect to the FSRVP service"):
                client.get_supported_version()
        samba.start()
        assert client.get_supported_version() == (1, 1)


def _sockets() -> set[str]:
    """The connections of this process."""
    links = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return {str(link.readlink()) for link in links if link.is_socket()}


@pytest.mark.parametrize("options", [(), ("sign",)], ids=["plain", "sign"])
def test_who_keeps_an_error_keeps_no_connection(
    samba: PrivateSmbd, server: "tuple[str, Logon]", options: tuple[str, ...]
) -> None:
    from samba_rvss.samba.fsrvp.client import Client

    before = _sockets()
    client = Client(*server, options=options)
    begun = CopySet(client)
    begun.start()
    assert _sockets() > before
    _end_worker(samba)
    with pytest.raises(RvssError, match="did not answer AddToShadowCopySet") as kept:
        begun.add("vms")
    client.close()
    assert _sockets() == before
    assert begun.calls[-2].failure is kept.value


def test_a_connection_that_becomes_none_of_ours_is_closed(
    server: "tuple[str, Logon]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from samba import NTSTATUSError, ntstatus

    from samba_rvss.samba.fsrvp import client

    before, while_there = _sockets(), []

    def refused(*_told: object, **_how: object) -> None:
        while_there.append(_sockets())
        raise NTSTATUSError(ntstatus.NT_STATUS_ACCESS_DENIED, "no")

    monkeypatch.setattr(client, "ClientConnection", refused)
    with pytest.raises(RvssError, match="NT_STATUS_ACCESS_DENIED") as kept:
        client.Client(*server, options=("sign",))
    assert while_there[0] > before
    assert _sockets() == before, kept


class _Made:
    request_timeout = 0


@pytest.mark.parametrize(
    ("cuts", "tries", "end"),
    [
        ((), 1, nullcontext()),
        (("DISCONNECTED", "RESET"), 3, nullcontext()),
        (("DISCONNECTED",) * 9, 4, pytest.raises(RvssError, match="NT_STATUS_CONNECTION_DISC")),
        (("INVALID",), 1, pytest.raises(RvssError, match="NT_STATUS_CONNECTION_INVALID")),
    ],
)
def test_who_is_cut_off_while_connecting_comes_again(
    monkeypatch: pytest.MonkeyPatch,
    cuts: tuple[str, ...],
    tries: int,
    end: AbstractContextManager[object],
) -> None:
    """samba-dcerpcd ends with its last worker, and takes along who has not yet said what he wants.

    Four times is enough, and another answer is one.
    """
    from samba import NTSTATUSError, ntstatus

    from samba_rvss.samba.fsrvp import client
    from samba_rvss.samba.logon import Logon

    left, tried = [getattr(ntstatus, f"NT_STATUS_CONNECTION_{name}") for name in cuts], []

    def connect(*told: object) -> _Made:
        tried.append(told)
        if left:
            raise NTSTATUSError(left.pop(0), "cut off")
        return _Made()

    monkeypatch.setattr(client, "_connect", connect)
    monkeypatch.setattr(client, "_PAUSES", (0.0,) * 3)
    with end:
        client.Client("there", Logon(user="somebody", password="secret")).close()
    assert len(tried) == tries
