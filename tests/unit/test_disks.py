"""Looks at virtual disks give way to whoever deletes, with all parts of a backup."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.daemon import disks
from samba_rvss.daemon.disks import Disks
from samba_rvss.daemon.sealer import Sealer
from samba_rvss.daemon.turns import Turns
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Site
from tests.unit.values import SET, copy_of

MANY = 3600.0
OTHER = SET.replace("3", "4")


class Endless(Disks):
    """Looks that go on until they are ended."""

    def looked_at(self) -> set[str]:
        """Return the ids of the copies that are being looked at."""
        return set(self._looks)

    async def _look(self, copy: ShadowCopy) -> None:
        await asyncio.sleep(MANY)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


def test_none_begins_again_while_one_deletes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the time that an end before it has set, nor for good."""

    async def scenario() -> None:
        looks, copy = Endless(site.instance), copy_of("a", Phase.KEPT)
        looks.begin(copy)
        await asyncio.sleep(0)
        monkeypatch.setattr(disks, "_AGAIN_SECONDS", 0.05)
        await looks.end(copy)
        monkeypatch.setattr(disks, "_AGAIN_SECONDS", MANY)
        await looks.end(copy)
        await asyncio.sleep(0.3)
        assert not looks.is_busy
        monkeypatch.setattr(disks, "_AGAIN_SECONDS", 0.0)
        await looks.end(copy)
        async with asyncio.timeout(60.0):
            while not looks.is_busy:
                await asyncio.sleep(0.001)
        await looks.end(copy_of("b", Phase.KEPT))
        assert looks.looked_at() == {"a"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("phase", "left"), [(Phase.KEPT, {"other"}), (Phase.SEALED, {"b", "other"})]
)
def test_no_part_of_what_is_deleted_is_looked_at(
    site: Site, phase: Phase, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        looks = Endless(site.instance)
        copies = [replace(copy_of(name, phase), set_id=SET) for name in ("a", "b")]
        copies.append(replace(copy_of("other", phase), set_id=OTHER))
        for copy in copies:
            site.ledger.add(copy, "create")
            looks.begin(copy)
        sealer = Sealer(site.instance, Turns(), lambda sealed: None)
        monkeypatch.setattr(sealer, "_disks", looks)
        await sealer.end(copies[0])
        assert looks.looked_at() == left

    asyncio.run(scenario())
