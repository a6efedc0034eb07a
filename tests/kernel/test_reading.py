"""Reading backups on real file systems: where their parts appear, and what keeps them there."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies import attached, carry, reading
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.model import Nested, Phase, ShadowCopy
from samba_rvss.testing.waiting import wait_until
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import take

if TYPE_CHECKING:
    from tests.kernel.conftest import BtrfsStorage, Storage

pytestmark = pytest.mark.vm(seconds=5, storage="zfs")


def _backup(instance: Instance, storage: "Storage", *shares: Path) -> list[ShadowCopy]:
    """Make a backup of directories, with what is nested in them."""
    parts = []
    for share in shares:
        mark = take(storage.provider, share, Nested.INCLUDE)
        storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
        part = ShadowCopy(
            id=mark.id,
            share=share.name,
            share_path=str(share),
            volume=mark.volume,
            created=mark.created,
            phase=Phase.KEPT,
            path=f"/{mark.id}",
            set_id="set",
        )
        instance.ledger.add(part, "create")
        parts.append(part)
    return parts


def _refused(instance: Instance, part: ShadowCopy) -> str:
    with pytest.raises(RvssError) as refused, reading.barred(instance, part):
        pass
    assert refused.value.problem is Problem.BUSY
    return str(refused.value)


def test_a_program_finds_all_parts_where_they_were(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    share = storage.volume("vms")
    nested = storage.volume("vms/deep")
    inner = share / "inner"
    inner.mkdir()
    for place in (share, nested, inner):
        (place / "file").write_text(f"sealed {place.name}\n")
    parts = _backup(instance, storage, inner, share)
    for place in (share, nested, inner):
        (place / "file").write_text("live\n")
    out = rig_directory / "out"
    script = f"cat {share}/file {nested}/file {inner}/file > {out}; touch {inner}/new"
    assert carry.run(instance, parts, ["sh", "-c", script]) == 1
    assert out.read_text() == "sealed vms\nsealed deep\nsealed inner\n"
    assert (share / "file").read_text() == "live\n"
    with reading.barred(instance, parts[0]), pytest.raises(RvssError, match="is being deleted"):
        carry.run(instance, parts, ["true"])
    for part in parts:
        storage.provider.destroy(part.volume, part.id)


def test_what_is_unmounted_outside_is_not_kept_in_use(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    """A program that runs for hours must not hold what shadow copies are mounted at."""
    storage.volume("vms").joinpath("file").write_text("sealed")
    storage.volume("others")
    run = Path(instance.config.run_directory)
    with ExitStack() as undo:
        instance.mounts.prepare(undo)
        if str(run) in mounttable.mount_targets():  # not where it was shared already
            undo.callback(mounting.umount, str(run))
        share, other = storage.mount("vms", run / "share"), storage.mount("others", run / "other")
        parts = _backup(instance, storage, share)
        outside = f"nsenter --mount=/proc/{os.getpid()}/ns/mnt umount"
        script = f"{outside} {other} && ! grep -q {other} /proc/self/mountinfo && {outside} {share}"
        script += f" && cat {share}/file > {rig_directory}/out"
        assert carry.run(instance, parts, ["sh", "-c", script]) == 0
    assert (rig_directory / "out").read_text() == "sealed"
    storage.provider.destroy(parts[0].volume, parts[0].id)


def test_a_path_that_somebody_has_changed_is_not_followed(
    instance: Instance, storage: "Storage"
) -> None:
    share = storage.volume("vms") / "docs"
    share.mkdir()
    parts = _backup(instance, storage, share)
    share.rename(share.with_name("others"))
    for said in ("does not exist", "a symbolic link"):
        with pytest.raises(RvssError, match=said) as refused:
            carry.run(instance, parts, ["true"])
        assert refused.value.problem is Problem.BAD_PATH
        if not share.is_symlink():
            share.symlink_to(share.with_name("others"))
    storage.provider.destroy(parts[0].volume, parts[0].id)


def test_what_is_mounted_is_found_and_taken_away(
    instance: Instance, storage: "Storage", rig_directory: Path
) -> None:
    share = storage.volume("vms")
    nested = storage.volume("vms/deep")
    (nested / "file").write_text("sealed")
    (part,) = parts = _backup(instance, storage, share)
    (nested / "file").write_text("live")
    place, own = rig_directory / "place", f"{instance.config.run_directory}/backups/{part.id}/vms"
    place.mkdir()
    assert attached.mount(instance, parts) == [own]
    assert attached.mount(instance, parts) == [own]
    assert attached.mount(instance, parts, str(place)) == [str(place)]
    for path in (own, place):
        assert Path(path, "deep", "file").read_text() == "sealed"
    assert own in _refused(instance, part)
    # Of others' it is none.
    other = replace(part, id="20240229T235959Z-01234567")
    assert reading.mounts(instance, [other]) == []
    assert attached.umount_at(instance, [parts], str(place)) == [str(place)]
    assert own in _refused(instance, part)
    with open(f"{own}/deep/file", "rb"), pytest.raises(RvssError, match=f"pid {os.getpid()}"):
        attached.umount(instance, parts)
    assert attached.umount(instance, parts) == [own]
    assert attached.umount(instance, parts) == []
    assert os.listdir(f"{instance.config.run_directory}/backups") == []
    assert place.is_dir()
    (place / "file").touch()
    with pytest.raises(RvssError, match="is not empty"):
        attached.mount(instance, parts, str(place))
    with reading.barred(instance, part):
        storage.provider.destroy(part.volume, part.id)


@pytest.mark.vm(seconds=0)
@pytest.mark.parametrize("storage", ["btrfs"], indirect=True)
@pytest.mark.parametrize("verb", ["mount", "exec"])
def test_killed_at_any_moment(
    instance: Instance, storage: "BtrfsStorage", rig_directory: Path, verb: str
) -> None:
    """Nothing is left but what `umount` takes away, and nothing keeps the backup."""
    share, other = storage.volume("vms"), storage.volume("others")
    storage.volume("vms/deep")
    parts = _backup(instance, storage, other, share)  # by their names, as the commands have them
    run_directory = instance.config.run_directory

    def killed_at(step: int) -> bool:
        words = [str(step), verb, storage.identity.id, f"{rig_directory}/ledger.db", run_directory]
        argv = [sys.executable, "-m", "tests.kernel.cut_off", *words]
        done = subprocess.run(argv, cwd=Path(__file__).parents[2], check=False, timeout=60)
        assert done.returncode in (0, -signal.SIGKILL)
        return done.returncode != 0

    def mounted() -> list[str]:
        return [target for target in mounttable.mount_targets() if str(rig_directory) in target]

    before = mounted()
    steps = range(5, 2000, 12)
    for step in steps:
        killed = killed_at(step)
        if killed and verb == "exec":
            assert mounted() == before
        attached.umount(instance, parts)
        assert mounted() == before
        backups = Path(run_directory, "backups")
        assert not backups.exists() or os.listdir(backups) == []
        wait_until("nothing keeps it", lambda: _is_free(instance, parts))
        if not killed:
            break
    assert 40 < step < steps[-1]
    for part in parts:
        storage.provider.destroy(part.volume, part.id)


def _is_free(instance: Instance, parts: list[ShadowCopy]) -> bool:
    """Return whether no lease is held; a program that was started has one until it ends."""
    try:
        for part in parts:
            with reading.barred(instance, part):
                pass
    except RvssError as exc:
        if exc.problem is not Problem.BUSY:
            raise
        return False
    return True
