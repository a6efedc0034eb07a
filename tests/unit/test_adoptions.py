"""Adopting while something takes longer than an administrator waits: nothing goes on unheard."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies.adopt import Candidate
from samba_rvss.daemon.adoptions import Adoptions
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Site
from tests.unit.values import image_of


class Woken(Runner):
    """A runner that counts how often it is woken."""

    times = 0

    def wake(self, seconds: float) -> None:
        """See `Runner`."""
        self.times += 1
        super().wake(seconds)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


def test_what_fails_when_nobody_waits_is_logged_and_seen_to(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    mark = image_of("a").mark
    mark = replace(mark, volume=replace(mark.volume, provider="none"))  # so that it fails
    candidate = Candidate(id="a", where="there", mark=mark)
    told: list[str] = []

    async def story() -> None:
        turns, tasks = Turns(), Tasks()
        with closing(Watcher(site.instance, turns)) as watcher:
            runner = Woken(site.instance, watcher, turns)
            adoptions = Adoptions(site.instance, turns, runner, tasks, 0.01)
            async with turns.take(mark.volume):
                await adoptions.take([candidate], lambda finding: told.append(finding.error))
                assert runner.times == 1
            await tasks.finish(60.0)
            await asyncio.sleep(0)
            assert runner.times == 2

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    assert "has not answered for 0.01 s" in told[0]
    assert caplog.messages[-1] == "a cannot be adopted: there is no provider none"
