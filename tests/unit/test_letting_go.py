"""Copies that are let go of for a deletion: what comes of one that is not deleted after all."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.clock import moment
from samba_rvss.daemon.deletions import Deletions
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.sealer import Sealer
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import (
    Context,
    Keep,
    Mark,
    Moment,
    Phase,
    Sealed,
    SetState,
    ShadowCopy,
    Volume,
)
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Shelf, Site
from tests.unit.values import mark_of, sealed_of

_RECOVERY = int(Context.AUTO_RECOVERY)


class OneImage(Shelf):
    """A file system with one image; a test says whether it is there, and what fails.

    Attributes:
        is_there: whether it is mounted.
        failures: how often its mark cannot be written.
        held: who else holds it, as a sentence.
        made: what it was sealed with.
    """

    def __init__(self, site: Site, mark: Mark) -> None:
        super().__init__(site.inventory)
        self._mark = mark
        self.is_there = True
        self.failures = 0
        self.held = ""
        self.made: list[Sealed] = []

    def _require_there(self) -> None:
        if not self.is_there:
            raise RvssError(Problem.NOT_FOUND, "its file system is not mounted")

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`."""
        self._require_there()
        return self._mark

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`."""
        self._require_there()
        self.made.append(sealed)
        self._mark = replace(self._mark, sealed=self._mark.sealed or sealed)
        return False

    def keep(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""

    def clear(self, volume: Volume, image: str, *, link: bool = False) -> None:
        """See `samba_rvss.providers.Provider`."""

    def require_free(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        if self.held:
            raise RvssError(Problem.HELD, self.held)

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        if self.failures:
            self.failures -= 1
            raise RvssError(Problem.NO_SPACE, "there is no room for its mark")
        self._mark = mark


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            os.makedirs(made.path)
            yield made


def recorded(site: Site) -> ShadowCopy:
    """Return what the ledger says."""
    found = site.ledger.get(site.copy.id)
    assert found is not None
    return found


async def until(site: Site, phase: Phase) -> None:
    """Wait until the ledger says so."""
    async with asyncio.timeout(60.0):
        while recorded(site).phase is not phase:
            await asyncio.sleep(0.01)


def test_a_mark_that_cannot_be_written_once_is_written_again(site: Site) -> None:
    """Of one that its client deleted before it was sealed, and whose record says it is kept."""
    shelf = OneImage(site, mark_of("a"))
    shelf.failures = 2
    instance = replace(site.instance(), providers=(shelf,))
    copy = replace(
        site.copy, phase=Phase.SEALING, ended=True, keep=Keep.YES, context=_RECOVERY, since=moment()
    )
    site.ledger.add(copy, "create")

    async def story() -> None:
        sealed: list[ShadowCopy] = []
        sealer = Sealer(lambda: instance, Turns(), sealed.append)
        sealer.begin(copy)
        async with asyncio.timeout(60.0):
            while not sealed:
                sealer.retry()
                await asyncio.sleep(0.01)
        assert (sealed[0].phase, sealer.busy) == (Phase.KEPT, frozenset())

    asyncio.run(story())
    mark = shelf.mark(copy.volume, copy.id)
    assert mark is not None
    assert mark.is_backup


@pytest.mark.parametrize("phase", [Phase.OPEN, Phase.SEALING])
def test_what_a_boot_may_have_torn_is_not_sealed_as_recovered(site: Site, phase: Phase) -> None:
    """Its disk comes late: whether what recovery wrote is on it, nobody knows any more."""
    shelf = OneImage(site, mark_of("a"))
    instance = replace(site.instance(), providers=(shelf,))
    before = replace(
        site.copy,
        phase=phase,
        context=_RECOVERY,
        state=SetState.EXPOSED,
        since=Moment(boot="before", seconds=5.0),
    )
    site.ledger.add(before, "create")
    site.store(site.records(SetState.RECOVERED, Context.AUTO_RECOVERY))

    async def story() -> None:
        with closing(Watcher(lambda: instance, Turns())) as watcher:
            watcher.track(recorded(site))
            await watcher.catch_up()
            assert watcher.followed == ()
            assert watcher.sealing == frozenset()

    asyncio.run(story())
    assert shelf.made == []
    assert recorded(site) == before


@pytest.mark.parametrize("how", ["lost", "fails"])
def test_what_is_not_deleted_after_all_is_followed_on(site: Site, how: str) -> None:
    """Or it would stay open after RecoveryComplete."""
    shelf = OneImage(site, mark_of("a"))
    instance = replace(site.instance(), providers=(shelf,))
    copy = replace(
        site.copy,
        phase=Phase.OPEN,
        context=_RECOVERY,
        state=SetState.EXPOSED,
        keep=Keep.RECOVERED,
        since=moment(),
    )
    site.ledger.add(copy, "create")
    if how == "fails":  # srv_fss.tdb cannot be read: whether it is to be kept cannot be told
        os.mkdir(f"{site.directory}/lock/srv_fss.tdb")
    else:
        site.store(site.records(SetState.EXPOSED, Context.AUTO_RECOVERY))

    async def story() -> None:
        turns = Turns()
        with closing(Watcher(lambda: instance, turns)) as watcher:
            watcher.track(copy)
            runner = Runner(lambda: instance, watcher, turns)
            tasks = Tasks()
            deletions = Deletions(
                lambda: instance,
                turns,
                watcher,
                runner,
                tasks,
                UnderWay(),
            )
            refusal = "is there" if how == "lost" else "srv_fss.tdb"
            with pytest.raises(RvssError, match=refusal):
                await (
                    deletions.give_up(copy) if how == "lost" else deletions.for_samba(copy, uid=0)
                )
            assert [followed.id for followed in watcher.followed] == ["a"]

    asyncio.run(story())
    assert recorded(site).phase is Phase.OPEN


def test_what_somebody_else_holds_is_not_begun_to_be_deleted(site: Site) -> None:
    """It stays a backup: else it would go as soon as he lets go of it."""
    shelf = OneImage(site, mark_of("a", sealed=sealed_of()))
    shelf.held = "somebody holds tank@rvss-a as 'zrepl'"
    instance = replace(site.instance(), providers=(shelf,))
    copy = replace(site.copy, phase=Phase.KEPT, keep=Keep.YES)
    site.ledger.add(copy, "create")

    async def story() -> None:
        turns = Turns()
        with closing(Watcher(lambda: instance, turns)) as watcher:
            runner = Runner(lambda: instance, watcher, turns)
            deletions = Deletions(
                lambda: instance,
                turns,
                watcher,
                runner,
                Tasks(),
                UnderWay(),
            )
            with pytest.raises(RvssError, match="zrepl") as caught:
                await deletions.for_administrator(copy, uid=0)
            assert caught.value.problem is Problem.HELD

    asyncio.run(story())
    assert recorded(site).phase is Phase.KEPT
