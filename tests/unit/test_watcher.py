"""Following: what is open is opened before it is recorded, and what has aged is put right.

The instance's files are real; a recovery mount is a tmpfs at the copy's path.
"""

import asyncio
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import tdb

from samba_rvss.copies import follow, repair, seal
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.kernel import mounting
from samba_rvss.model import Context, Phase, SetState, ShadowCopy
from samba_rvss.mounts import Mounts
from samba_rvss.run import run
from samba_rvss.samba import fss_state
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing import fss_records
from tests.unit.site import Site

pytestmark = pytest.mark.require("root")


class Followed:
    """A copy that is taken, whose set Samba has exposed with auto-recovery, and its watcher."""

    def __init__(self, site: Site, instance: Instance) -> None:
        self.site, self.instance = site, instance
        self.turns = Turns()
        self.watcher = Watcher(lambda: self.instance, self.turns)
        self.copy = replace(site.copy, phase=Phase.TAKEN, state=SetState.EXPOSED)

    @property
    def writable(self) -> bool:
        """Whether the recovery mount is open."""
        return not os.statvfs(self.copy.path).f_flag & os.ST_RDONLY

    def expose(self) -> None:
        """Have srv_fss.tdb say that the copy's set is exposed, with auto-recovery."""
        self.site.store(self.site.records(SetState.EXPOSED, Context.AUTO_RECOVERY))

    def mount(self) -> None:
        """Mount something at the copy's path, closed."""
        subprocess.run(["mount", "-t", "tmpfs", "none", self.copy.path], check=True)
        mounting.mount_setattr(self.copy.path, set_=mounting.MOUNT_ATTR_RDONLY)

    def recorded(self) -> ShadowCopy:
        """Return what the ledger says."""
        found = self.site.ledger.get(self.copy.id)
        assert found is not None
        return found


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    with closing(SambaProcess()) as samba:
        site = Site(tmp_path, samba)
        with closing(site.ledger):
            made = Followed(site, site.instance())
            site.ledger.add(made.copy, "create")
            os.makedirs(site.path)
            made.mount()
            try:
                yield made
            finally:
                with suppress(OSError):
                    while True:
                        mounting.umount(site.path)


async def _recorded_as(followed: Followed, phase: Phase) -> None:
    while followed.recorded().phase is not phase:
        await asyncio.sleep(0.01)


def test_catching_up_opens_what_is_due_without_anything_else_running(followed: Followed) -> None:
    """As when reconciling before smbd starts: there is nobody to open it later."""
    followed.expose()

    async def story() -> None:
        followed.watcher.track(followed.copy)
        assert not followed.writable
        await followed.watcher.catch_up()

    asyncio.run(story())
    assert followed.writable


def test_what_could_not_be_opened_is_not_recorded_as_open(followed: Followed) -> None:
    """And is opened, and recorded, as soon as it can be."""
    followed.expose()
    mounting.umount(followed.copy.path)

    async def story() -> None:
        followed.watcher.track(replace(followed.copy, state=None))  # that it is exposed is news
        following = asyncio.ensure_future(followed.watcher.run())
        async with asyncio.timeout(30):
            while followed.recorded().context != Context.AUTO_RECOVERY:
                await asyncio.sleep(0.01)
            assert followed.recorded().phase is Phase.TAKEN
            await asyncio.to_thread(followed.mount)
            followed.watcher.look()
            await _recorded_as(followed, Phase.OPEN)
        assert followed.writable
        following.cancel()
        await asyncio.wait([following])

    asyncio.run(story())


def test_no_write_of_a_growing_file_is_missed(followed: Followed) -> None:
    """Some make the file larger, and then the kernel does not tell that it was closed."""
    path = Path(followed.instance.config.fss_state)

    async def story() -> None:
        followed.watcher.track(followed.copy)
        following = asyncio.ensure_future(followed.watcher.run())
        sizes = []
        for number in range(80):
            state = (SetState.COMMITTED, SetState.EXPOSED)[number % 2]
            records = followed.site.records(state, Context.AUTO_RECOVERY)
            more = {b"none of ours %d" % each: bytes(300) for each in range(3 * number)}
            # In a process of its own: tdb's locks keep the interpreter's.
            store = followed.site.samba.call
            await asyncio.to_thread(store, fss_records.store, str(path), records | more)
            sizes.append(path.stat().st_size)
            async with asyncio.timeout(10):
                while followed.recorded().state is not state:
                    await asyncio.sleep(0.001)
        assert len(set(sizes[2:])) > 1, "it has not grown"
        following.cancel()
        await asyncio.wait([following])

    asyncio.run(story())


def test_a_copy_that_was_sealed_meanwhile_is_not_followed_as_sealing(followed: Followed) -> None:
    """Who tracks it has read the ledger before; it must not be followed for ever."""
    sealed = followed.site.ledger.change(
        followed.copy, "sealed", phase=Phase.SEALED, state=SetState.RECOVERED
    )
    assert sealed is not None

    async def story() -> None:
        followed.watcher.track(replace(sealed, phase=Phase.SEALING))
        assert await followed.turns.settled(30)
        # What comes after sealing may have begun: a loop that ends would leave its process.
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    asyncio.run(story())
    assert [copy.phase for copy in followed.watcher.followed] == [Phase.SEALED]


