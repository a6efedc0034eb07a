"""The machine loses its power again and again, in the middle of each verb, and comes back whole.

The losses themselves are in `losses`, and happen in the background (`boots`).

SAMBA_RVSS_POWER_ROUNDS in the environment is how many there are, since each takes two minutes: one
by default, in the verb that the seed chooses, so that some sessions meet all of them; with
SAMBA_RVSS_LONG one in each verb on each file system, in order.
"""

import os
import random
from collections.abc import Callable

import pytest

from tests.vm import background, boots
from tests.vm.losses import SEED, SYSTEMS, VERBS, turn

pytestmark = pytest.mark.require("vm")

_EVERY = len(VERBS) * len(SYSTEMS)
ROUNDS = int(os.environ.get("SAMBA_RVSS_POWER_ROUNDS", str(_EVERY if boots.LONG else 1)))
FIRST = 0 if ROUNDS >= _EVERY else random.Random(SEED).randrange(_EVERY)  # noqa: S311 - chance


@pytest.mark.parametrize(
    "number", range(FIRST, FIRST + ROUNDS), ids=lambda n: f"{n}-{'-'.join(turn(n))}"
)
def test_power_loss(
    booting: boots.Booting,
    number: int,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever was going on when the power went, everything holds after the next start."""
    told = booting.result(str(number))
    record_property(background.SECONDS, told["seconds"])
    with capsys.disabled():
        print(f"\n{told['row']}")
