"""Virtual disks in what is sealed: looked at when the client has its answer, and told."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.model import Phase
from samba_rvss.testing.waiting import wait_until
from tests import virtual_disks

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

LOG = "0F2C4D64-6A5C-4B43-9C5C-1F7B3E0A9D11"


def _json(rig: "Rig", *words: str) -> Any:
    done = rig.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _disks(rig: "Rig", copy: str) -> Any:
    return _json(rig, "show", copy)["copy"]["disks"]


@pytest.mark.member(file_system="btrfs", binding="seal")
def test_the_disks_of_what_is_sealed_are_told(rig: "Rig") -> None:
    tree = Path(rig.volume("vms"))
    base = virtual_disks.make(tree / "base.vhdx")
    virtual_disks.child(tree / "child.avhdx", base, "base.vhdx", log=LOG)
    virtual_disks.child(tree / "lost.avhdx", LOG, "gone.vhdx")
    (tree / "link.vhdx").symlink_to("/etc/passwd")
    os.mkfifo(tree / "pipe.vhdx")
    rig.share("vms", str(tree), {"rvss:keep": "recovered"})
    rig.start()
    with rig.session("vms") as session, session.open("data"):
        checked = _json(rig, "check", "vms")
    (opened,) = checked["open"]
    assert opened["path"] == "data"
    # winbindd writes names in small letters.
    assert opened["user"].lower().endswith(rig.operator.name.lower())
    assert {finding["check"] for finding in checked["findings"]} == {
        "link",
        "special file",
        "disk without parent",
        "open",
    }
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED, 1)
        wait_until(lambda: "the disks are known", lambda: _disks(rig, copy.id))
        found = _disks(rig, copy.id)
        taken.delete()
    assert {disk["path"]: (disk["state"], disk["parent"]) for disk in found["disks"]} == {
        "base.vhdx": ("whole", "none"),
        "child.avhdx": ("log to replay", "present"),
        "lost.avhdx": ("whole", "missing"),
    }
    backup = _json(rig, "backup", "show", copy.id)
    assert backup["backup"]["parts"][0]["disks"] == found
    (told,) = [event["detail"] for event in backup["events"] if event["what"] == "disks"]
    assert told == "3 disks: 2 whole, 1 with a log to replay, 1 without their parent"
    assert "2 of 3 good" in rig.command("backup", "list").stdout
    (file,) = _json(rig, "backup", "find", "BASE.*")["files"]
    assert (file["share"], file["path"]) == ("vms", "base.vhdx")
    assert [version["backups"] for version in file["versions"]] == [[copy.id]]
    assert rig.command("delete", copy.id).returncode == 0
    wait_until(
        lambda: "what was found goes with the image",
        lambda: not list(rig.daemon.state_directory.glob("manifests/*")),
    )
    rig.assert_nothing_left()
