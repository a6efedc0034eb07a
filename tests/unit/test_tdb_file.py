"""Reading whole tdb files: what libtdb stores is found, and damage is an error, not a hang."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tdb
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_rvss.samba.tdb_file import read

_HEADS = 168 + 4


def store(path: Path, records: dict[bytes, bytes], *, without: frozenset[bytes]) -> None:
    """Write records with libtdb and remove some of them again."""
    path.unlink(missing_ok=True)
    database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for key, value in records.items():
            database.store(key, value)
        for key in without:
            database.delete(key)
    finally:
        database.close()


@given(
    records=st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=99)),
    count=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_what_libtdb_stores_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: dict[bytes, bytes], count: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "some.tdb"
    without = frozenset(list(records)[:count])
    store(path, records, without=without)
    kept = {key: value for key, value in records.items() if key not in without}
    assert read(str(path)) == kept
    assert read(str(path), b"\1") == {k: v for k, v in kept.items() if k.startswith(b"\1")}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "none"))


def test_a_file_that_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "some.tdb"
    store(path, {b"a": b"1"}, without=frozenset())
    code = (
        "import os, sys, tdb\n"
        "database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        "database.transaction_start()\n"
        "database.store(b'a', b'2')\n"
        "database.transaction_prepare_commit()\n"
        "print(flush=True)\n"
        "input()\n"
        "database.transaction_commit()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert read(str(path)) is None
        writer.communicate(b"\n")
    assert read(str(path)) == {b"a": b"2"}


@pytest.mark.parametrize(
    "data",
    [b"x", b"not a tdb file" * 100, b"TDB file\n".ljust(1000, b"\0")],
    ids=["short", "another", "without a version"],
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "some.tdb"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shorter|not a tdb file"):
        read(str(path))


@pytest.mark.parametrize("cut", [200, 700])
def test_a_file_that_was_cut_is_an_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "some.tdb"
    store(path, {bytes([number]): bytes(99) for number in range(200)}, without=frozenset())
    os.truncate(path, cut)
    with pytest.raises(ValueError, match=r"shorter|no end"):
        read(str(path))


def test_a_chain_without_an_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "some.tdb"
    store(path, {b"a": b"1"}, without=frozenset())
    data = bytearray(path.read_bytes())
    heads = struct.unpack_from("=131I", data, _HEADS)
    (offset,) = filter(None, heads)
    struct.pack_into("=I", data, offset, offset)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no end"):
        read(str(path))
