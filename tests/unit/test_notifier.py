"""The notifier: a real program is told, once at a time, and whatever it does harms nobody."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.daemon import notifier as module
from samba_rvss.daemon.news import WRONG, Judge, News, nothing_wrong
from samba_rvss.daemon.notifier import Notifier
from samba_rvss.daemon.present import Present
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase
from samba_rvss.samba import conf
from tests.unit.site import Site, with_samba

pytestmark = pytest.mark.require("root")

_SECONDS = 30.0
_TELL = 'env -0 > "$0.new.$$"; mv "$0.new.$$" "$0.told.$$"\n'


def two_wrong(configfile: str) -> tuple[tuple[News, ...], bool]:
    """Judge that two things are."""
    return tuple(News(event=WRONG, reason=reason) for reason in ("this", "that")), True


class Office:
    """An instance, and a program that writes down what it is told."""

    def __init__(self, site: Site, script: str = "") -> None:
        self.site = site
        self.program = site.directory / "tell"
        self.write(script + _TELL)
        file = Path(site.config.file)
        file.write_text(f"{file.read_text()}    rvss:notify command = {self.program} 'two words'\n")

    def write(self, script: str) -> None:
        """Write the program."""
        self.program.write_text(f"#!/bin/sh\n{script}")
        self.program.chmod(0o700)

    def told(self) -> list[dict[str, str]]:
        """Return what it was told, in order."""
        files = sorted(self.site.directory.glob("tell.told.*"), key=lambda f: f.stat().st_mtime_ns)
        texts = (file.read_bytes().decode().rstrip("\0").split("\0") for file in files)
        return [dict(line.split("=", 1) for line in text) for text in texts]

    @asynccontextmanager
    async def notifier(self, judge: Judge = nothing_wrong) -> AsyncIterator[Notifier]:
        """Have it told."""
        samba, file = self.site.samba, self.site.config.file
        config = await asyncio.to_thread(samba.call, conf.load, file)
        instance = replace(self.site.instance(), config=config)
        made = Notifier(Present(instance, file, samba, conf.signature(config)), file, judge)
        running = asyncio.ensure_future(made.run())
        try:
            yield made
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def wait(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + _SECONDS
        while not what():
            assert time.monotonic() < deadline, self.told()
            await asyncio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with with_samba(tmp_path) as made:
        yield made


def test_what_happens_to_a_copy(site: Site) -> None:
    office, copy = Office(site), replace(site.copy, phase=Phase.OPEN)

    async def play() -> None:
        async with office.notifier():
            site.ledger.add(copy, "create")
            site.ledger.note(copy, "aborted", detail="its client $(vanished)\n'quietly'")
            site.ledger.note(replace(copy, id="b"), "aborted", detail="as well")
            site.ledger.note_share("VMs", "not taken", detail="no room")
            site.ledger.note_share("VMs", "not taken", detail="no room, still")
            site.ledger.note(copy, "lost", detail="its image has vanished")
            site.ledger.note(copy, "held", detail="nobody's trouble")
            await office.wait(lambda: len(office.told()) == 3)
            await asyncio.sleep(0.3)

    asyncio.run(play())
    abort, failure, lost = office.told()
    assert {name: text for name, text in abort.items() if name.startswith("RVSS_")} == {
        "RVSS_EVENT": "abort",
        "RVSS_REASON": r"its client $(vanished)\n'quietly'",
        "RVSS_SHARE": copy.share,
        "RVSS_PATH": copy.share_path,
        "RVSS_COPY": copy.id,
        "RVSS_SET": copy.set_id,
        "RVSS_SAMBA_COPY": copy.copy_id,
        "RVSS_CONFIG": site.config.file,
        "RVSS_DROPPED": "0",
    }
    ours = {"PATH", "LC_ALL", "LANG", "PWD", "_", "OLDPWD", "SHLVL"}  # the shell adds the last ones
    assert {name for name in abort if not name.startswith("RVSS_")} <= ours
    assert (failure["RVSS_EVENT"], failure["RVSS_REASON"]) == ("failure", "not taken: no room")
    assert (lost["RVSS_EVENT"], lost["RVSS_COPY"]) == ("failure", copy.id)


def test_what_is_wrong_is_told_once_also_after_a_restart(site: Site) -> None:
    office = Office(site)

    def remembered() -> bool:
        file = Path(site.config.notified)
        return file.exists() and all(said in file.read_text() for said in ("this", "that"))

    async def play() -> None:
        for _ in range(2):
            async with office.notifier(two_wrong):
                await office.wait(lambda: len(office.told()) >= 2)
                await office.wait(remembered)
                await asyncio.sleep(0.5)

    asyncio.run(play())
    assert sorted(told["RVSS_REASON"] for told in office.told()) == ["that", "this"]


def test_a_slow_one_is_killed_with_its_children_and_the_rest_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 3.0)
    script = 'if [ "$RVSS_REASON" = slow ]; then sleep 987 & echo $! > "$0.pid"; wait; fi\n'
    office = Office(site, script)

    async def play() -> None:
        async with office.notifier() as notifier:
            site.ledger.note(replace(site.copy, set_id="1"), "aborted", detail="slow")
            await office.wait(lambda: "did not end" in "".join(notifier.wrong))
            monkeypatch.setattr(module, "_SECONDS", _SECONDS)
            site.ledger.note(replace(site.copy, set_id="2"), "aborted", detail="quick")
            await office.wait(lambda: len(office.told()) == 1)
            await office.wait(lambda: not notifier.wrong)

    asyncio.run(play())
    assert [told["RVSS_REASON"] for told in office.told()] == ["quick"]
    child = Path("/proc", Path(f"{office.program}.pid").read_text().strip(), "cmdline")
    assert not child.exists() or not child.read_text()  # not reaped yet


def test_what_is_too_much_is_dropped_and_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    office = Office(site, f'while [ ! -e "{site.directory}/go" ]; do sleep 0.02; done\n')

    async def play() -> None:
        async with office.notifier() as notifier:
            for number in range(10):
                site.ledger.note(replace(site.copy, set_id=str(number)), "aborted")
            await office.wait(lambda: any("6 notifications were lost" in w for w in notifier.wrong))
            (site.directory / "go").touch()
            await office.wait(lambda: len(office.told()) == 4)
            await office.wait(lambda: not notifier.wrong)

    asyncio.run(play())
    assert "6" in {told["RVSS_DROPPED"] for told in office.told()}


def test_trying_it_out(site: Site) -> None:
    office = Office(site)

    async def play() -> None:
        async with office.notifier() as notifier:
            assert f"{office.program} was told" in await notifier.try_out()
            (told,) = office.told()
            assert told["RVSS_EVENT"] == "test"
            office.write("echo 'no such mailbox' >&2; exit 7")
            with pytest.raises(RvssError, match="status 7 and said: no such mailbox") as failed:
                await notifier.try_out()
            assert failed.value.problem is Problem.TOOL
            (line,) = notifier.wrong
            assert "fails: " in line
            office.program.chmod(0o722)
            with pytest.raises(RvssError, match="others than root may write") as failed:
                await notifier.try_out()
            assert failed.value.problem is Problem.REFUSED
            # Whoever takes it out of smb.conf is told no more of it.
            Path(site.config.file).write_text(
                "\n".join(
                    line
                    for line in Path(site.config.file).read_text().splitlines()
                    if "notify" not in line
                )
            )
            with pytest.raises(RvssError, match="is not set") as failed:
                await notifier.try_out()
            assert (failed.value.problem, notifier.wrong) == (Problem.CONFIG, ())

    asyncio.run(play())
