"""Each fault, at each stage of a shadow copy set: what is left heals, and the next set succeeds.

Timers are shortened by option. Cells run in lanes side by side, from one cell to the next; after a
failure a lane is made anew.

SAMBA_RVSS_MATRIX="committed exposed" chooses stages, and SAMBA_RVSS_SLOW=12 makes all times so many
times as long, for machines on which everything takes long.
"""

import os
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock

import pytest

from samba_rvss.testing.plugin import require
from tests.samba.cells import SLOW, TIMERS, Cell, Fault, run
from tests.samba.lanes import Stage, lane

LANES = 4 if SLOW == 1 else 1
_STARTING = Lock()


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


@pytest.fixture(scope="module", params=["btrfs", "zfs"])
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
        lanes = [pool.submit(_run_lane, kind, waiting, found) for _ in range(LANES)]
        for running in lanes:
            running.result()
    table = _table(kind, found, time.monotonic() - started)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table}")
    return found


def _run_lane(kind: str, waiting: "SimpleQueue[Cell]", found: dict[Cell, Result]) -> None:
    """Run cells, one after the other, until none is waiting."""
    while not waiting.empty():
        with ExitStack() as undo:
            with _STARTING:  # one after the other, as each is given a limited time
                made = undo.enter_context(lane(kind, TIMERS.rvss(), TIMERS.samba()))
            good = True
            while good:
                try:
                    cell = waiting.get_nowait()
                except Empty:
                    return
                try:
                    found[cell] = Result(healed=run(made, cell))
                except (Exception, pytest.fail.Exception):  # noqa: BLE001 - its test reports it
                    logs = made.rig.daemon.log()[-8000:], made.rig.samba.log()[-2000:]
                    said = "\n".join((traceback.format_exc(), *logs))
                    found[cell] = Result(failure=said)
                    good = False


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
