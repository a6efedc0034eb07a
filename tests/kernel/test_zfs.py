"""What only ZFS has: properties, holds, datasets that are not mounted."""

import errno
import os
from typing import TYPE_CHECKING

import pytest

from samba_rvss import kernel
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Nested
from samba_rvss.providers.zfs import HOLD, HOME
from samba_rvss.providers.zfs_properties import COPIED
from samba_rvss.run import run
from tests.kernel.test_provider import probe, seen, take

if TYPE_CHECKING:
    from tests.kernel.conftest import ZfsRig

pytestmark = pytest.mark.parametrize("rig", ["zfs"], indirect=True)


def zfs(*words: str) -> str:
    """Run zfs(8)."""
    return run(["zfs", *words], timeout=60)


def properties(dataset: str) -> dict[str, str]:
    """Return those that a clone has to have like its origin."""
    rows = zfs("get", "-H", "-p", "-o", "property,value", ",".join(COPIED), dataset).splitlines()
    return {row.split("\t")[0]: row.split("\t")[1] for row in rows}


def test_clone_behaves_like_its_origin(rig: "ZfsRig") -> None:
    """Whatever it is: it does not inherit that from where the clone is."""
    share, inner = rig.volume("vms"), rig.volume("vms/inner")
    outer, nested = rig.dataset(share), rig.dataset(inner)
    wanted = ("acltype=nfsv4", "xattr=on", "aclmode=passthrough", "aclinherit=passthrough-x")
    zfs("set", *wanted, "recordsize=16K", "compression=zstd-7", "dnodesize=1k", outer)
    zfs("set", "acltype=posix", "copies=2", "logbias=throughput", "primarycache=metadata", nested)
    mark = take(rig.provider, share, Nested.INCLUDE)
    home = f"{mark.volume.file_system}/{HOME}"
    before = [properties(outer), properties(nested)]
    assert before[0] != before[1] != properties(home)
    assert [properties(f"{home}/{mark.id}"), properties(f"{home}/{mark.id}/1")] == before


def test_images_are_mounted_and_shared_nowhere(rig: "ZfsRig") -> None:
    mark = take(rig.provider, rig.volume("vms"))
    home = f"{mark.volume.file_system}/{HOME}"
    out = zfs("list", "-H", "-r", "-o", "name,mountpoint,canmount,mounted", home)
    assert [row.split("\t") for row in out.splitlines()] == [
        [home, "none", "off", "no"],
        [f"{home}/{mark.id}", "legacy", "noauto", "no"],
    ]
    with seen(rig.provider, mark):
        assert not [m for m in kernel.mountinfo() if m.source.startswith(f"{home}/")]


def test_seal_stops_who_has_a_file_open(rig: "ZfsRig") -> None:
    share = rig.volume("vms")
    (share / "file").write_bytes(b"content")
    mark = take(rig.provider, share)
    with seen(rig.provider, mark, writable=True) as image:
        with (image / "file").open("r+b", buffering=0) as writer:
            writer.write(b"CON")
            rig.provider.seal(mark.volume, mark.id)
            with pytest.raises(OSError, match="Read-only") as caught:
                writer.write(b"TENT")
            assert caught.value.errno == errno.EROFS
        rig.provider.settle(mark.volume, mark.id)
        assert (image / "file").read_bytes() == b"CONtent"


def test_others_cannot_destroy_the_snapshot(rig: "ZfsRig") -> None:
    share, inner = rig.volume("vms"), rig.volume("vms/inner")
    mark = take(rig.provider, share, Nested.INCLUDE)
    snapshots = [f"{rig.dataset(path)}@rvss-{mark.id}" for path in (share, inner)]
    for snapshot in snapshots:
        assert HOLD in zfs("holds", "-H", snapshot).split("\t")
        with pytest.raises(RvssError, match=r"clone|hold|busy"):
            zfs("destroy", snapshot)
    zfs("hold", "somebody", snapshots[1])
    with pytest.raises(RvssError) as caught:
        rig.provider.destroy(mark.volume, mark.id)
    assert caught.value.problem is Problem.BUSY
    zfs("release", "somebody", snapshots[1])
    rig.provider.destroy(mark.volume, mark.id)
    assert rig.names() == []


@pytest.mark.parametrize("inner", ["vms/inner", "vms/tab\tin it"])
def test_dataset_that_is_not_mounted_is_refused(rig: "ZfsRig", inner: str) -> None:
    """Its files belong into the share, and nothing else tells that they are missing."""
    share = rig.volume("vms")
    missing = rig.dataset(rig.volume(inner))
    rig.volume("vms2")
    zfs("unmount", missing)
    for nested in Nested:
        with pytest.raises(RvssError, match=missing) as caught:
            probe(rig.provider, share, nested)
        assert caught.value.problem is Problem.BAD_PATH
    zfs("set", "canmount=noauto", missing)
    take(rig.provider, share)


def test_nested_dataset_of_elsewhere_cannot_be_included(rig: "ZfsRig") -> None:
    share = rig.volume("vms")
    rig.volume("other")
    rig.mount("other", share / "inner")
    with pytest.raises(RvssError) as caught:
        take(rig.provider, share, Nested.INCLUDE)
    assert caught.value.problem is Problem.NESTED
    assert rig.names() == []


def test_image_of_a_dataset_that_was_renamed(rig: "ZfsRig") -> None:
    share, inner = rig.volume("vms"), rig.volume("vms/inner")
    (inner / "file").write_text("content")
    mark = take(rig.provider, share, Nested.INCLUDE)
    zfs("rename", mark.volume.name, f"{mark.volume.file_system}/renamed")
    zfs("rename", rig.dataset(inner), f"{mark.volume.file_system}/away")
    (found,) = rig.provider.inventory().images
    assert found.mark == mark
    with seen(rig.provider, mark) as image:
        assert (image / "inner" / "file").read_text() == "content"
    rig.provider.seal(mark.volume, mark.id)
    rig.provider.destroy(mark.volume, mark.id)
    assert rig.names() == []


def test_create_cut_off_between_its_clones(rig: "ZfsRig") -> None:
    """The mark of a clone with others inside comes last."""
    share = rig.volume("vms")
    rig.volume("vms/inner")
    mark = take(rig.provider, share, Nested.INCLUDE)
    clone = f"{mark.volume.file_system}/{HOME}/{mark.id}"
    zfs("inherit", "org.samba-rvss:mark", clone)
    assert [image.complete for image in rig.provider.inventory().images] == [False]
    zfs("destroy", f"{clone}/1")
    assert [image.complete for image in rig.provider.inventory().images] == [False]
    rig.provider.destroy(mark.volume, mark.id)
    assert rig.names() == []


def test_path_in_the_snapshot_directory_is_refused(rig: "ZfsRig") -> None:
    share = rig.volume("vms")
    mark = take(rig.provider, share)
    path = share / ".zfs" / "snapshot" / f"rvss-{mark.id}"
    os.listdir(path)  # it is mounted by looking
    with pytest.raises(RvssError) as caught:
        probe(rig.provider, path)
    assert caught.value.problem is Problem.BAD_PATH
    kernel.umount(str(path))
