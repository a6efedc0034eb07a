"""Workers and srv_fss.tdb: seen, ended and repaired beside a real Samba, then a set goes on."""

import os
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, SambaState, SetState, Worker
from samba_rvss.samba import control, fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig


def _state(rig: "Rig") -> SambaState:
    deadline = time.monotonic() + 5
    while (state := fss_state.read(str(rig.samba.lock_directory / "srv_fss.tdb"))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return state


def _states(rig: "Rig") -> list[SetState]:
    return sorted(one.state for one in _state(rig).sets)


def _workers(rig: "Rig") -> tuple[Worker, ...]:
    return control.workers(str(rig.samba.configuration), str(rig.samba.lock_directory))


def _wait_for_clients(rig: "Rig", *clients: int) -> tuple[Worker, ...]:
    deadline = time.monotonic() + 10
    found = _workers(rig)
    while [one.clients for one in found] != list(clients):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
        found = _workers(rig)
    return found


def _delete(rig: "Rig", wanted: dict[str, SetState]) -> tuple[str, ...]:
    path = str(rig.samba.lock_directory / "srv_fss.tdb")
    return fss_state.delete_sets(path, str(rig.samba.lock_directory), wanted)


def _a_whole_set(rig: "Rig", share: str = "vms") -> None:
    """Take, write to, seal and delete a shadow copy: Samba and we are in order."""
    with rig.client() as client:
        taken = rig.expose(client, share)
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("recovered", b"by the application")
        taken.complete()
        before = [copy for copy in rig.ledger() if copy.set_id == str(taken.id)]
        assert len(before) == 1
        deadline = time.monotonic() + 10
        while [c.phase for c in rig.ledger() if c.id == before[0].id] != [Phase.SEALED]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        taken.delete()


def test_workers_and_who_is_connected(rig: "Rig", second_operator: "BackupOperator") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    locks, configuration = str(rig.samba.lock_directory), str(rig.samba.configuration)
    assert control.worker_pids(locks) == []
    assert _workers(rig) == ()
    with rig.client() as client:
        (pid,) = control.worker_pids(locks)
        assert [pid] == rig.samba.worker_pids()
        (worker,) = _workers(rig)
        assert worker == Worker(pid=pid, clients=1, started=worker.started)
        present = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert present - 60 < worker.started <= present
        with rig.client(second_operator):
            _wait_for_clients(rig, 2)
        _wait_for_clients(rig, 1)
        taken = rig.expose(client, "vms")
        exposed = taken.mappings[0].exposed_share
        assert exposed not in control.connected_shares(configuration)
        with rig.session(exposed):
            assert exposed in control.connected_shares(configuration)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        # Another Samba's workers are not this one's.
        assert control.worker_pids("/run/another") == []
        taken.delete()
    assert _wait_for_clients(rig, 0) == (replace(worker, clients=0),)
    assert control.end_worker(pid, locks)
    assert control.worker_pids(locks) == []
    assert control.end_worker(pid, locks)  # ended already is success
    _a_whole_set(rig)
    rig.assert_nothing_left()


@pytest.mark.parametrize("uid", [0, 65534])
def test_nobody_else_is_ended(rig: "Rig", uid: int) -> None:
    """What only calls itself a worker, and a worker of another Samba."""
    program = rig.directory / "rpcd_fsrvp"
    shutil.copy("/bin/sleep", program)
    locks = rig.samba.lock_directory
    other = rig.directory / "another"
    for directory in (locks, other):
        (directory / "msg.lock").mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([program, "60"], user=uid, group=uid, extra_groups=[]) as process:
        try:
            (other / "msg.lock" / str(process.pid)).touch()
            if uid:
                (locks / "msg.lock" / str(process.pid)).touch()
            # Only root's would be a worker, and of the other one.
            assert control.worker_pids(str(other)) == ([] if uid else [process.pid])
            assert control.worker_pids(str(locks)) == []
            assert control.end_worker(process.pid, str(locks))
            assert process.poll() is None
        finally:
            process.kill()


def test_a_set_whose_client_vanished_is_removed(rig: "Rig") -> None:
    """By hand, as reconciling does it: refused while a worker lives, and then the next set goes."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        lost = CopySet(client, Context.AUTO_RECOVERY)
        lost.start()
        lost.add("vms")
        lost.commit()
        kept_before = _state(rig)
        with pytest.raises(RvssError, match="rpcd_fsrvp lives") as caught:
            _delete(rig, {str(lost.id): SetState.COMMITTED})
        assert caught.value.problem is Problem.BUSY
        assert _state(rig) == kept_before
    for worker in _wait_for_clients(rig, 0):
        assert control.end_worker(worker.pid, str(rig.samba.lock_directory))
    with rig.client() as client, pytest.raises(RvssError, match="0x80042316"):
        CopySet(client, Context.AUTO_RECOVERY).start()
    for worker in _wait_for_clients(rig, 0):
        assert control.end_worker(worker.pid, str(rig.samba.lock_directory))
    assert _delete(rig, {str(lost.id): SetState.EXPOSED}) == ()
    assert _delete(rig, {str(lost.id): SetState.COMMITTED}) == (str(lost.id),)
    assert _states(rig) == []
    _a_whole_set(rig)


def _grace(rig: "Rig", seconds: int) -> None:
    rig.samba.set_options({"rvss:grace": str(seconds)})


def test_the_daemon_removes_a_set_whose_client_vanished(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    _grace(rig, 2)
    rig.start()
    with rig.client() as client:
        lost = CopySet(client, Context.AUTO_RECOVERY)
        lost.start()
        lost.add("vms")
        lost.commit()
    rig.assert_nothing_left(20)
    _a_whole_set(rig)
    rig.assert_nothing_left()


def test_the_daemon_removes_the_set_of_a_copy_that_an_administrator_deletes(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    _grace(rig, 1)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
    time.sleep(5)  # nothing is due any more
    assert rig.command("delete", copy.id).returncode == 0
    rig.assert_nothing_left(20)
    _a_whole_set(rig)


def test_the_daemon_removes_a_set_that_was_only_begun(
    rig: "Rig", second_operator: "BackupOperator"
) -> None:
    """Another set's RecoveryComplete had it written; its client vanished before its Commit."""
    rig.share("vms", rig.volume())
    _grace(rig, 2)
    rig.start()
    with rig.client() as first:
        taken = rig.expose(first, "vms")
        with rig.client(second_operator) as second:
            lost = CopySet(second)
            lost.start()
            lost.add("vms")
            taken.complete()
            assert _states(rig) == [SetState.ADDED, SetState.RECOVERED]
            # While its client is there, it may go on.
            time.sleep(4)
            assert _states(rig) == [SetState.ADDED, SetState.RECOVERED]
            lost.commit()
            assert _states(rig) == [SetState.COMMITTED, SetState.RECOVERED]
            lost.expose()
            lost.complete()
            begun = CopySet(second)
            begun.start()
            taken.delete()
            assert _states(rig) == [SetState.STARTED, SetState.RECOVERED]
    deadline = time.monotonic() + 20
    while _states(rig) != [SetState.RECOVERED]:
        assert time.monotonic() < deadline, _state(rig)
        time.sleep(0.1)
    with closing(Ledger(str(rig.daemon.state_directory / "ledger.db"), read_only=True)) as ledger:
        while "removed from srv_fss.tdb" not in [one.what for one in ledger.events(str(begun.id))]:
            assert time.monotonic() < deadline, ledger.events(str(begun.id))
            time.sleep(0.1)
    # The recovered one is left alone, and served.
    (copy,) = rig.wait_for_phase(Phase.SEALED)
    assert os.path.ismount(copy.path)
    _a_whole_set(rig)
    assert [one.id for one in rig.ledger()] == [copy.id]
