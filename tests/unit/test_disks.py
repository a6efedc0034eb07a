"""Looking at the disks of what was sealed: told once, and ended for who deletes the copy."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies import disks, manifests
from samba_rvss.daemon import disks as daemon_disks
from samba_rvss.daemon.disks import Disks
from samba_rvss.hyperv import apart
from samba_rvss.kernel import processes
from samba_rvss.model import Event, Phase, ShadowCopy
from samba_rvss.samba.process import SambaProcess
from tests import virtual_disks
from tests.unit.site import Site
from tests.unit.values import copy_of

pytestmark = pytest.mark.require("root")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    found = tmp_path / "image"
    found.mkdir()
    return found


def _sealed(site: Site, image: Path, phase: Phase = Phase.SEALED) -> ShadowCopy:
    copy = replace(copy_of("a", phase), path=str(image))
    site.ledger.add(copy, "create")
    return copy


def _told(site: Site) -> list[Event]:
    return site.ledger.events_of(disks.EVENT)


async def _until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(60.0):
        while not look():
            await asyncio.sleep(0.01)


def _children() -> list[int]:
    """Return the processes that look at disks, among all that the tests have started."""
    code = f"from {apart.__name__} import"
    return [pid for pid in processes.descendants(os.getpid()) if code in _command(pid)]


def _command(pid: int) -> str:
    try:
        return " ".join(processes.arguments(pid))
    except OSError:  # it has just ended
        return ""


def test_what_was_found_is_written_down_once(site: Site, image: Path) -> None:
    virtual_disks.make(image / "a.vhdx")
    copy = _sealed(site, image)

    async def story() -> None:
        looking = Disks(site.instance)
        looking.begin(copy)
        await _until(lambda: _told(site))
        looking.begin(copy)  # as after a restart of the daemon
        await _until(lambda: not looking.is_busy)

    asyncio.run(story())
    assert [event.detail for event in _told(site)] == ["1 disk: 1 whole"]
    found = disks.known(site.config, copy.id)
    assert found is not None
    assert [disk.path for disk in found.disks] == ["a.vhdx"]
    where = Path(manifests.disks_path(site.config, copy.id))
    assert where.stat().st_mode & 0o777 == 0o600
    manifests.forget(site.config, copy.id)
    assert disks.known(site.config, copy.id) is None


def test_without_disks_there_is_nothing_to_tell(site: Site, image: Path) -> None:
    (image / "file").touch()
    copy = _sealed(site, image)

    async def story() -> None:
        looking = Disks(site.instance)
        looking.begin(copy)
        await _until(lambda: not looking.is_busy)

    asyncio.run(story())
    assert (_told(site), disks.known(site.config, copy.id)) == ([], None)


@pytest.mark.parametrize("phase", [Phase.DELETING, Phase.GONE, Phase.OPEN])
def test_what_is_not_sealed_is_not_looked_at(site: Site, image: Path, phase: Phase) -> None:
    virtual_disks.make(image / "a.vhdx")
    copy = _sealed(site, image, phase)

    async def story() -> None:
        looking = Disks(site.instance)
        looking.begin(copy)
        await _until(lambda: not looking.is_busy)

    asyncio.run(story())
    assert _told(site) == []


def test_who_deletes_a_copy_ends_the_look_at_it(
    site: Site, image: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_disks, "_END_SECONDS", 60.0)  # the machine may be busy
    virtual_disks.make(image / "0.vhdx")
    for number in range(1, apart.DISKS):  # each takes some milliseconds
        (image / f"{number}.vhdx").hardlink_to(image / "0.vhdx")
    copy = _sealed(site, image)

    async def story() -> None:
        looking = Disks(site.instance)
        looking.begin(copy)
        await _until(_children)
        await looking.end(copy)
        assert not looking.is_busy

    asyncio.run(story())
    assert _children() == []
    assert (_told(site), caplog.messages) == ([], [])
    held = {os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    assert str(image) not in held
