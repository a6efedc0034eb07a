"""The play behind ``samba-rvss demo``: one backup of a virtual disk that is being written to.

Place: acts on the rigs of `samba_rvss.testing`; `samba_rvss.cli.demo` starts it and shows what it
recorded. Contract: `perform` fills the record that it is given, step by step, so that a caller has
what there is when a step fails; whatever it made is gone when it returns or raises. It is never
cut off inside a step: it asks between steps whether to go on.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from uuid import UUID

from samba_rvss import kernel
from samba_rvss.cli.record import Record
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba import fss_state
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.methods import BACKUP
from samba_rvss.testing import machine as virtual
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.machine import Machine
from samba_rvss.testing.smbclient import File, Session, SmbError
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator, User

TOOLS = ("mkfs.btrfs", "losetup", "smbd", "net", "smbpasswd", "useradd", "qemu-img", "qemu-io")
"""The programs that it needs."""

_SHARE = "vms"
_DISK = "vm.vhdx"
_MARKER = "recovered.txt"
_SECONDS = 30.0
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Play:
    """The scenes, on a stage that is set."""

    record: Record
    file_system: LoopBtrfs
    samba: PrivateSmbd
    daemon: RvssDaemon
    operator: User
    disk: Path
    known: Path
    client_directory: Path

    def back_up(self, client: Client, machine: Machine) -> None:
        """Take, recover, seal, read and delete a shadow copy, while a machine goes on writing."""
        stage = self.record.stage
        subvolumes = self.file_system.subvolumes()
        with stage("GetSupportedVersion") as saw:
            saw.append("versions {} to {}".format(*client.get_supported_version()))
        with stage("IsPathSupported") as saw:
            supported, owner = client.is_path_supported(_SHARE)
            saw.append(f"{'supported' if supported else 'not supported'} by {owner}")
        with stage("SetContext") as saw:
            client.set_context(BACKUP | Context.AUTO_RECOVERY)
            saw.append("backup, with auto-recovery")
        with stage("StartShadowCopySet") as saw:
            set_id = client.start_shadow_copy_set()
            saw.append(f"set {set_id}")
        with stage("AddToShadowCopySet") as saw:
            copy_id = client.add_to_shadow_copy_set(set_id, _SHARE)
            saw.append(f"copy {copy_id}")
        with stage("PrepareShadowCopySet"):
            client.prepare_shadow_copy_set(set_id)
        with stage("CommitShadowCopySet") as saw:
            done = machine.done
            client.commit_shadow_copy_set(set_id)
            begun = machine.begun
            saw.append(f"success, the machine being between its writes {done} and {begun}")
        machine.pause = 0.02  # from here on the disk need not grow that fast
        with stage("ExposeShadowCopySet"):
            client.expose_shadow_copy_set(set_id)
        with stage("GetShareMapping") as saw:
            exposed = client.get_share_mapping(set_id, copy_id, _SHARE).exposed_share
            saw.append(exposed)
        # Left open on purpose: once the copy is sealed, this handle must be unable to write.
        with self._connect(exposed) as session:
            handle = session.open(_DISK, write=True)
            self._recover(session, handle)
            with stage("RecoveryComplete"):
                client.recovery_complete_shadow_copy_set(set_id)
            copy = self._wait_until_sealed(copy_id)
            self._try_to_write(exposed, copy, handle)
        self._read(exposed, done, begun)
        with stage("the machine on the source goes on"):
            now = machine.done
            machine.wait_until(now + 5)
        self.record.expect(
            "the writer on the source was not disturbed",
            f"it was at write {begun} at the Commit and is at {machine.done} now",
            met=machine.done > begun,
        )
        with stage("DeleteShareMapping"):
            client.delete_share_mapping(set_id, copy_id, _SHARE)
        self._look_for_leftovers(copy, exposed, subvolumes)

    def look_at_source(self, writes: int) -> None:
        """See that the source has all of its writes, and none of the recovery's."""
        self.record.look()
        self.record.expect(
            "the source has every write of its own",
            f"writes 1 to {writes}",
            met=virtual.has_writes(self.disk, range(1, writes + 1)),
        )
        marked = (self.disk.parent / _MARKER).exists()
        self.record.expect(
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
        stage, expect = self.record.stage, self.record.expect
        fetched = self.client_directory / "fetched.vhdx"
        repaired = self.client_directory / "repaired.vhdx"
        names = session.list()
        expect(
            "the copy shows the share and nothing beside it", ", ".join(names), met=names == [_DISK]
        )
        with stage("recovery: fetch the disk over SMB") as saw:
            saw.append(self._fetch(session, _DISK, fetched))
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
        deadline = time.monotonic() + _SECONDS
        with self.record.stage("samba-rvss seals the copy") as saw:
            while True:
                # It learns what Samba calls the copy a moment after Samba has told its client.
                copy = self._in_ledger(str(copy_id))
                if copy is not None and copy.phase is Phase.SEALED:
                    break
                if time.monotonic() > deadline:
                    phase = "nothing" if copy is None else copy.phase.value
                    raise RvssError(
                        Problem.NOT_SEALED, f"after {_SECONDS:g} s the ledger says {phase}"
                    )
                time.sleep(0.002)
            closed = bool(os.statvfs(copy.path).f_flag & os.ST_RDONLY)
            saw.append(f"ledger: {copy.phase.value}, mount: {'ro' if closed else 'rw'}")
        self.record.expect("the copy is sealed", saw[0], met=closed)
        return copy

    def _try_to_write(self, exposed: str, copy: ShadowCopy, handle: File) -> None:
        local = f"{copy.path}/{_DISK}"
        before = _digest(local)
        with self._connect(exposed) as session:
            attempts: dict[str, Callable[[], object]] = {
                "the SMB handle from before cannot write": partial(handle.write, b"late"),
                "a new SMB handle cannot write": partial(session.open, _DISK, write=True),
                "no file can be made over SMB": partial(session.write, "late", b"late"),
                "root cannot write through the local mount": partial(os.open, local, os.O_WRONLY),
            }
            for name, attempt in attempts.items():
                self.record.look()
                said = _refusal(attempt)
                self.record.expect(name, said or "it was accepted", met=bool(said))
        after = _digest(local)
        self.record.expect(
            "not one byte of the disk has changed", f"SHA-256 {after[:16]}…", met=after == before
        )

    def _read(self, exposed: str, done: int, begun: int) -> None:
        """Make the backup: read the sealed copy over SMB, and see that it is one instant's."""
        expect = self.record.expect
        backup = self.client_directory / "backup.vhdx"
        with (
            self.record.stage("backup: read the sealed copy over SMB") as saw,
            self._connect(exposed) as session,
        ):
            saw.append(self._fetch(session, _DISK, backup))
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
        """See that nothing of the shadow copy is left wherever it had left something."""
        self.record.look()
        refusal = _refusal(lambda: self._connect(exposed).close())
        self.record.expect("the exposed share is gone", refusal or "it serves", met=bool(refusal))
        home = self.file_system.path / ".samba-rvss"
        below = f"{self.daemon.run_directory}/"
        listing = self.samba.net("conf", "listshares").splitlines()
        security = self.samba.sharesec("--view-all").splitlines()
        left: dict[str, Sequence[str]] = {
            "image": os.listdir(home),
            "subvolume": sorted({*self.file_system.subvolumes()} - {*subvolumes, home.name}),
            "mount": [one.target for one in kernel.mountinfo() if one.target.startswith(below)],
            "registry share": [line for line in listing if copy.copy_id in line],
            "security descriptor": [line for line in security if copy.copy_id in line],
            "set in srv_fss.tdb": self._sets(),
        }
        for what, names in left.items():
            self.record.expect(f"no {what} is left", ", ".join(names) or "none", met=not names)
        now = self._in_ledger(copy.id)
        phase = now.phase.value if now else "nothing"
        self.record.expect("the ledger knows", phase, met=phase == Phase.GONE.value)

    def _sets(self) -> list[str]:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            state = fss_state.read(str(self.samba.lock_directory / "srv_fss.tdb"))
            if state is not None:
                return [one.set_id for one in state.copies]
            time.sleep(0.01)  # Samba is writing it
        return ["unreadable"]

    def _in_ledger(self, name: str) -> ShadowCopy | None:
        path = str(self.daemon.state_directory / "ledger.db")
        with closing(Ledger(path, read_only=True)) as ledger:
            return next(iter(ledger.find(name)), None)


def _refusal(attempt: Callable[[], object]) -> str:
    """Return the name of the error that something is refused with, or nothing."""
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


def perform(record: Record, parent: Path) -> None:
    """Set the stage, play, and clear everything away.

    Args:
        record: filled as it goes on.
        parent: where to make the directory with the file system's file; every user must be able
            to walk there.

    Raises:
        RvssError: of whatever failed, and whatever the record's ``look`` raises.
    """
    stage = record.stage
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="rvss-demo-", dir=parent))
        stack.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        client_directory = directory / "client"
        client_directory.mkdir(mode=0o700)
        with stage("make a btrfs on a loop device") as saw:
            file_system = stack.enter_context(LoopBtrfs(directory, size=1 << 30))
            share = file_system.subvolume("data", 0o755) / _SHARE
            share.mkdir()
            # What is beside the share must not be seen in its copy.
            (share.parent / "beside.txt").touch()
            saw.append(f"{file_system.device} at {file_system.path}")
        with stage("configure a private Samba") as saw:
            samba = stack.enter_context(PrivateSmbd())
            daemon = stack.enter_context(RvssDaemon(samba))
            samba.set_share(_SHARE, daemon.share(_SHARE, share))
            saw.append(f"{samba.configuration}, at {samba.address}")
        with stage("make a Backup Operator") as saw:
            operator = stack.enter_context(BackupOperator(samba))
            saw.append(f"{operator.name}, uid {operator.uid}")
        with stage("start samba-rvss") as saw:
            daemon.start()
            saw.append(f"process {daemon.pid}")
        with stage("start smbd"):
            samba.start()
        stack.push(partial(_keep_logs, record, samba, daemon))
        with stage("make a virtual disk of known content") as saw:
            disk, known = share / _DISK, directory / "known.raw"
            virtual.make_disk(disk, known)
            for path in (share, disk):
                os.chown(path, operator.uid, -1)
            saw.append(f"{virtual.KNOWN >> 20} MiB in a VHDX of {virtual.SIZE >> 30} GiB")
        with stage("start a machine that writes to it") as saw:
            machine = stack.enter_context(Machine(disk, uid=operator.uid, gid=disk.stat().st_gid))
            machine.wait_until(20)
            saw.append(f"{machine.done} writes so far")
        with stage("connect to FSRVP") as saw:
            client = stack.enter_context(
                Client(samba.address, operator.logon, timeout=_SECONDS)
            )
            saw.append(f"as {operator.name}")
        play = _Play(
            record=record,
            file_system=file_system,
            samba=samba,
            daemon=daemon,
            operator=operator,
            disk=disk,
            known=known,
            client_directory=client_directory,
        )
        play.back_up(client, machine)
        machine.stop()
        play.look_at_source(machine.done)


def _keep_logs(
    record: Record,
    samba: PrivateSmbd,
    daemon: RvssDaemon,
    kind: type[BaseException] | None,
    value: BaseException | None,
    traceback: TracebackType | None,
) -> bool:
    if value is not None or not all(check.ok for check in record.checks):
        record.logs.update({"samba-rvss": daemon.log(), "rpcd_fsrvp": samba.log()})
    return False
