"""How much space comes free with an image: what the file system tells exactly, or nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Image, Mark, Nested
from samba_rvss.run import run
from samba_rvss.testing.waiting import wait_until
from tests.kernel.conftest import SEALED, BtrfsStorage
from tests.kernel.test_provider import take

if TYPE_CHECKING:
    from tests.kernel.conftest import Storage

_SECONDS = 60.0
_SIZE = 4 << 20
_METADATA = 1 << 20


@pytest.fixture
def counted(storage: "Storage") -> Iterator["Storage"]:
    """A file system that counts: ZFS does."""
    if isinstance(storage, BtrfsStorage):
        _quota(storage, "enable")
    yield storage
    if isinstance(storage, BtrfsStorage):
        _quota(storage, "disable")


def _quota(storage: "Storage", *words: str) -> None:
    run(["btrfs", "quota", *words, str(storage.top)], timeout=_SECONDS)


def _fill(path: Path) -> None:
    path.write_bytes(os.urandom(_SIZE))


def _sealed(storage: "Storage", path: Path, nested: Nested = Nested.REFUSE) -> Mark:
    mark = take(storage.provider, path, nested)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=False)
    return mark


def _image(storage: "Storage", mark: Mark) -> Image:
    (image,) = [found for found in storage.provider.inventory().images if found.id == mark.id]
    return image


def _size(storage: "Storage", mark: Mark) -> int | None:
    storage.sync()
    return storage.provider.sizes([_image(storage, mark)]).get(mark.id)


def _wait(storage: "Storage", mark: Mark, wanted: int) -> None:
    def reached() -> bool:
        size = _size(storage, mark)
        return size is not None and 0 <= size - wanted < _METADATA

    wait_until(lambda: f"{wanted} and a little: {_size(storage, mark)}", reached, _SECONDS)


def _free(storage: "Storage") -> int:
    if isinstance(storage, BtrfsStorage):  # what is deleted goes with a commit that is asked for
        run(["btrfs", "filesystem", "sync", str(storage.top)], timeout=_SECONDS)
    else:
        storage.sync()
    return shutil.disk_usage(storage.top).free


@pytest.mark.vm(seconds=9, storage="zfs")
def test_what_an_image_alone_has(counted: "Storage") -> None:
    path = counted.volume("vms")
    _fill(path / "disk")
    counted.sync()
    mark = _sealed(counted, path)
    _wait(counted, mark, 0)
    _fill(path / "disk")  # the image alone has what was there before
    _wait(counted, mark, _SIZE)
    other = _sealed(counted, path)
    _wait(counted, mark, _SIZE)
    counted.provider.destroy(other.volume, other.id)
    before = _free(counted)
    counted.provider.destroy(mark.volume, mark.id)
    wait_until(
        lambda: f"that space comes free: {_free(counted) - before}",
        lambda: _free(counted) - before >= _SIZE // 2,
        _SECONDS,
    )


@pytest.mark.parametrize("storage", ["btrfs"], indirect=True)
def test_what_btrfs_does_not_count_is_not_known(storage: "BtrfsStorage") -> None:
    path = storage.volume("vms")
    _fill(path / "disk")
    mark = _sealed(storage, path)
    assert _size(storage, mark) is None
    _quota(storage, "enable")
    _wait(storage, mark, 0)
    # Who knows what the parts of one image have in common?
    storage.volume("vms/inner")
    nested = _sealed(storage, path, Nested.INCLUDE)
    assert _size(storage, nested) is None
    recovered = take(storage.provider, path, Nested.INCLUDE)
    storage.provider.seal(recovered.volume, recovered.id, SEALED, opened=True)
    storage.provider.clear(recovered.volume, recovered.id, link=True)
    assert _size(storage, recovered) is None
    # A subvolume that comes into a group changes what that has, and nobody counts it anew.
    (tree,) = run(["btrfs", "inspect-internal", "rootid", str(path)], timeout=_SECONDS).split()
    run(["btrfs", "qgroup", "create", "1/7", str(storage.top)], timeout=_SECONDS)
    words = ["btrfs", "qgroup", "assign", "--no-rescan", f"0/{tree}", "1/7", str(storage.top)]
    run(words, timeout=_SECONDS, allow=frozenset({0, 1}))  # 1 says that it is so
    assert _size(storage, mark) is None
    _quota(storage, "disable")
    assert _size(storage, mark) is None
