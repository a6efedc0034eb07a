"""Workers and srv_fss.tdb: seen, ended and repaired beside a real Samba, then a set goes on."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tdb

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, SetState, Worker
from samba_rvss.samba import control, fss_state
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig


def _workers(rig: "Rig") -> tuple[Worker, ...]:
    return control.workers(str(rig.samba.configuration), str(rig.samba.lock_directory))


def _wait_for_clients(rig: "Rig", *clients: int) -> tuple[Worker, ...]:
    def found() -> tuple[Worker, ...]:
        workers = _workers(rig)
        return workers if [worker.clients for worker in workers] == list(clients) else ()

    return wait_until(lambda: f"workers with {clients} clients: {_workers(rig)}", found)


def _delete(rig: "Rig", wanted: dict[str, SetState]) -> tuple[str, ...]:
    path = str(rig.samba.lock_directory / "srv_fss.tdb")
    return fss_state.delete_sets(path, str(rig.samba.lock_directory), wanted)


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
        with pytest.raises(RvssError, match="a client has connected") as caught:
            control.end_worker(pid, locks, idle=True)
        assert caught.value.problem is Problem.BUSY
        taken = rig.expose(client, "vms")
        exposed = taken.mappings[0].exposed_share
        assert exposed not in control.connected_shares(configuration)
        with rig.session(exposed):
            assert exposed in control.connected_shares(configuration)
            (machine,) = control.clients(configuration)[exposed]
            listed = rig.command("list").stdout.splitlines()[1].split("\t")
            assert (listed[5], bool(listed[6])) == (machine, True), listed
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        # Another Samba's workers are not this one's.
        assert control.worker_pids("/run/another") == []
        taken.delete()
    assert _wait_for_clients(rig, 0) == (replace(worker, clients=0),)
    wait_until("its connection is closed", lambda: not control.pipes(pid))
    control.end_worker(pid, locks, idle=True)
    assert control.worker_pids(locks) == []
    control.end_worker(pid, locks)  # ended already is success
    rig.assert_a_fresh_set_works()
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
            control.end_worker(process.pid, str(locks))
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
        kept_before = rig.samba_state()
        with pytest.raises(RvssError, match="rpcd_fsrvp lives") as caught:
            _delete(rig, {str(lost.id): SetState.COMMITTED})
        assert caught.value.problem is Problem.BUSY
        assert rig.samba_state() == kept_before
    for worker in _wait_for_clients(rig, 0):
        control.end_worker(worker.pid, str(rig.samba.lock_directory))
    rig.samba.end_workers()  # samba-dcerpcd ends with its last one
    with rig.client() as client, pytest.raises(RvssError, match="0x80042316"):
        CopySet(client, Context.AUTO_RECOVERY).start()
    for worker in _wait_for_clients(rig, 0):
        control.end_worker(worker.pid, str(rig.samba.lock_directory))
    assert _delete(rig, {str(lost.id): SetState.EXPOSED}) == ()
    assert _delete(rig, {str(lost.id): SetState.COMMITTED}) == (str(lost.id),)
    assert rig.sets() == []
    rig.assert_a_fresh_set_works()


def _grace(rig: "Rig", seconds: int) -> None:
    rig.samba.set_options({"rvss:grace": str(seconds)})


@pytest.mark.vm(seconds=40, long=True, file_system="zfs")
def test_the_daemon_removes_a_set_whose_client_vanished(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    _grace(rig, 4)
    rig.start()
    with rig.client() as client:
        lost = CopySet(client, Context.AUTO_RECOVERY)
        lost.start()
        lost.add("vms")
        lost.commit()
    rig.assert_nothing_left(20)
    rig.assert_a_fresh_set_works()
    rig.assert_nothing_left()


def test_the_daemon_removes_the_set_of_a_copy_that_an_administrator_deletes(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    _grace(rig, 4)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
    time.sleep(8)  # nothing is due any more
    assert rig.command("delete", copy.id).returncode == 0
    rig.assert_nothing_left(20)
    rig.assert_a_fresh_set_works()


def test_the_daemon_removes_a_set_that_was_only_begun(
    rig: "Rig", second_operator: "BackupOperator"
) -> None:
    """Another set's RecoveryComplete had it written; its client vanished before its Commit."""
    rig.share("vms", rig.volume())
    _grace(rig, 4)
    rig.start()
    with rig.client() as first:
        taken = rig.expose(first, "vms")
        with rig.client(second_operator) as second:
            lost = CopySet(second)
            lost.start()
            lost.add("vms")
            taken.complete()
            assert rig.sets() == [SetState.ADDED, SetState.RECOVERED]
            # While its client is there, it may go on.
            time.sleep(6)
            assert rig.sets() == [SetState.ADDED, SetState.RECOVERED]
            lost.commit()
            assert rig.sets() == [SetState.COMMITTED, SetState.RECOVERED]
            lost.expose()
            lost.complete()
            begun = CopySet(second)
            begun.start()
            taken.delete()
            assert rig.sets() == [SetState.STARTED, SetState.RECOVERED]
    deadline = time.monotonic() + 20
    recovered = [SetState.RECOVERED]
    wait_until(lambda: f"one set is left: {rig.sets()}", lambda: rig.sets() == recovered, 20)
    with closing(Ledger(str(rig.daemon.state_directory / "ledger.db"), read_only=True)) as ledger:

        def told() -> list[str]:
            return [event.what for event in ledger.events(str(begun.id))]

        wait_until(
            lambda: f"it is told: {told()}",
            lambda: "removed from srv_fss.tdb" in told(),
            deadline - time.monotonic(),
        )
    # The recovered one is left alone, and served.
    (copy,) = rig.wait_for_phase(Phase.SEALED)
    assert os.path.ismount(copy.path)
    rig.assert_a_fresh_set_works()
    assert [copy.id for copy in rig.ledger()] == [copy.id]


@pytest.mark.parametrize("cut", ["wiped", "version"])
def test_a_worker_that_is_killed_while_it_writes_leaves_nothing_writable(
    rig: "Rig", cut: str
) -> None:
    """Samba wipes the file, notes its version, and then stores all sets: SIGKILL in between."""
    rig.samba.set_options({"rvss:grace": "4 s", "rvss:recovery timeout": "8 s"})
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
    rig.assert_a_fresh_set_works()
    with rig.session(kept.mappings[0].exposed_share) as session:
        assert session.read("data").startswith(b"from the source")
    assert rig.command("delete", left.id).returncode == 0
    rig.assert_nothing_left()
