"""The paths of recovery mounts: how they are named, and which of many paths are such.

    <run>/exposed/<share>/<gate>…/<id>          the path that Samba gets
    <run>/previous/<share>/@GMT-…               always read-only, for shadow_copy2
    <run>/shared/<share>/<gate>…/<id>           a backup, or a writable image, that is a share again
    <run>/backups/<id>/<share>                  not one of them: where a backup is shown

A name is escaped where it has to be, less often below `previous` than below the others.

Gates (`way`) are there where the way to the share is not open to everybody. A copy's record has its
paths; older versions escaped names with "%". Contract: strings; it looks at nothing.
"""

import hashlib
import os
import re
from collections.abc import Iterable

from samba_rvss.mounts.way import Gate

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_LONGEST = 200
KINDS = ("exposed", "previous", "shared")
"""The directories in the run directory that have recovery mounts in them."""
# What ends a path's part, what smb.conf may take for something else, and what begins an escape.
_SPECIAL = re.compile(r"^[.@]|[/\\%\"'=]")


def escape(share: str) -> str:
    """Return a share's name as a directory's, which Samba takes as it is.

    Samba replaces macros in the path of a share (source3/lib/substitute.c, "%D" and its like), and
    the shell that it starts splits at blanks. So whatever is no letter or digit of ASCII becomes
    "=" and two hexadecimal digits for each byte, as does a dot at the beginning, and the first
    letter of what would be a gate's name. Names too long for a directory end in a hash.
    """
    raw = os.fsencode(share)
    text = "".join(
        chr(byte) if byte in _PLAIN and (index or byte != ord(".")) else f"={byte:02X}"
        for index, byte in enumerate(raw)
    )
    if Gate.named(text) is not None:
        text = f"={raw[0]:02X}{text[1:]}"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}={hashlib.sha256(raw).hexdigest()[:16]}"
    return text


def is_gate(path: str) -> bool:
    """Return whether a path's last part is the name of a gate."""
    return Gate.named(image_of(path)) is not None


def image_of(path: str) -> str:
    """Return the id of the image that is mounted at an exposed path: the path's last part."""
    return path.rpartition("/")[2]


def exposed(run: str, share: str, way: Iterable[str], copy: str) -> str:
    """Return the path of a copy behind the gates of a way."""
    return "/".join((f"{run}/exposed/{escape(share)}", *way, copy))


def shared(run: str, share: str, way: Iterable[str], image: str) -> str:
    """Return the path of an image that is a share again, behind the gates of a way."""
    return "/".join((f"{run}/shared/{escape(share)}", *way, image))


def previous(run: str, share: str) -> str:
    """Return the directory of a share's Previous Versions: what ``shadow:snapdir`` has to say.

    Samba takes that option as it stands (source3/modules/vfs_shadow_copy2.c reads it without
    macros), so the directory has the share's own name if smb.conf and a path can have it.
    """
    plain = (
        share.isprintable() and not _SPECIAL.search(share) and len(os.fsencode(share)) <= _LONGEST
    )
    as_it_is = plain and share == " ".join(share.split()) and Gate.named(share) is None
    return f"{run}/previous/{share if as_it_is else escape(share)}"


def is_place(run: str, path: str) -> bool:
    """Return whether a path is where a recovery mount belongs, and not inside of one."""
    if not path.startswith(tuple(f"{run}/{kind}/" for kind in KINDS)):
        return False
    _, *names = path.removeprefix(f"{run}/").split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        return False
    return len(names) > 1 and all(map(is_gate, names[1:-1])) and not is_gate(names[-1])


def backup_at(run: str, path: str) -> str:
    """Return the id of the backup that is shown at a path, or around it; empty if none is."""
    names = path.removeprefix(f"{run}/backups/").split("/")
    return names[0] if path.startswith(f"{run}/backups/") and len(names) > 1 else ""
