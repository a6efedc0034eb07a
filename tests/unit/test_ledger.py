"""The ledger: what a method has returned for is on disk, whatever happens next."""

import os
import re
import shutil
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
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samba_rvss
from samba_rvss.clock import moment, now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger, aside
from samba_rvss.model import UNKNOWN, Context, Moment, Phase, SetState, ShadowCopy, Volume
from tests.unit.values import NOW, copy_of

LONG_AGO = Moment(boot="another boot", seconds=12.5)


def timeless(copy: ShadowCopy | None) -> ShadowCopy | None:
    """Return a copy without the time that the ledger gave to it."""
    return copy and replace(copy, since=UNKNOWN)


def is_of_now(since: Moment) -> bool:
    """Return whether a moment was a moment ago."""
    present = moment()
    return since.boot == present.boot and present.seconds - 60 < since.seconds <= present.seconds


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
        id=_text,
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
    state=st.none() | st.sampled_from(SetState),
    since=st.builds(Moment, boot=_text.filter(bool), seconds=st.floats(0, 1e9)),
)


_CHANGEABLE = (
    *("phase", "path", "previous_path"),
    *("set_id", "copy_id", "context", "exposed_share", "state"),
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
        assert changed is not None
        if names & {"phase", "state"}:
            assert is_of_now(changed.since)
        else:
            assert changed.since == copy.since
        assert changed == ledger.get(copy.id) == replace(copy, **values, since=changed.since)


# since when it is as it is


def test_a_new_copy_is_of_the_present(ledger: Ledger) -> None:
    ledger.add(copy_of("a"), "create")
    found = ledger.get("a")
    assert found is not None
    assert is_of_now(found.since)


def test_a_new_copy_may_say_since_when(ledger: Ledger) -> None:
    ledger.add(replace(copy_of("a"), since=LONG_AGO), "create")
    found = ledger.get("a")
    assert found is not None
    assert found.since == LONG_AGO


@pytest.mark.parametrize(
    ("values", "news"),
    [
        ({"phase": Phase.OPEN}, True),
        ({"state": SetState.EXPOSED}, True),
        # Learned once more: its client has come so far now, whatever it was before.
        ({"phase": Phase.CREATING}, True),
        ({"state": None}, True),
        ({"context": 1, "set_id": "set", "copy_id": "copy", "exposed_share": "x"}, False),
        ({"previous_path": "/elsewhere"}, False),
        ({}, False),
    ],
)
def test_phase_and_state_set_its_time(
    ledger: Ledger,
    values: dict[str, Any],
    news: bool,  # noqa: FBT001
) -> None:
    ledger.add(replace(copy_of("a"), since=LONG_AGO), "create")
    changed = ledger.change(copy_of("a"), "changed", **values)
    assert changed is not None
    assert (changed.since != LONG_AGO) == news
    assert is_of_now(changed.since) == news
    assert ledger.get("a") == changed


def test_a_change_that_is_refused_leaves_its_time(ledger: Ledger) -> None:
    ledger.add(replace(copy_of("a", Phase.SEALED), since=LONG_AGO), "create")
    refused = ledger.change(copy_of("a"), "opened", unless=(Phase.SEALED,), phase=Phase.OPEN)
    assert refused is None
    found = ledger.get("a")
    assert found is not None
    assert found.since == LONG_AGO


def test_a_note_leaves_its_time(ledger: Ledger) -> None:
    ledger.add(replace(copy_of("a"), since=LONG_AGO), "create")
    ledger.note(copy_of("a"), "mounted again")
    found = ledger.get("a")
    assert found is not None
    assert found.since == LONG_AGO


def test_time_goes_on_and_the_clock_does_not_matter(ledger: Ledger) -> None:
    ledger.add(copy_of("a"), "create")
    times = []
    for phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING, Phase.SEALED):
        changed = ledger.change(copy_of("a"), "changed", phase=phase)
        assert changed is not None
        times.append(changed.since.seconds)
    assert times == sorted(set(times))
    assert times[-1] <= time.clock_gettime(time.CLOCK_BOOTTIME)


# what is unaccounted for


