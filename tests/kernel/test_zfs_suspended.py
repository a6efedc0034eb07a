"""A pool that has lost its device: everything is refused at once, nothing waits for ever."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Identity
from samba_rvss.providers.zfs.command import Command
from samba_rvss.providers.zfs.provider import Zfs
from samba_rvss.run import run
from samba_rvss.testing.plugin import require
from tests.imaging import make_image, take_image
from tests.kernel.conftest import SEALED, ZfsStorage
from tests.kernel.test_provider import mark_of, probe, take

pytestmark = pytest.mark.vm(seconds=13)

_MIB = 1 << 20


class Fragile:
    """A pool in a file on a tmpfs that has no room for all of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._filler = directory / "filler"
        self._state = Path(f"/proc/spl/kstat/zfs/{directory.name}/state")
        self.storage = ZfsStorage(directory)

    def break_device(self) -> None:
        """Take what room there is: writes to the device fail from now on."""
        with self._filler.open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(_MIB)) == _MIB:
                    pass
            except OSError:
                pass

    def suspended(self) -> bool:
        """Return whether the pool has noticed."""
        return self._state.read_text().strip() == "SUSPENDED"

    def repair(self) -> None:
        """Give the room back and let the pool go on."""
        self._filler.unlink(missing_ok=True)
        deadline = time.monotonic() + 30
        while self.suspended():
            run(["zpool", "clear", self._directory.name], timeout=60)
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def fragile(rig_directory: Path) -> Iterator[Fragile]:
    """A pool that can lose its device."""
    require("root", "zfs")
    directory = rig_directory / f"rvss-fragile-{os.getpid()}"
    directory.mkdir()
    with ExitStack() as undo:
        run(["mount", "-t", "tmpfs", "-o", "size=160M", "none", str(directory)], timeout=10)
        undo.callback(run, ["umount", str(directory)], timeout=10)
        fragile = Fragile(directory)
        undo.enter_context(fragile.storage)
        undo.callback(fragile.repair)
        yield fragile


def test_suspended_pool(fragile: Fragile) -> None:
    """The first command meets it unawares, and is given up; the others do not even begin."""
    storage = fragile.storage
    share = storage.volume("vms")
    (share / "file").write_bytes(os.urandom(_MIB))
    first = take(storage.provider, share)
    mark = mark_of(first.volume, share)
    storage.sync()
    fragile.break_device()
    (share / "more").write_bytes(os.urandom(4 * _MIB))
    impatient = Zfs(Identity(id="one", machine="here"), Command(seconds=4.0))
    started = time.monotonic()
    with pytest.raises(RvssError):
        take_image(impatient, mark)
    assert time.monotonic() - started < 60
    assert fragile.suspended()
    verbs: list[Callable[[], object]] = [
        lambda: probe(storage.provider, share),
        lambda: make_image(storage.provider, mark),
        lambda: storage.provider.open(first.volume, first.id),
        lambda: storage.provider.seal(first.volume, first.id, SEALED, opened=True),
        lambda: storage.provider.destroy(first.volume, first.id),
    ]
    for verb in verbs:
        started = time.monotonic()
        with pytest.raises(RvssError, match="suspended") as caught:
            verb()
        assert caught.value.problem is Problem.SYSTEM
        assert time.monotonic() - started < 20  # a program that is stuck is given up after 45
    assert first.volume.file_system not in storage.provider.inventory().file_systems

    fragile.repair()
    storage.sync()
    for image in storage.provider.inventory().images:
        storage.provider.destroy(image.mark.volume, image.id)
    assert storage.names() == []
    take(storage.provider, share)
