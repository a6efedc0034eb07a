"""Kept images that zfs(8) and syncoid carry to another pool, by the lines that the manual has."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import files
from samba_rvss.model import Nested
from samba_rvss.providers.zfs.mounting import mount
from samba_rvss.providers.zfs.tree import HOME
from samba_rvss.run import run
from samba_rvss.testing.zfs import LoopZfs, Pool
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import seen, take
from tests.kernel.test_zfs import clone_of, snapshot_of, value, zfs

if TYPE_CHECKING:
    from samba_rvss.model import Mark
    from samba_rvss.providers import Provider
    from tests.kernel.conftest import ZfsStorage

pytestmark = [
    pytest.mark.parametrize("storage", ["zfs"], indirect=True),
    pytest.mark.vm(seconds=10),
]


def _backup(storage: "ZfsStorage", share: Path, text: str) -> "Mark":
    """Take an image, let recovery write to it, seal it, and keep it."""
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        (image / "recovered").write_text(text)
        (image / "inner" / "recovered").write_text(text)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    storage.provider.keep(mark.volume, mark.id)
    return mark


def _carry(words: str, target: str) -> int:
    """Send something and receive it; return how many bytes that were."""
    script = f"zfs send {words} | tee >(wc -c >&2) | zfs receive -u {target}"
    return int(run(["bash", "-c", f"set -o pipefail; ({script}) 2>&1 | tail -n 1"], timeout=60))


def test_what_arrives_is_what_was_sealed(storage: "ZfsStorage", rig_directory: Path) -> None:
    share = storage.volume("vms")
    inner = storage.volume("vms/inner")
    (share / "disk").write_bytes(os.urandom(2 << 20))
    first = _backup(storage, share, "first")
    (inner / "more").write_bytes(os.urandom(1 << 18))
    second = _backup(storage, share, "second")
    with Pool(rig_directory) as pool, LoopZfs(rig_directory, pool) as other:
        whole = _carry(f"-R {snapshot_of(first)}", f"{other.dataset}/vms")
        less = _carry(f"-R -i @rvss-{first.id} {snapshot_of(second)}", f"{other.dataset}/vms")
        assert whole > 2 << 20 > 1 << 20 > less
        for mark in (first, second):
            for part in ("", "/1"):
                origin = value(f"{clone_of(mark)}{part}", "origin")
                kept = f"{clone_of(mark)}{part}@rvss-{mark.id}"
                size = _carry(f"-i {origin} {kept}", f"{other.dataset}/{mark.id}{part}")
                assert size < 1 << 18
            _assert_arrived(storage, mark, f"{other.dataset}/{mark.id}")


@pytest.mark.require("syncoid")
@pytest.mark.vm(seconds=20)
def test_syncoid_carries_what_it_is_told_to(storage: "ZfsStorage", rig_directory: Path) -> None:
    share = storage.volume("vms")
    storage.volume("vms/inner")
    (share / "disk").write_bytes(os.urandom(2 << 20))
    with Pool(rig_directory) as pool, LoopZfs(rig_directory, pool) as other:
        home = f"{other.dataset}/{HOME}"
        zfs("create", home)
        untold = _backup(storage, share, "untold")
        told = []
        for text in ("first", "second"):  # the second time it carries the differences
            told.append(_backup(storage, share, text))
            zfs("set", "syncoid:sync=true", clone_of(told[-1]))
            before = _names(storage.pool)
            words = ["-r", "--skip-parent", "--no-sync-snap", "--quiet"]
            run(["syncoid", *words, storage.pool, other.dataset], timeout=120)
            assert _names(storage.pool) == before
        for mark in told:
            _assert_arrived(storage, mark, f"{home}/{mark.id}")
        there = _names(other.dataset)
        assert f"{other.dataset}/vms/inner@rvss-{untold.id}" in there
        assert f"{home}/{untold.id}" not in there


def _names(dataset: str) -> list[str]:
    """Return the names of a dataset, of those below it, and of all snapshots."""
    words = ("-H", "-r", "-t", "filesystem,snapshot", "-o", "name")
    return zfs("list", *words, dataset).splitlines()


def _assert_arrived(storage: "ZfsStorage", mark: "Mark", dataset: str) -> None:
    """Fail unless a dataset has what is in a backup, and another one in it what is nested."""
    sealed = _files(storage.provider, mark)
    arrived = _of_snapshot(f"{dataset}@rvss-{mark.id}")
    inside = _of_snapshot(f"{dataset}/1@rvss-{mark.id}")
    arrived |= {f"inner/{name}": content for name, content in inside.items()}
    assert arrived == sealed
    assert {"disk", "recovered", "inner/recovered"} <= sealed.keys()


def _files(provider: "Provider", mark: "Mark") -> dict[str, bytes]:
    """Return the files of an image, with what is nested in it."""
    with seen(provider, mark) as image:
        return _below(image)


def _of_snapshot(name: str) -> dict[str, bytes]:
    """Return the files of a snapshot."""
    with files.opened(mount(name)) as root:
        return _below(Path(f"/proc/self/fd/{root}"))


def _below(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(f"{directory}/{name}", top): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(f"{top}/.")
        for name in names
    }
