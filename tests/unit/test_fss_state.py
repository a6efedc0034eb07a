"""srv_fss.tdb, packed by hand after Samba's IDL and stored in real tdb files."""

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context, SambaCopy, SambaSet, SambaState, SetState
from samba_rvss.samba.fss_state import delete_sets, parse, read, settled
from samba_rvss.testing import fss_records
from samba_rvss.testing.fss_records import Records, pack, store

SET = "3b4f7fa1-51e1-4f0e-9a0c-3b0f1a2b3c4d"
COPY = "0f0e0d0c-0b0a-0908-0706-050403020100"
PATH = "/run/samba-rvss/exposed/vms/20240229T235959Z-0123abcd"


def of_sets(*sets: Records) -> Records:
    """Return the records of the whole file."""
    records = fss_records.of_file(len(sets))
    for each in sets:
        records |= each
    return records


def of_set(
    name: str = SET, state: int = 3, context: int = int(Context.AUTO_RECOVERY), copies: int = 1
) -> Records:
    """Return the record of a set."""
    return fss_records.of_set(name, state, context, copies)


def of_copy(
    name: str = COPY,
    *,
    of: str = SET,
    share_path: str = "/srv/vms",
    path: str = PATH,
    maps: int = 1,
) -> Records:
    """Return the record of a shadow copy."""
    return fss_records.of_copy(of, name, share_path, path, 1709251199, maps)


def of_map(share: str = "vms", *, of: str = COPY, exposed: int = 0) -> Records:
    """Return the record of a share mapping."""
    return fss_records.of_map(SET, of, share, f"{share}@{{{of}}}", exposed)


def a_copy(**other: object) -> SambaCopy:
    """Return what the records above say."""
    values: dict[str, object] = {
        "set_id": SET,
        "copy_id": COPY,
        "share": "vms",
        "share_path": "/srv/vms",
        "path": PATH,
        "exposed_share": f"vms@{{{COPY}}}",
        "is_exposed": False,
        "state": SetState.COMMITTED,
        "context": int(Context.AUTO_RECOVERY),
        "created": datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
        "set_size": 1,
        **other,
    }
    return SambaCopy(**values)  # type: ignore[arg-type]


def a_state(*copies: SambaCopy, more: Sequence[SambaSet] = ()) -> SambaState:
    """Return a reading: some copies, their sets, and sets that have none."""
    sets = {copy.set_id: (copy.state, copy.context) for copy in copies}
    found = [SambaSet(id=name, state=one[0], context=one[1]) for name, one in sets.items()]
    return SambaState(sets=(*more, *found), copies=copies)


WHOLE = of_sets({**of_set(), **of_copy(), **of_map()})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "srv_fss.tdb"


# what is read


@pytest.mark.parametrize("state", SetState)
def test_one_set(file: Path, state: SetState) -> None:
    exposed = state in (SetState.EXPOSED, SetState.RECOVERED)
    store(
        file,
        of_sets({**of_set(state=int(state)), **of_copy(), **of_map(exposed=int(exposed))}),
    )
    assert read(str(file)) == a_state(a_copy(state=state, is_exposed=exposed))


def test_no_file(file: Path) -> None:
    assert read(str(file)) == a_state()


def test_no_sets(file: Path) -> None:
    store(file, of_sets())
    assert read(str(file)) == a_state()


def test_sets_without_copies_or_maps(file: Path) -> None:
    """A set that is only started, and one whose shares have not been mapped yet."""
    other = SET.replace("3", "4")
    store(file, of_sets(of_set(other, 0, 0, 0), {**of_set(), **of_copy(maps=0)}))
    started = SambaSet(id=other, state=SetState.STARTED, context=0)
    seen = read(str(file))
    assert seen is not None
    expected = a_state(a_copy(share="", exposed_share=""), more=[started])
    assert set(seen.sets) == set(expected.sets)  # a tdb has no order
    assert seen.copies == expected.copies


