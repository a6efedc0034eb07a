"""One fault at one stage of a set: bringing it about, and seeing that it heals.

A case takes a set to its stage, does what its fault says, and then waits, with nobody's help,
until nothing of it is left anywhere; then a fresh set must succeed. It has its stage's timer and
`SECONDS` more.
"""

import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from samba_rvss.errors import Problem
from samba_rvss.model import Phase
from tests.samba.lanes import SHARES, Lane, SetDriver, Stage

SLOW = int(os.environ.get("SAMBA_RVSS_SLOW", "1"))
"""How many times as long everything takes, on an emulated machine."""

PACE = max(2, SLOW)
"""What all timers are multiplied by: a pause of a busy host is no client that is gone."""

SECONDS = 10.0 * PACE
"""What a case has beyond its timer."""

_FRESH = 20.0 * PACE  # for each phase of a fresh set


class Fault(Enum):
    """What happens. Unless it says something else, the client then drops its connection."""

    SILENT = "its client says nothing more"
    CLOSED = "its client drops its connection"
    VANISHED = "the link to its client is cut"
    ABORTED = "its client aborts it"
    HALF = "its Commit fails for one share of three"
    WORKER = "the worker is killed"
    UNCONFIGURED = "its share is removed from smb.conf"
    UNSHARED = "its exposed share is removed by hand"
    DESTROYED = "its image is destroyed by hand"
    KILLED = "the daemon is killed"
    FORGOTTEN = "the ledger is deleted"
    RESTORED = "an old state directory is restored"
    TWO = "a second daemon is started"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCase:
    """One fault at one stage."""

    fault: Fault
    stage: Stage

    @property
    def uncommitted(self) -> bool:
        """Whether the set is nowhere but in the memory of Samba's worker in the end."""
        half = self.fault is Fault.HALF and self.stage is Stage.COMMITTED
        return half or self.stage in (Stage.STARTED, Stage.ADDED)

    @property
    def adopted(self) -> bool:
        """Whether a sealed copy is left without a record, which no timer may delete."""
        lost = self.fault in (Fault.FORGOTTEN, Fault.RESTORED)
        return lost and self.stage in (Stage.RECOVERED, Stage.DELETING)

    def __str__(self) -> str:
        return f"{self.fault.name.lower()}-{self.stage.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Options that end what nobody ends, in seconds; ``sequence`` is Samba's own."""

    sequence: int
    grace: int
    recovery: int
    age: int

    def of(self, case: FaultCase) -> float:
        """Return the one after which a case's set must be gone."""
        if case.uncommitted:
            return self.sequence
        match case.stage:
            case Stage.RECOVERED:
                return self.age
            case _:
                # A client that is still connected to the set's worker has this long.
                return self.recovery

    def rvss(self) -> dict[str, str]:
        """Return the options of samba-rvss."""
        return {
            "grace": f"{self.grace} s",
            "recovery timeout": f"{self.recovery} s",
            "maximum age": f"{self.age} s",
        }

    def samba(self) -> dict[str, str]:
        """Return the options of Samba."""
        return {"fss:sequence timeout": str(self.sequence)}


TIMERS = Timers(sequence=4 * PACE, grace=2 * PACE, recovery=3 * PACE, age=5 * PACE)


def run(made: Lane, case: FaultCase) -> float:
    """Run one case; return how many seconds past its timer nothing was left."""
    rig, fault = made.rig, case.fault
    with ExitStack() as undo, ExitStack() as holding:
        if fault is Fault.RESTORED:
            _back_up(made)
        client = made.far(undo) if fault is Fault.VANISHED else made.near(undo)
        shares = SHARES if fault is Fault.HALF else SHARES[:1]
        driver = SetDriver(made, client, shares)
        _go(driver, case, holding)
        due = time.monotonic() + TIMERS.of(case)
        _happen(driver, case, undo, holding)
        holding.close()
        if fault is not Fault.SILENT:
            client.close()
        if case.uncommitted:  # only Samba's own timer ends it
            time.sleep(max(0.0, due + 1 - time.monotonic()))
        if case.adopted:
            _delete_adopted(made, due)
        rig.assert_nothing_left(due + SECONDS - time.monotonic())
        healed = time.monotonic() - due
        made.assert_a_fresh_set_works(SHARES[1 if fault is Fault.UNCONFIGURED else 0], _FRESH)
        rig.assert_nothing_left(SECONDS)
    if fault is Fault.UNCONFIGURED:
        made.configure()
        rig.samba.end_workers()  # a living one does not learn of the share
    return healed


