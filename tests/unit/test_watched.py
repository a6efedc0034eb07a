"""systemd hears from the daemon as long as its event loop runs, and where it wants to."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from samba_rvss.daemon.manager import tell
from samba_rvss.daemon.service import be_watched

UNIT = Path(__file__).parents[2] / "systemd" / "samba-rvss.service"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd is for a service: a socket that it tells the name of."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
        heard.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield heard


def messages(manager: socket.socket) -> list[bytes]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(manager.recv(100))
    return found


async def _until(manager: socket.socket, count: int) -> None:
    """Run until so many messages have come; then block the loop, in which none comes."""
    watched = asyncio.ensure_future(be_watched())
    found: list[bytes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            await asyncio.sleep(0.01)
            found += messages(manager)
    assert found[0] == b"READY=1"
    assert set(found[1:]) == {b"WATCHDOG=1"}
    time.sleep(0.2)  # a loop that does not run
    assert messages(manager) == []
    watched.cancel()
    with suppress(asyncio.CancelledError):
        await watched


def test_it_is_told_while_the_loop_runs(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    asyncio.run(_until(manager, 3))


@pytest.mark.parametrize(
    ("microseconds", "pid"), [(None, None), ("0", None), ("20000", "1"), ("soon", None)]
)
def test_it_is_not_told_unasked(
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    pid: str | None,
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    async def wait() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await be_watched()
                pytest.fail("it has ended, and the daemon with it")

    asyncio.run(wait())
    assert messages(manager) == [b"READY=1"]


@pytest.mark.parametrize("abstract", [False, True])
def test_nobody_waits_for_a_manager_that_stands_still(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    abstract: bool,  # noqa: FBT001 - pytest has no keywords
) -> None:
    name = "@samba-rvss-" + tmp_path.name if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not tell("READY=1")  # nobody is there yet
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
        heard.bind(name.replace("@", "\0"))
        count = 0
        while tell("WATCHDOG=1"):
            count += 1
        assert count
        assert len(messages(heard)) == count
        assert tell("READY=1")
        assert messages(heard) == [b"READY=1"]


def test_the_unit_asks_for_it() -> None:
    assert re.search(r"^WatchdogSec=\S+$", UNIT.read_text(), re.M)
