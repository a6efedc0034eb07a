"""The machine loses its power again and again, in the middle of each verb, and comes back whole.

The losses themselves are in `losses`, and happen in the background (`boots`).

SAMBA_RVSS_POWER_ROUNDS in the environment is how many there are, since each takes two minutes: one
in each verb by default, with SAMBA_RVSS_LONG one in each verb on each file system.
"""

import os
from collections.abc import Callable

import pytest

from tests.vm import background, boots
from tests.vm.losses import SYSTEMS, VERBS, turn

pytestmark = pytest.mark.require("vm")

_EACH = len(VERBS) * (len(SYSTEMS) if os.environ.get("SAMBA_RVSS_LONG") else 1)
ROUNDS = int(os.environ.get("SAMBA_RVSS_POWER_ROUNDS", str(_EACH)))


@pytest.mark.parametrize("number", range(ROUNDS), ids=lambda n: f"{n}-{'-'.join(turn(n))}")
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
