"""The play: a shadow copy is taken, recovered, sealed, read and deleted, while a machine writes.

Place: acts on what `stage` has set up. Contract: each step and each expectation is told to the
reporter at once, so that when a step fails, all before it has been told. A signal never cuts off a
step: between steps the play looks whether to go on (`Reporter.look`).
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from samba_rvss.demo.reporter import Reporter
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounttable
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import Call, CopySet
from samba_rvss.testing import machine as virtual
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.machine import Machine
from samba_rvss.testing.smbclient import File, Session, SmbError
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import User

SHARE = "vms"
DISK = "vm.vhdx"
_MARKER = "recovered.txt"
SECONDS = 30.0
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """The play, with what `stage` has set up for it."""

    reporter: Reporter
    file_system: LoopBtrfs
    samba: PrivateSmbd
    daemon: RvssDaemon
    operator: User
    disk: Path
    known: Path
    client_directory: Path

    def back_up(self, client: Client, machine: Machine) -> None:
        """Take, recover, seal, read and delete a shadow copy, while a machine goes on writing."""
        subvolumes = self.file_system.subvolumes()
        done = begun = 0

        def tell(call: Call) -> None:
            nonlocal begun
            name, saw = call.method, call.answer
            if call.failure is not None:
                saw = f"failed: {call.failure}"
            elif name == "SetContext":
                saw = "backup, with auto-recovery"
            elif name == "CommitShadowCopySet":
                begun = machine.begun
                saw = f"success, the machine being between its writes {done} and {begun}"
            elif name == "RecoveryCompleteShadowCopySet":
                name = "RecoveryComplete"
            self.reporter.step(name, call.seconds, saw)
            self.reporter.look()

        taken = CopySet(client, Context.AUTO_RECOVERY, report=tell, abort_on_failure=False)
        taken.check(SHARE)
        taken.prepare(SHARE)
        done = machine.done
        taken.commit()
        machine.pause = 0.02  # from here on the disk need not grow that fast
        (exposed,) = taken.expose()
        # Left open on purpose: once the copy is sealed, this handle must be unable to write.
        with self._connect(exposed) as session:
            handle = session.open(DISK, write=True)
            self._recover(session, handle)
            taken.complete()
            copy = self._wait_until_sealed(taken.copies[SHARE])
            self._try_to_write(exposed, copy, handle)
        self._read(exposed, done, begun)
        with self.reporter.stage("the machine on the source goes on"):
            now = machine.done
            machine.wait_until(now + 5)
        self.reporter.expect(
            "the writer on the source was not disturbed",
            f"it was at write {begun} at the Commit and is at {machine.done} now",
            met=machine.done > begun,
        )
        taken.delete()
        self._look_for_leftovers(copy, exposed, subvolumes)

    def look_at_source(self, writes: int) -> None:
        """See that the source has all of its writes, and none of the recovery's."""
        self.reporter.look()
        self.reporter.expect(
            "the source has every write of its own",
            f"writes 1 to {writes}",
            met=virtual.has_writes(self.disk, range(1, writes + 1)),
        )
        marked = (self.disk.parent / _MARKER).exists()
        self.reporter.expect(
            "the source has nothing of the recovery",
            "no marker, and the disk says that its machine runs",
            met=not marked and virtual.says_running(self.disk),
        )

    def _connect(self, share: str) -> Session:
        return Session(self.samba.address, share, self.operator.logon)

    def _fetch(self, session: Session, name: str, target: Path) -> str:
        """Copy a file from a share, keeping holes; return its size for people."""
        entries = session.connection.list("")
        (size,) = (entry["size"] for entry in entries if entry["name"] == name)
        with session.open(name) as source, target.open("wb") as sink:
            for offset in range(0, size, 1 << 20):
                piece = source.read(min(1 << 20, size - offset), offset)
                if piece.strip(b"\0"):
                    sink.seek(offset)
                    sink.write(piece)
            sink.truncate(size)
        return f"{size / (1 << 20):.0f} MiB"

    def _recover(self, session: Session, handle: File) -> None:
        """Make the disk in the copy consistent; every byte that changes there goes over SMB."""
        stage, expect = self.reporter.stage, self.reporter.expect
        fetched = self.client_directory / "fetched.vhdx"
        repaired = self.client_directory / "repaired.vhdx"
        names = session.list()
        expect(
            "the copy shows the share and nothing beside it", ", ".join(names), met=names == [DISK]
        )
        with stage("recovery: fetch the disk over SMB") as saw:
            saw.append(self._fetch(session, DISK, fetched))
        with stage("recovery: qemu-img check -r all on what was fetched") as saw:
            shutil.copy(fetched, repaired)
            replayed = virtual.repair(repaired)
            saw.append("the log was replayed" if replayed else "the log was empty at that instant")
        with stage("recovery: note in the disk that its machine does not run"):
            virtual.shut_down(repaired)
        with stage("recovery: write what has changed back over SMB") as saw:
            changed = 0
            with fetched.open("rb") as old, repaired.open("rb") as new:
                for offset in range(0, repaired.stat().st_size, _PIECE):
                    piece = new.read(_PIECE)
                    if piece != old.read(_PIECE):
                        handle.write(piece, offset)
                        changed += 1
            saw.append(f"{changed} pieces of {_PIECE >> 10} KiB were accepted")
        expect("the copy is open for recovery", saw[0], met=changed > 0)
        with stage("recovery: make a file over SMB"):
            session.write(_MARKER, b"recovered\n")

    def _wait_until_sealed(self, copy_id: UUID) -> ShadowCopy:
        deadline = time.monotonic() + SECONDS
        with self.reporter.stage("samba-rvss seals the copy") as saw:
            while True:
                # The ledger gets Samba's id of the copy a moment after Samba has told its client.
                copy = self._in_ledger(str(copy_id))
                if copy is not None and copy.phase is Phase.SEALED:
                    break
                if time.monotonic() > deadline:
                    phase = "nothing" if copy is None else copy.phase.value
                    raise RvssError(
                        Problem.NOT_SEALED, f"after {SECONDS:g} s the ledger says {phase}"
                    )
                time.sleep(0.002)
            closed = bool(os.statvfs(copy.path).f_flag & os.ST_RDONLY)
            saw.append(f"ledger: {copy.phase.value}, mount: {'ro' if closed else 'rw'}")
        self.reporter.expect("the copy is sealed", saw[0], met=closed)
        return copy

    def _try_to_write(self, exposed: str, copy: ShadowCopy, handle: File) -> None:
        local = f"{copy.path}/{DISK}"
        before = _digest(local)
        with self._connect(exposed) as session:
            attempts: dict[str, Callable[[], object]] = {
                "the SMB handle from before cannot write": partial(handle.write, b"late"),
                "a new SMB handle cannot write": partial(session.open, DISK, write=True),
                "no file can be made over SMB": partial(session.write, "late", b"late"),
                "root cannot write through the local mount": partial(os.open, local, os.O_WRONLY),
            }
            for name, attempt in attempts.items():
                self.reporter.look()
                said = _refusal(attempt)
                self.reporter.expect(name, said or "it was accepted", met=bool(said))
        after = _digest(local)
        self.reporter.expect(
            "not one byte of the disk has changed", f"SHA-256 {after[:16]}…", met=after == before
        )

    def _read(self, exposed: str, done: int, begun: int) -> None:
        """Make the backup: read the sealed copy over SMB, and see that it is of one instant."""
        expect = self.reporter.expect
        backup = self.client_directory / "backup.vhdx"
        with (
            self.reporter.stage("backup: read the sealed copy over SMB") as saw,
            self._connect(exposed) as session,
        ):
            saw.append(self._fetch(session, DISK, backup))
            marker = session.read(_MARKER)
        expect("the backup has the recovery's file", repr(marker), met=marker == b"recovered\n")
        said = virtual.verdict(backup)
        expect("the virtual disk is consistent", said or "qemu-img: no errors", met=not said)
        expect(
            "the virtual disk has its known content",
            f"the first {virtual.KNOWN >> 20} MiB are compared",
            met=virtual.known_is_intact(backup, self.known),
        )
        expect(
            "the virtual disk has every write done before the Commit",
            f"writes 1 to {done}",
            met=virtual.has_writes(backup, range(1, done + 1)),
        )
        expect(
            "the virtual disk has no write begun after the Commit",
            f"writes from {begun + 1} on",
            met=virtual.lacks_writes(backup, range(begun + 1, begun + 20)),
        )
        expect(
            "the virtual disk has the recovery's write",
            "it says that its machine does not run",
            met=virtual.says_shut_down(backup),
        )

    def _look_for_leftovers(
        self, copy: ShadowCopy, exposed: str, subvolumes: Sequence[str]
    ) -> None:
        """See that nothing of the shadow copy is left in any of the places that had something."""
        self.reporter.look()
        refusal = _refusal(lambda: self._connect(exposed).close())
        self.reporter.expect("the exposed share is gone", refusal or "it serves", met=bool(refusal))
        home = self.file_system.path / ".samba-rvss"
        below = f"{self.daemon.run_directory}/"
        listing = self.samba.net("conf", "listshares").splitlines()
        security = self.samba.sharesec("--view-all").splitlines()
        left: dict[str, Sequence[str]] = {
            "image": [name for name in os.listdir(home) if name != ".marks"],
            "mark": os.listdir(home / ".marks"),
            "subvolume": sorted({*self.file_system.subvolumes()} - {*subvolumes, home.name}),
            "mount": [m.target for m in mounttable.mountinfo() if m.target.startswith(below)],
            "registry share": [line for line in listing if copy.copy_id in line],
            "security descriptor": [line for line in security if copy.copy_id in line],
            "set in srv_fss.tdb": self._sets(),
        }
        for what, names in left.items():
            self.reporter.expect(f"no {what} is left", ", ".join(names) or "none", met=not names)
        now = self._in_ledger(copy.id)
        phase = now.phase.value if now else "nothing"
        self.reporter.expect("the ledger knows", phase, met=phase == Phase.GONE.value)

    def _sets(self) -> list[str]:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            state = fss_state.read(str(self.samba.lock_directory / "srv_fss.tdb"))
            if state is not None:
                return [copy.set_id for copy in state.copies]
            time.sleep(0.01)  # Samba is writing it
        return ["unreadable"]

    def _in_ledger(self, name: str) -> ShadowCopy | None:
        path = str(self.daemon.state_directory / "ledger.db")
        with closing(Ledger(path, read_only=True)) as ledger:
            return next(iter(ledger.find(name)), None)


def _refusal(attempt: Callable[[], object]) -> str:
    """Return the name of the error that an attempt is refused with; empty if it succeeds."""
    try:
        made = attempt()
    except SmbError as exc:
        return exc.name
    except OSError as exc:
        return exc.strerror or str(exc)
    if isinstance(made, int):
        os.close(made)
    return ""


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
