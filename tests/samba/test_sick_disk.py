"""Disks that do not answer, or are gone: who asks is answered, and nothing is left behind."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.model import Phase
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of, only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

pytestmark = [pytest.mark.require("root"), only("btrfs")]

DEADLINE = 4.0


@pytest.mark.require("nbdkit")
def test_a_disk_that_stands_still(rig: "Rig") -> None:
    good = rig.volume()
    rig.samba.set_options({"rvss:commit deadline": f"{DEADLINE:g} s"})
    with (
        SickDisk(rig.directory) as disk,
        LoopBtrfs(rig.directory, disk=disk.file) as file_system,
    ):
        sick = file_system.subvolume("sick")
        rig.share("good", good)
        rig.share("sick", sick)
        rig.start()
        assert rig.hook("check", str(sick)).returncode == 0
        disk.stand_still()
        (sick / "dirty").write_bytes(b"x" * 65536)
        # Each is answered while the disk stands still.
        for _ in range(6):
            done = rig.hook("create", str(sick))
            assert done.returncode in (Problem.DEADLINE, Problem.BUSY), done.stderr
        made = rig.hook("create", str(good))
        assert made.returncode == 0, made.stderr
        told = rig.command("reconcile", "--json")
        # It is the file system itself that is waited for, or what was begun on it before.
        named = rf"mounted at {re.escape(str(file_system.path))},? has not (answered|ended) for"
        assert re.search(named, told.stdout), told
        assert rig.hook("delete", str(good), made.stdout.strip()).returncode == 0
        disk.heal()
        wait_until("what was begun is undone", lambda: not rig.ledger(), 60.0)
        made = rig.hook("create", str(sick))
        assert made.returncode == 0, made.stderr
        assert rig.hook("delete", str(sick), made.stdout.strip()).returncode == 0
        wait_until("it is deleted", lambda: not rig.ledger(), 60.0)
        rig.daemon.stop()


def test_a_file_system_that_is_gone(rig: "Rig") -> None:
    """An administrator can forget what was on it; if it comes back, its image goes at once."""
    with LoopBtrfs(rig.directory) as file_system:
        share = file_system.subvolume("share")
        rig.share("share", share)
        rig.start()
        made = rig.hook("create", str(share))
        assert made.returncode == 0, made.stderr
        (copy,) = rig.ledger()
        mounting.umount(str(file_system.path))  # our recovery mount keeps it alive
        assert file_system.device in {mount.source for mount in mounttable.mountinfo()}
        done = rig.command("delete", copy.id)
        assert done.returncode == 0, done.stderr
        assert rig.ledger() == []
        assert file_system.device not in {mount.source for mount in mounttable.mountinfo()}
        done = rig.command("reconcile")
        assert done.returncode == 0, done.stdout
        file_system.mount(file_system.path)

        def is_destroyed() -> bool:
            return not rig.fs.provider(identity_of(rig.daemon)).inventory().images

        wait_until("its image is destroyed", is_destroyed)
        rig.daemon.stop()


def _write_through(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * 65536)
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.require("nbdkit")
def test_a_disk_that_fails(rig: "Rig") -> None:
    """One copy is sealed, one is open; then btrfs makes itself read-only."""
    rig.samba.set_options({"rvss:seal deadline": "1 s"})
    with (
        SickDisk(rig.directory) as disk,
        LoopBtrfs(rig.directory, disk=disk.file) as file_system,
    ):
        sick = file_system.subvolume("sick")
        rig.share("sick", sick)
        rig.start()
        with rig.client() as client:
            rig.expose(client, "sick").complete()
            (sealed,) = rig.wait_for_phase(Phase.SEALED)
            taken = rig.expose(client, "sick")
            with rig.session(taken.exposed_shares[0]) as session:
                session.write("recovered", b"x" * 65536)
            said = len(rig.daemon.log())  # sealing the first one may have been slow as well
            disk.fail()
            with pytest.raises(OSError, match=r"Input/output error|Read-only"):
                _write_through(sick / "dirty")
            taken.complete()
        (copy,) = (each for each in rig.ledger() if each.id != sealed.id)
        words = f"{copy.id} is not sealed"
        assert copy.id in rig.wait_for_log("is not sealed", start=said)

        def is_told() -> bool:
            told = rig.command("status").stdout
            return f"{words}: " in told and "after its recovery" in told

        wait_until("status says since when, and why", is_told)
        # What can be done while it is still mounted.
        done = rig.command("delete", sealed.id)
        assert "is taken away from clients and unmounted, but its image is not" in done.stderr
        assert sealed.path not in rig.mounts()
        mounting.umount(str(file_system.path))
        holding = f"{file_system.device} is mounted nowhere but at the recovery mounts of 1"
        assert f"'samba-rvss delete {copy.id}'" in rig.wait_for_log(holding)
        assert holding in rig.command("status", "--json").stdout
        assert holding in rig.command("shares").stdout
        done = rig.command("delete", copy.id)
        assert done.returncode == 0, done.stderr
        assert file_system.device not in {mount.source for mount in mounttable.mountinfo()}
        disk.heal()
        file_system.mount(file_system.path)
        provider = rig.fs.provider(identity_of(rig.daemon))
        wait_until("their images are destroyed", lambda: not provider.inventory().images)
        wait_until("both are gone", lambda: not rig.ledger())
        lines = [line for line in rig.daemon.log().splitlines() if copy.id in line]
        assert sum(" is not sealed: " in line for line in lines) == 1
        rig.daemon.stop()
