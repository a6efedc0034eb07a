"""VHD and AVHD: what their footer and dynamic header say ("Virtual Hard Disk Image Format", 1.0).

All numbers are big-endian. A fixed disk is its content and a footer after it; others begin with a
copy of the footer, and then a header that names their parent. They have no log: nothing tells
whether one was open.
"""

import struct
import uuid
from dataclasses import replace

from samba_rvss.hyperv.disk import Damaged, Disk, State, Window, name_of

_FOOTER = struct.Struct(">8s4x4xQ4x4x4x4xQQ4xII16s")
_FOOTER_LENGTH = 512
_SUM_AT = 64  # of the footer
_HEADER = struct.Struct(">8s8xQ4xIII16s4x4x512s")
_HEADER_LENGTH = 1024
_HEADER_SUM_AT = 36
_FIXED, _DYNAMIC, _CHILD = 2, 3, 4


def look(file: Window) -> Disk:
    """Return what a VHD says of itself.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return _look(file)
    except Damaged as exc:
        return Disk(state=State.DAMAGED, why=str(exc))


def _look(file: Window) -> Disk:
    footer = file.read(file.size - _FOOTER_LENGTH, _FOOTER_LENGTH, "footer")
    if not _is_right(footer, b"conectix", _SUM_AT):
        raise Damaged("its footer does not have its checksum")
    _, header_at, _, size, kind, _, name = _FOOTER.unpack_from(footer)
    found = Disk(state=State.WHOLE, size=size, identity=str(uuid.UUID(bytes=name)).upper())
    if kind == _FIXED:
        if size > file.size - _FOOTER_LENGTH:
            raise Damaged("it ends before its content")
        return found
    if kind not in (_DYNAMIC, _CHILD):
        raise Damaged(f"it is of the kind {kind}, which is not known")
    header = file.read(header_at, _HEADER_LENGTH, "header")
    if not _is_right(header, b"cxsparse", _HEADER_SUM_AT):
        raise Damaged("its header does not have its checksum")
    _, table, count, block_size, _, parent, parent_name = _HEADER.unpack_from(header)
    if table + 4 * count > file.size:
        raise Damaged("it ends before its block allocation table")
    found = replace(found, block_size=block_size)
    if kind == _DYNAMIC:
        return found
    named = name_of(parent_name, "utf-16-be")
    return replace(
        found,
        is_child=True,
        linkage=(str(uuid.UUID(bytes=parent)).upper(),),
        names=(named,) if named else (),
    )


def _is_right(raw: bytes, signature: bytes, at: int) -> bool:
    """Return whether a structure begins with its signature and has its checksum at an offset."""
    (checksum,) = struct.unpack_from(">I", raw, at)
    present = ~(sum(raw) - sum(raw[at : at + 4])) & 0xFFFFFFFF
    return raw.startswith(signature) and bool(present == checksum)
