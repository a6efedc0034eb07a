"""How long a client that dies holds up another one, which asks every second.

    /usr/bin/python3 tests/bench/dead_client.py [--sequence S] [--idle S] [--before] [--json]

Needs root, and what tests/run installs. The client dies after each step that leaves Samba waiting
for it: its program ends, so that its connection is closed, or its host vanishes, so that nobody
hears of that. Samba's own times are shortened: ``fss:sequence timeout``, which is 180 s, or 1800 s
after AddToShadowCopySet, and ``rpcd_fsrvp:idle_seconds``, which is 10 s as the README has it;
`rvss:grace` stays at its 300 s. Exit status 1 if somebody was held up for longer than Samba's own
time and a minute.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.errors import RvssError
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.remote import Remote
from tests.samba.lanes import SHARES, Lane, SetDriver, lane

EVERY = 1.0
MINUTE = 60.0

Act = Callable[[SetDriver], None]


def _start(driver: SetDriver) -> None:
    driver.set.check(*driver.shares)
    driver.start()


def _add(driver: SetDriver) -> None:
    _start(driver)
    driver.set.add(*driver.shares)


def _prepare(driver: SetDriver) -> None:
    _start(driver)
    driver.add()


def _fail_to_commit(driver: SetDriver) -> None:
    _prepare(driver)
    driver.commit_in_vain()


def _fail_to_expose(driver: SetDriver) -> None:
    _prepare(driver)
    driver.commit()
    driver.expose_in_vain()


STAGES: dict[str, Act] = {
    "Start": _start,
    "Add": _add,
    "Prepare": _prepare,
    "failed Commit": _fail_to_commit,
    "failed Expose": _fail_to_expose,
}


def measure(stage: str, *, vanishes: bool, before: bool, options: dict[str, str]) -> float:
    """Return for how many seconds another client is refused after one has died.

    Args:
        stage: after what.
        vanishes: whether its host does, and not only its program.
        before: whether the other one is connected already when the set is begun.
        options: Samba's.
    """
    patience = float(options["fss:sequence timeout"]) + 2 * MINUTE
    with ExitStack() as undo:
        made = undo.enter_context(lane("btrfs", {}, options))
        other = made.near(undo)
        if before:
            other.get_supported_version()
        client = made.far(undo) if vanishes else made.near(undo)
        STAGES[stage](SetDriver(made, client, SHARES[:2]))
        # A backup program thinks between its steps, for longer than a test does.
        time.sleep(2.0)
        if vanishes:
            undo.callback(made.link.mend)
            made.link.cut()
        client.close()
        return served(made, undo, other, patience)


def served(made: Lane, undo: ExitStack, other: Remote, patience: float) -> float:
    """Ask every second, and return after how many seconds it is granted."""
    died = time.monotonic()
    while time.monotonic() < died + patience:
        began = time.monotonic()
        try:
            asked = CopySet(other)
            asked.check(SHARES[2])
            asked.start()
        except FsrvpError as exc:
            if exc.hresult != HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS:
                raise
        except RvssError:  # its worker has been ended
            other.close()
            other = made.near(undo)
        else:
            waited = time.monotonic() - died
            asked.abort()
            return waited
        time.sleep(max(0.0, began + EVERY - time.monotonic()))
    raise AssertionError(made.rig.daemon.log())


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure how long a dead client holds others up")
    parser.add_argument("--sequence", type=int, default=12, help="Samba's time for a client (12)")
    parser.add_argument("--idle", type=int, default=3, help="its time for a lonely worker (3)")
    parser.add_argument(
        "--before", action="store_true", help="the other client is connected from the beginning"
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="only after this step")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    options = {
        "fss:sequence timeout": str(arguments.sequence),
        "rpcd_fsrvp:idle_seconds": str(arguments.idle),
    }
    table = {
        stage: {
            how: round(
                measure(stage, vanishes=vanishes, before=arguments.before, options=options), 1
            )
            for how, vanishes in (("program ends", False), ("host vanishes", True))
        }
        for stage in arguments.stage or STAGES
    }
    if arguments.json:
        print(json.dumps(table))
    else:
        print(f"seconds until served, of {arguments.sequence} s that Samba gives a client")
        for stage, row in table.items():
            print(f"{stage:14}  " + "  ".join(f"{how} {took:5.1f}" for how, took in row.items()))
    worst = max(took for row in table.values() for took in row.values())
    return int(worst > arguments.sequence + MINUTE)


if __name__ == "__main__":
    sys.exit(main())