def test_many_sets_and_copies(file: Path) -> None:
    sets = []
    expected = set()
    for number in range(40):
        name = f"{number:08x}{SET[8:]}"
        copies: Records = {}
        for index in range(number % 4):
            copy = f"{number:04x}{index:04x}{COPY[8:]}"
            copies |= of_copy(copy, of=name, path=f"/run/{number}/{index}", maps=0)
            expected.add((name, copy, f"/run/{number}/{index}"))
        sets.append({**of_set(name, copies=number % 4), **copies})
    store(file, of_sets(*sets))
    state = read(str(file))
    assert state is not None
    assert len(state.sets) == 40
    assert {(one.set_id, one.copy_id, one.path) for one in state.copies} == expected


def test_odd_names(file: Path) -> None:
    """Alignment depends on the length of every string; share names may hold any character."""
    for length in range(1, 9):
        for share in ("ü" * length, "a/b" * length, "x y" * length, "$" * length):
            path = f"/srv/{share}"
            store(file, of_sets({**of_set(), **of_copy(share_path=path), **of_map(share)}))
            exposed = f"{share}@{{{COPY}}}"
            assert read(str(file)) == a_state(
                a_copy(share=share, share_path=path, exposed_share=exposed)
            )


def test_records_of_other_kinds_are_left_alone(file: Path) -> None:
    store(file, {**WHOLE, b"something_new\0": b"\xff", b"sc_set_x\0": b"", b"": b"x"})
    assert read(str(file)) == a_state(a_copy())


def test_reading_changes_nothing(file: Path) -> None:
    store(file, WHOLE)
    file.chmod(0o400)
    before = file.read_bytes(), file.stat().st_mtime_ns
    read(str(file))
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


# what cannot be told now


def _without(key: str) -> Records:
    return {raw: value for raw, value in WHOLE.items() if raw != pack(key)}


TORN = {
    "wiped": {},
    "no count yet": _without("sc_set_count"),
    "a set less than counted": _without(f"sc_set/{SET}"),
    "a copy less than counted": _without(f"sc_set/{SET}/sc/{COPY}"),
    "a map less than counted": _without(f"sc_set/{SET}/sc/{COPY}/smap/vms@{{{COPY}}}"),
    "a set more than counted": of_sets() | of_set(copies=0),
    "a state that there is not": of_sets({**of_set(state=6), **of_copy(), **of_map()}),
    "a record cut off": {**WHOLE, pack(f"sc_set/{SET}"): pack(SET, 3)},
    "a string without an end": {**WHOLE, pack(f"sc_set/{SET}/sc/{COPY}"): b"0f0e"},
    "a count cut off": {**WHOLE, pack("sc_set_count"): b"\1"},
}


@pytest.mark.parametrize("records", TORN.values(), ids=TORN)
def test_torn_states_are_not_believed(file: Path, records: Records) -> None:
    assert parse(records) is None
    store(file, records)
    assert read(str(file)) is None


def test_an_empty_file_is_not_believed(file: Path) -> None:
    file.touch()
    assert read(str(file)) is None


