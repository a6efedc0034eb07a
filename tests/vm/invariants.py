"""What must hold of a machine after any start of it, judged purely from what was seen there.

Place: for the tests of reboots and power losses, on both sides of the machine's wall; what is
promised of backups is judged in `promises`. What was seen is JSON, as `survey.look` makes it; what
was promised is the driver's own record, of which each entry was on disk before the driver went on.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tests.vm import promises

Seen = Mapping[str, Any]
Entry = Mapping[str, Any]


def promised(record: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return what the record says of each copy, by its name: the last step, and all values.

    The steps are ``creating``, ``exposed``, ``completing`` (before RecoveryComplete), ``sealed``,
    ``keeping``, ``kept``, ``deleting`` and ``deleted``. What is promised of a backup beside these
    is in values, see `promises`.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in record:
        found.setdefault(entry["name"], {}).update(entry)
    return found


def wrong(seen: Seen, record: Sequence[Entry]) -> list[str]:
    """Return what is not as it must be, each in a line."""
    copies = promised(record)
    return [
        *leaks(seen),
        *_unhealthy(seen),
        *_broken(seen),
        *_lies(seen, copies),
        *promises.broken(seen, copies),
    ]


def _differ(
    what: str, there: Sequence[str], wanted: set[str], allowed: Collection[str] = ()
) -> Iterator[str]:
    yield from (f"{what} {x} belongs to nothing" for x in sorted({*there} - wanted - {*allowed}))
    yield from (f"{what} {x} is missing" for x in sorted(wanted - {*there}))


def leaks(seen: Seen) -> list[str]:
    """Return what of ours is there without a copy or a backup, and what either lacks."""
    copies, backups = seen["copies"], seen["backups"]
    parts = {part["id"]: part["volume"] for backup in backups for part in backup["parts"]}
    volumes = {**{copy["id"]: copy["volume"]["provider"] for copy in copies}, **parts}
    branches = {image["id"]: image["of"] for image in seen["images"] if image["of"] in parts}
    shown = {
        each["share"]: seen["shared"].get(each["share"], "")
        for backup in backups
        for each in backup["exposed"]
        if each["share"]
    }
    paths = {*(copy["path"] for copy in copies), *shown.values()}
    shares = {copy["exposed_share"] for copy in copies if copy["exposed_share"]}
    wanted, allowed = _on_zfs(seen, branches)
    images = [image["id"] for image in seen["images"]]
    btrfs = {name for name, volume in volumes.items() if volume.startswith("btrfs")}
    btrfs |= {name for name, of in branches.items() if of in btrfs}
    return [
        *(f"{name} has ended, and is to be sealed" for name in seen["ended"]),
        *_differ("image", images, {*volumes, *branches}),
        *_differ("mount", list(seen["mounts"]), paths),
        *_differ("directory", seen["directories"], paths),
        *_differ("share", list(seen["shares"]), shares),
        *_differ("share", list(seen["shared"]), {*shown}),
        *_differ("descriptor", seen["descriptors"], {share.lower() for share in shares}),
        *_differ("directory of btrfs", seen["btrfs"], btrfs),
        *_differ("dataset", seen["zfs"], {x for x in wanted if " " not in x}, allowed),
        *_differ("hold", seen["holds"], {x for x in wanted if " " in x}, allowed),
    ]


def _on_zfs(seen: Seen, branches: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Return the datasets and holds that there must be of copies and backups, and what may be."""
    wanted, allowed = set[str](), set[str]()
    for copy in seen["copies"]:
        if copy["volume"]["provider"] == "zfs":
            # It may be wanted as a backup already.
            wanted |= _image(copy["id"], copy["volume"]["name"])
            allowed |= _sealed(copy["id"])
    for backup in seen["backups"]:
        for part in backup["parts"]:
            if not part["volume"].startswith("zfs"):
                continue
            name = part["id"]
            wanted |= _image(name, "tank/volume") | _sealed(name)
            snapshots = (f"tank/volume@rvss-{name}", f"{_HOME}/{name}@rvss-{name}")
            tags = [hold["tag"] for hold in backup["holds"]]
            allowed |= {f"{snapshot} samba-rvss:{tag}" for snapshot in snapshots for tag in tags}
            inner = [branch for branch, of in branches.items() if of == name]
            wanted |= {x for branch in inner for x in _image(branch, f"{_HOME}/{name}")}
    return wanted, allowed


