"""The gate is open before a client can reach it, however busy the machine is."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Context
from samba_rvss.run import environment
from samba_rvss.samba.fsrvp.copyset import CopySet

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

SETS = int(os.environ.get("SAMBA_RVSS_SETS", "250" if os.environ.get("SAMBA_RVSS_LONG") else "40"))
"""How many sets are made; each takes about half a second."""

BUSY = 4
"""How many busy programs there are for each processor."""


@contextmanager
def _busy() -> Iterator[None]:
    """Keep every processor more than busy."""
    with ExitStack() as stack:
        for _ in range(BUSY * (os.cpu_count() or 1)):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-ISEc", _BUSY], env=environment())
            )
            stack.callback(process.kill)
        yield


# It ends with the test process, however that ends.
_BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


def test_first_write_succeeds(rig: "Rig", capsys: pytest.CaptureFixture[str]) -> None:
    from samba_rvss.testing.smbclient import SmbError

    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    refused: list[str] = []
    gaps: list[float] = []
    begun = time.monotonic()
    with _busy(), rig.client() as client:
        for number in range(SETS):
            taken = CopySet(client, Context.AUTO_RECOVERY)
            taken.prepare("vms")
            taken.commit()
            committed = time.monotonic()
            (exposed,) = taken.expose()
            with rig.session(exposed) as session:
                try:
                    # "data" is there already: opening it for writing is the first thing to fail.
                    session.open("data", write=True).write(b"%08d" % number)
                except SmbError as exc:
                    refused.append(f"{number}: {exc}")
                gaps.append(time.monotonic() - committed)
                taken.complete()
                taken.delete()
    spent = time.monotonic() - begun
    with capsys.disabled():
        print(
            f"\n{SETS - len(refused)} of {SETS} first writes succeeded,"
            f" {1000 * min(gaps):.0f} to {1000 * max(gaps):.0f} ms after Commit"
            f" (median {1000 * statistics.median(gaps):.0f} ms); {spent:.0f} s in all"
        )
    assert not refused, refused[:10]
    assert (volume / "data").read_bytes().startswith(b"from the source")
    rig.assert_nothing_left()
