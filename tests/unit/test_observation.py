"""Looking: each source can fail alone, and absence is believed when it was seen twice."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from samba_rvss.clock import now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ENDED, Inventory, Phase, SetState, Worker
from samba_rvss.reconcile import apply, observation
from samba_rvss.reconcile.decision import (
    Adopt,
    Delete,
    DeleteSet,
    DeleteShare,
    Destroy,
    OnImage,
    Unmount,
)
from samba_rvss.reconcile.observation import Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba import control
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing import fss_records
from tests.unit.site import SHARE, Site
from tests.unit.values import SET, copy_of, image_of


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            made.seal_copy()
            yield made


EMPTY = fss_records.of_file(0)
REMOVALS = {Delete, Destroy, Unmount, DeleteShare, DeleteSet}


@pytest.mark.require("root")  # smbstatus(1) tells nobody else who is connected
def test_everything_is_seen(site: Site) -> None:
    seen = site.observe()
    assert seen.problems == ()
    assert [copy.id for copy in seen.copies] == ["a"]
    assert seen.samba is not None
    assert [copy.path for copy in seen.samba.copies] == [site.path]
    assert seen.inventory == site.inventory()
    assert (seen.mounts, seen.directories) == (frozenset(), frozenset())
    assert (seen.shares, seen.descriptors, seen.workers) == ({}, frozenset(), ())
    assert seen.history == frozenset({SHARE})
    assert seen.connected == frozenset()
    assert seen.changing == frozenset()


def _break_registry(site: Site) -> None:
    path = site.directory / "state" / "registry.tdb"
    whole = path.read_bytes()
    # One whose header is damaged as well, Samba replaces by a new one without a word.
    path.write_bytes(whole[:200] + b"\xff" * (len(whole) - 200))
    site.samba.close()  # the library keeps an open database


def _break_descriptors(site: Site) -> None:
    (site.directory / "state" / "share_info.tdb").write_bytes(b"this is no tdb" * 500)


def _break_fss_state(site: Site) -> None:
    Path(site.config.fss_state).write_bytes(b"this is no tdb" * 500)


def _break_directories(site: Site) -> None:
    (site.directory / "run" / "exposed").mkdir()
    (site.directory / "run" / "exposed" / "file").touch()


def _break_inventory(site: Site) -> None:
    site.failure = RvssError(Problem.SYSTEM, "the disk is on fire")


def _break_messages(site: Site) -> None:
    """Have smbstatus fail: it wants a directory there (lib/messages_dgm.c)."""
    path = site.directory / "lock" / "msg.lock"
    shutil.rmtree(path)
    path.touch()


_BROKEN = {
    "shares": _break_registry,
    "descriptors": _break_descriptors,
    "samba": _break_fss_state,
    "directories": _break_directories,
    "inventory": _break_inventory,
    "connected": _break_messages,
}


@pytest.mark.parametrize("name", _BROKEN)
@pytest.mark.require("root")  # smbstatus(1) tells nobody else who is connected
def test_one_source_fails_alone(site: Site, name: str) -> None:
    """The others are seen, the reason is kept, and nothing that rests on it is removed."""
    site.observe()  # so that Samba's registry is there
    _BROKEN[name](site)
    seen = site.observe()
    blind = {one for one in (*_BROKEN, "mounts", "workers") if getattr(seen, one) is None}
    assert blind == {name}
    assert len(seen.problems) == 1, seen.problems
    assert seen.problems[0].startswith("cannot see ")
    decided = plan(seen)
    assert decided.problems == seen.problems
    assert not {type(action) for action in decided.actions} & REMOVALS


# srv_fss.tdb


_WRITER = """
import os, sys, tdb
records = eval(sys.stdin.readline())
print(flush=True)
while True:
    database = tdb.Tdb(sys.argv[1], 0, tdb.DEFAULT, os.O_RDWR)
    database.clear()
    database.transaction_start()
    for key, value in records.items():
        database.store(key, value)
    database.transaction_commit()
    database.close()