_HOME = "tank/samba-rvss"


def _image(name: str, dataset: str) -> set[str]:
    """Return what an image of a dataset consists of: a snapshot, held, and a clone."""
    snapshot = f"{dataset}@rvss-{name}"
    return {snapshot, f"{snapshot} samba-rvss", f"{_HOME}/{name}"}


def _sealed(name: str) -> set[str]:
    """Return what a sealed image has that recovery wrote to and that is kept."""
    snapshot = f"{_HOME}/{name}@rvss-{name}"
    return {snapshot, f"{snapshot} samba-rvss"}


def _unhealthy(seen: Seen) -> Iterator[str]:
    for unit, state in seen["units"].items():
        if state["ActiveState"] != "active" or state["NRestarts"] != "0":
            yield f"{unit} is {state}"
    status = seen["status"]
    yield from (f"status: {line}" for line in status["wrong"])
    if status["reconcile"]["to_do"]:
        yield f"status: {status['reconcile']['to_do']} to do"
    if seen["pools"] != "all pools are healthy":
        yield f"zpool status: {seen['pools']}"
    yield from (f"btrfs device stats: {line}" for line in seen["devices"])
    yield from (f"the kernel: {line}" for line in seen["kernel"])


def _broken(seen: Seen) -> Iterator[str]:
    """Yield copies that are not sealed, or not what sealed means."""
    images = {image["id"]: image for image in seen["images"]}
    for copy in seen["copies"]:
        name = f"{copy['id']} ({copy['phase']})"
        if copy["phase"] != "sealed":
            yield f"{name} is not sealed"
        if not images.get(copy["id"], {}).get("read_only"):
            yield f"{name}: its image is not read-only"
        if not seen["mounts"].get(copy["path"], {}).get("read_only"):
            yield f"{name}: its mount is not read-only"
        served = seen["served"].get(copy["exposed_share"], {})
        if served.get("write") not in (
            "NT_STATUS_MEDIA_WRITE_PROTECTED",
            "NT_STATUS_ACCESS_DENIED",
        ):
            yield f"{name}: a write through its share came to {served.get('write')}"
        files = seen["mounts"].get(copy["path"], {}).get("files")
        if served.get("files") != files:
            yield f"{name}: its share has {served.get('files')}, its mount {files}"


def _lies(seen: Seen, copies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield where what is there is not what was promised."""
    there: dict[str, list[Mapping[str, Any]]] = {}
    for copy in seen["copies"]:
        mount = seen["mounts"].get(copy["path"], {})
        there.setdefault(mount.get("name", ""), []).append({**mount, "backup": False})
    for backup in seen["backups"]:
        mount = backup["mounted"]
        there.setdefault(mount["name"], []).append({**mount, "backup": True})
    for name in there.keys() - copies.keys():
        yield f"there is a copy of {name!r}, which nobody made"
    for name, copy in copies.items():
        what, mounts = copy["what"], there.get(name, [])
        if len(mounts) > 1:
            yield f"{name} ({what}) is there {len(mounts)} times"
        if not mounts:
            # In `keeping`, from `samba-rvss keep` on it lives whatever its context says.
            due = what == "kept" or copy.get("asked", copy["persistent"])
            if due and what in ("sealed", "keeping", "kept"):
                yield f"{name} was {what}, and is gone"
            continue
        backup = mounts[0]["backup"]
        if what in ("creating", "exposed", "deleted") or not (copy["persistent"] or backup):
            yield f"{name} ({what}) is still there"
        if what != "keeping" and backup is not bool(copy.get("backup")):
            yield f"{name} ({what}) is {'a backup' if backup else 'no backup'}"
        # It is said to be whole: then it has all that was written before RecoveryComplete. One that
        # ended unsealed is said to be torn, if it is not: see `promises`.
        if not backup and mounts[0]["files"] != copy.get("files"):
            yield f"{name} ({what}) holds {mounts[0]['files']}, not {copy.get('files')}"
