"""Virtual disks: what their structures say, and that nonsense in them is an answer."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samba_rvss.hyperv import survey, vhd, vhdx
from samba_rvss.hyperv.crc32c import crc32c
from samba_rvss.hyperv.disk import MOST, Disk, State, Window
from samba_rvss.kernel import files
from tests import virtual_disks as disks
from tests.virtual_disks import MIB

PARENT = "0F2C4D64-6A5C-4B43-9C5C-1F7B3E0A9D11"
OTHER = "7B1D7B2E-3A49-4C69-8C3E-5C0E5E6F7A22"


def _look(path: Path) -> Disk:
    with files.opened(os.open(path.parent, files.DIRECTORY)) as root:
        return survey.look(root, os.fsencode(path.name))


def test_the_checksum_is_the_one_of_the_standard() -> None:
    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_disk_that_was_open_has_a_log_to_replay(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    disks.make(path, PARENT, log=OTHER)
    found = _look(path)
    assert (found.state, found.size, found.identity) == (State.LOG, 1 << 30, PARENT)
    disks.patch(path, 2 * MIB, bytes(8))  # metadata, which the log may have
    assert _look(path) == Disk(
        state=State.LOG, identity=PARENT, why="until then its metadata is none"
    )


def test_the_header_with_the_higher_number_counts(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    disks.make(path, PARENT)
    disks.patch(path, 64 << 10, disks.header(9, OTHER))
    assert _look(path).identity == OTHER
    disks.patch(path, (64 << 10) + 100, b"x")  # half written: the other one is there
    assert _look(path).identity == PARENT
    disks.patch(path, (192 << 10) + 100, b"x")  # and one region table is enough
    assert _look(path).state is State.WHOLE


def _cut(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


def _at(start: int, data: bytes) -> Callable[[Path], None]:
    return lambda path: disks.patch(path, start, data)


def _parentless(path: Path) -> None:
    disks.make(path, parent={"relative_path": "x"})


def _wordy(path: Path) -> None:
    disks.make(path, parent={"parent_linkage": "my parent"})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_at(0, b"V"), "it does not begin as a VHDX does"),
        (_cut(0), "it ends before its type"),
        (_cut(100_000), "it ends before its header"),
        (_cut(2 * MIB), "it ends before its block allocation table"),
        (_at(3 * MIB, b""), ""),
        (_at(64 << 10, disks.header(2, OTHER)), "two headers differ and claim to be the present"),
        (_at(64 << 10, disks.header(3, OTHER, version=2)), "it is of version 2.0"),
        (_at(192 << 10, disks.regions((MIB + 1, MIB))), "its block allocation table is where none"),
        (_at(192 << 10, disks.regions((3 * MIB, 1 << 31))), "it ends before its block allocation"),
        (_at(2 * MIB, bytes(8)), "its metadata is none"),
        (_at(2 * MIB + 10, struct.pack("<H", 2048)), "its metadata is none"),
        (_at(2 * MIB + 48, struct.pack("<I", 1 << 31)), "its metadata has an item outside of it"),
        (_at(2 * MIB + (64 << 10), bytes(4)), "its blocks are of 0 bytes"),
        (_at(2 * MIB + (64 << 10) + 8, bytes(8)), "its size is 0 bytes"),
        (_parentless, "it does not say which disk its parent is"),
        (_wordy, "what it says of its parent is no GUID"),
    ],
)
def test_damage_is_named(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    path = tmp_path / "disk.vhdx"
    disks.make(path)
    spoil(path)
    found = _look(path)
    assert found.state is (State.DAMAGED if why else State.WHOLE)
    assert found.why.startswith(why)


def test_without_headers_or_tables_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    disks.make(path)
    for at in (64 << 10, 128 << 10):
        disks.patch(path, at + 8, b"xx")
    assert _look(path).why == "neither of its headers has its checksum"
    disks.make(path)
    for at in (192 << 10, 256 << 10):
        disks.patch(path, at + 8, b"xx")
    assert _look(path).why == "neither of its region tables has its checksum"


def test_disks_of_the_older_format(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    disks.make_older(path, OTHER)
    assert _look(path) == Disk(state=State.WHOLE, identity=OTHER, size=32 * MIB, block_size=2 * MIB)
    path = tmp_path / "child.avhd"
    disks.make_older(path, OTHER, PARENT, "disk.vhd")
    found = _look(path)
    assert (found.is_child, found.linkage, found.names) == (True, (PARENT,), ("disk.vhd",))


def test_a_damaged_vhd_is_named(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    disks.make_older(path, OTHER)
    disks.patch(path, 512, b"x")
    assert _look(path).why == "its header does not have its checksum"
    os.truncate(path, path.stat().st_size - 1)
    assert _look(path).why == "its footer does not have its checksum"
    os.truncate(path, 100)
    assert _look(path).why == "it ends before its footer"


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.vhdx")
    assert _look(tmp_path / "pipe.vhdx").state is State.UNKNOWN
    (tmp_path / "link.vhdx").symlink_to("/etc/passwd")
    assert _look(tmp_path / "link.vhdx").state is State.UNKNOWN


class _Counted(Window):
    """A window that counts what is read through it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.read_bytes = 0

    def read(self, start: int, length: int, what: str) -> bytes:
        found = super().read(start, length, what)
        self.read_bytes += len(found)
        return found


_STRUCTURES = [0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 2 * MIB, 2 * MIB + (64 << 10)]
_PIECE = st.tuples(
    st.sampled_from(_STRUCTURES),
    st.integers(0, 400),
    st.binary(min_size=1, max_size=16) | st.sampled_from([b"\xff" * 8, bytes(16)]),
)


def _require_answer(path: Path, look: Callable[[Window], Disk]) -> None:
    with files.opened(os.open(path, os.O_RDONLY)) as fd:
        window = _Counted(fd)
        found = look(window)
    assert window.read_bytes <= MOST
    assert found.why or found.state in (State.WHOLE, State.LOG)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(_PIECE, max_size=6),
    length=st.sampled_from([0, 511, 70_000, 300_000, 2 * MIB, 4 * MIB, 1 << 40]),
    is_child=st.booleans(),
    is_summed=st.booleans(),
)
def test_nonsense_is_an_answer_and_costs_little(
    tmp_path: Path,
    pieces: list[tuple[int, int, bytes]],
    length: int,
    *,
    is_child: bool,
    is_summed: bool,
) -> None:
    path = tmp_path / "disk.vhdx"
    if is_child:
        disks.child(path, PARENT, "base.vhdx")
    else:
        disks.make(path)
    for start, offset, data in pieces:
        disks.patch(path, start + offset, data)
    if is_summed:  # so that what is behind a checksum is reached
        with path.open("rb") as file:
            for at, size in ((64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10)):
                file.seek(at)
                part = file.read(size)
                disks.patch(path, at, disks.summed(part[:4] + bytes(4) + part[8:], size))
    os.truncate(path, length)
    _require_answer(path, vhdx.look)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(st.tuples(st.integers(0, 2560), st.binary(min_size=1, max_size=16)), max_size=4)
)
def test_nonsense_in_the_older_format_as_well(
    tmp_path: Path, pieces: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "disk.vhd"
    disks.make_older(path, OTHER, PARENT, "base.vhd")
    for start, data in pieces:
        disks.patch(path, start, data)
    # The sums are right, so that what is behind them is reached.
    content = path.read_bytes()
    end = len(content) - 512
    disks.patch(path, end, disks.summed_older(content[end:], 64))
    disks.patch(path, 512, disks.summed_older(content[512:1536], 36))
    _require_answer(path, vhd.look)