def test_findings_are_replaced_as_a_whole(ledger: Ledger) -> None:
    assert ledger.findings() == {}
    first = {"mount /run/x": Moment(boot="b", seconds=1.5), "set s": LONG_AGO}
    ledger.set_findings(first)
    assert ledger.findings() == first
    second = {"set s": LONG_AGO, "share vms@{1}": Moment(boot="b", seconds=0.0)}
    ledger.set_findings(second)
    assert ledger.findings() == second
    ledger.set_findings({})
    assert ledger.findings() == {}


def test_findings_outlive_the_daemon(path: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.set_findings({"image a": LONG_AGO})
    with closing(Ledger(path, read_only=True)) as ledger:
        assert ledger.findings() == {"image a": LONG_AGO}
        with pytest.raises(RvssError) as caught:
            ledger.set_findings({})
        assert caught.value.problem is Problem.STATE
        assert ledger.findings() == {"image a": LONG_AGO}


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
    assert ledger.gone() == {"c2": ("", copy_of("c2").volume)}
    ledger.change(copy_of("c3"), "gone", phase=Phase.GONE, exposed_share="vms@{3}")
    volume = copy_of("c2").volume
    assert ledger.gone() == {"c2": ("", volume), "c3": ("vms@{3}", volume)}


_LIVING = st.builds(
    replace,
    _copies,
    share=st.sampled_from(["vms", "VMs", "data"]),
    previous_path=st.sampled_from(["", "/run/a", "/run/b"]),
    ended=st.booleans(),
    state=st.sampled_from([None, SetState.COMMITTED, SetState.EXPOSED]),
    since=st.builds(Moment, boot=st.sampled_from(["now", "before"]), seconds=st.floats(0, 20)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_LIVING, max_size=12, unique_by=(lambda copy: copy.id, lambda copy: copy.path)),
    st.floats(0, 20),
)
def test_what_is_asked_of_all_copies(made: list[ShadowCopy], since: float) -> None:
    """Each answer is the one that the records give, read one by one."""
    ended = (Phase.KEPT, Phase.DELETING, Phase.GONE)
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Ledger(f"{directory}/ledger.db")) as ledger,
    ):
        ledger.add_all(made, "create", [""] * len(made))
        counted = [
            copy.share.lower()
            for copy in made
            if copy.phase not in (Phase.CREATING, *ended) and not copy.ended
        ]
        assert ledger.counts() == {share: counted.count(share) for share in counted}
        shown = sorted(copy.previous_path for copy in ledger.copies() if copy.previous_path)
        assert sorted(ledger.previous_paths()) == shown
        for state in (SetState.COMMITTED, SetState.EXPOSED):
            expected = any(
                copy.state is state
                and copy.phase not in ended
                and copy.since.boot == "now"
                and copy.since.seconds >= since
                for copy in ledger.copies()
            )
            assert ledger.is_any_since(state, Moment(boot="now", seconds=since)) == expected


def test_what_its_client_has_deleted_is_at_work_no_more(ledger: Ledger) -> None:
    """It may be sealed for long after that, where a disk stands still."""
    made = replace(copy_of("a", Phase.SEALING), state=SetState.EXPOSED, since=LONG_AGO)
    ledger.add(made, "create")
    assert ledger.is_any_since(SetState.EXPOSED, LONG_AGO)
    ledger.change(made, "ended", ended=True)
    assert not ledger.is_any_since(SetState.EXPOSED, LONG_AGO)


def test_what_callouts_ask_reads_no_history(ledger: Ledger, path: str) -> None:
    """A share's limit, and what is in a set: however many copies there were, they are not read."""
    asked: list[str] = []
    with closing(sqlite3.connect(path)) as database:
        ledger._file._database.set_trace_callback(asked.append)
        ledger.counts()
        ledger.of_set("set")
        plans = [
            str(row[3])
            for statement in asked
            for row in database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        ]
    assert any("copies_counted" in plan for plan in plans), plans
    assert any("copies_by_set" in plan for plan in plans), plans
    assert "SCAN copies" not in plans


