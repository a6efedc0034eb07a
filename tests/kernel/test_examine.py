"""What `samba-rvss check` finds in a share, on real file systems."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies.examine import HELD, LEVELS, Examination, What, examine
from samba_rvss.kernel import files, mounting, mounttable
from samba_rvss.testing.waiting import wait_until
from tests import virtual_disks

if TYPE_CHECKING:
    from tests.kernel.conftest import Storage

GUID = "0F2C4D64-6A5C-4B43-9C5C-1F7B3E0A9D11"
OTHER = "7B1D7B2E-3A49-4C69-8C3E-5C0E5E6F7A22"

btrfs_only = pytest.mark.parametrize("storage", ["btrfs"], indirect=True)


def _examined(tree: Path) -> Examination:
    found = Examination()
    with files.opened(os.open(tree, files.DIRECTORY)) as root:
        examine(root, found)
    return found


def _paths(found: Examination) -> dict[What, set[bytes]]:
    return {what: set(finding.paths) for what, finding in found.findings.items()}


@pytest.mark.vm(seconds=5, storage="zfs")
def test_what_backup_programs_stumble_over(storage: "Storage") -> None:
    share = storage.volume("vms")
    (storage.volume("vms/nested") / "file").touch()
    for name, target in {
        "here": "file",
        "below": "nested/../file",
        "above": "../elsewhere",
        "absolute": str(share / "file"),
        "nested/over": "../../elsewhere",
    }.items():
        (share / name).symlink_to(target)
    os.mkfifo(share / "pipe")
    deep = share / "/".join(["d"] * (LEVELS + 1))
    deep.mkdir(parents=True)
    (deep / "file").touch()
    found = _examined(share)
    is_mount = str(share / "nested") in mounttable.mount_targets()  # a dataset is one
    assert _paths(found) == {
        What.MOUNT if is_mount else What.NESTED: {b"nested"},
        What.LINK: {b"above", b"absolute", *([] if is_mount else [b"nested/over"])},
        What.SPECIAL: {b"pipe"},
        What.DEEP: {b"/".join([b"d"] * (LEVELS + 1))},
    }
    assert found.deepest == LEVELS + 1
    assert found.links == (4 if is_mount else 5)


@btrfs_only
def test_machines_and_what_is_outside_of_them(storage: "Storage") -> None:
    share = storage.volume("vms")
    for name in ("web/Virtual Machines", "web/disks", "old/Virtual Machines", "templates", "iso"):
        (share / name).mkdir(parents=True)
    (share / f"web/Virtual Machines/{GUID}.vmcx").touch()
    (share / f"old/Virtual Machines/{OTHER}.xml").touch()
    base = virtual_disks.make(share / "templates/base.vhdx")
    virtual_disks.child(share / "web/disks/disk.avhdx", base, r"..\..\templates\base.vhdx")
    virtual_disks.child(share / "web/disks/lost.avhdx", GUID, r"..\gone.vhdx")
    virtual_disks.make(share / "templates/unused.vhdx")
    (share / "iso/setup.iso").touch()
    found = _examined(share)
    assert _paths(found) == {
        What.NO_PARENT: {b"web/disks/lost.avhdx"},
        What.NO_DISKS: {f"old/Virtual Machines/{OTHER}.xml".encode()},
        What.OUTSIDE: {b"iso/setup.iso", b"templates/unused.vhdx"},
    }
    assert [machine.guid for machine in found.machines] == [OTHER, GUID]
    assert len(found.disks) == 4


@btrfs_only
def test_mounts_are_not_gone_into(storage: "Storage", rig_directory: Path) -> None:
    share = storage.volume("vms")
    (share / "mounted").mkdir()
    elsewhere = rig_directory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    subprocess.run(["mount", "--bind", elsewhere, share / "mounted"], check=True)
    try:
        found = _examined(share)
    finally:
        mounting.umount(str(share / "mounted"))
    assert (_paths(found), found.files) == ({What.MOUNT: {b"mounted"}}, 0)


@btrfs_only
def test_of_many_findings_the_first_are_held(storage: "Storage") -> None:
    share = storage.volume("vms")
    for number in range(HELD + 5):
        (share / str(number)).symlink_to("/")
    finding = _examined(share).findings[What.LINK]
    assert (finding.count, len(finding.paths)) == (HELD + 5, HELD)


@btrfs_only
def test_a_tree_that_changes_meanwhile(storage: "Storage") -> None:
    """Directories become links and back while it is looked at: nothing leads out of the share."""
    share = storage.volume("vms")
    outside = storage.top / "outside"
    (outside / "secret.vhdx").parent.mkdir()
    virtual_disks.make(outside / "secret.vhdx")
    swap = f"""
cd '{share}'
while :; do
    mkdir d; touch d/f; rm -r d; ln -s '{outside}' d; rm d
done
"""
    with subprocess.Popen(["sh", "-c", swap], stderr=subprocess.DEVNULL) as changing:
        try:
            wait_until(lambda: "it changes", lambda: os.path.lexists(share / "d"))
            for _ in range(50):
                found = _examined(share)
                assert (found.disks, What.UNREADABLE in found.findings) == ((), False)
        finally:
            changing.kill()
