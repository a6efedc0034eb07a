"""Sets that may have another client's context: who is said to be, and that nobody waits for it."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from samba_rvss.copies import follow
from samba_rvss.copies.doubt import IN_DOUBT
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.deletions import Deletions
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import Tasks
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.model import Phase, SambaCopy, SetState, ShadowCopy
from samba_rvss.samba import connections
from samba_rvss.samba.connections import Connection
from tests.unit.site import SHARE, Shelf, Site, with_samba
from tests.unit.test_sealer import until

pytestmark = pytest.mark.require("root", "smbd")


class _Empty(Shelf):
    """A file system whose images may go."""

    def destroy(self, volume: object, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""


class Doubted:
    """A copy without AUTO_RECOVERY that is exposed, and a client that is connected to it.

    Attributes:
        since: when it has connected.
        go: set where smbstatus may answer.
        asked: how often it was asked.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.since = datetime.now(UTC) - timedelta(hours=1)
        self.go = threading.Event()
        self.go.set()
        self.asked = 0
        self.copy = replace(site.copy, context=0, state=SetState.EXPOSED)
        site.ledger.add(self.copy, "create")
        site.store(site.records(SetState.EXPOSED))

    def look(self, _configfile: str) -> dict[str, Connection]:
        """Answer as smbstatus."""
        self.asked += 1
        assert self.go.wait(60.0)
        return {SHARE.lower(): Connection(machine="hv1", since=self.since)}

    def instance(self) -> Instance:
        """Return the instance."""
        return replace(self.site.instance(), providers=(_Empty(self.site.inventory),))

    @property
    def said(self) -> list[tuple[int, str]]:
        """What was noted: by whom, and what."""
        return [
            (event.uid, event.detail)
            for event in self.site.ledger.events()
            if event.what == IN_DOUBT
        ]

    def recover(self, *, seen_before: bool = True) -> None:
        """Have the set recovered, and the daemon follow that."""
        asyncio.run(self._recover(seen_before=seen_before))

    async def _recover(self, *, seen_before: bool) -> None:
        with closing(Watcher(self.instance, Turns())) as watcher:
            watcher.track(self.copy)
            following = asyncio.ensure_future(watcher.run())
            if seen_before:
                await watcher.catch_up()
            self.site.store(self.site.records(SetState.RECOVERED))
            await watcher.catch_up()
            await until(lambda: self._recorded().state is SetState.RECOVERED)
            if seen_before:
                await until(lambda: self.asked > 0)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    def delete(self) -> None:
        """Have the client delete the copy."""
        asyncio.run(self._delete())

    async def _delete(self) -> None:
        turns, tasks = Turns(), Tasks()
        with closing(Watcher(self.instance, turns)) as watcher:
            watcher.track(self.copy)
            runner = Runner(self.instance, watcher, turns)
            deletions = Deletions(self.instance, turns, watcher, runner, tasks, UnderWay())
            await deletions.for_samba(self.copy, uid=7)
            self.go.set()
            await tasks.finish(60.0)

    def _recorded(self) -> ShadowCopy:
        found = self.site.ledger.get(self.copy.id)
        assert found is not None
        return found


@pytest.fixture
def doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doubted]:
    with with_samba(tmp_path) as site:
        made = Doubted(site)
        monkeypatch.setattr(connections, "look", made.look)
        yield made


def test_who_connects_before_recovery_is_complete(doubted: Doubted) -> None:
    doubted.recover()
    ((uid, said),) = doubted.said
    assert uid == -1
    assert f"hv1 connected to {SHARE} before RecoveryComplete" in said


def test_a_later_write_of_another_set_makes_nobody_early(
    doubted: Doubted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He connects when recovery is complete, and then Samba writes its file for somebody else."""
    learn = follow.learn
    doubted.since = datetime.now(UTC) + timedelta(minutes=30)

    def and_another(instance: Instance, copy: ShadowCopy, known: SambaCopy) -> ShadowCopy | None:
        later = datetime.now(UTC).timestamp() + 3600.0
        os.utime(instance.config.fss_state, (later, later))
        return learn(instance, copy, known)

    monkeypatch.setattr(follow, "learn", and_another)
    doubted.recover()
    assert doubted.said == []


def test_what_was_recovered_unseen_accuses_nobody(doubted: Doubted) -> None:
    """The daemon did not run then: when that was, nothing tells."""
    doubted.recover(seen_before=False)
    assert doubted.said == []


def test_who_deletes_what_he_has_connected_to(doubted: Doubted) -> None:
    doubted.delete()
    ((uid, said),) = doubted.said
    assert (uid, "hv1 connected" in said) == (7, True)


def test_no_client_waits_for_an_smbstatus_that_hangs(doubted: Doubted) -> None:
    doubted.go.clear()
    doubted.delete()  # it answers when that is done
    assert doubted.site.ledger.copies() == []
    assert doubted.asked == 1


def test_who_deletes_what_is_recovered_by_now_is_not_accused(doubted: Doubted) -> None:
    """Samba is ahead of the ledger."""
    doubted.site.store(doubted.site.records(SetState.RECOVERED))
    doubted.delete()
    assert doubted.said == []


def test_what_is_gone_is_not_looked_at_again(doubted: Doubted) -> None:
    doubted.copy = replace(doubted.copy, phase=Phase.GONE)
    doubted.delete()
    assert doubted.asked == 0
