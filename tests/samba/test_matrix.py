"""Each fault, at each stage of a shadow copy set: what is left heals, and the next set succeeds.

A cell takes a set to its stage, does what its fault says, and then waits, with nobody's help,
until nothing is left anywhere. Timers are shortened by option; a cell has its timer and ten
seconds more. Cells run in lanes side by side, from one cell to the next; after a failure a lane is
made anew.

SAMBA_RVSS_MATRIX="committed exposed" chooses stages, for machines on which everything takes long.
"""

import os
import shutil
import signal
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from queue import Empty, SimpleQueue

import pytest

from samba_rvss.errors import Problem
from samba_rvss.testing.plugin import require
from tests.samba.lanes import SHARES, Lane, Stage, Walk, lane, take_a_set

LANES = 4
SECONDS = 10.0
"""What a cell has beyond its timer."""


class Fault(Enum):
    """What happens. Unless it says something else, the client then drops its connection."""

    SILENT = "its client says nothing more"
    CLOSED = "its client drops its connection"
    VANISHED = "the link to its client is cut"
    ABORTED = "its client aborts it"
    HALF = "its Commit fails for one share of three"
    WORKER = "the worker is killed"
    UNCONFIGURED = "its share is removed from smb.conf"
    UNSHARED = "its exposed share is removed by hand"
    DESTROYED = "its image is destroyed by hand"
    KILLED = "the daemon is killed"
    FORGOTTEN = "the ledger is deleted"
    RESTORED = "an old state directory is restored"
    TWO = "a second daemon is started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fault at one stage."""

    fault: Fault
    stage: Stage

    def __str__(self) -> str:
        return f"{self.fault.name.lower()}-{self.stage.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Options that end what nobody ends, in seconds; ``sequence`` is Samba's own."""

    sequence: int
    grace: int
    recovery: int
    age: int

    def of(self, stage: Stage) -> float:
        """Return the one after which a set must be gone if it stays in a stage."""
        match stage:
            case Stage.STARTED | Stage.ADDED:
                return self.sequence
            case Stage.RECOVERED:
                return self.age
            case _:
                # A client that is still connected to the set's worker has this long.
                return self.recovery

    def rvss(self) -> dict[str, str]:
        """Return the options of samba-rvss."""
        return {
            "grace": f"{self.grace} s",
            "recovery timeout": f"{self.recovery} s",
            "maximum age": f"{self.age} s",
        }

    def samba(self) -> dict[str, str]:
        """Return the options of Samba."""
        return {"fss:sequence timeout": str(self.sequence)}