def _delete_adopted(made: Lane, due: float) -> None:
    """Delete, as its administrator, what lives on after its timer."""
    time.sleep(max(0.0, due + 1 - time.monotonic()))
    copies = [copy for copy in made.rig.ledger() if copy.phase is not Phase.DELETING]
    assert [(copy.phase, copy.adopted) for copy in copies] == [(Phase.SEALED, True)]
    done = made.rig.command("delete", copies[0].id)
    assert done.returncode == 0, done.stderr


def _go(driver: SetDriver, case: FaultCase, holding: ExitStack) -> None:
    """Take a set to a case's stage."""
    order = list(Stage).index(case.stage)
    driver.start()
    if order >= 1:
        driver.add()
    if case.fault is Fault.HALF and order >= 2:
        driver.commit_in_vain()
        if order == 2:
            return
    if order >= 2:
        driver.commit()
    if order >= 3:
        driver.expose()
    if order >= 4:
        driver.recover()
    if order >= 5:
        driver.delete_in_vain(holding)
    if case.stage is Stage.EXPOSED and case.fault in (Fault.SILENT, Fault.VANISHED):
        driver.client.hold(driver.set.exposed_shares[0], "data")


def _happen(driver: SetDriver, case: FaultCase, undo: ExitStack, holding: ExitStack) -> None:
    """Do what a case's fault says."""
    made, rig = driver.lane, driver.lane.rig
    match case.fault:
        case Fault.SILENT | Fault.CLOSED | Fault.HALF:
            pass
        case Fault.VANISHED:
            undo.callback(made.link.mend)
            made.link.cut()
            driver.client.close()
            time.sleep(0.5)
            assert made.link.established(), "the server has heard that its client is gone"
        case Fault.ABORTED:
            driver.abort()
        case Fault.WORKER:
            pids = rig.samba.worker_pids()
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        case Fault.UNCONFIGURED:
            rig.samba.drop_share(SHARES[0])
        case Fault.UNSHARED:
            for share in set(rig.exposed_shares()).intersection(driver.set.exposed_shares):
                rig.samba.net("conf", "delshare", share)
        case Fault.DESTROYED:
            copies = driver.copies()
            holding.close()
            for copy in copies:
                made.destroy(copy)
        case Fault.KILLED:
            rig.daemon.kill()
            rig.daemon.start()
        case Fault.FORGOTTEN:
            rig.daemon.kill()
            for path in rig.daemon.state_directory.glob("ledger.db*"):
                path.unlink()
            rig.daemon.start()
        case Fault.RESTORED:
            rig.daemon.kill()
            shutil.rmtree(rig.daemon.state_directory)
            shutil.copytree(rig.directory / "backup", rig.daemon.state_directory)
            rig.daemon.start()
        case Fault.TWO:
            done = rig.command("daemon")
            assert done.returncode == Problem.BUSY, done.stderr
            assert "another samba-rvss daemon uses" in done.stderr


def _back_up(made: Lane) -> None:
    """Copy the state directory while a copy is open that will soon be gone."""
    backup = made.rig.directory / "backup"
    shutil.rmtree(backup, ignore_errors=True)
    with ExitStack() as undo:
        driver = SetDriver(made, made.near(undo))
        driver.add()
        driver.commit()
        driver.expose()
        shutil.copytree(made.rig.daemon.state_directory, backup)
        driver.recover()
        driver.delete()
    made.rig.assert_nothing_left(SECONDS)