def test_find_by_what_an_administrator_has(ledger: Ledger) -> None:
    one = copy_of("20240229T235959Z-aaaa0001")
    two = copy_of("20240229T235959Z-bbbb0002")
    for copy in (one, two):
        ledger.add(copy, "create")
        ledger.change(copy, "committed", set_id="set", copy_id=f"copy of {copy.id}")
    assert [copy.id for copy in ledger.find("set")] == [one.id, two.id]
    for word in (one.id, "aaaa0001", f"copy of {one.id}", one.path):
        assert [copy.id for copy in ledger.find(word)] == [one.id], word
    # Samba knows nothing of it: it may be a backup before a restore.
    ledger.add(copy_of("20240229T235959Z-cccc0003"), "create")
    for word in ("", "%", "aaaa", "0001", "20240229T235959Z", "_aaa0001", "AAAA0001x"):
        assert ledger.find(word) == [], word


def test_find_by_an_id_as_windows_shows_it(ledger: Ledger) -> None:
    one, two = copy_of("a"), copy_of("b")
    of_set, of_copy = str(UUID(int=0xABCDEF)), str(UUID(int=0xFEDCBA))
    for copy in (one, two):
        ledger.add(copy, "create")
        ledger.change(copy, "committed", set_id=of_set, copy_id=of_copy if copy is one else "")
    for word in (of_set, of_set.upper(), f"{{{of_set}}}"):
        assert [copy.id for copy in ledger.find(word)] == [one.id, two.id], word
    for word in (of_copy, f"{{{of_copy.upper()}}}"):
        assert [copy.id for copy in ledger.find(word)] == [one.id], word
    for word in ("{}", f"{{{{{of_copy}}}}}", of_copy[:-1]):
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
    left = copy if spared else replace(copy, phase=Phase.OPEN)
    assert timeless(ledger.get("a")) == left
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
    assert all(one.share == "VMs" and now() - one.time < timedelta(minutes=1) for one in found)
    assert [one.copy for one in ledger.events()] == ["a"] * 3 + ["b"] * 3
    assert [(one.copy, one.what) for one in ledger.events(limit=2)] == [
        ("b", "taken"),
        ("b", "note"),
    ]


def test_who_listens_is_told_of_what_is_on_disk(path: str) -> None:
    told = []
    with closing(Ledger(path)) as ledger, closing(Ledger(path, read_only=True)) as reader:
        ledger.listen(lambda event: told.append((event, reader.events()[-1])))
        ledger.add(copy_of("a"), "create")
        ledger.note_share("vms", "not taken", uid=7, detail="no room")
        assert ledger.change(copy_of("b"), "sealed") is None  # nothing happened
        with pytest.raises(TypeError):
            ledger.change(copy_of("a"), "sealed", color="red")
    assert [(event.copy, event.share, event.what, event.uid) for event, _ in told] == [
        ("a", copy_of("a").share, "create", copy_of("a").uid),
        ("", "vms", "not taken", 7),
    ]
    assert [event for event, _ in told] == [written for _, written in told]


def test_the_last_event_of_each_share(ledger: Ledger) -> None:
    for share, what in (("a", "taken"), ("b", "no room"), ("A", "no room"), ("b", "taken")):
        ledger.note_share(share, what)
    ledger.note_share("b", "another")
    found = ledger.last_of_shares("taken", "no room")
    assert {name: event.what for name, event in found.items()} == {"a": "no room", "b": "taken"}


def test_events_of_a_set(ledger: Ledger) -> None:
    """Those of its copies since it is known to be theirs, and those of nothing but the set."""
    for name in ("a", "b"):
        ledger.add(copy_of(name), "create")
        ledger.change(copy_of(name), "committed", set_id=f"set of {name}")
    ledger.note_set("set of a", "removed from srv_fss.tdb", detail="why")
    ledger.note_set("set of nobody", "worker ended")
    ledger.note_set("", "reconciled", detail="all")
    found = ledger.events("set of a")
    assert [(one.copy, one.set_id, one.what, one.detail) for one in found] == [
        ("a", "set of a", "committed", ""),
        ("", "set of a", "removed from srv_fss.tdb", "why"),
    ]
    assert [(one.share, one.uid, one.duration) for one in found[1:]] == [("", -1, None)]
    assert [one.what for one in ledger.events("set of nobody")] == ["worker ended"]
    assert [one.what for one in ledger.events("a")] == ["create", "committed"]
    assert len(ledger.events()) == 7


