"""What a virtual disk says of itself, as a value, and the bounded reading of it.

Formats: `samba_rvss.hyperv.vhdx` and `samba_rvss.hyperv.vhd`, which fill the value.
"""

import errno
import os
import re
import uuid
from dataclasses import dataclass
from enum import Enum

MOST = 1 << 19
"""So many bytes of one disk are read at most."""

_LONGEST_NAME = 4096
_GUID = re.compile(r"\{?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?")


class State(Enum):
    """What a disk's own structures say of it; the values are those of JSON."""

    WHOLE = "whole"
    LOG = "log to replay"  # it was open for writing: who opens it next replays its log
    DAMAGED = "damaged"
    UNKNOWN = "unknown"  # it could not be read, or was not looked into


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What was found of a virtual disk.

    Attributes:
        state: see there.
        why: a sentence's end on what is damaged or unknown; empty otherwise.
        size: what its guest sees, in bytes; 0 if that is not known.
        block_size: bytes of a block, of which each is allocated on its own; 0 for none.
        identity: what the children of it name it by, a GUID in capitals; empty if not known.
        is_child: whether it holds only what differs from a parent.
        linkage: the identities of which the parent has to have one.
        names: where its parent was for those who wrote it, the relative path first.
    """

    state: State
    why: str = ""
    size: int = 0
    block_size: int = 0
    identity: str = ""
    is_child: bool = False
    linkage: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


class Damaged(Exception):
    """A structure of a disk is not what it has to be; its text says which, as a sentence's end."""


class Window:
    """A file of which a bounded part is read, and nothing beyond its end.

    Args:
        fd: a regular file, opened for reading; the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._left = MOST
        self.size = os.fstat(fd).st_size

    def read(self, start: int, length: int, what: str) -> bytes:
        """Return a part of it.

        Args:
            start: where it begins, in bytes.
            length: how many bytes.
            what: its name, for people.

        Raises:
            Damaged: it is not there, or too much was asked for.
            OSError: it cannot be read.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise Damaged(f"it ends before its {what}")
        if length > self._left:
            raise Damaged(f"its {what} is too long")
        self._left -= length
        found = b""
        while len(found) < length:
            part = os.pread(self._fd, length - len(found), start + len(found))
            if not part:
                raise OSError(errno.EIO, "it ends before its size")
            found += part
        return found


def guid(raw: bytes) -> str:
    """Return a GUID as Windows writes it, from 16 bytes as it stores them."""
    return str(uuid.UUID(bytes_le=raw)).upper()


def guid_of(text: str) -> str:
    """Return a GUID from a text of one, with or without braces.

    Raises:
        Damaged: it is none.
    """
    found = _GUID.fullmatch(text.strip())
    if found is None:
        raise Damaged("what it says of its parent is no GUID")
    return found[1].upper()


def name_of(raw: bytes, encoding: str) -> str:
    """Return a name in UTF-16, up to its end; empty if it is longer than any path is."""
    text = raw.decode(encoding, "replace").split("\0", 1)[0]
    return text if len(text) <= _LONGEST_NAME else ""
