"""Virtual disks made by hand, byte by byte: what no tool of Linux makes, such as a child.

After MS-VHDX and not after our parser: libvhdi and qemu-img read what is made here as well.
"""

import os
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

from samba_rvss.hyperv.crc32c import crc32c

MIB = 1 << 20
_LOG, _METADATA, _BAT = MIB, 2 * MIB, 3 * MIB
_HEADERS = (64 << 10, 128 << 10)
_REGIONS = (192 << 10, 256 << 10)
_BAT_GUID = "2DC27766-F623-4200-9D64-115E9BFD4A08"
_METADATA_GUID = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
_LOCATOR_TYPE = "B04AEFB7-D19E-4A81-B789-25B8E9445913"


def raw(guid: str) -> bytes:
    """Return a GUID as it is stored."""
    return uuid.UUID(guid).bytes_le if guid else bytes(16)


def summed(data: bytes, length: int) -> bytes:
    """Return a structure of so many bytes with its checksum, which is after the signature."""
    padded = data.ljust(length, b"\0")
    return padded[:4] + struct.pack("<I", crc32c(padded)) + padded[8:]


def header(sequence: int, identity: str, log: str = "", *, version: int = 1) -> bytes:
    """Return a header; its log is at 1 MiB."""
    guids = raw(identity) + raw(identity) + raw(log)
    fields = struct.pack("<HHIQ", 0, version, MIB, _LOG)
    return summed(b"head\0\0\0\0" + struct.pack("<Q", sequence) + guids + fields, 4096)


def regions(bat: tuple[int, int] = (_BAT, MIB)) -> bytes:
    """Return a region table, with another place of the block allocation table if wanted."""
    table = b"regi\0\0\0\0" + struct.pack("<II", 2, 0)
    table += raw(_BAT_GUID) + struct.pack("<QII", *bat, 1)
    table += raw(_METADATA_GUID) + struct.pack("<QII", _METADATA, MIB, 1)
    return summed(table, 64 << 10)


def locator(pairs: Mapping[str, str]) -> bytes:
    """Return a parent locator."""
    table, texts = b"", b""
    start = 20 + 12 * len(pairs)
    for key, value in pairs.items():
        names = (key.encode("utf-16-le"), value.encode("utf-16-le"))
        at = start + len(texts)
        table += struct.pack("<IIHH", at, at + len(names[0]), len(names[0]), len(names[1]))
        texts += names[0] + names[1]
    return raw(_LOCATOR_TYPE) + struct.pack("<HH", 0, len(pairs)) + table + texts


def metadata(size: int, pairs: Mapping[str, str] | None) -> bytes:
    """Return the metadata of a disk of a size, which has a parent if there are pairs for it."""
    block = struct.pack("<II", 2 * MIB, 2 if pairs is not None else 0)
    items = [
        ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", block, 4),
        ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", struct.pack("<Q", size), 6),
        ("BECA12AB-B2E6-4523-93EF-C309E000C746", uuid.uuid4().bytes_le, 6),
        ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", struct.pack("<I", 512), 6),
        ("CDA348C7-445D-4471-9CC9-E9885251C556", struct.pack("<I", 4096), 6),
    ]
    if pairs is not None:
        items.append(("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", locator(pairs), 4))
    table = b"metadata" + struct.pack("<HH20x", 0, len(items))
    texts = b""
    for name, value, flags in items:
        table += raw(name) + struct.pack("<IIII", (64 << 10) + len(texts), len(value), flags, 0)
        texts += value
    return table.ljust(64 << 10, b"\0") + texts


def make(
    path: Path,
    identity: str = "",
    *,
    size: int = 1 << 30,
    log: str = "",
    parent: Mapping[str, str] | None = None,
    length: int = 4 * MIB,
) -> str:
    """Make a VHDX without content; return its identity.

    Args:
        path: its file.
        identity: what its children name it by; one of its own if none is given.
        size: what its guest sees, in bytes.
        log: the id of its log; empty for none.
        parent: what it says of its parent, by key; None for a disk without one.
        length: how long the file is; shorter than 4 MiB, and it is cut off.
    """
    identity = identity or str(uuid.uuid4()).upper()
    with path.open("wb") as file:
        file.write(b"vhdxfile" + "by hand".encode("utf-16-le"))
        for at, sequence in zip(_HEADERS, (1, 2), strict=True):
            file.seek(at)
            file.write(header(sequence, identity, log))
        for at in _REGIONS:
            file.seek(at)
            file.write(regions())
        file.seek(_METADATA)
        file.write(metadata(size, parent))
        file.truncate(length)
    return identity


def child(path: Path, parent: str, name: str, **how: str) -> str:
    """Make a differencing disk; return its identity.

    Args:
        path: its file.
        parent: the identity of its parent.
        name: where that is, from its own directory, as Windows writes it.
        how: as `make`, but for its parent.
    """
    pairs = {
        "parent_linkage": f"{{{parent.lower()}}}",
        "relative_path": name,
        "absolute_win32_path": rf"\\?\C:\VMs\{name}",
    }
    return make(path, how.get("identity", ""), log=how.get("log", ""), parent=pairs)


def make_older(path: Path, identity: str, parent: str = "", name: str = "") -> None:
    """Make a dynamic or a differencing VHD of 32 MiB without content.

    Args:
        path: its file.
        identity: what its children name it by.
        parent: the identity of its parent; empty for none.
        name: that one's.
    """
    kind = 4 if parent else 3
    footer = struct.pack(">8sIIQI4sI4s", b"conectix", 2, 0x10000, 512, 0, b"hand", 0x10000, b"Wi2k")
    footer += struct.pack(">QQHBBI4x", 32 * MIB, 32 * MIB, 963, 4, 17, kind)
    footer = summed_older((footer + uuid.UUID(identity).bytes).ljust(512, b"\0"), 64)
    header = struct.pack(">8sQQIII4x", b"cxsparse", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000, 16, 2 * MIB)
    header += uuid.UUID(parent).bytes if parent else bytes(16)
    header = (header + bytes(8)).ljust(64, b"\0") + name.encode("utf-16-be")
    header = summed_older(header.ljust(1024, b"\0"), 36)
    path.write_bytes(footer + header + b"\xff" * 512 + footer)


def summed_older(data: bytes, at: int) -> bytes:
    """Return a structure of a VHD with its checksum, which is at an offset."""
    data = data[:at] + bytes(4) + data[at + 4 :]
    return data[:at] + struct.pack(">I", ~sum(data) & 0xFFFFFFFF) + data[at + 4 :]


def patch(path: Path, start: int, data: bytes) -> None:
    """Write over a part of a file."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, start)
    finally:
        os.close(fd)
