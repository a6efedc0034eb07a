"""The runner: never two at once, one failure never stops the rest, and what failed is retried.

It works on real files: directories that a recovery mount could have been at, and that nothing
accounts for. At a start they are removed at once; one that is not empty cannot be.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate
from samba_rvss.model import Inventory, Mark, Phase, Volume
from samba_rvss.reconcile.decision import Clear, Finish
from samba_rvss.reconcile.report import Outcome
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Shelf, Site, with_samba
from tests.unit.values import image_of, sealed_of

# umount(2) wants it, also to say that nothing is mounted.
pytestmark = pytest.mark.require("root")

NAMES = "abc"


class InUse(Shelf):
    """A file system with one sealed image, of which something is left when it is a backup.

    Args:
        site: whose it is.
        problem: why that cannot be cleared away.
    """

    def __init__(self, site: Site, problem: Problem) -> None:
        super().__init__(site.inventory)
        self._site = site
        self._problem = problem
        site.images = (image_of("a", site.copy.created, sealed=sealed_of()),)
        site.ledger.add(replace(site.copy, phase=Phase.KEPT), "create")

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`."""
        return self._site.images[0].mark

    def keep(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        self._site.images = (replace(self._site.images[0], mark=mark, remnants=True),)

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """See `samba_rvss.providers.Provider`."""
        raise RvssError(self._problem, "dataset is busy")


class Leftovers:
    """Three directories to be removed, and the runner that is to remove them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.runner = self._runner_of(site.instance())
        self._parent = Path(site.config.run_directory, "exposed", "vms")
        self.make()

    def _runner_of(self, instance: Instance) -> Runner:
        turns = Turns()
        return Runner(lambda: instance, Watcher(lambda: instance, turns), turns)

    def hang_at_images(self) -> threading.Event:
        """Have the images not be listed before an event is set."""
        goes_on = threading.Event()

        def inventory() -> Inventory:
            goes_on.wait()
            return self._site.inventory()

        self.runner = self._runner_of(self._site.instance(inventory))
        return goes_on

    def make(self) -> None:
        """Make those that are not there."""
        for name in NAMES:
            self.path(name).mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Return where one is."""
        return self._parent / name

    def block(self, *names: str) -> None:
        """Have the removal of some fail, and of no others."""
        for name in NAMES:
            (self.path(name) / "file").unlink(missing_ok=True)
        for name in names:
            (self.path(name) / "file").touch()

    def left(self) -> list[str]:
        """Return the names of those that are there."""
        return [name for name in NAMES if self.path(name).exists()]

    def reconcile(self) -> list[Outcome]:
        """Reconcile as at a start, and return what came of it."""
        return asyncio.run(self.runner.reconcile(starting=True))[1]

    def lock_ledger(self) -> sqlite3.Connection:
        """Connect to the ledger's file as somebody else."""
        path = self._site.config.ledger
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def begin_to_write(self, other: sqlite3.Connection, seconds: float) -> None:
        """Let a write to the ledger wait for somebody else's, and return when it does."""
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=self._site.ledger.note_set, args=("", "a test"))
        writer.start()
        time.sleep(0.1)
        threading.Timer(seconds, other.execute, ["ROLLBACK"]).start()

    def failed(self, name: str) -> str:
        """Return what is said of one that cannot be removed."""
        path = self.path(name)
        what = f"unmount {path}: no shadow copy belongs to it"
        return f"{what}: cannot remove {path}: Directory not empty"


@pytest.fixture
def leftovers(tmp_path: Path) -> Iterator[Leftovers]:
    with closing(SambaProcess()) as samba:
        site = Site(tmp_path, samba)
        with closing(site.ledger):
            yield Leftovers(site)


def test_one_failure_does_not_stop_the_rest(leftovers: Leftovers) -> None:
    leftovers.block("a", "b")
    outcomes = leftovers.reconcile()
    assert leftovers.left() == ["a", "b"]
    assert [outcome.fate for outcome in outcomes] == [Fate.FAILED, Fate.FAILED, Fate.DONE]
    assert [outcome.error is None for outcome in outcomes] == [False, False, True]
    last = leftovers.runner.last
    assert last is not None
    assert last.done == (f"unmount {leftovers.path('c')}: no shadow copy belongs to it",)
    assert last.failed == (leftovers.failed("a"), leftovers.failed("b"))