def test_history_is_forgotten_living_copies_are_not(ledger: Ledger) -> None:
    old = NOW - timedelta(days=365)
    ledger.add(copy_of("old", Phase.GONE, created=old), "create")
    ledger.add(copy_of("living", Phase.SEALED, created=old), "create")
    ledger.add(copy_of("new", Phase.GONE, created=now()), "create")
    ledger.delete_history(now() + timedelta(seconds=1) - timedelta(days=90))
    # However long ago it was taken: what deletes an image that comes back is that record.
    assert [copy.id for copy in ledger.copies(gone=True)] == ["living", "old", "new"]
    ledger.delete_history(now() + timedelta(seconds=1))
    assert [copy.id for copy in ledger.copies(gone=True)] == ["living"]
    assert [one.copy for one in ledger.events()] == ["living"]


def test_when_pruning_last_went_by_the_clock_is_not_forgotten(ledger: Ledger) -> None:
    assert ledger.last_event("pruned") is None
    ledger.note_set("", "pruned", detail="first")
    ledger.note_set("", "pruned", detail="second")
    ledger.note_set("", "reconciled")
    ledger.delete_history(now() + timedelta(seconds=1))
    assert [(one.what, one.detail) for one in ledger.events()] == [("pruned", "second")]


def test_events_of_some_kinds_come_in_their_order(ledger: Ledger) -> None:
    copy = copy_of("a")
    ledger.note(copy, "a kind", detail="first")
    ledger.note_set("", "another")
    ledger.note(copy, "no such")
    ledger.note(copy, "a kind", detail="second")
    found = ledger.events_of("another", "a kind")
    assert [event.detail for event in found] == ["first", "", "second"]
    assert ledger.events_of("another", "a kind", limit=1) == found[2:]


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
        assert timeless(ledger.get("a")) == copy_of("a")
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
        database.execute("PRAGMA user_version = 8")
    with pytest.raises(RvssError, match="version 8") as caught:
        Ledger(path, read_only=read_only)
    assert caught.value.problem is Problem.STATE
    assert "a newer samba-rvss wrote it" in caught.value.hint
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (8,)
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema")]
    assert names == ["copies"]


# older versions


_FIRST_VERSION = """
CREATE TABLE copies (
    id TEXT PRIMARY KEY, share TEXT NOT NULL, share_path TEXT NOT NULL,
    provider TEXT NOT NULL, file_system TEXT NOT NULL, volume_key TEXT NOT NULL,
    volume_name TEXT NOT NULL, directory TEXT NOT NULL, inode TEXT NOT NULL,
    created TEXT NOT NULL, phase TEXT NOT NULL, path TEXT NOT NULL UNIQUE,
    previous_path TEXT NOT NULL, uid INTEGER NOT NULL, set_id TEXT NOT NULL,
    copy_id TEXT NOT NULL, context INTEGER NOT NULL, exposed_share TEXT NOT NULL
) STRICT;
CREATE INDEX copies_by_phase ON copies (phase);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, copy TEXT NOT NULL, share TEXT NOT NULL,
    what TEXT NOT NULL, uid INTEGER NOT NULL, duration REAL, detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_copy ON events (copy);
PRAGMA user_version = 1;
"""


_SECOND_VERSION = """
ALTER TABLE copies ADD COLUMN state INTEGER NOT NULL DEFAULT -1;
ALTER TABLE copies ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE copies ADD COLUMN since REAL NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN set_id TEXT NOT NULL DEFAULT '';
CREATE INDEX events_by_set ON events (set_id);
CREATE TABLE findings (
    name TEXT PRIMARY KEY, boot TEXT NOT NULL, since REAL NOT NULL
) STRICT;
PRAGMA user_version = 2;
"""


def _as_second_version(path: str, *copies: ShadowCopy) -> None:
    """Write a ledger as version 2 did."""
    _as_first_version(path, *copies)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_SECOND_VERSION)
        for copy in copies:
            database.execute(
                "UPDATE copies SET state = ?, boot = ?, since = ? WHERE id = ?",
                (
                    -1 if copy.state is None else copy.state.value,
                    copy.since.boot,
                    copy.since.seconds,
                    copy.id,
                ),
            )
        database.execute("INSERT INTO findings VALUES ('set s', 'another boot', 12.5)")
        database.commit()


