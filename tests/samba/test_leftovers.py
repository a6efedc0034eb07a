"""The look at the machine after a session sees what there could be."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import mounting
from samba_rvss.run import run
from samba_rvss.testing.plugin import require
from samba_rvss.testing.zfs import zfs
from tests.samba import leftovers

if TYPE_CHECKING:
    from samba_rvss.testing.zfs import Pool


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    """What a test has to take back."""
    with ExitStack() as stack:
        yield stack


def _new(before: set[str]) -> list[str]:
    return sorted(what.partition(" ")[0] for what in leftovers.everything() - before)


def test_what_a_session_leaves_is_seen(rig_directory: Path, undo: ExitStack) -> None:
    require("root", "loop", "smbd")
    before = leftovers.everything()
    process = undo.enter_context(subprocess.Popen(["sleep", "60"], cwd=rig_directory))
    undo.callback(process.kill)
    assert _new(before) == ["process"]
    (rig_directory / "mounted").mkdir()
    run(["mount", "-t", "tmpfs", "none", str(rig_directory / "mounted")], timeout=30)
    undo.callback(mounting.umount, str(rig_directory / "mounted"))
    assert _new(before) == ["mount", "process"]
    image = rig_directory / "image"
    image.write_bytes(bytes(1 << 20))
    device = run(["losetup", "--find", "--show", str(image)], timeout=30).strip()
    undo.callback(run, ["losetup", "--detach", device], timeout=30)
    assert _new(before) == ["loop", "mount", "process"]
    other = Path(f"/tmp/rvss-{os.getpid()}-left")
    other.mkdir()
    undo.callback(other.rmdir)
    assert _new(before) == [str(other), "loop", "mount", "process"]


def test_what_a_session_leaves_on_zfs_is_seen(zfs_pool: "Pool", undo: ExitStack) -> None:
    before = leftovers.everything()
    zfs("create", f"{zfs_pool.name}/left")
    undo.callback(zfs, "destroy", "-r", f"{zfs_pool.name}/left")
    assert _new(before) == [f"{zfs_pool.name}/left"]
    snapshot = f"{zfs_pool.name}/left@rvss-1"
    zfs("snapshot", snapshot)
    zfs("hold", "samba-rvss", snapshot)
    undo.callback(zfs, "release", "samba-rvss", snapshot)
    assert _new(before) == ["hold", f"{zfs_pool.name}/left", snapshot]
