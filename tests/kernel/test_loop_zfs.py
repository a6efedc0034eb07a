"""The rig for ZFS leaves nothing, whatever a test has done with it."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounttable
from samba_rvss.testing.zfs import LoopZfs, Pool, zfs, zpool

pytestmark = [pytest.mark.require("root", "zfs"), pytest.mark.vm(seconds=8)]


def _mounts(pool: Pool) -> list[str]:
    return [m.target for m in mounttable.mountinfo() if m.source.split("/")[0] == pool.name]


def test_leaving_takes_all_that_came_of_it(rig_directory: Path) -> None:
    with Pool(rig_directory) as pool:
        with LoopZfs(rig_directory, pool) as kept:
            with LoopZfs(rig_directory, pool) as rig:
                rig.create("vms")
                (rig.create("vms/inner") / "file").write_text("content")
                rig.create("legacy")
                assert os.path.ismount(rig.mount(rig_directory / "elsewhere", "legacy"))
                zfs("snapshot", "-r", f"{rig.dataset}@instant")
                zfs("hold", "-r", "somebody", f"{rig.dataset}@instant")
                zfs("create", f"{pool.name}/home")
                clone = f"{pool.name}/home/clone"
                zfs("clone", f"{rig.dataset}/vms/inner@instant", clone)
                with rig.mounted(clone, rig_directory / "clone") as mounted:
                    assert (mounted / "file").read_text() == "content"
                zfs("set", f"mountpoint={rig_directory}/forgotten", clone)
                assert len(_mounts(pool)) == 6
            assert pool.names() == [pool.name, kept.dataset, f"{pool.name}/home"]
            assert _mounts(pool) == [str(kept.path)]
        assert pool.names() == [pool.name, f"{pool.name}/home"]
    assert pool.name not in zpool("list", "-H", "-o", "name").split()
    assert [name for name in os.listdir(rig_directory) if name != "forgotten"] == []


def test_what_is_busy_does_not_keep_the_rest(rig_directory: Path) -> None:
    with Pool(rig_directory) as pool:
        with ExitStack() as stack:
            rig = stack.enter_context(LoopZfs(rig_directory, pool))
            rig.create("vms")
            rig.mount(rig_directory / "elsewhere", "vms")
            with (rig_directory / "elsewhere" / "file").open("wb"):
                with pytest.raises(RvssError, match="busy"):
                    stack.close()
                assert _mounts(pool) == []
                assert os.listdir(rig_directory) == [pool.image.name]
        assert rig.dataset in pool.names()
    assert os.listdir(rig_directory) == []