"""


def test_wiped_and_written_in_a_loop_is_never_absent(site: Site) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, site.config.fss_state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        try:
            writer.stdin.write(f"{site.records()!r}\n".encode())
            writer.stdin.flush()
            writer.stdout.readline()
            looks, deadline = 0, time.monotonic() + 3
            while looks < 5 or time.monotonic() < deadline:
                seen = site.observe(starting=bool(looks % 2))
                if seen.samba is None:  # "cannot tell" is an answer, "absent" is not
                    assert any("srv_fss.tdb" in one for one in seen.problems)
                else:
                    assert [copy.path for copy in seen.samba.copies] == [site.path]
                looks += 1
        finally:
            writer.kill()


def test_absence_is_seen_twice(site: Site) -> None:
    site.store(EMPTY)
    started = time.monotonic()
    seen = observe(Sources(instance=site.instance(), twice_seconds=0.5))
    assert time.monotonic() - started >= 0.5
    assert seen.samba is not None
    assert seen.samba.copies == ()


@pytest.mark.parametrize("first", ["absent", "present"])
def test_what_was_there_once_is_there(
    site: Site, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers erase each other's sets; a file may be gone for a moment."""
    # Another copy that is in no reading keeps the look from ending with the first one.
    other = f"{site.path}-other"
    site.ledger.add(replace(copy_of("b", Phase.TAKEN, created=now()), path=other), "create")
    if first == "absent":
        os.unlink(site.config.fss_state)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        """Between the two readings."""
        slept.append(seconds)
        site.store(*([EMPTY] if first == "present" else []))

    monkeypatch.setattr(observation, "time", SimpleNamespace(sleep=sleep))
    seen = observe(Sources(instance=site.instance(), twice_seconds=1.5))
    assert slept == [1.5]
    assert seen.samba is not None
    assert [copy.path for copy in seen.samba.copies] == [site.path]


def test_at_the_start_nobody_waits_and_absence_proves_nothing(site: Site) -> None:
    """Samba may be in a Commit that waits for us."""
    site.store(EMPTY)
    started = time.monotonic()
    seen = observe(Sources(instance=site.instance(), starting=True, twice_seconds=60.0))
    assert time.monotonic() - started < 30
    assert (seen.unproven, seen.changing) == (frozenset({"a"}), frozenset())
    assert not {type(action) for action in plan(seen).actions} & REMOVALS


def test_what_changes_meanwhile_is_somebodys_work(site: Site) -> None:
    def inventory() -> Inventory:
        site.ledger.change(site.copy, "delete", phase=Phase.DELETING)
        return Inventory(file_systems=frozenset({"fs"}), images=())

    seen = observe(Sources(instance=site.instance(inventory)))
    assert seen.changing == frozenset({"a"})
    assert "a" not in {action.target for action in plan(seen).actions}


# a plan ages


@pytest.mark.parametrize(("kind", "of_gone"), [(Adopt, False), (Destroy, True)])
def test_an_image_is_judged_by_its_record(
    site: Site, kind: type[OnImage], *, of_gone: bool
) -> None:
    """What was deleted meanwhile is not taken in again."""
    instance = site.instance()
    image = image_of("a", site.copy.created)
    action = kind(image=image, reason="a test")
    assert not apply.is_current(instance, action)
    site.ledger.change(site.copy, "gone", phase=Phase.GONE)
    assert apply.is_current(instance, action) == of_gone
    assert apply.is_current(instance, kind(image=replace(image, id="b"), reason="a test"))


@pytest.mark.parametrize("phase", Phase)
def test_a_set_goes_only_after_its_copies(site: Site, phase: Phase) -> None:
    """Their removal may have failed, or was not called for any more."""
    instance = site.instance()
    site.ledger.change(site.copy, "changed", phase=phase)
    left = phase not in ENDED
    action = DeleteSet(set_id=SET, state=SetState.RECOVERED, reason="no shadow copy of it is left")
    assert apply.is_current(instance, action) == (not left)
    assert apply.is_current(instance, replace(action, set_id="another"))


@pytest.mark.parametrize("connections", [frozenset({1}), None])
def test_a_worker_that_a_client_has_come_to_is_spared(
    site: Site, monkeypatch: pytest.MonkeyPatch, connections: frozenset[int] | None
) -> None:
    """So is one of which it cannot be told; and neither is written down as ended."""
    action = DeleteSet(set_id=SET, state=SetState.COMMITTED, idle=True, reason="no shadow copy")
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            worker = Worker(pid=process.pid, clients=0, started=0.0)
            monkeypatch.setattr(control, "workers", lambda *_: (worker,))
            monkeypatch.setattr(control, "worker_pids", lambda *_: [process.pid])
            monkeypatch.setattr(control, "pipes", lambda *_: connections)
            with pytest.raises(RvssError, match="has connected") as caught:
                apply._delete_set(site.instance(), action)
            assert caught.value.problem is Problem.BUSY
            assert process.poll() is None
        finally:
            process.kill()
    assert site.ledger.events_of("worker ended") == []
