"""Disks that do not answer, or are gone: who asks is answered, and nothing is left behind."""

from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of, only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

pytestmark = [pytest.mark.require("root"), only("btrfs")]

DEADLINE = 2.0


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
        assert "has not answered for" in told.stdout, told
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
