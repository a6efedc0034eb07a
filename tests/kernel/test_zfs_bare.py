"""Backups on ZFS that recovery wrote nothing to: their snapshots alone, without clones."""

import json
import mmap
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounting, mounttable
from samba_rvss.model import Exposed, Hold, Identity, Image, Kept, Mark, Nested, Volume, Whose
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from samba_rvss.testing.zfs import below_home
from tests.kernel.conftest import SEALED
from tests.kernel.test_branch import branch_of
from tests.kernel.test_provider import NOW, seen, take
from tests.kernel.test_zfs import clone_of, snapshot_of, value, zfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from samba_rvss.providers import Provider
    from tests.kernel.conftest import ZfsStorage

pytestmark = [
    pytest.mark.parametrize("storage", ["zfs"], indirect=True),
    pytest.mark.vm(seconds=8),
]

KEPT = Kept(since=NOW)
TAGGED = replace(KEPT, tags=("offsite",), holds=(Hold(tag="audit"),))
_PLACES = ("file", "inner/file")


def _share(storage: "ZfsStorage") -> Path:
    """Make a volume with another nested in it, of which the intent log is in use."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    for name in _PLACES:
        with (share / name).open("wb") as file:
            file.write(b"sealed")
            file.flush()
            os.fsync(file.fileno())
    os.setxattr(share / "file", "user.DOSATTRIB", b"0x20")
    return share


def _end(provider: "Provider", mark: Mark, kept: Kept = KEPT) -> Mark:
    """Seal an image and have it become a backup; return what its mark says then."""
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    provider.keep(mark.volume, mark.id)
    backup = replace(mark, sealed=SEALED, kept=kept)
    provider.claim(backup)
    return backup


def _bare(storage: "ZfsStorage", share: Path) -> Mark:
    mark = _end(storage.provider, take(storage.provider, share, Nested.INCLUDE))
    storage.provider.clear(mark.volume, mark.id)
    return mark


def _images(storage: "ZfsStorage") -> dict[str, Image]:
    return {image.id: image for image in storage.provider.inventory().images}


def _clones(storage: "ZfsStorage") -> list[str]:
    home = f"{storage.pool}/{HOME}"
    names = zfs("list", "-H", "-r", "-t", "all", "-o", "name", home).split()
    return [name for name in names if below_home(name, home)]


def _contents(provider: "Provider", mark: Mark) -> list[str]:
    with seen(provider, mark) as image:
        return [(image / name).read_text() for name in _PLACES]


def test_backup_that_recovery_only_looked_into(storage: "ZfsStorage") -> None:
    """Its clones go, and all that is known and done of it goes on with its snapshots."""
    provider, share = storage.provider, _share(storage)
    mark = take(provider, share, Nested.INCLUDE)
    snapshots = [f"{storage.dataset(path)}@rvss-{mark.id}" for path in (share, share / "inner")]
    for _ in range(2):
        with seen(provider, mark, writable=True) as image:
            assert os.listxattr(image / "file")
            for name in _PLACES:
                (image / name).open("ab").close()
                (image / name).read_text()
    # That tells nothing: it has a root of its own, because there was an intent log.
    assert value(clone_of(mark), "written") != "0"
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    provider.keep(mark.volume, mark.id)
    for kept in (None, Kept(), Kept(holds=(Hold(tag="audit"),))):  # it has not ended yet
        provider.claim(replace(mark, sealed=SEALED, kept=kept))
        provider.clear(mark.volume, mark.id)
        assert clone_of(mark) in _clones(storage)
        assert not _images(storage)[mark.id].remnants
    for name in _PLACES:
        (share / name).write_text("live")

    backup = replace(mark, sealed=SEALED, kept=TAGGED)
    provider.claim(backup)
    whole = Image(id=mark.id, provider="zfs", mark=backup, complete=True, read_only=True)
    assert _images(storage) == {mark.id: replace(whole, remnants=True)}
    assert _contents(provider, mark) == ["sealed"] * 2
    for _ in range(2):
        provider.clear(mark.volume, mark.id)
        assert _clones(storage) == []
        assert _images(storage) == {mark.id: whole}
        assert provider.mark(mark.volume, mark.id) == backup
        assert not provider.inventory().foreign
    for name in snapshots:
        assert {row.split("\t")[1] for row in zfs("holds", "-H", name).splitlines()} == {HOLD}

    provider.keep(mark.volume, mark.id)
    assert not provider.seal(mark.volume, mark.id, SEALED, opened=True)
    provider.hold(mark.volume, mark.id, ["audit"])
    for name in snapshots:
        assert f"{HOLD}:audit" in zfs("holds", "-H", name)
    with pytest.raises(RvssError) as caught:
        provider.destroy(mark.volume, mark.id)
    assert caught.value.problem is Problem.HELD
    provider.hold(mark.volume, mark.id, [])
    backup = replace(backup, kept=replace(KEPT, exposed=Exposed(share="vms-1")))
    provider.claim(backup)
    assert provider.mark(mark.volume, mark.id) == backup
    provider.require_free(mark.volume, mark.id)
    storage.sync()
    assert provider.sizes([whole]).keys() == {mark.id}

    # Nobody can write to it, whatever becomes of the mount.
    with seen(provider, mark) as image:
        assert os.getxattr(image / "file", "user.DOSATTRIB") == b"0x20"
        shown = [each for each in mounttable.mountinfo() if each.target.startswith(str(image))]
        assert all(provider.shows(each, mark.volume, mark.id) for each in shown)
        assert len(shown) == 2
    for _, part in provider.open(mark.volume, mark.id):
        with files.opened(part):
            mounting.mount_setattr(part, clear=mounting.MOUNT_ATTR_RDONLY)
            with pytest.raises(OSError, match="Read-only"):
                os.open("file", os.O_RDWR, dir_fd=part)

    # Another instance may adopt it.
    (foreign,) = storage.other.inventory().foreign
    assert (foreign.whose, foreign.read_only, foreign.mark) == (Whose.INSTANCE, True, backup)
    storage.other.claim(backup)
    assert [image.mark for image in storage.other.inventory().images] == [backup]
    assert _images(storage) == {}
    storage.provider.claim(backup)

    # It is found wherever its datasets have gone, and whatever the pool is called.
    zfs("rename", mark.volume.name, f"{storage.pool}/renamed")
    zfs("rename", storage.dataset(share / "inner"), f"{storage.pool}/away")
    assert _contents(provider, mark) == ["sealed"] * 2
    assert _images(storage)[mark.id].complete
    # What ZFS mounts by itself where somebody looks is none of ours, and keeps nothing from going.
    os.listdir(share / ".zfs" / "snapshot" / f"rvss-{mark.id}")
    shown = [each for each in mounttable.mountinfo() if each.source.endswith(f"@rvss-{mark.id}")]
    assert shown
    assert not any(provider.shows(each, mark.volume, mark.id) for each in shown)
    provider.destroy(mark.volume, mark.id)
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def _undone(image: Path) -> None:
    file = image / "inner" / "file"
    file.write_text("other!")
    os.sync()
    file.write_text("sealed")


def _mapped(image: Path) -> None:
    with (image / "file").open("r+b") as file, mmap.mmap(file.fileno(), 6) as mapped:
        mapped[0] = ord("S")


def _attribute(image: Path) -> None:
    os.setxattr(image / "inner", "user.new", b"")


def test_backup_that_recovery_wrote_anything_to(storage: "ZfsStorage") -> None:
    """However little that is: the clones stay, and are what is read."""
    provider, share = storage.provider, _share(storage)
    changes: list[Callable[[Path], None]] = [_undone, _mapped, _attribute]
    for change in changes:
        mark = take(provider, share, Nested.INCLUDE)
        with seen(provider, mark, writable=True) as image:
            change(image)
        backup = _end(provider, mark)
        provider.clear(mark.volume, mark.id)
        assert _images(storage)[mark.id].mark == backup
        assert not _images(storage)[mark.id].remnants
        kept = [f"{clone_of(mark)}{part}@rvss-{mark.id}" for part in ("", "/1")]
        assert {*kept} <= {*_clones(storage)}, change
        with seen(provider, mark) as image:
            assert ((image / "file").read_text() == "Sealed") == (change is _mapped)
            assert (os.listxattr(image / "inner") == ["user.new"]) == (change is _attribute)
        provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


def test_writable_image_beside_a_bare_backup(storage: "ZfsStorage") -> None:
    """What it is made from is cloned again, and goes when it has gone."""
    provider, share = storage.provider, _share(storage)
    backup = _bare(storage, share)
    for name in _PLACES:
        (share / name).write_text("live")
    branch = branch_of(storage, replace(backup, sealed=None, kept=None))
    with seen(provider, branch, writable=True) as image:
        for name in _PLACES:
            assert (image / name).read_text() == "sealed"
            (image / name).write_text("written")
    assert _contents(provider, backup) == ["sealed"] * 2
    provider.clear(backup.volume, backup.id)  # nothing is taken from beneath it
    provider.require_free(backup.volume, backup.id)  # a branch is ours: the mark forbids deletion
    found = _images(storage)
    assert found.keys() == {backup.id, branch.id}
    assert not provider.inventory().foreign
    assert (found[backup.id].mark, found[backup.id].remnants) == (backup, False)
    assert value(clone_of(backup), "readonly") == "on"
    storage.other.claim(backup)  # what was cloned follows it
    storage.other.claim(branch)
    assert _contents(storage.other, backup) == ["sealed"] * 2
    provider.claim(backup)
    provider.claim(branch)
    provider.destroy(branch.volume, branch.id)
    assert _images(storage)[backup.id].remnants
    provider.clear(backup.volume, backup.id)
    assert _clones(storage) == []
    # Somebody may have cloned the backup by hand.
    zfs("clone", snapshot_of(backup), f"{storage.pool}/theirs")
    with pytest.raises(RvssError, match="is a clone of"):
        provider.destroy(backup.volume, backup.id)
    # While his clone is promoted, the snapshot is of that: the backup is not taken for gone.
    zfs("promote", f"{storage.pool}/theirs")
    attempts: list[Callable[[Volume, str], object]] = [provider.mark, provider.destroy]
    for attempt in attempts:
        with pytest.raises(RvssError, match="was one promoted") as caught:
            attempt(backup.volume, backup.id)
        assert caught.value.problem is Problem.BAD_PATH
        assert f"'zfs promote {backup.volume.name}'" in caught.value.hint
    zfs("promote", backup.volume.name)
    assert _contents(provider, backup) == ["sealed"] * 2
    zfs("destroy", f"{storage.pool}/theirs")
    provider.destroy(backup.volume, backup.id)
    assert storage.names() == []


def _fails_to_clear(provider: "Provider", mark: Mark, problem: Problem, match: str) -> None:
    with pytest.raises(RvssError, match=match) as caught:
        provider.clear(mark.volume, mark.id)
    assert caught.value.problem is problem


@pytest.mark.vm(seconds=8, long=True)
def test_clones_that_are_in_use_stay_for_a_while(storage: "ZfsStorage") -> None:
    """They are nobody's backup any more, and go as soon as they can."""
    provider, share = storage.provider, _share(storage)
    mark = take(provider, share, Nested.INCLUDE)
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    parts = provider.open(mark.volume, mark.id)
    with files.all_opened(part for _, part in parts):
        backup = _end(provider, mark)
        _fails_to_clear(provider, mark, Problem.BUSY, "busy")
        # Whoever opens it now has its snapshots, and keeps no clone in use.
        again = provider.open(mark.volume, mark.id)
    # What others put or write there is nowhere else: then it is not for us to destroy.
    inner = f"{clone_of(mark)}/1"
    zfs("create", "-o", "readonly=off", f"{inner}/theirs")
    _fails_to_clear(provider, mark, Problem.HELD, f"put {inner}/theirs into it")
    zfs("destroy", f"{inner}/theirs")
    zfs("set", "readonly=off", inner)
    _fails_to_clear(provider, mark, Problem.NOT_SEALED, f"made {inner} writable")
    zfs("inherit", "readonly", inner)
    with files.all_opened(part for _, part in again):
        provider.clear(mark.volume, mark.id)
        assert _clones(storage) == []
        with pytest.raises(RvssError, match=rf"\(pid {os.getpid()}\)|busy") as caught:
            provider.destroy(mark.volume, mark.id)
        assert caught.value.problem is Problem.BUSY
    provider.claim(backup)
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


