"""What must hold of a machine after any start of it, judged purely from what was seen there.

Place: for the tests of reboots and power losses, on both sides of the machine's wall. What was
seen is JSON, as `survey.look` makes it; what was promised is the driver's own record, of which
each entry was on disk before the driver went on.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Seen = Mapping[str, Any]
Entry = Mapping[str, Any]


def promised(record: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return what the record says of each copy, by its name: the last step, and all values.

    The steps are ``creating``, ``exposed``, ``completing`` (before RecoveryComplete), ``sealed``,
    ``deleting`` and ``deleted``.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in record:
        found.setdefault(entry["name"], {}).update(entry)
    return found


def wrong(seen: Seen, record: Sequence[Entry]) -> list[str]:
    """Return what is not as it must be, each in a line."""
    return [*leaks(seen), *_unhealthy(seen), *_broken(seen), *_lies(seen, promised(record))]


def _differ(what: str, there: Sequence[str], wanted: set[str]) -> Iterator[str]:
    yield from (f"{what} {one} belongs to nothing" for one in sorted(set(there) - wanted))
    yield from (f"{what} {one} is missing" for one in sorted(wanted - set(there)))


def leaks(seen: Seen) -> list[str]:
    """Return what of ours is there without a copy, and what a copy lacks."""
    copies = seen["copies"]
    ids = {copy["id"] for copy in copies}
    paths = {copy["path"] for copy in copies}
    shares = {copy["exposed_share"] for copy in copies if copy["exposed_share"]}
    btrfs = {copy["id"] for copy in copies if copy["volume"]["provider"] == "btrfs"}
    zfs = [copy["id"] for copy in copies if copy["volume"]["provider"] == "zfs"]
    datasets = {f"tank/samba-rvss/{copy}" for copy in zfs}
    datasets |= {f"tank/volume@rvss-{copy}" for copy in zfs}
    holds = {f"tank/volume@rvss-{copy} samba-rvss" for copy in zfs}
    images = [image["id"] for image in seen["images"]]
    return [
        *_differ("image", images, ids),
        *_differ("mount", list(seen["mounts"]), paths),
        *_differ("directory", seen["directories"], paths),
        *_differ("share", list(seen["shares"]), shares),
        *_differ("descriptor", seen["descriptors"], {share.lower() for share in shares}),
        *_differ("directory of btrfs", seen["btrfs"], btrfs),
        *_differ("dataset", seen["zfs"], datasets),
        *_differ("hold", seen["holds"], holds),
    ]


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
        there.setdefault(mount.get("name", ""), []).append(mount)
    for name in there.keys() - copies.keys():
        yield f"there is a copy of {name!r}, which nobody made"
    for name, copy in copies.items():
        what, mounts = copy["what"], there.get(name, [])
        if len(mounts) > 1:
            yield f"{name} ({what}) is there {len(mounts)} times"
        if not mounts:
            if what == "sealed" and copy["persistent"]:
                yield f"{name} was sealed, and is gone"
            continue
        if not copy["persistent"] or what in ("creating", "exposed", "deleted"):
            yield f"{name} ({what}) is still there"
        # It is said to be whole: then it has all that was written before RecoveryComplete.
        if mounts[0]["files"] != copy.get("files"):
            yield f"{name} ({what}) holds {mounts[0]['files']}, not {copy.get('files')}"
