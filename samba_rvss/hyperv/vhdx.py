"""VHDX and AVHDX: what their headers, region table and metadata say (MS-VHDX, 2.2 to 2.6).

At fixed places: the file's type, two headers and two region tables, of which one of each has to be
right. The header with the higher sequence number is the present one; if its log has an id, the file
was open for writing, and what is in the log has to be replayed before anything else is believed.
The region table says where the metadata is, which has the disk's size and, of a differencing disk,
the names and the identity of its parent.

Contract: the block allocation table and the payload are not read, nor is the log: a disk that is
called whole has whole structures, and nobody has looked at its content.
"""

import struct
from dataclasses import dataclass, replace

from samba_rvss.hyperv.crc32c import crc32c
from samba_rvss.hyperv.disk import Damaged, Disk, State, Window, guid, guid_of, name_of

_KIB, _MIB = 1 << 10, 1 << 20
SIGNATURE = b"vhdxfile"
_HEADERS = (64 * _KIB, 128 * _KIB)
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_HEADER_LENGTH = 4 * _KIB
_REGIONS = (192 * _KIB, 256 * _KIB)
_TABLE_LENGTH = 64 * _KIB
_REGION_HEADER = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_METADATA_HEADER = struct.Struct("<8s2xH20x")
_ITEM = struct.Struct("<16sIII4x")
_MOST_ENTRIES = 2047
_LOCATOR_HEADER = struct.Struct("<16s2xH")
_PAIR = struct.Struct("<IIHH")
_LONGEST_LOCATOR = 128 * _KIB
_MOST_PAIRS = 64

