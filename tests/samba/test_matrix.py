"""Each fault, at each stage of a shadow copy set: what is left heals, and the next set succeeds.

Timers are shortened by option. Cases run in lanes side by side, from one case to the next; after a
failure a lane is made anew.

SAMBA_RVSS_MATRIX="committed exposed" chooses stages, and SAMBA_RVSS_SLOW=12 makes all times six
times as long (they are those of 2), for machines on which everything takes long.
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
from tests.samba.fault_cases import SLOW, TIMERS, Fault, FaultCase, run
from tests.samba.lanes import Stage, lane

LANES = 4 if SLOW == 1 else 1
_STARTING = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a case.

    Attributes:
        healed: seconds past its timer at which nothing was left, negative before it.
        failure: why it failed, or nothing.
    """

    healed: float = 0.0
    failure: str = ""


def _stages() -> list[Stage]:
    chosen = os.environ.get("SAMBA_RVSS_MATRIX", "").split() or [stage.value for stage in Stage]
    return [Stage(name) for name in chosen]


CASES = [FaultCase(fault=fault, stage=stage) for fault in Fault for stage in _stages()]


@pytest.fixture(scope="module", params=["btrfs", "zfs"])
def results(request: pytest.FixtureRequest) -> Mapping[FaultCase, Result]:
    """Run all cases that were asked for, side by side, and return what came of each."""
    kind: str = request.param
    require("root", "smbd", *(["zfs"] if kind == "zfs" else ["btrfs", "loop"]))
    waiting: SimpleQueue[FaultCase] = SimpleQueue()
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == test_heals.__name__:
            chosen = item.callspec.params
            if item.module is request.module and chosen["results"] == kind:
                case = chosen["case"]
                assert isinstance(case, FaultCase)
                waiting.put(case)
    found: dict[FaultCase, Result] = {}
    started = time.monotonic()
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(_run_lane, kind, waiting, found) for _ in range(LANES)]
        for running in lanes:
            running.result()
    table = _table(kind, found, time.monotonic() - started)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{table}")
    return found


def _run_lane(kind: str, waiting: "SimpleQueue[FaultCase]", found: dict[FaultCase, Result]) -> None:
    """Run cases, one after the other, until none is waiting."""
    while not waiting.empty():
        with ExitStack() as undo:
            with _STARTING:  # one after the other, as each is given a limited time
                made = undo.enter_context(lane(kind, TIMERS.rvss(), TIMERS.samba()))
            good = True
            while good:
                try:
                    case = waiting.get_nowait()
                except Empty:
                    return
                try:
                    found[case] = Result(healed=run(made, case))
                except (Exception, pytest.fail.Exception):  # noqa: BLE001 - its test reports it
                    logs = made.rig.daemon.log()[-8000:], made.rig.samba.log()[-2000:]
                    said = "\n".join((traceback.format_exc(), *logs))
                    found[case] = Result(failure=said)
                    good = False


def _table(kind: str, found: Mapping[FaultCase, Result], seconds: float) -> str:
    """Return all results as lines; a figure is how many seconds past its timer a case healed."""
    width = max(len(fault.value) for fault in Fault)
    lines = [" " * width + "".join(f"{stage.value:>11}" for stage in Stage)]
    for fault in Fault:
        row = ""
        for stage in Stage:
            result = found.get(FaultCase(fault=fault, stage=stage))
            text = "-" if result is None else "FAILS" if result.failure else f"{result.healed:+.1f}"
            row += f"{text:>11}"
        lines.append(f"{fault.value:<{width}}{row}")
    good = sum(not result.failure for result in found.values())
    every = len(Fault) * len(Stage)
    lines.append(
        f"{kind}: {good} of {len(found)} cases pass, of {every} that there are, in {seconds:.0f} s;"
        " figures are seconds past the stage's timer until nothing was left"
    )
    return "\n".join(lines)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_heals(results: Mapping[FaultCase, Result], case: FaultCase) -> None:
    """Nothing is left after at most one reconcile past the timer, and a fresh set succeeds."""
    if failure := results[case].failure:
        pytest.fail(failure, pytrace=False)
