"""A full file system: backups that fill it are named, and prune makes room for the next commit."""

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import full, only

if TYPE_CHECKING:
    from pathlib import Path

    from tests.samba.conftest import Rig

_SECONDS = 60.0
_SIZE = 16 << 20  # what a backup alone holds
_OPTIONS = {
    "rvss:keep": "recovered",
    "rvss:retention": "latest 1",
    "rvss:minimum free": "1 M",
}


def _back_up(rig: "Rig", path: "Path") -> None:
    (path / "data").write_bytes(os.urandom(_SIZE))
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        taken.delete()


def _backups(rig: "Rig") -> list[str]:
    path = rig.daemon.state_directory / "ledger.db"
    with closing(Ledger(str(path), read_only=True)) as ledger:
        return [copy.id for copy in ledger.backups()]


def _free(path: "Path") -> int:
    # What is deleted goes with a commit that somebody asks for, or half a minute later.
    run(["btrfs", "filesystem", "sync", str(path)], timeout=_SECONDS)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@only("btrfs")
def test_prune_makes_room_for_the_next_commit(rig: "Rig") -> None:
    path = rig.volume()
    rig.share("vms", path, _OPTIONS)
    rig.start()
    for _ in range(3):
        _back_up(rig, path)
    assert len(_backups(rig)) == 3
    (path / "data").write_bytes(b"what is none of theirs")
    why = "kept backups, 3 of them, hold space there, and 'samba-rvss prune' deletes those"
    with rig.client() as client:
        copies = CopySet(client, Context.AUTO_RECOVERY)
        copies.check("vms")
        copies.prepare("vms")
        with full(rig.fs.path):
            daemon, samba = len(rig.daemon.log()), len(rig.samba.log())
            with pytest.raises(FsrvpError):
                copies.commit()
            rig.wait_for_log(why, start=daemon)
            assert why in rig.samba.log()[samba:]
            wait_until("status says so", lambda: why in rig.command("status").stdout, _SECONDS)
            assert rig.command("status").returncode == 1
            events = json.loads(rig.command("events", "--json").stdout)["events"]
            (failed,) = [event for event in events if event["what"] == "no room"]
            assert (failed["share"], why in failed["detail"]) == ("vms", True)
            done = rig.command("prune", "--yes")
            assert done.returncode == 0, done.stderr
            assert len(_backups(rig)) == 1
            wait_until(f"there is room on {path}", lambda: _free(path) > _SIZE, _SECONDS)
            with rig.client() as again:
                rig.expose(again, "vms").complete()
                rig.wait_for_phase(Phase.SEALED)
            status = rig.command("status")
            assert "hold space" not in status.stdout, status.stdout
    left = [*(copy.id for copy in rig.ledger()), *_backups(rig)]
    done = rig.command("delete", *left)
    assert done.returncode == 0, done.stderr
    rig.assert_nothing_left()
