"""What smbstatus says of connections."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.connections import Connection, look


def _tcon(share: str, machine: str, at: str) -> dict[str, str]:
    return {"service": share, "machine": machine, "connected_at": f"2026-11-27T02:57:{at}+00:00"}


def test_the_oldest_of_each_share(says: Callable[[str], None]) -> None:
    tcons = [_tcon("VMs", "b", "19.329552"), _tcon("vms", "a", "17.5"), _tcon("IPC$", "c", "18")]
    says(json.dumps({"tcons": dict(enumerate(tcons))}))
    found = look("smb.conf")
    since = datetime(2026, 11, 27, 2, 57, 17, 500000, UTC)
    assert found["vms"] == Connection(machine="a", since=since)
    assert found.keys() == {"vms", "ipc$"}


def test_a_time_without_its_zone_is_this_machines(says: Callable[[str], None]) -> None:
    """It can be compared with others, whatever it is."""
    tcon = {"service": "vms", "machine": "a", "connected_at": "2026-11-27T02:57:17"}
    says(json.dumps({"tcons": {"1": tcon}}))
    (found,) = look("smb.conf").values()
    assert found.since == datetime(2026, 11, 27, 2, 57, 17).astimezone(UTC)


@pytest.mark.parametrize("text", ["", "[]", '{"tcons": {"1": {"service": "x"}}}', '{"tcons": 5}'])
def test_what_is_not_understood(says: Callable[[str], None], text: str) -> None:
    says(text)
    with pytest.raises(RvssError, match="not understood") as caught:
        look("smb.conf")
    assert caught.value.problem is Problem.SAMBA