# ZFS is tested in an emulated machine, where everything takes several times as long.
TIMERS = {
    "btrfs": Timers(sequence=4, grace=2, recovery=3, age=5),
    "zfs": Timers(sequence=16, grace=10, recovery=12, age=24),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a cell.

    Attributes:
        healed: seconds past its timer at which nothing was left, negative before it.
        failure: why it failed, or nothing.
    """

    healed: float = 0.0
    failure: str = ""


def _stages() -> list[Stage]:
    chosen = os.environ.get("SAMBA_RVSS_MATRIX", "").split() or [stage.value for stage in Stage]
    return [Stage(name) for name in chosen]


CELLS = [Cell(fault=fault, stage=stage) for fault in Fault for stage in _stages()]


@pytest.fixture(scope="module", params=sorted(TIMERS))
def results(request: pytest.FixtureRequest) -> Mapping[Cell, Result]:
    """Run all cells that were asked for, side by side, and return what came of each."""
    kind: str = request.param
    require("root", "smbd", *(["zfs"] if kind == "zfs" else ["btrfs", "loop"]))
    waiting: SimpleQueue[Cell] = SimpleQueue()
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == test_heals.__name__:
            chosen = item.callspec.params
            if item.module is request.module and chosen["results"] == kind:
                cell = chosen["cell"]
                assert isinstance(cell, Cell)
                waiting.put(cell)
    found: dict[Cell, Result] = {}
    started = time.monotonic()
    with ThreadPoolExecutor(LANES) as pool:
        for running in [pool.submit(_run_lane, kind, waiting, found) for _ in range(LANES)]:
            running.result()
    table = _table(kind, found, time.monotonic() - started)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table}")
    return found


def _run_lane(kind: str, waiting: "SimpleQueue[Cell]", found: dict[Cell, Result]) -> None:
    """Run cells, one after the other, until none is waiting."""
    timers = TIMERS[kind]
    while not waiting.empty():
        with lane(kind, timers.rvss(), timers.samba()) as made:
            good = True
            while good:
                try:
                    cell = waiting.get_nowait()
                except Empty:
                    return
                try:
                    found[cell] = Result(healed=_run(made, cell, timers))
                except (Exception, pytest.fail.Exception):  # noqa: BLE001 - its test reports it
                    logs = made.rig.daemon.log()[-8000:], made.rig.samba.log()[-2000:]
                    said = "\n".join((traceback.format_exc(), *logs))
                    found[cell] = Result(failure=said)
                    good = False


def _run(made: Lane, cell: Cell, timers: Timers) -> float:
    """Run one cell; return how many seconds past its timer nothing was left."""
    rig, fault = made.rig, cell.fault
    with ExitStack() as undo, ExitStack() as holding:
        if fault is Fault.RESTORED:
            _back_up(made)
        client = made.far(undo) if fault is Fault.VANISHED else made.near(undo)
        shares = SHARES if fault is Fault.HALF else SHARES[:1]
        walk = Walk(lane=made, client=client, shares=shares)
        _go(walk, cell, holding)
        due = time.monotonic() + timers.of(cell.stage)
        _happen(walk, cell, undo, holding)
        holding.close()
        if fault is not Fault.SILENT:
            client.close()
        if cell.stage in (Stage.STARTED, Stage.ADDED):
            # Nothing of it is anywhere but in the memory of Samba's worker, until then.
            time.sleep(max(0.0, due + 1 - time.monotonic()))
        while left := rig.left():
            if time.monotonic() > due + SECONDS:
                pytest.fail(f"left {SECONDS:g} s past the timer: {left}")
            time.sleep(0.3)
        healed = time.monotonic() - due
        take_a_set(made, SHARES[1] if fault is Fault.UNCONFIGURED else SHARES[0])
        rig.assert_nothing_left(SECONDS)
    if fault is Fault.UNCONFIGURED:
        made.configure()
        rig.samba.end_workers()  # a living one does not learn of the share
    return healed


def _go(walk: Walk, cell: Cell, holding: ExitStack) -> None:
    """Take a set to a cell's stage."""
    order = list(Stage).index(cell.stage)
    walk.start()
    if order >= 1:
        walk.add()
    if cell.fault is Fault.HALF and order >= 2:
        walk.commit_in_vain()
        if order == 2:
            return
    if order >= 2:
        walk.commit()
    if order >= 3:
        walk.expose()
    if order >= 4:
        walk.recover()
    if order >= 5:
        walk.delete_in_vain(holding)
    if cell.stage is Stage.EXPOSED and cell.fault in (Fault.SILENT, Fault.VANISHED):
        walk.client.hold(walk.exposed[0], "data")


def _happen(walk: Walk, cell: Cell, undo: ExitStack, holding: ExitStack) -> None:
    """Do what a cell's fault says."""
    made, rig = walk.lane, walk.lane.rig
    match cell.fault:
        case Fault.SILENT | Fault.CLOSED | Fault.HALF:
            pass
        case Fault.VANISHED:
            undo.callback(made.link.mend)
            made.link.cut()
            walk.client.close()
            time.sleep(0.5)
            assert made.link.established(), "the server has heard that its client is gone"
        case Fault.ABORTED:
            walk.client.call("abort_shadow_copy_set", walk.set_id)
        case Fault.WORKER:
            pids = rig.samba.worker_pids()
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        case Fault.UNCONFIGURED:
            rig.samba.drop_share(SHARES[0])
        case Fault.UNSHARED:
            for share in rig.exposed_shares():
                rig.samba.net("conf", "delshare", share)
        case Fault.DESTROYED:
            copies = walk.copies()
            holding.close()
            for copy in copies:
                made.destroy(copy)
        case Fault.KILLED:
            rig.daemon.kill()
            rig.daemon.start()
        case Fault.FORGOTTEN:
            rig.daemon.kill()
            for path in rig.daemon.state_directory.glob("ledger.db*"):
                path.unlink()
            rig.daemon.start()
        case Fault.RESTORED:
            rig.daemon.kill()
            shutil.rmtree(rig.daemon.state_directory)
            shutil.copytree(rig.directory / "backup", rig.daemon.state_directory)
            rig.daemon.start()
        case Fault.TWO:
            done = rig.command("daemon")
            assert done.returncode == Problem.BUSY, done.stderr
            assert "another samba-rvss daemon uses" in done.stderr


def _back_up(made: Lane) -> None:
    """Copy the state directory while a copy is open that will soon be gone."""
    backup = made.rig.directory / "backup"
    shutil.rmtree(backup, ignore_errors=True)
    with ExitStack() as undo:
        walk = Walk(lane=made, client=made.near(undo))
        walk.start()
        walk.add()
        walk.commit()
        walk.expose()
        shutil.copytree(made.rig.daemon.state_directory, backup)
        walk.recover()
        walk.delete()
    made.rig.assert_nothing_left(SECONDS)


def _table(kind: str, found: Mapping[Cell, Result], seconds: float) -> str:
    """Return all results as lines; a figure is how many seconds past its timer a cell healed."""
    width = max(len(fault.value) for fault in Fault)
    lines = [" " * width + "".join(f"{stage.value:>11}" for stage in Stage)]
    for fault in Fault:
        row = ""
        for stage in Stage:
            result = found.get(Cell(fault=fault, stage=stage))
            text = "-" if result is None else "FAILS" if result.failure else f"{result.healed:+.1f}"
            row += f"{text:>11}"
        lines.append(f"{fault.value:<{width}}{row}")
    good = sum(not result.failure for result in found.values())
    every = len(Fault) * len(Stage)
    lines.append(
        f"{kind}: {good} of {len(found)} cells pass, of {every} that there are, in {seconds:.0f} s;"
        " figures are seconds past the stage's timer until nothing was left"
    )
    return "\n".join(lines)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_heals(results: Mapping[Cell, Result], cell: Cell) -> None:
    """Nothing is left after at most one reconcile past the timer, and a fresh set succeeds."""
    if failure := results[cell].failure:
        pytest.fail(failure, pytrace=False)