@contextmanager
def _another(file: Path, code: str) -> Iterator[None]:
    """Let another process do something with the file, and stay there."""
    program = (
        "import os, sys, tdb\n"
        "database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        f"{code}\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield


_WRITING = {
    "lock": "database.lock_all()",
    "transaction": "database.transaction_start()",
    "transaction with changes": (
        "database.transaction_start(); database.clear(); database.store(b'x', b'y')"
    ),
    "prepared": (
        "database.transaction_start(); database.store(b'x', b'y' * 9999);"
        " database.transaction_prepare_commit()"
    ),
}


@pytest.mark.parametrize("code", _WRITING.values(), ids=_WRITING)
def test_a_writer_is_not_waited_for(file: Path, code: str) -> None:
    """The daemon's event loop reads: it must not stand still because an smbd does."""
    store(file, WHOLE)
    with _another(file, code):
        started = time.monotonic()
        seen = read(str(file))
        spent = time.monotonic() - started
    # A transaction that is not being committed has changed nothing in the file yet.
    begun = code in (_WRITING["transaction"], _WRITING["transaction with changes"])
    assert seen is None or (begun and seen == a_state(a_copy()))
    assert spent < 10  # whoever waited for the writer would wait for ever
    assert read(str(file)) == a_state(a_copy())


def test_a_reader_is_no_writer(file: Path) -> None:
    store(file, WHOLE)
    with _another(file, "database.read_lock_all()"):
        assert read(str(file)) == a_state(a_copy())


def _cut_off(file: Path, records: Records) -> None:
    """End a process in the commit of a transaction."""
    program = (
        "import os, sys, tdb\n"
        "database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        "database.transaction_start()\n"
        f"for key, value in {records!r}.items(): database.store(key, value)\n"
        "database.transaction_prepare_commit()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=True)


def test_a_commit_that_was_cut_off_is_not_believed(file: Path) -> None:
    """The next writer recovers the file; until then it is of two minds."""
    store(file, WHOLE)
    _cut_off(file, of_sets({**of_set(state=5), **of_copy(), **of_map(exposed=1)}))
    assert read(str(file)) is None
    tdb.Tdb(str(file), 0, tdb.DEFAULT, os.O_RDWR).close()
    assert read(str(file)) == a_state(a_copy())


# what was left by a worker that was killed


_VERSION = {pack("db_version"): struct.pack("<I", 1)}
_KILLED = {
    "when it made the file": lambda file: file.write_bytes(b""),
    "when it had wiped the file": lambda file: store(file, {}),
    "when it had noted the version": lambda file: store(file, _VERSION),
    "in the commit": lambda file: _cut_off(file, WHOLE),
}


@pytest.mark.parametrize("kill", _KILLED.values(), ids=_KILLED)
def test_there_are_no_sets_after_a_killed_write(
    file: Path, kill: "Callable[[Path], object]"
) -> None:
    store(file, _VERSION)
    kill(file)
    assert read(str(file)) is None
    started = time.monotonic()
    assert settled(str(file), 0.3) == SambaState(sets=(), copies=())
    assert time.monotonic() - started > 0.3


def test_a_whole_file_is_not_waited_for(file: Path) -> None:
    assert settled(str(file), 60) == SambaState(sets=(), copies=())
    store(file, WHOLE)
    assert settled(str(file), 60) == a_state(a_copy())


@contextmanager
def _writer(file: Path, code: str) -> Iterator[None]:
    """Let another process, as the locks are a process's, do something in a second's time.

    Args:
        file: the file.
        code: what to do; ``write(records)`` is Samba's way.
    """
    program = (
        "import os, sys, tdb, time\n"
        "def write(records):\n"
        "    database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        "    database.clear()\n"
        "    for key, value in records.items(): database.store(key, value)\n"
        "    database.close()\n"
        "print(flush=True)\n"
        f"{code}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            yield
        finally:
            writer.kill()


def test_a_write_that_goes_on_is_waited_for(file: Path) -> None:
    store(file, {})
    with _writer(file, f"time.sleep(0.5); write({WHOLE!r})"):
        assert settled(str(file), 60) == a_state(a_copy())


@pytest.mark.parametrize("name", [name for name in TORN if name != "wiped"])
def test_what_disagrees_with_itself_never_proves_an_absence(file: Path, name: str) -> None:
    """Another Samba may have written it, in a form that we do not know."""
    store(file, TORN[name])
    with pytest.raises(RvssError, match="never complete"):
        settled(str(file), 0.3)


def test_a_lock_never_proves_an_absence(file: Path) -> None:
    store(file, {})
    with _another(file, "database.lock_all()"), pytest.raises(RvssError, match="never complete"):
        settled(str(file), 0.3)


def test_a_file_that_is_wiped_again_and_again_never_proves_an_absence(file: Path) -> None:
    store(file, {})
    with (
        _writer(file, "while True: write({})"),
        pytest.raises(RvssError, match="never complete"),
    ):
        settled(str(file), 0.5)


def test_every_reading_beside_a_writer_is_whole(file: Path) -> None:
    """Samba's own way to write, at full speed in another process."""
    store(file, WHOLE)
    other = {**of_set(state=5), **of_copy(), **of_map(exposed=1)}
    program = (
        "import os, sys, tdb\n"
        f"states = [{WHOLE!r}, {of_sets(other)!r}, {of_sets()!r}]\n"
        "print(flush=True)\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        "    database.clear()\n"
        "    database.transaction_start()\n"
        "    for key, value in states[number % 3].items(): database.store(key, value)\n"
        "    database.transaction_commit()\n"
        "    database.close()\n"
    )
    whole = {
        a_state(a_copy()),
        a_state(a_copy(state=SetState.RECOVERED, is_exposed=True)),
        a_state(),
    }
    seen: dict[SambaState | None, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            state = read(str(file))
            seen[state] = seen.get(state, 0) + 1
        writer.kill()
    assert seen.keys() <= {*whole, None}
    assert seen.keys() & whole


# what is no state at all


def _other_bytes(file: Path) -> None:
    file.write_bytes(b"this is no tdb" * 100)


def _directory(file: Path) -> None:
    file.mkdir()


def _link(file: Path) -> None:
    store(file.with_name("elsewhere"), WHOLE)
    file.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [_other_bytes, _directory, _link])
def test_damage_is_a_known_error(file: Path, damage: Callable[[Path], None]) -> None:
    damage(file)
    with pytest.raises(RvssError) as caught:
        read(str(file))
    assert caught.value.problem is Problem.SAMBA
    assert str(file) in caught.value.message


_keys = st.binary(max_size=20) | st.sampled_from(
    [*WHOLE, b"sc_set/", b"sc_set/x/sc/y", b"sc_set/x/sc/y/smap/z", b"sc_set/\xff"]
)


@given(st.sampled_from([{}, WHOLE]), st.dictionaries(_keys, st.binary(max_size=40), max_size=8))
@example({}, {b"sc_set_count\0": b"\0\0\0\0\0"})
def test_any_records_are_a_state_or_none(begin: Records, records: Records) -> None:
    state = parse({**begin, **records})
    assert state is None or isinstance(state, SambaState)


def _as_file(records: Records) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        store(Path(directory, "file"), records)
        return Path(directory, "file").read_bytes()


_BYTES = _as_file(WHOLE)


@settings(deadline=None)
@given(
    st.binary(max_size=400)
    | st.lists(
        st.tuples(st.integers(0, len(_BYTES) - 1), st.binary(min_size=1, max_size=8)), max_size=6
    ),
    st.integers(0, len(_BYTES)),
)
def test_any_file_is_a_state_or_none_or_refused(
    change: bytes | list[tuple[int, bytes]], length: int
) -> None:
    if isinstance(change, bytes):
        raw = change
    else:
        buffer = bytearray(_BYTES)
        for offset, piece in change:
            buffer[offset : offset + len(piece)] = piece
        raw = bytes(buffer[: max(length, 1)]) if length % 2 else bytes(buffer)
    with tempfile.NamedTemporaryFile() as file:
        file.write(raw)
        file.flush()
        try:
            state = read(file.name)
        except RvssError:
            return
        assert state is None or isinstance(state, SambaState)


# repairing it


OTHER = SET.replace("3", "4")
LIKE = f"{SET}0"  # begins as the other one does
THREE = of_sets(
    {**of_set(state=4), **of_copy(), **of_map(exposed=1)},
    {
        **of_set(OTHER, state=3),
        **of_copy(of=OTHER, path="/run/2"),
        **fss_records.of_map(OTHER, COPY, "vms", f"vms@{{{COPY}}}", 0, comment=""),
    },
    of_set(LIKE, state=1, copies=0),
) | {b"something_new\0": b"\xff"}


def records_of(file: Path) -> Records:
    """Return everything in a file."""
    database = tdb.Tdb(str(file), 0, tdb.DEFAULT, os.O_RDONLY)
    try:
        return {bytes(key): bytes(database.get(key)) for key in database}
    finally:
        database.close()


def _forgotten(file: Path, **wanted: SetState) -> tuple[str, ...]:
    names = {"first": SET, "other": OTHER, "like": LIKE, "unknown": COPY}
    return delete_sets(
        str(file), str(file.parent), {names[name]: state for name, state in wanted.items()}
    )


def test_a_set_is_removed_and_the_others_stay_as_they_are(file: Path) -> None:
    store(file, THREE)
    assert _forgotten(file, first=SetState.EXPOSED) == (SET,)
    left = records_of(file)
    mine = [key for key in THREE if key.startswith(f"sc_set/{SET}".encode())]
    expected = {k: v for k, v in THREE.items() if k not in mine or k == pack(f"sc_set/{LIKE}")}
    assert left == expected | {pack("sc_set_count"): struct.pack("<I", 2)}
    seen = read(str(file))
    assert seen is not None
    assert {one.id for one in seen.sets} == {OTHER, LIKE}


def test_several_sets_are_removed_at_once(file: Path) -> None:
    store(file, THREE)
    done = _forgotten(file, first=SetState.EXPOSED, like=SetState.ADDED, unknown=SetState.ADDED)
    assert set(done) == {SET, LIKE}
    assert _forgotten(file, first=SetState.EXPOSED, like=SetState.ADDED) == ()
    assert _forgotten(file, other=SetState.COMMITTED) == (OTHER,)
    assert read(str(file)) == a_state()
    assert set(records_of(file)) == {pack("db_version"), pack("sc_set_count"), b"something_new\0"}


@pytest.mark.parametrize(
    "wanted",
    [
        {"unknown": SetState.ADDED},
        # Its client has gone on since it was looked at.
        {"first": SetState.COMMITTED},
        {"first": SetState.RECOVERED, "other": SetState.EXPOSED, "like": SetState.STARTED},
        {},
    ],
)
def test_what_is_not_as_it_was_seen_stays(file: Path, wanted: dict[str, SetState]) -> None:
    store(file, THREE)
    before = file.read_bytes()
    assert _forgotten(file, **wanted) == ()
    assert records_of(file) == THREE
    assert file.read_bytes() == before


def test_no_file_to_repair(file: Path) -> None:
    assert _forgotten(file, first=SetState.EXPOSED) == ()
    assert not file.exists()


@pytest.mark.parametrize("records", TORN.values(), ids=TORN)
def test_a_torn_file_is_not_repaired(file: Path, records: Records) -> None:
    """Samba wipes it before it writes: a count of our own would be believed."""
    store(file, records)
    with pytest.raises(RvssError) as caught:
        _forgotten(file, first=SetState.COMMITTED)
    assert caught.value.problem is Problem.SAMBA
    assert records_of(file) == records


@pytest.mark.parametrize("damage", [_other_bytes, _directory])
def test_what_is_no_database_is_not_repaired(file: Path, damage: Callable[[Path], None]) -> None:
    damage(file)
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises(RvssError) as caught:
        _forgotten(file, first=SetState.EXPOSED)
    assert caught.value.problem is Problem.SAMBA
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_repaired_beside_a_writer(file: Path) -> None:
    """One that wipes and writes in Samba's way, at full speed: it is never left by half."""
    store(file, THREE)
    program = (
        "import os, sys, tdb\n"
        f"records = {THREE!r}\n"
        "print(flush=True)\n"
        "while True:\n"
        "    database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)\n"
        "    database.clear()\n"
        "    database.transaction_start()\n"
        "    for key, value in records.items(): database.store(key, value)\n"
        "    database.transaction_commit()\n"
        "    database.close()\n"
    )
    outcomes = {"removed": 0, "refused": 0}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                try:
                    assert _forgotten(file, first=SetState.EXPOSED) in ((SET,), ())
                    outcomes["removed"] += 1
                except RvssError:
                    outcomes["refused"] += 1
                seen = read(str(file))
                assert seen is None or {OTHER, LIKE} <= {one.id for one in seen.sets}
        finally:
            writer.kill()
    print(outcomes)
    assert outcomes["removed"]
    # Killed anywhere, it may have left the file wiped; the next writer makes it whole.
    store(file, THREE)
    assert _forgotten(file, first=SetState.EXPOSED) == (SET,)