class _Killed(BaseException):
    """It ends whoever does not expect it, as SIGKILL does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mortal(Command):
    """zfs(8), for a provider that is killed after each change that it has not made before."""

    made: set[tuple[str, ...]]

    def __call__(self, *words: str) -> str:
        said = Command.__call__(self, *words)
        if words[0] not in ("get", "list", "holds") and words not in self.made:
            self.made.add(words)
            raise _Killed
        return said


def test_becoming_bare_can_be_cut_off_anywhere(storage: "ZfsStorage") -> None:
    """At each moment it is a whole backup, or whole and about to become one; the rest is done."""
    share = _share(storage)
    mark = take(storage.provider, share, Nested.INCLUDE)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    backup = replace(mark, sealed=SEALED, kept=KEPT)
    zfs_8, is_done = _Mortal(made=set()), False
    while not is_done:
        provider = Zfs(Identity(id="one", machine="here"), zfs_8)
        try:
            found = provider.mark(mark.volume, mark.id)
            if found != backup:
                assert found == replace(backup, kept=None)
                provider.keep(mark.volume, mark.id)
                provider.claim(backup)
            provider.clear(mark.volume, mark.id)
            is_done = True
        except _Killed:
            pass
        (image,) = storage.provider.inventory().images
        assert (image.complete, image.read_only) == (True, True)
        assert not storage.provider.inventory().foreign
        assert _contents(storage.provider, mark) == ["sealed"] * 2
    changes = ["destroy", "hold", "inherit", "release", "set", "set", "set", "snapshot"]
    assert sorted(words[0] for words in zfs_8.made) == changes
    assert (image.mark, image.remnants, _clones(storage)) == (backup, False, [])
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=8, long=True)
def test_half_of_a_bare_backup(storage: "ZfsStorage") -> None:
    """It is not taken for a whole one, whoever destroyed the rest, or was cut off with it."""
    provider, share = storage.provider, _share(storage)
    backups = [_bare(storage, share) for _ in range(2)]
    inner = [f"{storage.dataset(share / 'inner')}@rvss-{mark.id}" for mark in backups]
    zfs("release", HOLD, inner[0])
    zfs("destroy", inner[0])
    found = _images(storage)
    assert [found[mark.id].complete for mark in backups] == [False, True]
    with pytest.raises(RvssError, match="is missing") as caught:
        provider.open(backups[0].volume, backups[0].id)
    assert caught.value.problem is Problem.NOT_FOUND
    provider.destroy(backups[0].volume, backups[0].id)

    # The outermost snapshot goes last: somebody has it mounted.
    mark = backups[1]
    run(["mount", "-t", "zfs", snapshot_of(mark), "/mnt"], timeout=30)
    try:
        with pytest.raises(RvssError, match="mounted at /mnt") as caught:
            provider.destroy(mark.volume, mark.id)
        assert caught.value.problem is Problem.BUSY
    finally:
        mounting.umount("/mnt")
    (found_now,) = _images(storage).values()
    assert (found_now.complete, found_now.mark.sealed) == (False, None)
    provider.destroy(mark.volume, mark.id)
    assert storage.names() == []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Full(Command):
    """zfs(8), for a pool that has no room for another property."""

    def __call__(self, *words: str) -> str:
        if words[0] == "set":
            raise RvssError(Problem.NO_SPACE, "out of space")
        return Command.__call__(self, *words)


@pytest.mark.vm(seconds=8, long=True)
def test_mark_of_a_bare_backup_is_none_for_older_daemons(storage: "ZfsStorage") -> None:
    """Those would take it for an image whose creation was cut off."""
    # Without a nested dataset it is one snapshot, also in the pool's own dataset.
    top = take(storage.provider, storage.top)
    share = _share(storage)
    marks = [_end(storage.provider, top), _bare(storage, share)]
    storage.provider.clear(top.volume, top.id)
    assert _clones(storage) == []
    with seen(storage.provider, top) as image:
        assert os.listdir(image) == []
    names = [*map(snapshot_of, marks), f"{storage.dataset(share / 'inner')}@rvss-{marks[1].id}"]
    assert [json.loads(value(name, MARK))["version"] for name in names] == [2, 2, 1]
    # Destroying needs less room than writing that it is being destroyed.
    full = Zfs(Identity(id="one", machine="here"), _Full())
    for mark in marks:
        full.destroy(mark.volume, mark.id)
    assert storage.names() == []