def _as_first_version(path: str, *copies: ShadowCopy) -> None:
    """Write a ledger as version 1 did."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_FIRST_VERSION)
        for copy in copies:
            volume = copy.volume
            values = (
                *(copy.id, copy.share, copy.share_path, volume.provider, volume.file_system),
                *(volume.key, volume.name, volume.directory, str(volume.inode)),
                *(copy.created.isoformat(), copy.phase.value, copy.path, copy.previous_path),
                *(copy.uid, copy.set_id, copy.copy_id, copy.context, copy.exposed_share),
            )
            database.execute(
                "INSERT INTO copies VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", values
            )
            database.execute(
                "INSERT INTO events (time, copy, share, what, uid, duration, detail)"
                " VALUES (?, ?, ?, 'taken', 7, 0.25, 'why')",
                (NOW.isoformat(), copy.id, copy.share),
            )
        database.commit()


_OLD = (
    replace(copy_of("a", Phase.TAKEN), uid=7),
    replace(
        copy_of("b", Phase.SEALED),
        previous_path="/run/previous/b",
        set_id="set",
        copy_id="copy",
        context=0x400000,
        exposed_share="vms@{copy}",
    ),
    copy_of("c", Phase.GONE),
)


def test_version_1_is_brought_up_to_date(path: str) -> None:
    """Nothing is lost; since when its copies are as they are is not known: since now, then."""
    _as_first_version(path, *_OLD)
    with closing(Ledger(path)) as ledger:
        copies = ledger.copies(gone=True)
        assert [timeless(copy) for copy in copies] == list(_OLD)
        assert all(is_of_now(copy.since) for copy in copies)
        (event,) = ledger.events("b")
        assert (event.what, event.uid, event.duration, event.detail) == ("taken", 7, 0.25, "why")
        assert (event.set_id, event.time) == ("", NOW)
        assert ledger.findings() == {}
        learned = ledger.change(_OLD[0], "exposed", state=SetState.EXPOSED, set_id="other")
        assert learned is not None
        assert ledger.find("other") == [learned]
        ledger.add(replace(copy_of("d"), since=LONG_AGO), "create")
    with closing(Ledger(path)) as ledger:
        again = ledger.copies(gone=True)
        assert again[0] == learned
        assert again[1:3] == copies[1:]
        assert again[3].since == LONG_AGO


# What volumes can be: pools may have blanks and colons in their names, and what SQL takes for a
# pattern; the first marks on ZFS had no guid.
_VOLUMES = (
    ("btrfs", "0e9d0b7c-0000-4000-8000-000000000001", "5"),
    ("zfs", "tank", "10904942806786661919"),
    ("zfs", "a:pool: with_%blanks", "7"),
    ("zfs", "zfs:tank", "7"),
    ("zfs", "7", "7"),
    ("zfs", "tank:", ""),
    ("zfs", "tank", ""),
)


@pytest.mark.parametrize("write", [_as_first_version, _as_second_version])
def test_a_key_becomes_the_volume_s_own_id(path: str, write: Callable[..., None]) -> None:
    copies = [
        replace(
            copy_of(f"c{number}"),
            volume=replace(copy_of("a").volume, provider=provider, file_system=file_system, id=own),
            state=SetState.EXPOSED if number else None,
            since=Moment(boot="b", seconds=number + 0.5),
        )
        for number, (provider, file_system, own) in enumerate(_VOLUMES)
    ]
    write(path, *copies)
    with closing(sqlite3.connect(path)) as database:
        keys = [key for (key,) in database.execute("SELECT volume_key FROM copies ORDER BY id")]
    assert keys == [":".join(volume) for volume in _VOLUMES]
    with closing(Ledger(path)) as ledger:
        found = ledger.copies()
        assert [copy.volume for copy in found] == [copy.volume for copy in copies]
        assert [copy.volume.key for copy in found] == keys
        if write is _as_second_version:
            assert found == copies
            assert ledger.findings() == {"set s": LONG_AGO}
    with closing(Ledger(path, read_only=True)) as ledger:
        assert ledger.copies() == found


def test_bringing_up_to_date_is_one_step(path: str) -> None:
    """One that fails, or a crash in its middle, leaves version 1."""
    _as_first_version(path, *_OLD)
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON copies WHEN old.id = 'b'"
            " BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )
    with pytest.raises(RvssError, match="not now") as caught:
        Ledger(path)
    assert caught.value.problem is Problem.STATE
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        columns = [row[1] for row in database.execute("PRAGMA table_info(copies)")]
        assert "since" not in columns
        database.execute("DROP TRIGGER broken")
    with closing(Ledger(path)) as ledger:
        assert all(is_of_now(copy.since) for copy in ledger.copies(gone=True))


def test_a_reader_leaves_version_1_to_the_daemon(path: str) -> None:
    _as_first_version(path, *_OLD)
    with pytest.raises(RvssError, match="has version 1, not 7") as caught:
        Ledger(path, read_only=True)
    assert caught.value.problem is Problem.STATE
    assert caught.value.hint == "the daemon brings it up to date when it starts"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


def _garbage(path: str) -> None:
    Path(path).write_bytes(b"this is no database" * 1000)


def _directory(path: str) -> None:
    os.mkdir(path)


def _cut_off(path: str) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
    os.truncate(path, 6000)


def _zeroed(path: str) -> None:
    """Lose a page in the middle, as a bad sector would."""
    with closing(Ledger(path)) as ledger:
        for number in range(50):
            ledger.add(copy_of(f"a{number}"), "create")
    with Path(path).open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def _other_tables(path: str) -> None:
    """Have the tables of somebody else, and our version."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE copies (what TEXT)")
        database.execute("PRAGMA user_version = 4")


