"""One fault at one stage of a set: bringing it about, and seeing that it heals.

A cell takes a set to its stage, does what its fault says, and then waits, with nobody's help,
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
from tests.samba.lanes import SHARES, Lane, Stage, Walk, take_a_set

SLOW = int(os.environ.get("SAMBA_RVSS_SLOW", "1"))
"""How many times as long everything takes, on an emulated machine."""

SECONDS = 10.0 * SLOW
"""What a cell has beyond its timer."""


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
class Cell:
    """One fault at one stage."""

    fault: Fault
    stage: Stage

    @property
    def uncommitted(self) -> bool:
        """Whether the set is nowhere but in the memory of Samba's worker in the end."""
        half = self.fault is Fault.HALF and self.stage is Stage.COMMITTED
        return half or self.stage in (Stage.STARTED, Stage.ADDED)

    def __str__(self) -> str:
        return f"{self.fault.name.lower()}-{self.stage.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Options that end what nobody ends, in seconds; ``sequence`` is Samba's own."""

    sequence: int
    grace: int
    recovery: int
    age: int

    def of(self, cell: Cell) -> float:
        """Return the one after which a cell's set must be gone."""
        if cell.uncommitted:
            return self.sequence
        match cell.stage:
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


TIMERS = Timers(sequence=4 * SLOW, grace=2 * SLOW, recovery=3 * SLOW, age=5 * SLOW)


def run(made: Lane, cell: Cell) -> float:
    """Run one cell; return how many seconds past its timer nothing was left."""
    rig, fault = made.rig, cell.fault
    with ExitStack() as undo, ExitStack() as holding:
        if fault is Fault.RESTORED:
            _back_up(made)
        client = made.far(undo) if fault is Fault.VANISHED else made.near(undo)
        shares = SHARES if fault is Fault.HALF else SHARES[:1]
        walk = Walk(made, client, shares)
        _go(walk, cell, holding)
        due = time.monotonic() + TIMERS.of(cell)
        _happen(walk, cell, undo, holding)
        holding.close()
        if fault is not Fault.SILENT:
            client.close()
        if cell.uncommitted:  # only Samba's own timer ends it
            time.sleep(max(0.0, due + 1 - time.monotonic()))
        made.wait_until_nothing_is_left(due + SECONDS)
        healed = time.monotonic() - due
        take_a_set(made, SHARES[1] if fault is Fault.UNCONFIGURED else SHARES[0])
        made.wait_until_nothing_is_left(time.monotonic() + SECONDS)
    if fault is Fault.UNCONFIGURED:
        made.configure()
        rig.samba.end_workers()  # a living one does not learn of the share
    return healed


def _go(walk: Walk, cell: Cell, holding: ExitStack) -> None:
    """Take a set to a cell's stage."""
    order = list(Stage).index(cell.stage)
    walk.start()
    if order >= 1:
        walk.add()
    if cell.fault is Fault.HALF and order >= 2:
        walk.commit_in_vain()
        if order == 2:
            return
    if order >= 2:
        walk.commit()
    if order >= 3:
        walk.expose()
    if order >= 4:
        walk.recover()
    if order >= 5:
        walk.delete_in_vain(holding)
    if cell.stage is Stage.EXPOSED and cell.fault in (Fault.SILENT, Fault.VANISHED):
        walk.client.hold(walk.set.exposed_shares[0], "data")


def _happen(walk: Walk, cell: Cell, undo: ExitStack, holding: ExitStack) -> None:
    """Do what a cell's fault says."""
    made, rig = walk.lane, walk.lane.rig
    match cell.fault:
        case Fault.SILENT | Fault.CLOSED | Fault.HALF:
            pass
        case Fault.VANISHED:
            undo.callback(made.link.mend)
            made.link.cut()
            walk.client.close()
            time.sleep(0.5)
            assert made.link.established(), "the server has heard that its client is gone"
        case Fault.ABORTED:
            walk.abort()
        case Fault.WORKER:
            pids = rig.samba.worker_pids()
            assert pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        case Fault.UNCONFIGURED:
            rig.samba.drop_share(SHARES[0])
        case Fault.UNSHARED:
            for share in set(rig.exposed_shares()).intersection(walk.set.exposed_shares):
                rig.samba.net("conf", "delshare", share)
        case Fault.DESTROYED:
            copies = walk.copies()
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
        walk = Walk(made, made.near(undo))
        walk.add()
        walk.commit()
        walk.expose()
        shutil.copytree(made.rig.daemon.state_directory, backup)
        walk.recover()
        walk.delete()
    made.wait_until_nothing_is_left(time.monotonic() + SECONDS)
