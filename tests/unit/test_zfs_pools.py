"""Which pools are looked at: the kernel names them all, and zfs(8) is asked of those wanted only.

zfs(8) is one that does nothing but write down what it was asked.
"""

from pathlib import Path

import pytest

from samba_rvss.kernel import mounttable
from samba_rvss.model import Identity
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.provider import Zfs

TABLE = b"""\
20 1 0:30 / / rw - zfs theirs/root rw
30 20 0:40 / /srv rw - zfs ours/srv rw
31 20 0:41 / /old rw - zfs ours@daily ro
32 20 0:42 / /gone rw - zfs exported/x rw
33 20 0:43 / /other rw - btrfs /dev/sdb rw
"""


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    for name, guid in (("ours", "11"), ("theirs", "22")):
        (tmp_path / "kstat" / name).mkdir(parents=True)
        (tmp_path / "kstat" / name / "guid").write_text(f"{guid}\n")
    tool = tmp_path / "zfs"
    tool.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    return Zfs(Identity(id="x"), Command(search=str(tmp_path), kstat=f"{tmp_path}/kstat"))


def test_no_pool_is_asked_that_is_not_wanted(zfs: Zfs, tmp_path: Path) -> None:
    for only in ({"11", "33"}, {"ours"}):
        found = zfs.inventory(only)
        assert (found.file_systems, found.unlisted) == (frozenset({"11", "ours"}), {})
        assert (tmp_path / "asked").read_text().split() == ["ours", "ours"]
        (tmp_path / "asked").unlink()
    assert zfs.inventory().file_systems == {"11", "ours", "22", "theirs"}


def test_the_pools_of_mounts(zfs: Zfs, tmp_path: Path) -> None:
    mounts = [mount for mount in mounttable.mountinfo(TABLE) if mount.target != "/"]
    assert zfs.file_systems(mounts) == {"11", "exported"}
    assert not (tmp_path / "asked").exists()
