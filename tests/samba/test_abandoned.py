"""Sets that a client has begun and left, and that another's request wrote into srv_fss.tdb.

Samba writes all sets that it has in memory whenever it writes one (srv_fss_state.c,
fss_state_store()): those too that were only started, or have shares but no copies yet. When the
worker is gone they stay in the file, and Samba refuses every new set because of them.
"""

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import tdb

from samba_rvss.model import Context, Phase, SetState
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet

if TYPE_CHECKING:
    from tests.samba.conftest import Rig


@pytest.mark.parametrize("state", [SetState.STARTED, SetState.ADDED])
def test_a_set_that_was_begun_and_left_does_not_block_samba(rig: "Rig", state: SetState) -> None:
    rig.samba.set_options({"rvss:grace": "2 s", "rvss:recovery timeout": "3 s"})
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        begun = CopySet(client, Context.AUTO_RECOVERY)
        begun.start()
        if state is SetState.ADDED:
            begun.add("vms")
        taken.delete()
    left = fss_state.read(str(rig.samba.lock_directory / "srv_fss.tdb"))
    assert left is not None
    assert [one.state for one in left.sets] == [state]
    rig.samba.end_workers()

    deadline = time.monotonic() + 20
    while rig.sets():
        assert time.monotonic() < deadline, rig.daemon.log()[-1000:]
        time.sleep(0.1)
    with rig.client() as client:
        rig.expose(client, "vms").delete()
    rig.assert_nothing_left()


@pytest.mark.parametrize("cut", ["wiped", "version"])
def test_a_worker_that_is_killed_while_it_writes_leaves_nothing_writable(
    rig: "Rig", cut: str
) -> None:
    """Samba wipes the file, notes its version, and then stores all sets: SIGKILL in between."""
    rig.samba.set_options({"rvss:grace": "2 s", "rvss:recovery timeout": "4 s"})
    rig.share("vms", rig.volume())
    rig.start()
    path = rig.samba.lock_directory / "srv_fss.tdb"
    with rig.client() as client:
        kept = rig.expose(client, "vms")
        kept.complete()
        rig.wait_for_phase(Phase.SEALED)
        rig.expose(client, "vms")
        for pid in rig.samba.worker_pids():
            os.kill(pid, signal.SIGKILL)
        database = tdb.Tdb(str(path), 0, tdb.DEFAULT, os.O_RDWR)
        database.clear()
        if cut == "version":
            database.store(b"db_version\0", b"\1\0\0\0")
        database.close()
    assert fss_state.read(str(path)) is None
    # What was open goes; what was sealed stays, as its share still works.
    (left,) = rig.wait_for_phase(Phase.SEALED, seconds=40)
    assert left.set_id == str(kept.id)
    rig.samba.end_workers()
    with rig.client() as client:
        rig.expose(client, "vms").delete()
    with rig.session(kept.mappings[0].exposed_share) as session:
        assert session.read("data").startswith(b"from the source")
    assert rig.command("delete", left.id).returncode == 0
    rig.assert_nothing_left()