_BAT = "2DC27766-F623-4200-9D64-115E9BFD4A08"
_METADATA = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
_PARAMETERS = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
_DISK_SIZE = "2FA54224-CD1B-4876-B211-5DBED83BF4B8"
_LOCATOR = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"
_LOCATOR_TYPE = "B04AEFB7-D19E-4A81-B789-25B8E9445913"
_HAS_PARENT = 0x2
_LARGEST = 64 << 40  # 2.6.2.2
_NOTHING = bytes(16)
_NAMES = ("relative_path", "absolute_win32_path", "volume_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    sequence: int
    data_write: bytes
    log: bytes
    log_version: int
    version: int
    log_length: int
    log_start: int


def look(file: Window) -> Disk:
    """Return what a VHDX says of itself.

    Raises:
        OSError: it cannot be read.
    """
    try:
        header = _present_header(file)
    except Damaged as exc:
        return Disk(state=State.DAMAGED, why=str(exc))
    found = Disk(state=State.WHOLE, identity=guid(header.data_write))
    try:
        if header.log != _NOTHING:
            _require_region(file, header.log_start, header.log_length, "log")
            found = replace(found, state=State.LOG)
        return _completed(file, found)
    except Damaged as exc:
        if found.state is State.LOG:  # what replaying it may mend
            return replace(found, why=f"until then {exc}")
        return replace(found, state=State.DAMAGED, why=str(exc))


def _present_header(file: Window) -> _Header:
    if file.read(0, len(SIGNATURE), "type") != SIGNATURE:
        raise Damaged("it does not begin as a VHDX does")
    raw = [file.read(start, _HEADER_LENGTH, "header") for start in _HEADERS]
    found = [_header(each) for each in raw if _is_right(each, b"head")]
    if not found:
        raise Damaged("neither of its headers has its checksum")
    if len(found) > 1 and found[0].sequence == found[1].sequence and raw[0] != raw[1]:
        raise Damaged("two headers differ and claim to be the present one")
    header = max(found, key=lambda each: each.sequence)
    if header.version != 1 or (header.log != _NOTHING and header.log_version != 0):
        raise Damaged(f"it is of version {header.version}.{header.log_version}, which is not known")
    return header


def _header(raw: bytes) -> _Header:
    _, _, sequence, _, data_write, log, log_version, version, length, start = _HEADER.unpack_from(
        raw
    )
    return _Header(
        sequence=sequence,
        data_write=data_write,
        log=log,
        log_version=log_version,
        version=version,
        log_length=length,
        log_start=start,
    )


def _is_right(raw: bytes, signature: bytes) -> bool:
    """Return whether a structure begins with its signature and has its checksum after that."""
    (checksum,) = struct.unpack_from("<I", raw, 4)
    return raw.startswith(signature) and crc32c(raw[:4] + bytes(4) + raw[8:]) == checksum


def _require_region(file: Window, start: int, length: int, what: str) -> None:
    """Require that a region is where one may be (2.2): after the headers, in whole MiB."""
    if start < _MIB or start % _MIB or not length or length % _MIB:
        raise Damaged(f"its {what} is where none may be")
    if start + length > file.size:
        raise Damaged(f"it ends before its {what}")


def _completed(file: Window, found: Disk) -> Disk:
    """Return what was found with what region table and metadata say."""
    regions = _regions(file)
    for name, what in ((_BAT, "block allocation table"), (_METADATA, "metadata")):
        if name not in regions:
            raise Damaged(f"its region table has no {what}")
        _require_region(file, *regions[name], what)
    start, length = regions[_METADATA]
    items = _items(file, start, length)
    block_size, flags = struct.unpack("<II", _item(file, items, _PARAMETERS, 8, "parameters"))
    (size,) = struct.unpack("<Q", _item(file, items, _DISK_SIZE, 8, "size"))
    if block_size & (block_size - 1) or not _MIB <= block_size <= 256 * _MIB:
        raise Damaged(f"its blocks are of {block_size} bytes, which none may be")
    if not 0 < size <= _LARGEST:
        raise Damaged(f"its size is {size} bytes, which none may be")
    found = replace(found, block_size=block_size, size=size)
    if not flags & _HAS_PARENT:
        return found
    found = replace(found, is_child=True)
    pairs = _locator(file, items)
    if "parent_linkage" not in pairs:
        raise Damaged("it does not say which disk its parent is")
    linkage = [guid_of(pairs[key]) for key in ("parent_linkage", "parent_linkage2") if key in pairs]
    names = tuple(pairs[key] for key in _NAMES if pairs.get(key))
    return replace(found, linkage=tuple(dict.fromkeys(linkage)), names=names)


def _regions(file: Window) -> dict[str, tuple[int, int]]:
    """Return where regions begin and how long they are, by their GUIDs (2.2.3)."""
    for start in _REGIONS:
        raw = file.read(start, _TABLE_LENGTH, "region table")
        if not _is_right(raw, b"regi"):
            continue
        _, _, count, _ = _REGION_HEADER.unpack_from(raw)
        if count > _MOST_ENTRIES:
            raise Damaged("its region table has more entries than one may have")
        found: dict[str, tuple[int, int]] = {}
        for number in range(count):
            at = _REGION_HEADER.size + number * _REGION.size
            name, offset, length, _ = _REGION.unpack_from(raw, at)
            found.setdefault(guid(name), (offset, length))
        return found
    raise Damaged("neither of its region tables has its checksum")


def _items(file: Window, start: int, length: int) -> dict[str, tuple[int, int]]:
    """Return where items of the metadata begin and how long they are, by their GUIDs (2.6.1)."""
    raw = file.read(start, min(length, _TABLE_LENGTH), "metadata")
    signature, count = _METADATA_HEADER.unpack_from(raw)
    if signature != b"metadata" or count > _MOST_ENTRIES:
        raise Damaged("its metadata is none")
    found: dict[str, tuple[int, int]] = {}
    for number in range(count):
        at = _METADATA_HEADER.size + number * _ITEM.size
        name, offset, size, _ = _ITEM.unpack_from(raw, at)
        if offset < _TABLE_LENGTH or offset + size > length:
            raise Damaged("its metadata has an item outside of it")
        found.setdefault(guid(name), (start + offset, size))
    return found


def _item(
    file: Window, items: dict[str, tuple[int, int]], name: str, length: int, what: str
) -> bytes:
    start, size = items.get(name, (0, 0))
    if size != length:
        raise Damaged(f"its metadata does not have its {what}")
    return file.read(start, length, what)


def _locator(file: Window, items: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Return what it says of its parent, by key (2.6.2.6)."""
    start, length = items.get(_LOCATOR, (0, 0))
    if not _LOCATOR_HEADER.size <= length <= _LONGEST_LOCATOR:
        raise Damaged("it has a parent, and does not say which")
    raw = file.read(start, length, "parent's names")
    kind, count = _LOCATOR_HEADER.unpack_from(raw)
    if guid(kind) != _LOCATOR_TYPE or count > _MOST_PAIRS:
        raise Damaged("it names its parent in a way that is not known")
    if _LOCATOR_HEADER.size + count * _PAIR.size > length:
        raise Damaged("its parent's names are cut off")
    found: dict[str, str] = {}
    for number in range(count):
        key, value, key_length, value_length = _PAIR.unpack_from(
            raw, _LOCATOR_HEADER.size + number * _PAIR.size
        )
        if key + key_length > length or value + value_length > length:
            raise Damaged("its parent's names are cut off")
        name = name_of(raw[key : key + key_length], "utf-16-le")
        found.setdefault(name, name_of(raw[value : value + value_length], "utf-16-le"))
    return found