def test_what_is_being_sealed_is_never_opened(followed: Followed) -> None:
    """Whatever the file says then: another worker may have written its older view of the set."""
    followed.site.store(followed.site.records(SetState.RECOVERED, Context.AUTO_RECOVERY))

    async def story() -> None:
        followed.watcher.track(followed.copy)
        await followed.watcher.catch_up()
        assert followed.watcher.sealing  # and goes on, for there is no image
        followed.expose()
        await followed.watcher.catch_up()
        assert not followed.writable
        await followed.watcher.release(followed.copy)

    asyncio.run(story())
    assert not followed.writable


def test_the_loop_hurries_as_long_as_a_copy_may_be_due(followed: Followed) -> None:
    """It must not be late to open a copy, or to close it, on a machine that has much to do."""
    policies = []

    def note() -> None:
        policies.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)

    async def story() -> None:
        note()
        followed.watcher.track(followed.copy)
        note()
        followed.expose()
        await followed.watcher.catch_up()
        assert followed.writable
        note()
        followed.site.store(followed.site.records(SetState.RECOVERED, Context.AUTO_RECOVERY))
        await followed.watcher.catch_up()
        note()
        await followed.watcher.release(followed.copy)
        note()

    asyncio.run(story())
    usual, urgent = os.SCHED_OTHER, os.SCHED_RR
    assert policies == [usual, urgent, urgent, usual, usual]


def test_what_could_not_be_opened_is_opened_soon(followed: Followed) -> None:
    """Nothing else happens: no write to the file, no reconciling."""
    followed.expose()
    mounting.umount(followed.copy.path)

    async def story() -> None:
        followed.watcher.track(replace(followed.copy, state=None))
        following = asyncio.ensure_future(followed.watcher.run())
        async with asyncio.timeout(30):
            while followed.recorded().context != Context.AUTO_RECOVERY:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(followed.mount)
            await _recorded_as(followed, Phase.OPEN)
        assert followed.writable
        following.cancel()
        await asyncio.wait([following])

    asyncio.run(story())


def test_the_lock_directory_cannot_be_watched_for_a_while(followed: Followed) -> None:
    """Following goes on as soon as it can be."""
    lock, aside = followed.site.directory / "lock", followed.site.directory / "aside"

    async def story() -> None:
        following = asyncio.ensure_future(followed.watcher.run())
        lock.rename(aside)
        lock.symlink_to(lock)
        await asyncio.wait([following], timeout=0.5)
        assert not following.done()
        lock.unlink()
        aside.rename(lock)
        followed.watcher.track(followed.copy)
        followed.expose()
        async with asyncio.timeout(30):
            await _recorded_as(followed, Phase.OPEN)
        following.cancel()
        await asyncio.wait([following])

    asyncio.run(story())


def test_a_share_that_could_not_be_amended_is_amended_later(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as somebody holds Samba's registry, it cannot be changed."""
    site = followed.site
    net = ["net", f"--configfile={site.config.file}", "conf"]
    run([*net, "setparm", site.copy.exposed_share, "path", site.path], timeout=30)
    registry = tdb.Tdb(f"{site.directory}/state/registry.tdb", 0, tdb.DEFAULT, os.O_RDWR)
    registry.transaction_start()
    seconds, site.samba.seconds = site.samba.seconds, 0.1
    followed.expose()

    async def story() -> None:
        followed.watcher.track(followed.copy)
        following = asyncio.ensure_future(followed.watcher.run())
        async with asyncio.timeout(60):
            while "cannot amend exposed shares" not in caplog.text:
                await asyncio.sleep(0.01)
            site.samba.seconds = seconds
            registry.transaction_cancel()
            registry.close()
            while "durable handles = no" not in await asyncio.to_thread(shown):
                await asyncio.sleep(0.1)
        following.cancel()
        await asyncio.wait([following])

    def shown() -> str:
        return run([*net, "showshare", site.copy.exposed_share], timeout=30)

    asyncio.run(story())


def test_what_was_recovered_is_closed_though_samba_writes_just_then(followed: Followed) -> None:
    """A daemon that starts waits for the file; all else that it has to do may take long."""
    followed.site.store(followed.site.records(SetState.RECOVERED, Context.AUTO_RECOVERY))
    followed.instance.mounts.open(followed.copy.path)
    with open(followed.site.config.fss_state, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        samba = threading.Timer(0.1, fcntl.lockf, [file, fcntl.LOCK_UN])
        samba.start()
        seal.close_recovered(followed.instance)
        samba.join()
    assert not followed.writable


def test_mounting_again_does_not_undo_a_sealing(followed: Followed) -> None:
    """The copy is sealed between the look at its record and the change of it."""

    class Meanwhile(Mounts):
        def opened(self) -> list[str]:
            followed.site.ledger.change(followed.copy, "sealed", phase=Phase.SEALED)
            return super().opened()

    mounts = Meanwhile(followed.site.config.run_directory)
    followed.site.ledger.change(followed.copy, "opened", phase=Phase.OPEN)
    repair.mount_again(replace(followed.instance, mounts=mounts), followed.copy)
    assert followed.recorded().phase is Phase.SEALED


def test_older_news_do_not_take_back_a_recovery(followed: Followed) -> None:
    """They are recorded while the copy is being sealed; after a reboot only the record counts."""
    followed.expose()
    known = fss_state.settled(followed.site.config.fss_state).copies[0]
    followed.site.ledger.change(
        followed.copy, "sealed", phase=Phase.SEALED, state=SetState.RECOVERED
    )
    assert follow.learn(followed.instance, followed.copy, known) is None
    assert followed.recorded().state is SetState.RECOVERED
