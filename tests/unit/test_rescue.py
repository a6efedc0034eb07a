"""Who counts as somebody that a worker keeps waiting: whose share may have a shadow copy."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from samba_rvss.daemon.rescue import Rescue
from samba_rvss.daemon.stuck import Asker
from samba_rvss.daemon.tasks import Threads
from samba_rvss.kernel.priority import nice, prefer
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


@pytest.fixture
def rescue(site: Site) -> Rescue:
    return Rescue(site.instance, lambda: None)


def test_who_is_refused_begins_no_set(rescue: Rescue) -> None:
    knocks = []
    for verb, good in (("check", False), ("check", True), ("create", True), ("check", False)):
        rescue.begins()
        knocks.append(rescue.knocks)  # not before it has its answer
        rescue.ends(verb, Asker(uid=1, path="/srv/vms"), good=good and verb == "check")
        knocks.append(rescue.knocks)
    assert knocks == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.require("root")
def test_who_looks_is_preferred_as_all_that_hold_the_interpreter(
    site: Site, rescue: Rescue
) -> None:
    """The event loop waits for whoever holds it, and a copy may be due to be opened."""
    found: list[int] = []

    async def look() -> None:
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(Threads())

        def heard(_: str) -> None:
            found.append(nice())
            loop.call_soon_threadsafe(seen.set)

        site.ledger._file._database.set_trace_callback(heard)
        task = asyncio.ensure_future(rescue.run())
        rescue.begins()
        rescue.ends("create", Asker(uid=1, path="/srv/vms"), good=False)
        async with asyncio.timeout(60):
            await seen.wait()
        task.cancel()
        await asyncio.wait({task})

    def work() -> None:
        prefer()
        asyncio.run(look())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found
    assert set(found) == {min(-10, nice())}
