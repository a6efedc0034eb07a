"""A machine that loses its power again and again, in the middle of each verb.

Place: above `disks`; for `boots`. The `driver` in the machine takes, recovers, seals and deletes
shadow copies on btrfs and on ZFS, and keeps, exposes, conceals and prunes backups; QEMU is killed
at a random moment within the verb whose turn it is. After the next start the `invariants` must
hold. The machine goes on from there, so that each loss meets what the ones before have left. In the
turn of ``reconcile`` the power goes twice: while copies are in use, and while samba-rvss releases
them at the start.

SAMBA_RVSS_POWER_SEED in the environment chooses the first verb and the moments;
SAMBA_RVSS_POWER_VERBS, divided by blanks, has the verbs whose turn it can be.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.vm import invariants
from tests.vm.disks import Disks, Running
from tests.vm.machine import CHECKOUT

# What was exposed when the power went is there when it goes while that is reconciled.
_ALL = "create seal delete keep expose reconcile conceal prune"
VERBS = tuple(os.environ.get("SAMBA_RVSS_POWER_VERBS", _ALL).split())
SYSTEMS = ("btrfs", "zfs")
SEED_NAME = "SAMBA_RVSS_POWER_SEED"
SEED = os.environ.get(SEED_NAME) or str(random.SystemRandom().randrange(10**9))
# Until they have been measured: seconds where nothing else runs.
_EXPECTED = {
    "create": 2.0,
    "seal": 1.0,
    "delete": 2.0,
    "reconcile": 8.0,
    "keep": 4.0,
    "expose": 8.0,
    "conceal": 5.0,
    "prune": 5.0,
}


def turn(number: int) -> tuple[str, str]:
    """Return in which verb a loss comes, and on which file system."""
    verb = VERBS[number % len(VERBS)]
    # Each verb meets both file systems: of an even number of verbs, each would have its own.
    shift = number // len(VERBS) if len(VERBS) % 2 == 0 else 0
    return verb, "both" if verb == "reconcile" else SYSTEMS[(number + shift) % 2]


class Machine:
    """A machine that is at work, or is not running.

    Args:
        furnished: the disks to begin with.
        place: returns a new directory for its disks.

    Attributes:
        row: what is to be told of the last loss.
    """

    def __init__(self, furnished: Disks, place: Callable[[], Path]) -> None:
        self._furnished = furnished
        self._place = place
        self._power = ExitStack()
        self._disks: Disks | None = None
        self._running: Running | None = None
        self._lasts: dict[str, float] = {}
        self._doing = ("", "")
        self._since = 0.0
        self.row = ""

    @property
    def running(self) -> Running:
        """What runs."""
        assert self._running is not None
        return self._running

    def is_running(self) -> bool:
        """Return whether it runs."""
        return self._running is not None

    def start(self, system: str, verb: str) -> None:
        """Switch it on; its driver begins with a file system, and does what a verb needs."""
        if self._disks is None:
            self._disks = Disks(self._place(), self._furnished)
        command = ["python3", f"{CHECKOUT}/tests/vm/driver.py", "work", system, verb]
        self._running = self._power.enter_context(self._disks.boot(command))

    def forget(self) -> None:
        """Switch it off and throw its disks away; the next start begins anew."""
        self._power.close()
        self._disks = self._running = None

    def hear(self) -> tuple[str, str]:
        """Return the next line of the driver as its first word and the rest.

        Raises:
            RvssError: the driver has ended, or the machine hangs.
        """
        line = self.running.line()
        if line is None:
            raise self.running.dead("its driver has ended")
        word, _, rest = line.partition(" ")
        if word == "doing":
            verb, _, system = rest.partition(" ")
            self._doing, self._since = (verb, system), time.monotonic()
        elif word == "done" and self._doing[0] in _EXPECTED:
            self._lasts[self._doing[0]] = time.monotonic() - self._since
        return word, rest

    def whole(self) -> dict[str, Any]:
        """Wait until the driver has looked, see that nothing is wrong, and let it work.

        Returns:
            what was seen.
        """
        while (heard := self.hear())[0] != "seen":
            pass
        told = json.loads(heard[1])
        problems = invariants.wrong(told["seen"], told["record"])
        assert problems == [], _explained(self, told, problems)
        while self.hear()[0] != "ready":
            pass
        return dict(told["seen"])

    def cut(self, verb: str, system: str, moment: float) -> tuple[str, str]:
        """Take its power away within a verb; return what it was really doing then.

        Args:
            verb: when.
            system: on which file system.
            moment: which part of the time that the verb takes is to be over.
        """
        while self.hear() != ("doing", f"{verb} {system}"):
            pass
        time.sleep(moment * self._expected(verb))
        self.running.cut()
        self._doing = (verb, system)
        while (line := self.running.line()) is not None:
            word, _, rest = line.partition(" ")
            if word in ("doing", "done"):
                name = rest.partition(" ")
                self._doing = (name[0] if word == "doing" else f"after {name[0]}", name[2])
        self._power.close()
        self._running = None
        return self._doing

    def _expected(self, verb: str) -> float:
        """Return how long a verb takes: as it did, or as slow as everything else is here."""
        slowness = [seconds / _EXPECTED[each] for each, seconds in self._lasts.items()]
        usual = max(1.0, statistics.median(slowness)) if slowness else 1.0
        return self._lasts.get(verb, _EXPECTED[verb] * usual)


def _explained(machine: Machine, told: Any, problems: list[str]) -> str:
    word, rest = machine.hear()
    said = json.loads(rest) if word == "journal" else ""
    return "\n".join([*problems, "what was seen:", json.dumps(told, indent=1), "journal:", said])


def lose_power(machine: Machine, number: int) -> None:
    """Take the power away once, and see that everything holds after the next start.

    Args:
        machine: what the losses before have left.
        number: of the loss, which says whose `turn` it is and, with the seed, the moment.

    Raises:
        AssertionError: it does not.
        RvssError: the machine failed.
    """
    verb, system = turn(number)
    moments = random.Random(f"{SEED} {number}")  # noqa: S311 - moments are no secret
    if not machine.is_running():
        _begin(machine, number)
        machine.whole()
    moment = moments.uniform(0, 1.1)
    if verb == "reconcile":
        machine.cut("create", SYSTEMS[number % 2], moments.uniform(0, 1.1))
        _begin(machine, number)
    really = machine.cut(verb, system, moment)
    machine.row = f"{number:3} {verb:10} {system:6} {moment:.2f} {' '.join(really):18}"
    _begin(machine, number + 1)
    seen = machine.whole()
    machine.row += f" whole, {len(seen['copies'])} copies, {len(seen['backups'])} backups"


def _begin(machine: Machine, number: int) -> None:
    """Switch a machine on for a loss."""
    verb, system = turn(number)
    machine.start(system if system in SYSTEMS else SYSTEMS[0], verb)
