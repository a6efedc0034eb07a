"""What is judged wrong after a power loss: a judge that sees nothing would pass everything."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.vm import invariants

A = "20240229T235900Z-0123abcd"
PATH = f"/run/samba-rvss/exposed/zfs/{A}"
SHARE = "zfs@{0F0E0D0C-0b0a-0908-0706-050403020100}"
FILES = {"name": "1", "data": "2", "recovered": "3"}
RECORD: list[dict[str, Any]] = [
    {"what": "creating", "name": "n", "persistent": True, "files": {"name": "1", "data": "2"}},
    {"what": "exposed", "name": "n"},
    {"what": "completing", "name": "n", "files": FILES},
    {"what": "sealed", "name": "n"},
    {"what": "creating", "name": "debris", "persistent": False, "files": {}},
    {"what": "exposed", "name": "debris"},
    {"what": "creating", "name": "old", "persistent": True, "files": {}},
    {"what": "deleted", "name": "old"},
]
SEEN: dict[str, Any] = {
    "copies": [
        {
            "id": A,
            "path": PATH,
            "phase": "sealed",
            "exposed_share": SHARE,
            "volume": {"provider": "zfs"},
        }
    ],
    "images": [{"id": A, "read_only": True}],
    "mounts": {PATH: {"read_only": True, "name": "n", "files": FILES}},
    "directories": [PATH],
    "shares": {SHARE: PATH},
    "descriptors": [SHARE.lower()],
    "served": {SHARE: {"files": FILES, "write": "NT_STATUS_MEDIA_WRITE_PROTECTED"}},
    "zfs": [f"tank/samba-rvss/{A}", f"tank/volume@rvss-{A}"],
    "holds": [f"tank/volume@rvss-{A} samba-rvss"],
    "btrfs": [],
    "units": {"samba-rvss.service": {"ActiveState": "active", "NRestarts": "0"}},
    "status": {"wrong": [], "reconcile": {"to_do": 0}},
    "pools": "all pools are healthy",
    "devices": [],
    "kernel": [],
}
Change = Callable[[dict[str, Any], list[dict[str, Any]]], object]


def _another(seen: dict[str, Any], name: str) -> None:
    """Let there be a second copy, whole by itself, that shows some content."""
    other, path, share = "20240301T000000Z-0123abce", PATH + "e", SHARE + "e"
    copy = {**seen["copies"][0], "id": other, "path": path, "exposed_share": share}
    seen["copies"].append({**copy, "volume": {"provider": "btrfs"}})
    seen["images"].append({"id": other, "read_only": True})
    seen["mounts"][path] = {"read_only": True, "name": name, "files": FILES}
    seen["directories"].append(path)
    seen["shares"][share] = path
    seen["descriptors"].append(share.lower())
    seen["served"][share] = seen["served"][SHARE]
    seen["btrfs"].append(other)


def _empty(seen: dict[str, Any]) -> None:
    for name in ("copies", "images", "directories", "descriptors", "zfs", "holds"):
        seen[name].clear()
    for name in ("mounts", "shares", "served"):
        seen[name].clear()


CHANGES: dict[str, Change] = {
    "image x belongs to nothing": lambda s, _: s["images"].append({"id": "x", "read_only": True}),
    "mount /x belongs to nothing": lambda s, _: s["mounts"].update({"/x": {}}),
    f"mount {PATH} is missing": lambda s, _: s["mounts"].clear(),
    "directory /x belongs to nothing": lambda s, _: s["directories"].append("/x"),
    "share x belongs to nothing": lambda s, _: s["shares"].update({"x": "/x"}),
    f"share {SHARE} is missing": lambda s, _: s["shares"].clear(),
    "descriptor x belongs to nothing": lambda s, _: s["descriptors"].append("x"),
    f"dataset tank/samba-rvss/{A} is missing": lambda s, _: s["zfs"].pop(0),
    "dataset tank/volume@rvss-x belongs": lambda s, _: s["zfs"].append("tank/volume@rvss-x"),
    "hold x belongs to nothing": lambda s, _: s["holds"].append("x"),
    f"hold tank/volume@rvss-{A} samba-rvss is missing": lambda s, _: s["holds"].clear(),
    "directory of btrfs x belongs": lambda s, _: s["btrfs"].append("x"),
    "samba-rvss.service is {": lambda s, _: s["units"]["samba-rvss.service"].update(NRestarts="1"),
    "status: no": lambda s, _: s["status"]["wrong"].append("no"),
    "status: 1 to do": lambda s, _: s["status"]["reconcile"].update(to_do=1),
    "zpool status: DEGRADED": lambda s, _: s.update(pools="DEGRADED"),
    "btrfs device stats: x 1": lambda s, _: s["devices"].append("x 1"),
    "the kernel: BTRFS": lambda s, _: s["kernel"].append("BTRFS"),
    "is not sealed": lambda s, _: s["copies"][0].update(phase="taken"),
    "its image is not read-only": lambda s, _: s["images"][0].update(read_only=False),
    "its mount is not read-only": lambda s, _: s["mounts"][PATH].update(read_only=False),
    "through its share came to success": lambda s, _: s["served"][SHARE].update(write="success"),
    "its share has {}": lambda s, _: s["served"][SHARE].update(files={}),
    "n (sealed) holds {}": lambda s, _: s["mounts"][PATH].update(files={}),
    "n was sealed, and is gone": lambda s, _: _empty(s),
    "there is a copy of 'x', which nobody made": lambda s, _: _another(s, "x"),
    "n (sealed) is there 2 times": lambda s, _: _another(s, "n"),
    "old (deleted) is still there": lambda s, _: _another(s, "old"),
    "debris (exposed) is still there": lambda s, _: _another(s, "debris"),
    "n (exposed) is still there": lambda _, r: r.__delitem__(slice(2, 4)),
    "n (creating) is still there": lambda _, r: r.__delitem__(slice(1, 4)),
}


def test_what_is_whole_is_not_wrong() -> None:
    assert invariants.wrong(SEEN, RECORD) == []


@pytest.mark.parametrize("said", CHANGES)
def test_it_says_what_is_wrong(said: str) -> None:
    seen, record = deepcopy(SEEN), deepcopy(RECORD)
    CHANGES[said](seen, record)
    assert said in "\n".join(invariants.wrong(seen, record))


@pytest.mark.parametrize("last", ["completing", "deleting"])
def test_what_nobody_was_promised_may_be_there_or_gone(last: str) -> None:
    record = [*RECORD[:3], {"what": last, "name": "n"}]
    assert invariants.wrong(SEEN, record) == []
    seen = deepcopy(SEEN)
    _empty(seen)
    assert invariants.wrong(seen, record) == []
