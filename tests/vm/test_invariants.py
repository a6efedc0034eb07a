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
            "volume": {"provider": "zfs", "name": "tank/volume"},
        }
    ],
    "ended": [],
    "backups": [],
    "images": [{"id": A, "read_only": True, "of": ""}],
    "written": {},
    "mounts": {PATH: {"read_only": True, "name": "n", "files": FILES}},
    "directories": [PATH],
    "shares": {SHARE: PATH},
    "shared": {},
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
    seen["images"].append({"id": other, "read_only": True, "of": ""})
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
    "image x belongs to nothing": lambda s, _: s["images"].append({"id": "x", "of": ""}),
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


# backups

K, W = "20240301T120000Z-0123abcf", "20240301T120500Z-0123abd0"
_HOME, _SHARES = "tank/samba-rvss", "/run/samba-rvss/shared/zfs"
_SEALED = {"name": "4", "data": "5", "recovered": "6"}
_WRITTEN = {"written-1": "7"}


def _backed_up() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what is seen and recorded of a backup on ZFS that is exposed, with a writable copy."""
    seen, record = deepcopy(SEEN), deepcopy(RECORD)
    record += [
        {"what": "creating", "name": "k", "persistent": False, "files": _SEALED},
        {"what": "keeping", "name": "k", "asked": True},
        {"what": "kept", "name": "k", "backup": True, "held": True, "tagged": True},
        {"what": "kept", "name": "k", "shown": True, "branch": True, "open": True},
        {"what": "kept", "name": "k", "writing": _WRITTEN, "written": _WRITTEN},
    ]
    shown = [
        {"id": K, "writable": False, "share": "zfs-1"},
        {"id": W, "writable": True, "share": "zfs-1-rw"},
    ]
    seen["backups"] = [
        {
            "id": K,
            "parts": [{"id": K, "volume": "zfs:1:2"}],
            "seen": True,
            "consistent": True,
            "missing": "",
            "tags": ["carried"],
            "holds": [{"tag": tag} for tag in ("exposed", "offsite", "writable")],
            "exposed": shown,
            "mounted": {"read_only": True, "name": "k", "files": dict(_SEALED)},
        }
    ]
    seen["images"] += [
        {"id": K, "read_only": True, "of": ""},
        {"id": W, "read_only": False, "of": K},
    ]
    files = {W: {**_SEALED, **_WRITTEN}, K: dict(_SEALED)}
    seen["written"][W] = {"files": files[W]}
    for each in shown:
        name, path = str(each["id"]), f"{_SHARES}/{each['id']}"
        seen["shared"][each["share"]] = path
        seen["directories"].append(path)
        seen["mounts"][path] = {"read_only": name == K, "name": "k", "files": files[name]}
        write = "success" if name == W else "NT_STATUS_ACCESS_DENIED"
        seen["served"][each["share"]] = {"files": files[name], "write": write}
    kept = (f"tank/volume@rvss-{K}", f"{_HOME}/{K}@rvss-{K}")
    branch = f"{_HOME}/{K}@rvss-{W}"
    seen["zfs"] += [*kept, f"{_HOME}/{K}", branch, f"{_HOME}/{W}"]
    seen["holds"] += [f"{name} samba-rvss" for name in (*kept, branch)]
    seen["holds"] += [f"{name} samba-rvss:offsite" for name in kept]
    return seen, record


def _conceal(seen: dict[str, Any], index: int) -> None:
    """Let something not be a share any more that is one; its image stays."""
    backup = seen["backups"][0]
    share, image = backup["exposed"][index]["share"], backup["exposed"][index]["id"]
    if image == K:
        del backup["exposed"][index], backup["holds"][0]
    else:
        backup["exposed"][index]["share"] = None
    for name in ("shared", "served"):
        del seen[name][share]
    seen["directories"].remove(f"{_SHARES}/{image}")
    del seen["mounts"][f"{_SHARES}/{image}"]


def _discard(seen: dict[str, Any]) -> None:
    """Let the writable copy be gone."""
    _conceal(seen, 1)
    backup = seen["backups"][0]
    del backup["exposed"][1], backup["holds"][2]
    for name in ("images", "zfs", "holds"):
        seen[name] = [x for x in seen[name] if W not in str(x) or str(x) == f"{_HOME}/{K}"]


def _lose(seen: dict[str, Any]) -> bool:
    """Let the backup be gone with all that belongs to it."""
    _discard(seen)
    _conceal(seen, 0)
    seen["backups"].clear()
    for name in ("images", "zfs", "holds"):
        seen[name] = [x for x in seen[name] if K not in str(x)]
    return True


def _as_copy(seen: dict[str, Any]) -> None:
    _lose(seen)
    _another(seen, "k")
    seen["mounts"][PATH + "e"]["files"] = dict(_SEALED)
    seen["served"][SHARE + "e"] = {"files": dict(_SEALED), "write": "NT_STATUS_ACCESS_DENIED"}


def _first(seen: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = seen["backups"][0]
    return found


def _say(record: list[dict[str, Any]], what: str, **values: object) -> bool:
    record.append({"what": what, "name": "k", **values})
    return True


OF_BACKUPS: dict[str, Change] = {
    f"{K} has ended, and is to be sealed": lambda s, _: s["ended"].append(K),
    f"image {W} belongs to nothing": lambda s, _: s["images"][2].update(of="x"),
    "share x belongs to nothing": lambda s, _: s["shared"].update(x="/x"),
    f"mount {_SHARES}/{K} is missing": lambda s, _: s["mounts"].pop(f"{_SHARES}/{K}"),
    f"dataset {_HOME}/{K}@rvss-{K} is missing": lambda s, _: s["zfs"].remove(
        f"{_HOME}/{K}@rvss-{K}"
    ),
    f"dataset {_HOME}/{W} is missing": lambda s, _: s["zfs"].remove(f"{_HOME}/{W}"),
    f"hold {_HOME}/{K}@rvss-{K} samba-rvss is missing": lambda s, _: s["holds"].remove(
        f"{_HOME}/{K}@rvss-{K} samba-rvss"
    ),
    "k was kept, and is gone": lambda s, _: _lose(s),
    "k was keeping, and is gone": lambda s, r: _lose(s) and _say(r, "keeping"),
    "k (kept) is no backup": lambda s, _: _as_copy(s),
    "k (sealed) is a backup": lambda _, r: _say(r, "sealed", backup=False),
    "k (deleted) is still there": lambda _, r: _say(r, "deleted"),
    "k (kept) is there 2 times": lambda s, _: _another(s, "k"),
    f"{K}: its image is not read-only": lambda s, _: s["images"][1].update(read_only=False),
    f"{K}: its mount is not": lambda s, _: _first(s)["mounted"].update(read_only=False),
    "it is not consistent: no": lambda s, _: _first(s).update(consistent=False, missing="no"),
    f"{K}: it holds {{}}, not": lambda s, _: _first(s)["mounted"].update(files={}),
    "it is not held": lambda s, _: _first(s)["holds"].pop(1),
    "it is held": lambda _, r: _say(r, "kept", held=False),
    "it is held as x": lambda s, _: _first(s)["holds"].append({"tag": "x"}),
    "it is not tagged": lambda s, _: _first(s)["tags"].clear(),
    f"ZFS does not hold tank/volume@rvss-{K} as offsite": lambda s, _: s["holds"].remove(
        f"tank/volume@rvss-{K} samba-rvss:offsite"
    ),
    "it is not a share": lambda s, _: _conceal(s, 0),
    "it is a share": lambda _, r: _say(r, "kept", shown=False),
    "it is not held as exposed": lambda s, _: _first(s)["holds"].pop(0),
    "it is not branched": lambda s, _: _discard(s),
    "it is branched": lambda _, r: _say(r, "kept", branch=False, open=False),
    "it is not open": lambda s, _: _conceal(s, 1),
    "it is open": lambda _, r: _say(r, "kept", open=False),
    "it is not held as writable": lambda s, _: _first(s)["holds"].pop(2),
    "the writable copy holds": lambda s, _: s["written"][W]["files"].pop("written-1"),
    "[zfs-1] leads to /x": lambda s, _: s["shared"].update({"zfs-1": "/x"}),
    f"{_SHARES}/{K} is mounted as": lambda s, _: s["mounts"][f"{_SHARES}/{K}"].update(
        read_only=False
    ),
    "[zfs-1] has {}": lambda s, _: s["served"]["zfs-1"].update(files={}),
    "through [zfs-1] came to success": lambda s, _: s["served"]["zfs-1"].update(write="success"),
    "through [zfs-1-rw] came to no": lambda s, _: s["served"]["zfs-1-rw"].update(write="no"),
}


@pytest.mark.parametrize("said", OF_BACKUPS)
def test_it_says_what_is_wrong_with_a_backup(said: str) -> None:
    seen, record = _backed_up()
    assert invariants.wrong(seen, record) == []
    OF_BACKUPS[said](seen, record)
    assert said in "\n".join(invariants.wrong(seen, record))


def _release(seen: dict[str, Any]) -> None:
    del _first(seen)["holds"][1]
    seen["holds"] = [hold for hold in seen["holds"] if not hold.endswith(":offsite")]


def _write(seen: dict[str, Any]) -> None:
    path = f"{_SHARES}/{W}"
    for mounted in (seen["written"][W], seen["mounts"][path], seen["served"]["zfs-1-rw"]):
        mounted["files"]["written-1"] = "0"


def _tear(seen: dict[str, Any]) -> None:
    _discard(seen)
    _conceal(seen, 0)
    _first(seen).update(consistent=False)
    _first(seen)["mounted"].update(files={})


_EITHER = {"shown": None, "branch": None, "open": None}
UNDECIDED: dict[str, tuple[dict[str, object], Callable[[dict[str, Any]], object]]] = {
    "held": ({"held": None}, _release),
    "tagged": ({"tagged": None}, lambda seen: _first(seen)["tags"].clear()),
    "shown": ({"shown": None}, lambda seen: _conceal(seen, 0)),
    "open": ({"open": None}, lambda seen: _conceal(seen, 1)),
    "branch": ({"branch": None, "open": None}, _discard),
    "written": ({"written": {}}, _write),
    "kept": ({"what": "keeping", "persistent": True}, _as_copy),
    "not kept": ({"what": "keeping", "asked": False}, _lose),
    "deleted": ({"what": "deleting"}, _lose),
    "torn": ({"unsealed": True, **_EITHER}, _tear),
}


@pytest.mark.parametrize("what", UNDECIDED)
def test_what_is_under_way_may_be_done_or_not(what: str) -> None:
    values, change = UNDECIDED[what]
    seen, record = _backed_up()
    record.append({"what": "kept", "name": "k", **values})
    assert invariants.wrong(seen, record) == []
    change(seen)
    assert invariants.wrong(seen, record) == []
