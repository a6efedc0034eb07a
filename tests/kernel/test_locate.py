"""Where a share sits: mounts on which it cannot have shadow copies."""

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_rvss.copies.locate import locate
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, mounttable
from samba_rvss.kernel.libc import checked, libc
from samba_rvss.model import Identity, Share
from samba_rvss.providers.btrfs.provider import Btrfs
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.plugin import require

USER = 12345


@pytest.fixture
def file_system(rig_directory: Path) -> Iterator[LoopBtrfs]:
    """A btrfs."""
    require("root", "btrfs", "loop")
    with LoopBtrfs(rig_directory) as made:
        yield made


def _map(source: Path, target: Path) -> None:
    """Mount a directory once more, with root's files shown as a user's."""
    with subprocess.Popen(
        ["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        holder.stdout.read(1)  # it runs in its namespace
        for kind in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{kind}_map").write_text(f"0 {USER} 10\n")
        with (
            files.opened(os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)) as space,
            files.opened(os.open(source, files.DIRECTORY)) as fd,
            files.opened(mounting.open_tree(fd)) as mount,
        ):
            attributes = struct.pack("=QQQQ", mounting.MOUNT_ATTR_IDMAP, 0, 0, space)
            buffer = ctypes.create_string_buffer(attributes, 32)
            checked(libc.mount_setattr(mount, b"", mounting.AT_EMPTY_PATH, buffer, 32))
            mounting.move_mount(mount, str(target))
        holder.stdin.close()


def test_an_id_mapped_mount(file_system: LoopBtrfs) -> None:
    """A recovery mount has no mapping: what a user is denied at the share he could read there."""
    volume, target = file_system.subvolume("vms"), file_system.path / "mapped"
    (volume / "inside").mkdir()
    target.mkdir()
    providers = (Btrfs(Identity(id="one")),)
    _map(volume, target)
    try:
        assert target.stat().st_uid == USER
        for path in (target, target / "inside"):
            share = Share(name="vms", path=str(path))
            for thorough in (True, False):
                with pytest.raises(RvssError) as caught:
                    locate(share, providers, "/run/none", thorough=thorough)
                assert caught.value.problem is Problem.NOT_SUPPORTED
                assert str(caught.value) == (
                    f"{path} is on an id-mapped mount, and in a shadow copy files would have other"
                    " owners: share it through a mount without X-mount.idmap"
                )
        with files.opened(os.open(target, files.DIRECTORY)) as fd:
            assert mounttable.is_idmapped(fd)
            assert "idmapped" in mounttable.mount_of(fd).options  # as before Linux 6.8
    finally:
        mounting.umount(str(target))
    share = Share(name="vms", path=str(volume))
    assert locate(share, providers, "/run/none", thorough=True).volume.name == "vms"
