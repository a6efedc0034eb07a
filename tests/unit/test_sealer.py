"""Sealing on a file system that fails or stands still: since when it is not sealed, and why."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from samba_rvss.clock import moment
from samba_rvss.copies import repair
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import journal
from samba_rvss.daemon.sealer import Sealer, pauses_between
from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, Sealed, SetState, ShadowCopy, Volume
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Shelf, Site
from tests.unit.values import COPY_ID, SET, copy_of


class SickShelf(Shelf):
    """A file system on which sealing does what a test says."""

    def __init__(self, site: Site, sick: Callable[[], bool]) -> None:
        super().__init__(site.inventory)
        self._sick = sick

    def seal(self, volume: Volume, image: str, sealed: Sealed, *, opened: bool) -> bool:
        """See `samba_rvss.providers.Provider`."""
        return self._sick()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


def instance_of(site: Site, sick: Callable[[], bool], *, seal_deadline: float = 60.0) -> Instance:
    """Return the instance, with that file system."""
    return replace(
        site.instance(),
        config=replace(site.config, seal_deadline=seal_deadline),
        providers=(SickShelf(site, sick),),
    )


def opened(site: Site) -> ShadowCopy:
    """Put an open copy into the ledger; return it as it is known when recovery is complete."""
    copy = replace(copy_of("a", Phase.OPEN), set_id=SET, copy_id=COPY_ID, state=SetState.EXPOSED)
    site.ledger.add(replace(copy, since=replace(moment(), seconds=1.0)), "create")
    return replace(copy, state=SetState.RECOVERED)


async def until(look: Callable[[], object]) -> None:
    """Wait until there is something."""
    async with asyncio.timeout(60.0):
        while not look():
            await asyncio.sleep(0.001)


def events(site: Site) -> list[str]:
    """Return what has happened."""
    return [event.what for event in site.ledger.events()]


def test_retries_do_not_renew_the_time_of_recovery(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[bool] = []

    def fail() -> bool:
        attempts.append(True)
        raise RvssError(Problem.SYSTEM, "input/output error")

    instance, copy = instance_of(site, fail), opened(site)

    async def story() -> None:
        sealer, before = Sealer(lambda: instance, Turns(), lambda sealed: None), moment()
        sealer.begin(copy)
        await until(lambda: len(attempts) >= 3 and "not sealed yet" in events(site))
        assert sealer.delayed == ("a is not sealed: input/output error",)
        current = site.ledger.get("a")
        assert current is not None
        assert current.phase is Phase.SEALING
        assert before.seconds <= current.since.seconds <= moment().seconds
        # As after a crash of the daemon.
        again = repair.seal_again(instance, current, "its sealing was cut off")
        assert again is not None
        assert again.since == current.since
        count = len(attempts)
        sealer.retry()
        await until(lambda: len(attempts) > count)
        await sealer.end(copy)

    asyncio.run(story())
    assert sorted(events(site)) == ["create", "not sealed yet", "recovered", "to be sealed"]
    said = [record for record in caplog.records if "is not sealed" in record.getMessage()]
    about = journal.fields(journal.Message.NOT_SEALED, copy=copy)
    assert said
    assert all(record.__dict__.items() >= about.items() for record in said)


def test_a_step_that_does_not_end_is_said(site: Site) -> None:
    answer = threading.Event()
    instance, copy = instance_of(site, answer.wait, seal_deadline=0.01), opened(site)

    async def story() -> None:
        sealer = Sealer(lambda: instance, Turns(), lambda sealed: None)
        sealer.begin(copy)
        await until(lambda: "not sealed yet" in events(site))
        assert sealer.delayed == (
            "a is not sealed: the btrfs file system fs has not answered for 0.01 s",
        )
        answer.set()
        await sealer.end(copy)
        assert not sealer.delayed

    asyncio.run(story())


def test_it_backs_off() -> None:
    pauses = list(islice(pauses_between(), 20))
    assert pauses[:3] == [0.05, 0.5, 5.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60.0