def _no_text(path: str) -> None:
    """Lose what SQLite quotes when it says what is wrong."""
    Ledger(path).close()
    raw = Path(path).read_bytes()
    assert b"STRICT" in raw
    Path(path).write_bytes(raw.replace(b"STRICT", b"S\xff\xffICT"))


def read_all(path: str) -> None:
    """Read what a command reads."""
    with closing(Ledger(path, read_only=True)) as reader:
        reader.copies(gone=True)
        reader.events()


DAMAGES = [_garbage, _cut_off, _zeroed, _other_tables, _no_text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside(path: str, damage: Callable[[str], None]) -> None:
    """The daemon starts, and nothing is thrown away; a command that only reads changes nothing."""
    damage(path)
    was = Path(path).read_bytes()
    with pytest.raises(RvssError, match=re.escape(path)) as caught:
        read_all(path)
    assert caught.value.problem is Problem.STATE
    assert aside(path) == []
    with closing(Ledger(path)) as ledger:
        assert ledger.copies(gone=True) == []
        ledger.add(copy_of("b"), "create")
        event = ledger.events()[0]
    (kept,) = aside(path)
    assert (event.what, kept in event.detail) == ("set aside", True)
    assert Path(kept).read_bytes()[100:] == was[100:]  # opening it may change its header
    assert kept.startswith(f"{path}.damaged-")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with closing(Ledger(path)) as ledger:
        assert [copy.id for copy in ledger.copies()] == ["b"]
    assert aside(path) == [kept]


def test_each_damaged_file_has_a_name_of_its_own(path: str) -> None:
    for number in range(3):
        Path(path).write_bytes(b"this is no database %d" % number * 1000)
        Ledger(path).close()
    assert len({Path(name).read_bytes() for name in aside(path)}) == 3


def test_what_is_no_damage_is_refused(path: str) -> None:
    _directory(path)
    with pytest.raises(RvssError, match=re.escape(path)) as caught:
        Ledger(path)
    assert caught.value.problem is Problem.STATE
    assert os.path.isdir(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE copies SET phase = 'melted' WHERE id = 'a'",
        "UPDATE copies SET state = 77 WHERE id = 'a'",
        "UPDATE copies SET created = 'yesterday' WHERE id = 'a'",
        "UPDATE copies SET created = '2026-01-01T00:00:00' WHERE id = 'a'",
        "UPDATE copies SET inode = 'many' WHERE id = 'a'",
        "UPDATE copies SET share = CAST(x'ff' AS TEXT) WHERE id = 'a'",
        "UPDATE events SET time = 'then' WHERE copy = 'a'",
    ],
)
def test_a_value_that_is_not_known_is_one_records_fault(path: str, change: str) -> None:
    """Reading it is one sentence; when the daemon starts, that record is set aside."""
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
        ledger.add(copy_of("b"), "create")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(change)
    with pytest.raises(RvssError, match="ledger") as caught:
        read_all(path)
    assert caught.value.problem is Problem.STATE
    assert "restart samba-rvss.service" in caught.value.hint
    with closing(Ledger(path)) as ledger:
        assert {copy.id for copy in ledger.copies()} | {"a"} == {"a", "b"}
        assert "b" in {event.copy for event in ledger.events()}
        assert ledger.events()[-1].what == "set aside"
    (kept,) = aside(path)
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT count(*) FROM copies").fetchone() == (2,)
    with closing(Ledger(path)):
        pass
    assert aside(path) == [kept]


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


