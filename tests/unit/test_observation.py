"""Looking: each source can fail alone, and absence is believed when it was seen twice."""

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import tdb

from samba_rvss import run
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger, now
from samba_rvss.lifecycle import Lifecycle
from samba_rvss.model import Inventory, Phase, SetState
from samba_rvss.mounts import Mounts
from samba_rvss.reconcile import apply, observation
from samba_rvss.reconcile.decision import Action, Kind
from samba_rvss.reconcile.observation import Observation, Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from tests.unit.values import COPY_ID, SET, SHARE_PATH, copy_of, image_of, share_of

SHARE = share_of(COPY_ID)


class Site:
    """One instance's files, with one sealed copy that a recovered set has; nothing runs."""

    def __init__(self, directory: Path, samba: SambaProcess) -> None:
        self.samba = samba
        self.directory = directory
        for name in ("lock", "state", "cache", "private", "run", "rvss"):
            (directory / name).mkdir()
        file = directory / "smb.conf"
        file.write_text(
            "[global]\n"
            f"    lock directory = {directory}/lock\n"
            f"    state directory = {directory}/state\n"
            f"    cache directory = {directory}/cache\n"
            f"    private dir = {directory}/private\n"
            f"    rvss:run directory = {directory}/run\n"
            f"    rvss:state directory = {directory}/rvss\n"
            "    registry shares = yes\n"
            "    include = registry\n"
        )
        self.config = samba.call(conf.load, str(file))
        self.ledger = Ledger(self.config.ledger)
        self.path = f"{directory}/run/exposed/vms/a"
        self.copy = replace(
            copy_of("a", Phase.SEALED, created=now() - timedelta(days=30)),
            path=self.path,
            set_id=SET,
            copy_id=COPY_ID,
            exposed_share=SHARE,
            state=SetState.RECOVERED,
        )
        self.ledger.add(self.copy, "create")
        self.store()

    def records(self) -> dict[bytes, bytes]:
        """Return srv_fss.tdb as Samba writes it."""

        def text(value: str) -> bytes:
            return value.encode() + b"\0"

        def aligned(data: bytes, *words: int) -> bytes:
            return data + bytes(-len(data) % 4) + struct.pack(f"<{len(words)}I", *words)

        top = f"sc_set/{SET}"
        copy = text(COPY_ID) + text(SHARE_PATH) + text(self.path)
        smap = text("VMs") + text(SHARE) + text("")
        return {
            b"db_version\0": struct.pack("<I", 1),
            b"sc_set_count\0": struct.pack("<I", 1),
            text(top): aligned(text(SET), 5, 0, 1),
            text(f"{top}/sc/{COPY_ID}"): aligned(copy, 1709251199, 1),
            text(f"{top}/sc/{COPY_ID}/smap/{SHARE}"): aligned(smap, 1),
        }

    def store(self, records: dict[bytes, bytes] | None = None) -> None:
        """Write srv_fss.tdb as Samba does."""
        path = self.config.fss_state
        database = tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            database.clear()
            database.transaction_start()
            for key, value in (self.records() if records is None else records).items():
                database.store(key, value)
            database.transaction_commit()
        finally:
            database.close()

    def inventory(self) -> Inventory:
        """Return the one image."""
        image = image_of("a", self.copy.created)
        return Inventory(file_systems=frozenset({"fs"}), images=(image,))

    def observe(self, *, starting: bool = False) -> Observation:
        """Look at everything."""
        return observe(self.sources(starting=starting))

    def sources(self, *, starting: bool = False) -> Sources:
        """Return where to look."""
        return Sources(
            config=self.config,
            ledger=self.ledger,
            mounts=Mounts(self.config.run_directory),
            samba=self.samba,
            inventory=self.inventory,
            starting=starting,
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


EMPTY = {b"db_version\0": struct.pack("<I", 1), b"sc_set_count\0": struct.pack("<I", 0)}
REMOVALS = {Kind.DELETE, Kind.DESTROY, Kind.UNMOUNT, Kind.UNSHARE, Kind.FORGET_SET}


def test_everything_is_seen(site: Site) -> None:
    seen = site.observe()
    assert seen.problems == ()
    assert [copy.id for copy in seen.copies] == ["a"]
    assert seen.samba is not None
    assert [copy.path for copy in seen.samba.copies] == [site.path]
    assert seen.inventory == site.inventory()
    assert (seen.mounts, seen.directories) == (frozenset(), frozenset())
    assert (seen.shares, seen.descriptors, seen.workers) == ({}, frozenset(), ())
    assert seen.history == frozenset({SHARE.lower()})
    assert seen.connected == frozenset()
    assert seen.changing == frozenset()


def _break_registry(site: Site, patch: pytest.MonkeyPatch) -> None:
    del patch
    path = site.directory / "state" / "registry.tdb"
    whole = path.read_bytes()
    # One whose header is damaged as well, Samba replaces by a new one without a word.
    path.write_bytes(whole[:200] + b"\xff" * (len(whole) - 200))
    site.samba.close()  # the library keeps an open database


def _break_descriptors(site: Site, patch: pytest.MonkeyPatch) -> None:
    del patch
    (site.directory / "state" / "share_info.tdb").write_bytes(b"this is no tdb" * 500)


def _break_fss_state(site: Site, patch: pytest.MonkeyPatch) -> None:
    del patch
    Path(site.config.fss_state).write_bytes(b"this is no tdb" * 500)


def _break_directories(site: Site, patch: pytest.MonkeyPatch) -> None:
    del patch
    (site.directory / "run" / "exposed").mkdir()
    (site.directory / "run" / "exposed" / "file").touch()


def _break_inventory(site: Site, patch: pytest.MonkeyPatch) -> None:
    def fail() -> Inventory:
        raise RvssError(Problem.SYSTEM, "the disk is on fire")

    patch.setattr(site, "inventory", fail)


def _break_tools(site: Site, patch: pytest.MonkeyPatch) -> None:
    del site
    patch.setattr(run, "_PATH", "/nowhere")
    getattr(run.tool, "cache_clear", lambda: None)()


_BROKEN = {
    "shares": _break_registry,
    "descriptors": _break_descriptors,
    "samba": _break_fss_state,
    "directories": _break_directories,
    "inventory": _break_inventory,
    "connected": _break_tools,
}


@pytest.mark.parametrize("name", _BROKEN)
def test_one_source_fails_alone(site: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are seen, the reason is kept, and nothing that rests on it is removed."""
    site.observe()  # so that Samba's registry is there
    with monkeypatch.context() as patch:
        _BROKEN[name](site, patch)
        seen = site.observe()
    getattr(run.tool, "cache_clear", lambda: None)()
    blind = {one for one in (*_BROKEN, "mounts", "workers") if getattr(seen, one) is None}
    assert blind == {name}
    assert len(seen.problems) == 1, seen.problems
    assert seen.problems[0].startswith("cannot see ")
    decided = plan(seen)
    assert decided.problems == seen.problems
    assert not {action.kind for action in decided.actions} & REMOVALS


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


def test_absence_is_seen_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "TWICE_SECONDS", 0.5)
    site.store(EMPTY)
    started = time.monotonic()
    seen = site.observe()
    assert time.monotonic() - started >= 0.5
    assert seen.samba is not None
    assert seen.samba.copies == ()


@pytest.mark.parametrize("first", ["absent", "present"])
def test_what_was_there_once_is_there(
    site: Site, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers erase each other's sets; a file may be gone for a moment."""
    monkeypatch.setattr(observation, "TWICE_SECONDS", 1.5)
    # Another copy that is in no reading keeps the look from ending with the first one.
    other = f"{site.path}-other"
    site.ledger.add(replace(copy_of("b", Phase.TAKEN, created=now()), path=other), "create")
    if first == "absent":
        os.unlink(site.config.fss_state)
    timer = threading.Timer(0.7, site.store, [EMPTY] if first == "present" else [])
    sources = site.sources()
    sources.samba.call(conf.load, site.config.file)  # its process is up
    timer.start()
    try:
        seen = observe(sources)
    finally:
        timer.join()
    assert seen.samba is not None
    assert [copy.path for copy in seen.samba.copies] == [site.path]


def test_at_the_start_nobody_waits_and_absence_proves_nothing(site: Site) -> None:
    """Samba may be in a Commit that waits for us."""
    site.store(EMPTY)
    started = time.monotonic()
    seen = site.observe(starting=True)
    assert time.monotonic() - started < observation.TWICE_SECONDS
    assert (seen.unproven, seen.changing) == (frozenset({"a"}), frozenset())
    assert not {action.kind for action in plan(seen).actions} & REMOVALS


def test_what_changes_meanwhile_is_somebodys_work(site: Site) -> None:
    def inventory() -> Inventory:
        site.ledger.change(site.copy, "delete", phase=Phase.DELETING)
        return Inventory(file_systems=frozenset({"fs"}), images=())

    sources = site.sources()
    seen = observe(
        Sources(
            config=sources.config,
            ledger=sources.ledger,
            mounts=sources.mounts,
            samba=sources.samba,
            inventory=inventory,
        )
    )
    assert seen.changing == frozenset({"a"})
    assert "a" not in {action.target for action in plan(seen).actions}


# a plan ages


def _forgetting() -> Action:
    return Action(
        kind=Kind.FORGET_SET,
        target=SET,
        reason="no shadow copy of it is left",
        believes=(SetState.RECOVERED,),
    )


@pytest.mark.parametrize(("kind", "of_gone"), [(Kind.ADOPT, False), (Kind.DESTROY, True)])
def test_an_image_is_judged_by_its_record(site: Site, kind: Kind, *, of_gone: bool) -> None:
    """What was deleted meanwhile is not taken in again."""
    lifecycle = Lifecycle(
        site.config, site.ledger, (), Mounts(site.config.run_directory), site.samba
    )
    image = image_of("a", site.copy.created)
    action = Action(kind=kind, target="a", reason="a test", image=image)
    assert not apply.is_current(lifecycle, action)
    site.ledger.change(site.copy, "gone", phase=Phase.GONE)
    assert apply.is_current(lifecycle, action) == of_gone
    other = Action(kind=kind, target="b", reason="a test", image=replace(image, id="b"))
    assert apply.is_current(lifecycle, other)


@pytest.mark.parametrize("phase", Phase)
def test_a_set_goes_only_after_its_copies(site: Site, phase: Phase) -> None:
    """Their removal may have failed, or was not called for any more."""
    lifecycle = Lifecycle(
        site.config, site.ledger, (), Mounts(site.config.run_directory), site.samba
    )
    site.ledger.change(site.copy, "changed", phase=phase)
    left = phase not in (Phase.DELETING, Phase.GONE)
    assert apply.is_current(lifecycle, _forgetting()) == (not left)
    other = replace(_forgetting(), target="another")
    assert apply.is_current(lifecycle, other)
