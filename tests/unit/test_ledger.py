"""The ledger: what a method has returned for is on disk, whatever happens next."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samba_rvss
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger, now
from samba_rvss.model import Context, Phase, ShadowCopy, Volume

NOW = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)


def copy_of(name: str, phase: Phase = Phase.CREATING, created: datetime = NOW) -> ShadowCopy:
    """Return a copy that is not in any ledger yet."""
    return ShadowCopy(
        id=name,
        share="vms",
        share_path="/srv/vms",
        volume=Volume(
            provider="btrfs",
            file_system="fs",
            key="btrfs:fs:256",
            name="vms",
            directory="",
            inode=256,
        ),
        created=created,
        phase=phase,
        path=f"/run/exposed/vms/{name}",
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


@pytest.fixture
def ledger(path: str) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        yield opened


# what is in it


_text = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
_numbers = st.integers(0, 2**64 - 1)
_copies = st.builds(
    ShadowCopy,
    id=_text.filter(bool),
    share=_text,
    share_path=_text,
    volume=st.builds(
        Volume,
        provider=_text,
        file_system=_text,
        key=_text,
        name=_text,
        directory=_text,
        inode=_numbers,
    ),
    created=st.datetimes(timezones=st.just(UTC)),
    phase=st.sampled_from(Phase),
    path=_text,
    previous_path=_text,
    uid=st.integers(-1, 2**32 - 1),
    set_id=_text,
    copy_id=_text,
    context=st.integers(0, 2**32 - 1),
    exposed_share=_text,
)


_CHANGEABLE = (
    *("phase", "path", "previous_path"),
    *("set_id", "copy_id", "context", "exposed_share"),
)


@settings(max_examples=40, deadline=None)
@given(_copies, _copies, st.sets(st.sampled_from(_CHANGEABLE)))
def test_a_copy_comes_back_as_it_was(copy: ShadowCopy, other: ShadowCopy, names: set[str]) -> None:
    values = {name: getattr(other, name) for name in names}
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Ledger(f"{directory}/ledger.db")) as ledger,
    ):
        ledger.add(copy, "create")
        assert ledger.get(copy.id) == ledger.by_path(copy.path) == copy
        changed = ledger.change(copy, "changed", **values)
        assert changed == ledger.get(copy.id) == replace(copy, **values)


def test_what_may_be_a_path_can_be_recorded(ledger: Ledger) -> None:
    """Or is refused as a known error: a name that is no UTF-8 must not look like a crash."""
    odd = replace(copy_of("a"), share="sh\udcff", path="/run/\udcff")
    with pytest.raises(RvssError) as caught:
        ledger.add(odd, "create")
    assert caught.value.problem is Problem.STATE
    assert ledger.copies() == []
    ledger.add(copy_of("b"), "create", detail="of \udcff")
    (event,) = ledger.events()
    assert event.detail == "of \\udcff"


def test_columns_that_never_change_are_refused(ledger: Ledger) -> None:
    ledger.add(copy_of("a"), "create")
    with pytest.raises(TypeError, match="share_path"):
        ledger.change(copy_of("a"), "changed", share_path="/elsewhere")


def test_copies_are_in_the_order_of_their_making(ledger: Ledger) -> None:
    for number in (3, 1, 2):
        ledger.add(copy_of(f"c{number}", created=NOW + timedelta(seconds=number)), "create")
    ledger.change(copy_of("c2"), "gone", phase=Phase.GONE)
    ledger.change(copy_of("c3"), "sealed", phase=Phase.SEALED)
    assert [copy.id for copy in ledger.copies()] == ["c1", "c3"]
    assert [copy.id for copy in ledger.copies(gone=True)] == ["c1", "c2", "c3"]


def test_find_by_what_an_administrator_has(ledger: Ledger) -> None:
    one = copy_of("20240229T235959Z-aaaa0001")
    two = copy_of("20240229T235959Z-bbbb0002")
    for copy in (one, two):
        ledger.add(copy, "create")
        ledger.change(copy, "committed", set_id="set", copy_id=f"copy of {copy.id}")
    assert [copy.id for copy in ledger.find("set")] == [one.id, two.id]
    for word in (one.id, "aaaa0001", f"copy of {one.id}", one.path):
        assert [copy.id for copy in ledger.find(word)] == [one.id], word
    for word in ("", "%", "aaaa", "0001", "20240229T235959Z", "_aaa0001", "AAAA0001x"):
        assert ledger.find(word) == [], word


# changing


@pytest.mark.parametrize("phase", Phase)
def test_a_change_spares_what_is_too_far(ledger: Ledger, phase: Phase) -> None:
    copy = copy_of("a", phase)
    ledger.add(copy, "create")
    done = ledger.change(
        copy_of("a", Phase.CREATING),  # what the caller thinks does not count
        "opened",
        unless=(Phase.SEALED, Phase.GONE),
        phase=Phase.OPEN,
    )
    spared = phase in (Phase.SEALED, Phase.GONE)
    assert (done is None) == spared
    assert ledger.get("a") == (copy if spared else replace(copy, phase=Phase.OPEN))
    assert [event.what for event in ledger.events("a")] == ["create"] + ["opened"] * (not spared)


def test_a_change_of_nobody(ledger: Ledger) -> None:
    assert ledger.change(copy_of("a"), "opened", phase=Phase.OPEN) is None
    assert ledger.events() == []


def test_one_of_many_wins(ledger: Ledger) -> None:
    """`unless` and the change are one step: of several threads one seals, the rest are told."""
    ledger.add(copy_of("a", Phase.OPEN), "create")
    won: list[int] = []
    ready = threading.Barrier(8)

    def race(number: int) -> None:
        ready.wait()
        if ledger.change(copy_of("a"), "sealed", unless=(Phase.SEALED,), phase=Phase.SEALED):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [event.what for event in ledger.events()] == ["create", "sealed"]


def test_events(ledger: Ledger) -> None:
    for name in ("a", "b"):
        ledger.add(copy_of(name), "create", detail="why")
        ledger.change(copy_of(name), "taken", uid=7, duration=0.25, phase=Phase.TAKEN)
        ledger.note(copy_of(name), "note", detail="more")
    found = ledger.events("a")
    assert [(one.what, one.uid, one.duration, one.detail) for one in found] == [
        ("create", -1, None, "why"),
        ("taken", 7, 0.25, ""),
        ("note", -1, None, "more"),
    ]
    assert all(one.share == "vms" and now() - one.time < timedelta(minutes=1) for one in found)
    assert [one.copy for one in ledger.events()] == ["a"] * 3 + ["b"] * 3
    assert [(one.copy, one.what) for one in ledger.events(limit=2)] == [
        ("b", "taken"),
        ("b", "note"),
    ]


def test_history_is_forgotten_living_copies_are_not(ledger: Ledger) -> None:
    old = NOW - timedelta(days=365)
    ledger.add(copy_of("old", Phase.GONE, created=old), "create")
    ledger.add(copy_of("living", Phase.SEALED, created=old), "create")
    ledger.add(copy_of("new", Phase.GONE, created=now()), "create")
    ledger.forget(now() + timedelta(seconds=1) - timedelta(days=90))
    assert [copy.id for copy in ledger.copies(gone=True)] == ["living", "new"]
    ledger.forget(now() + timedelta(seconds=1))
    assert [copy.id for copy in ledger.copies(gone=True)] == ["living"]
    assert [one.copy for one in ledger.events()] == ["living"]


# the file


def test_it_is_root_s_alone(path: str) -> None:
    before = os.umask(0)
    try:
        with closing(Ledger(path)) as ledger:
            ledger.add(copy_of("a"), "create")
            modes = {
                name: stat.S_IMODE(os.stat(name).st_mode)
                for name in (path, f"{path}-wal", f"{path}-shm")
            }
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}


def test_reopened(path: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
    with closing(Ledger(path)) as ledger:
        assert ledger.get("a") == copy_of("a")
        assert len(ledger.events()) == 1


def test_a_copy_of_the_files_is_whole_at_any_time(path: str, tmp_path: Path) -> None:
    """As after a loss of power: what a method returned for is in the files, not in memory."""
    (tmp_path / "later").mkdir()
    later = str(tmp_path / "later" / "ledger.db")
    with closing(Ledger(path)) as ledger:
        for number in range(20):
            ledger.add(copy_of(f"c{number}"), "create")
            for suffix in ("", "-wal"):
                content = Path(path + suffix).read_bytes()
                Path(later + suffix).write_bytes(content)
            with closing(Ledger(later)) as copied:
                assert len(copied.copies()) == number + 1
            for name in (tmp_path / "later").iterdir():
                name.unlink()


def test_reading_without_a_file(path: str) -> None:
    with pytest.raises(RvssError, match="no ledger at") as caught:
        Ledger(path, read_only=True)
    assert caught.value.problem is Problem.NOT_FOUND
    assert not os.path.exists(path)


@pytest.mark.parametrize("name", ["led?er", "led%41ger", "led#er", "le der&mode=memory", "lédger"])
def test_odd_paths(tmp_path: Path, name: str) -> None:
    """The path becomes a URI."""
    path = str(tmp_path / name)
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
    assert Path(path).stat().st_size > 0
    with closing(Ledger(path, read_only=True)) as ledger:
        assert ledger.get("a") is not None


def test_a_reader_cannot_write(path: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
    with closing(Ledger(path, read_only=True)) as reader:
        with pytest.raises(RvssError) as caught:
            reader.change(copy_of("a"), "sealed", phase=Phase.SEALED)
        assert caught.value.problem is Problem.STATE
        assert [copy.phase for copy in reader.copies()] == [Phase.CREATING]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_version_is_refused_and_left_alone(path: str, read_only: bool) -> None:  # noqa: FBT001
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE copies (what_comes_after TEXT)")
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(RvssError, match="version 2") as caught:
        Ledger(path, read_only=read_only)
    assert caught.value.problem is Problem.STATE
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema")]
    assert names == ["copies"]


def _garbage(path: str) -> None:
    Path(path).write_bytes(b"this is no database" * 1000)


def _directory(path: str) -> None:
    os.mkdir(path)


def _cut_off(path: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
    os.truncate(path, 6000)


@pytest.mark.parametrize("damage", [_garbage, _directory, _cut_off])
def test_a_damaged_file_is_a_known_error(path: str, damage: Callable[[str], None]) -> None:
    damage(path)
    with pytest.raises(RvssError) as caught, closing(Ledger(path)) as ledger:
        ledger.copies(gone=True)
    assert caught.value.problem is Problem.STATE
    assert path in caught.value.message


def test_an_empty_file_is_a_new_ledger(path: str) -> None:
    """What a crash between making the file and filling it leaves."""
    Path(path).touch()
    with closing(Ledger(path)) as ledger:
        assert ledger.copies() == []


@pytest.mark.require("root")
def test_full_file_system(rig_directory: Path) -> None:
    """A known error; when there is room again, it goes on."""
    small = rig_directory / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)], check=True)
    try:
        with closing(Ledger(str(small / "ledger.db"))) as ledger:
            ledger.add(copy_of("a"), "create")
            with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(4096))
            added = []
            with suppress(RvssError):
                for number in range(1000):
                    ledger.add(copy_of(f"c{number:03}"), "create")
                    added.append(f"c{number:03}")
            assert len(added) < 1000
            for _ in range(3):
                with pytest.raises(RvssError, match="full") as caught:
                    ledger.add(copy_of("more"), "create")
                assert caught.value.problem is Problem.STATE
            assert [copy.id for copy in ledger.copies()] == sorted(["a", *added])
            (small / "filler").unlink()
            ledger.add(copy_of("z"), "create")
            assert [copy.id for copy in ledger.copies()] == sorted(["a", *added, "z"])
    finally:
        subprocess.run(["umount", str(small)], check=True)


# others


def test_a_reader_sees_whole_changes_while_another_writes(path: str) -> None:
    """Commands read while the daemon writes: never an error, never half a change."""
    ended = threading.Event()
    with closing(Ledger(path)) as writer:
        writer.add(copy_of("a"), "create")

        def write() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                writer.change(copy_of("a"), f"{number}", context=number, set_id=f"{number}")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            deadline = time.monotonic() + 1
            last = reads = 0
            while time.monotonic() < deadline or not reads:
                with closing(Ledger(path, read_only=True)) as reader:
                    for _ in range(10):
                        (copy,) = reader.copies()
                        assert str(copy.context) == (copy.set_id or "0")
                        assert copy.context >= last
                        last = copy.context
                        reads += 1
        finally:
            ended.set()
            thread.join()
    assert last > 0


_WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from datetime import UTC, datetime
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy, Volume
ledger = Ledger(sys.argv[1])
first = int(sys.argv[3])
volume = Volume(provider="p", file_system="f", key="k", name="n", directory="", inode=1)
for number in range(first, first + 100000):
    copy = ShadowCopy(id=f"c{number:06}", share="s", share_path="/s", volume=volume,
        created=datetime(2024, 1, 1, tzinfo=UTC), phase=Phase.CREATING, path=f"/{number}")
    ledger.add(copy, "create")
    print("a", number, flush=True)
    ledger.change(copy, "taken", phase=Phase.TAKEN, set_id="set", context=number)
    print("t", number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_was_told_of(path: str) -> None:
    """SIGKILL at any instant: all that a method returned for is there, and nothing by half."""
    root = str(Path(samba_rvss.__file__).parent.parent)
    first = 0
    for turn in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, path, root, str(first)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]
            time.sleep(0.003 * turn)
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines()
        said = [line.split() for line in lines if line.strip()]
        added = {int(number) for what, number in said if what == b"a"}
        taken = {int(number) for what, number in said if what == b"t"}
        with closing(Ledger(path)) as ledger:
            copies = {int(copy.id[1:]): copy for copy in ledger.copies()}
            events = ledger.events(limit=10**6)
        assert added <= copies.keys()
        for number, copy in copies.items():
            is_taken = copy.phase is Phase.TAKEN
            assert copy.set_id == ("set" if is_taken else "")
            assert copy.context == (number if is_taken else 0)
            assert is_taken or number not in taken
        told = [event.what for event in events]
        assert told.count("create") == len(copies)
        assert told.count("taken") == sum(one.phase is Phase.TAKEN for one in copies.values())
        first = max(copies) + 1
    assert first > 12


def test_auto_recovery_is_read_from_the_context(ledger: Ledger) -> None:
    ledger.add(copy_of("a"), "create")
    changed = ledger.change(copy_of("a"), "committed", context=int(Context.AUTO_RECOVERY))
    assert changed is not None
    assert changed.auto_recovery
