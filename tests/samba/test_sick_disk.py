"""A disk that stands still: who asks is answered, others are served, and nothing is left after."""

from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

pytestmark = [pytest.mark.require("root", "nbdkit"), only("btrfs")]

DEADLINE = 2.0


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
