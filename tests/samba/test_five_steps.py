"""Prepare, create writable, expose, recover, complete and clean up: what is left is the backup.

Two shares on two file systems, on each a virtual machine that writes all the while.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing import machine
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

pytestmark = pytest.mark.require("qemu")

_DISK = "vm.vhdx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A virtual machine on a share, and what its disk holds at the beginning."""

    share: str
    running: machine.Machine
    known: Path
    home: Path | None

    def image(self, rig: "Rig", copy: ShadowCopy) -> AbstractContextManager[Path]:
        """Show the image of its share's backup."""
        if self.home is None:
            return rig.image(copy)
        (found,) = (path for path in self.home.iterdir() if not path.name.startswith("."))
        return nullcontext(found)


@pytest.fixture
def guests(rig: "Rig") -> Iterator[list[Guest]]:
    """One on the rig's file system, and one on a btrfs beside it."""
    with ExitStack() as undo:
        beside = undo.enter_context(LoopBtrfs(rig.directory, size=1 << 30))
        undo.callback(rig.samba.stop)
        undo.callback(rig.daemon.stop)
        paths = {"vms": rig.volume("vms"), "logs": beside.subvolume("logs")}
        paths["logs"].chmod(0o777)
        homes = {"logs": beside.path / ".samba-rvss"}
        made = []
        for name, path in paths.items():
            known = rig.directory / f"{name}.known"
            machine.make_disk(path / _DISK, known)
            (path / _DISK).chmod(0o666)
            running = undo.enter_context(machine.Machine(path / _DISK, uid=0, gid=0))
            running.pause = 0.5  # each write makes the disk larger, and all of it is read over SMB
            made.append(Guest(share=name, running=running, known=known, home=homes.get(name)))
            rig.share(name, path, {"rvss:keep": "recovered"})
        rig.start()
        yield made


@pytest.mark.vm(seconds=120, long=True, file_system="zfs")
def test_five_steps(rig: "Rig", guests: list[Guest]) -> None:
    """It is gone for Samba and its client; it is listed, and stays byte for byte as sealed."""
    begun: dict[str, int] = {}
    with rig.client() as client:
        for guest in guests:
            guest.running.wait_until(3)
        done = {guest.share: guest.running.done for guest in guests}
        taken = rig.expose(client, *done)
        begun = {guest.share: guest.running.begun for guest in guests}
        for guest, exposed in zip(guests, taken.exposed_shares, strict=True):
            _recover(rig, guest, exposed)
        taken.complete()
        copies = {copy.share: copy for copy in rig.wait_for_phase(Phase.SEALED, 2)}
        sealed = {share: _digest(Path(copy.path) / _DISK) for share, copy in copies.items()}
        taken.delete()
        with pytest.raises(FsrvpError):
            client.get_share_mapping(taken.id, taken.copies["vms"], "vms")
    assert rig.samba_state().sets == ()
    assert rig.exposed_shares() == rig.mounts() == []
    backup = _only(rig)
    assert (backup["consistent"], backup["shares"]) == (True, ["logs", "vms"])
    # A lost ledger loses nothing of it.
    instants = _instants(rig)
    assert len(instants) == 2
    assert all(transid and taken for _, transid, taken in instants)
    rig.daemon.stop()
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    rig.daemon.start()
    wait_until(lambda: f"it is there again: {_only(rig)}", lambda: _only(rig) == backup)
    assert _instants(rig) == instants
    for guest in guests:
        with guest.image(rig, copies[guest.share]) as image:
            disk = image / _DISK
            assert _digest(disk) == sealed[guest.share]
            assert machine.verdict(disk) == ""
            assert machine.known_is_intact(disk, guest.known)
            assert machine.says_shut_down(disk)
            assert machine.has_writes(disk, range(1, done[guest.share] + 1))
            assert machine.lacks_writes(disk, range(begun[guest.share] + 1, guest.running.done))
        guest.running.wait_until(begun[guest.share] + 1)
    assert rig.command("delete", str(backup["id"])).returncode == 0
    rig.assert_nothing_left()


def _instants(rig: "Rig") -> list[tuple[str, int, datetime | None]]:
    path = rig.daemon.state_directory / "ledger.db"
    with closing(Ledger(str(path), read_only=True)) as ledger:
        return sorted((copy.id, copy.transid, copy.taken) for copy in ledger.backups())


def _only(rig: "Rig") -> dict[str, object]:
    done = rig.command("backup", "list", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["backups"]
    return {key: value for key, value in found.items() if key != "parts"}


def _recover(rig: "Rig", guest: Guest, exposed: str) -> None:
    """Bring the disk in the copy into order; what changes is written over SMB."""
    fetched, repaired = rig.directory / "fetched.vhdx", rig.directory / "repaired.vhdx"
    with rig.session(exposed) as session:
        fetched.write_bytes(session.read(_DISK))
        repaired.write_bytes(fetched.read_bytes())
        machine.repair(repaired)
        machine.shut_down(repaired)
        old, new = fetched.read_bytes(), repaired.read_bytes()
        assert old != new
        handle = session.open(_DISK, write=True)
        piece = 1 << 16
        for offset in range(0, len(new), piece):
            if new[offset : offset + piece] != old[offset : offset + piece]:
                handle.write(new[offset : offset + piece], offset)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