# a file that goes while it is in use


def _remove(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm"):
        os.unlink(name)


def _put_back(path: str) -> None:
    """Put an old backup in its place, with a log that is not that of ours."""
    for name in Path(path).parent.glob("*.old*"):
        name.unlink()
    with closing(Ledger(f"{path}.old")) as old:
        old.add(copy_of("old"), "create")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}.old{suffix}", f"{path}.copy{suffix}")
    for suffix in ("-wal", ""):
        os.rename(f"{path}.copy{suffix}", path + suffix)


@pytest.mark.parametrize("lose", [os.unlink, _remove, _put_back])
def test_a_lost_file_is_written_anew(path: str, lose: Callable[[str], None]) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
        lose(path)
        ledger.add(copy_of("b"), "create")
        ledger.change(copy_of("a"), "taken", phase=Phase.TAKEN)
        with closing(Ledger(path, read_only=True)) as reader:
            assert [copy.id for copy in reader.copies()] == ["a", "b"]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        lose(path)
        ledger.note(copy_of("a"), "noted")
    with closing(Ledger(path)) as ledger:
        assert [copy.id for copy in ledger.copies()] == ["a", "b"]
        assert [event.what for event in ledger.events()] == ["create", "create", "taken", "noted"]
    assert not list(Path(path).parent.glob("*.new*"))


def test_a_lost_directory_is_said_and_can_come_back(path: str) -> None:
    directory = Path(path).parent
    with closing(Ledger(path)) as ledger:
        ledger.add(copy_of("a"), "create")
        shutil.rmtree(directory)
        with pytest.raises(RvssError) as caught:
            ledger.add(copy_of("b"), "create")
        assert caught.value.problem is Problem.STATE
        directory.mkdir()
        ledger.add(copy_of("b"), "create")
    with closing(Ledger(path)) as ledger:
        assert [copy.id for copy in ledger.copies()] == ["a", "b"]


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
            last = 0
            while time.monotonic() < deadline or not last:
                with closing(Ledger(path, read_only=True)) as reader:
                    for _ in range(10):
                        (copy,) = reader.copies()
                        assert str(copy.context) == (copy.set_id or "0")
                        assert copy.context >= last
                        last = copy.context
        finally:
            ended.set()
            thread.join()
    assert last > 0


_WRITER = r"""
import os
import sys
sys.path.insert(0, sys.argv[2])
from datetime import UTC, datetime
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy, Volume
def say(line):
    os.write(1, f"{line}\n".encode())  # in one piece, whenever the end comes
ledger = Ledger(sys.argv[1])
first = int(sys.argv[3])
volume = Volume(provider="p", file_system="f", id="k", name="n", directory="", inode=1)
for number in range(first, first + 100000):
    copy = ShadowCopy(id=f"c{number:06}", share="s", share_path="/s", volume=volume,
        created=datetime(2024, 1, 1, tzinfo=UTC), phase=Phase.CREATING, path=f"/{number}")
    ledger.add(copy, "create")
    say(f"a {number}")
    ledger.change(copy, "taken", phase=Phase.TAKEN, set_id="set", context=number)
    say(f"t {number}")
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
    assert first >= 12


def test_auto_recovery_is_read_from_the_context(ledger: Ledger) -> None:
    ledger.add(copy_of("a"), "create")
    changed = ledger.change(copy_of("a"), "committed", context=int(Context.AUTO_RECOVERY))
    assert changed is not None
    assert changed.auto_recovery
