"""What must hold of backups after any start of a machine, judged purely from what was seen there.

Place: below `invariants`. What was promised of a backup stands in the values of the driver's record
under the name of its content:

    asked      whether `samba-rvss keep` has succeeded: from then on it is a copy or a backup
    backup     whether its client has been told that its copy is deleted: from then on, a backup
    unsealed   whether that came before it was sealed: it may have lost what recovery wrote
    held, tagged    whether it is held as HOLD, or has the tag TAG
    shown      whether it is a share again, read-only
    branch     whether there is a writable copy beside it
    open       whether that is a share
    writing    what is written to the writable copy; nobody was promised any of it
    written    what of it is on disk

Each is true, false, or None while that changes: then it may be either.
"""

from collections.abc import Iterator, Mapping
from typing import Any

HOLD, TAG = "offsite", "carried"
_REFUSED = ("NT_STATUS_MEDIA_WRITE_PROTECTED", "NT_STATUS_ACCESS_DENIED")


def broken(seen: Mapping[str, Any], copies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is not as it was promised of backups.

    Args:
        seen: what was seen.
        copies: what `invariants.promised` has made of the record.
    """
    images = {image["id"]: image for image in seen["images"]}
    for backup in seen["backups"]:
        promised = copies.get(backup["mounted"]["name"], {})
        said = _backup(seen, backup, promised, images)
        yield from (f"backup {backup['id']}: {line}" for line in said)


def _backup(
    seen: Mapping[str, Any],
    backup: Mapping[str, Any],
    promised: Mapping[str, Any],
    images: Mapping[str, Any],
) -> Iterator[str]:
    mounted = backup["mounted"]
    if not (backup["seen"] and images.get(backup["id"], {}).get("read_only")):
        yield "its image is not read-only"
    if not mounted["read_only"]:
        yield "its mount is not read-only"
    if not backup["consistent"] and not promised.get("unsealed"):
        yield f"it is not consistent: {backup['missing']}"
    if backup["consistent"] and mounted["files"] != promised.get("files"):
        yield f"it holds {mounted['files']}, not {promised.get('files')}"
    shown = [each for each in backup["exposed"] if not each["writable"]]
    branches = [each for each in backup["exposed"] if each["writable"]]
    if len(shown) > 1 or len(branches) > 1:
        yield f"it is exposed more than once: {backup['exposed']}"
    tags = {hold["tag"] for hold in backup["holds"]}
    told = {
        "a share": (bool(shown), promised.get("shown", False)),
        "held": (HOLD in tags, promised.get("held", False)),
        "tagged": (TAG in backup["tags"], promised.get("tagged", False)),
        "branched": (bool(branches), promised.get("branch", False)),
        "open": (any(each["share"] for each in branches), promised.get("open", False)),
        "held as exposed": ("exposed" in tags, bool(shown)),
        "held as writable": ("writable" in tags, bool(branches)),
    }
    for what, (is_so, must) in told.items():
        if must is not None and is_so is not must:
            yield f"it is {'' if is_so else 'not '}{what}"
    for tag in tags - {HOLD, "exposed", "writable"}:
        yield f"it is held as {tag}"
    if promised.get("held") and backup["parts"][0]["volume"].startswith("zfs"):
        name = backup["id"]
        for snapshot in (f"tank/volume@rvss-{name}", f"tank/samba-rvss/{name}@rvss-{name}"):
            if f"{snapshot} samba-rvss:{HOLD}" not in seen["holds"]:
                yield f"ZFS does not hold {snapshot} as {HOLD}"
    for each in shown:
        yield from _share(seen, each, mounted["files"])
    for each in branches:
        yield from _branch(seen, each, mounted["files"], promised)


def _branch(
    seen: Mapping[str, Any],
    branch: Mapping[str, Any],
    sealed: Mapping[str, str],
    promised: Mapping[str, Any],
) -> Iterator[str]:
    """Yield what is not as it must be with a writable copy."""
    written = promised.get("written", {})
    loose = promised.get("writing", {}).keys() - written.keys()
    there = seen["written"].get(branch["id"], {}).get("files", {})
    firm = {name: digest for name, digest in there.items() if name not in loose}
    if firm != {**sealed, **written}:
        yield f"the writable copy holds {firm}, not { ({**sealed, **written}) }"
    if branch["share"]:
        yield from _share(seen, branch, there)


def _share(
    seen: Mapping[str, Any], shown: Mapping[str, Any], files: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is not as it must be with what is a share again."""
    share, writable = shown["share"], shown["writable"]
    path, served = seen["shared"].get(share, ""), seen["served"].get(share, {})
    if path.rpartition("/")[2] != shown["id"]:
        yield f"[{share}] leads to {path}"
    if seen["mounts"].get(path, {}).get("read_only") is not (not writable):
        yield f"{path} is mounted as {seen['mounts'].get(path)}"
    if served.get("files") != files:
        yield f"[{share}] has {served.get('files')}, not {files}"
    if served.get("write") not in (("success",) if writable else _REFUSED):
        yield f"a write through [{share}] came to {served.get('write')}"
