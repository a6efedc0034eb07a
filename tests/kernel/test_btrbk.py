"""btrbk, which we did not write, carries images away: also those that recovery wrote to."""

import filecmp
from pathlib import Path

import pytest

from samba_rvss.model import Mark, Nested
from samba_rvss.providers.btrfs.home import NAME as HOME
from samba_rvss.run import run
from samba_rvss.testing.loop import LoopBtrfs
from tests.kernel.conftest import SEALED, BtrfsStorage
from tests.kernel.test_btrfs import in_home, uuid_of, write
from tests.kernel.test_provider import seen, take

pytestmark = [
    pytest.mark.require("root", "btrfs", "loop", "btrbk"),
    pytest.mark.parametrize("storage", ["btrfs"], indirect=True),
]


def sealed(storage: BtrfsStorage, share: Path, text: str, *, link: bool = True) -> tuple[Mark, str]:
    """Take an image to which recovery writes; return its mark, and its name for btrbk."""
    before = {*in_home(storage)} if (storage.top / HOME).exists() else set()
    mark = take(storage.provider, share, Nested.INCLUDE)
    with seen(storage.provider, mark, writable=True) as image:
        write(image / "file", text)
    storage.provider.seal(mark.volume, mark.id, SEALED, opened=True)
    for _ in range(2):
        storage.provider.clear(mark.volume, mark.id, link=link)
        assert not any(image.remnants for image in storage.provider.inventory().images)
    (name,) = (n for n in {*in_home(storage)} - before if n.startswith("vms-"))
    return mark, name


def parent_of(path: Path) -> str:
    """Return the uuid of what a subvolume is a snapshot of."""
    shown = run(["btrfs", "subvolume", "show", str(path)], timeout=30)
    (line,) = (line for line in shown.splitlines() if "Parent UUID" in line)
    return line.split(":")[1].strip().replace("-", "")


def test_a_link_leads_from_the_sealed_image_to_its_volume(storage: BtrfsStorage) -> None:
    share = storage.volume("vms")
    mark, name = sealed(storage, share, "recovered")
    home = storage.top / HOME
    assert in_home(storage) == [f".{name}.rw", name]
    link = home / f".{name}.rw"
    assert parent_of(home / name) == uuid_of(link)
    assert parent_of(link) == uuid_of(share)
    with pytest.raises(OSError, match="Read-only"):
        (link / "file").write_text("late")
    storage.provider.destroy(mark.volume, mark.id)
    assert in_home(storage) == []


def test_without_one_nothing_of_it_is_left(storage: BtrfsStorage) -> None:
    _, name = sealed(storage, storage.volume("vms"), "recovered", link=False)
    assert in_home(storage) == [name]


def test_btrbk_resumes_from_images(storage: BtrfsStorage, rig_directory: Path) -> None:
    share = storage.volume("vms")
    write(share / "file", "content")
    images = [sealed(storage, share, text) for text in ("first", "second")]
    base = images[0][1].partition(".")[0]
    with LoopBtrfs(rig_directory) as other:
        target = other.path
        (target / "vms").mkdir()
        conf = rig_directory / "btrbk.conf"
        conf.write_text(
            f"snapshot_create no\nsnapshot_preserve_min all\ntarget_preserve_min all\n"
            f"volume {storage.top}\n  snapshot_dir {HOME}\n  target {target}/vms\n"
            f"  subvolume vms\n    snapshot_name {base}\n"
        )
        run(["btrbk", "-c", str(conf), "resume"], timeout=60)
        for _, name in images:
            assert filecmp.cmp(target / "vms" / name / "file", storage.top / HOME / name / "file")