def test_a_ledger_that_cannot_be_read_does_not_stop_the_rest(leftovers: Leftovers) -> None:
    """It cannot look for a name that is not UTF-8."""
    for name in NAMES:
        path = os.fsencode(leftovers.path(name))
        os.rename(path, path + b"\xff")
    outcomes = leftovers.reconcile()
    assert list(leftovers.path("a").parent.iterdir()) == []
    assert [outcome.error and outcome.error.problem for outcome in outcomes] == [Problem.STATE] * 3


def test_never_two_at_once(leftovers: Leftovers) -> None:
    async def both() -> list[int]:
        found = await asyncio.gather(
            leftovers.runner.reconcile(starting=True), leftovers.runner.reconcile(starting=True)
        )
        return [len(outcomes) for _, outcomes in found]

    # The second has seen what the first has left, which is nothing.
    assert asyncio.run(both()) == [3, 0]
    assert leftovers.left() == []


def test_what_failed_is_tried_again_less_and_less_often(leftovers: Leftovers) -> None:
    def pause_is(seconds: float) -> bool:
        before = time.monotonic()
        leftovers.reconcile()
        due, after = time.monotonic() + leftovers.runner.due, time.monotonic()
        return due - after <= seconds <= due - before

    leftovers.block("b")
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        assert pause_is(seconds)
    leftovers.block()
    assert pause_is(1.0)  # to see that nothing is left to do
    leftovers.make()
    leftovers.block("b")
    assert pause_is(1.0)  # from the beginning


def test_what_does_not_come_to_its_end_is_named(leftovers: Leftovers) -> None:
    async def story() -> tuple[str, ...]:
        goes_on = leftovers.hang_at_images()
        reconciling = asyncio.ensure_future(leftovers.runner.reconcile(starting=True))
        while not (late := leftovers.runner.late(0.0)) or "images" not in late[0]:
            await asyncio.sleep(0.01)
        assert leftovers.runner.late() == ()
        goes_on.set()
        await reconciling
        assert leftovers.runner.late(0.0) == ()
        return late

    (line,) = asyncio.run(story())
    assert line.startswith("reconciling does not come to its end: it has tried to see the images ")


def test_the_loop_goes_on_while_the_ledger_waits(leftovers: Leftovers) -> None:
    """It opens recovery mounts; a write that waits for its disk must not hold that up."""
    gaps: list[float] = []
    blocked = 5.0

    async def beat() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - started)

    async def story() -> list[Fate]:
        with closing(leftovers.lock_ledger()) as other:
            beating = None

            def on_first(outcome: Outcome) -> None:
                nonlocal beating
                if beating is None:
                    leftovers.begin_to_write(other, blocked)
                    beating = asyncio.ensure_future(beat())

            _, outcomes = await leftovers.runner.reconcile(starting=True, report=on_first)
        assert beating is not None
        beating.cancel()
        return [outcome.fate for outcome in outcomes]

    assert asyncio.run(story()) == [Fate.DONE] * 3
    assert max(gaps) < blocked / 2


@pytest.mark.parametrize(
    ("problem", "fate", "failed"),
    [
        (Problem.BUSY, Fate.STALE, []),
        (Problem.HELD, Fate.FAILED, ["dataset is busy"]),
    ],
)
def test_that_somebody_uses_what_is_to_be_cleared_away_is_no_failure(
    tmp_path: Path, problem: Problem, fate: Fate, failed: list[str]
) -> None:
    """He may read it for hours; it is tried again, as what failed is."""
    with with_samba(tmp_path) as site:
        instance = replace(site.instance(), providers=(InUse(site, problem),))
        turns = Turns()
        runner = Runner(lambda: instance, Watcher(lambda: instance, turns), turns)
        # First that it became a backup, which was cut off, is finished: that does not fail with it.
        for action, comes in ((Finish, Fate.DONE), (Clear, fate)):
            _, (outcome,) = asyncio.run(runner.reconcile(starting=True))
            assert (type(outcome.action), outcome.fate) == (action, comes)
        assert runner.last is not None
        assert [line.rpartition(": ")[2] for line in runner.last.failed] == failed
        assert runner.last.done == ()
        assert runner.due < 60.0
