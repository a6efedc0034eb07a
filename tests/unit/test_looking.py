"""What people see of shadow copies: what each waits for, who is connected, and all of it live."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss import cli, output
from samba_rvss.cli import rows, standing, status
from samba_rvss.cli.waiting import waits_for
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Moment, Phase, SetState
from samba_rvss.run import environment
from samba_rvss.samba import control
from tests.unit.test_healing_commands import COPY, looked, seen
from tests.unit.values import CONFIG, COPY_ID, SET, copy_of, share_of

if TYPE_CHECKING:
    from tests.unit.conftest import Resting

ROOT = Path(__file__).parents[2]
PRESENT = Moment(boot="b", seconds=1100.0)
SINCE = Moment(boot="b", seconds=1000.0)


@pytest.mark.parametrize(
    ("phase", "values", "said", "waits"),
    [
        (Phase.CREATING, {}, "", "its image"),
        (Phase.TAKEN, {}, "", "its client's Commit"),
        (
            Phase.OPEN,
            {"state": SetState.COMMITTED},
            "",
            "its client to expose it, 3 min left",
        ),
        (Phase.OPEN, {"state": SetState.EXPOSED}, "", "RecoveryComplete, 28 min left"),
        (Phase.OPEN, {"state": SetState.RECOVERED}, "", "its seal"),
        (Phase.SEALING, {}, "no room", "its seal: no room"),
        (Phase.SEALED, {"set_id": SET}, "", "its client to delete it, 2 d 23 h left"),
        (
            Phase.SEALED,
            {"set_id": SET, "context": Context.NO_AUTO_RELEASE},
            "",
            "whoever deletes it",
        ),
        (Phase.SEALED, {"set_id": SET, "adopted": True}, "", "whoever deletes it"),
        (Phase.SEALED, {"set_id": SET, "since": Moment(boot="c", seconds=1e6)}, "", "2 d"),
        (Phase.DELETING, {}, "a clone", "its image to go: a clone"),
        (Phase.OPEN, {"ended": True, "state": SetState.RECOVERED}, "", "its seal"),
        (Phase.KEPT, {}, "", ""),
        (Phase.GONE, {}, "", ""),
    ],
)
def test_what_a_copy_waits_for(phase: Phase, values: dict[str, Any], said: str, waits: str) -> None:
    copy = replace(copy_of("x", phase, since=SINCE), **values)
    assert waits in waits_for(copy, CONFIG, PRESENT, 3600.0, said)
    assert bool(waits) == bool(waits_for(copy, CONFIG, PRESENT, 3600.0, said))


def test_what_is_overdue() -> None:
    copy = replace(copy_of("x", Phase.OPEN, since=SINCE), state=SetState.EXPOSED)
    late = replace(PRESENT, seconds=1e5)
    assert waits_for(copy, CONFIG, late, 1e5, "") == "RecoveryComplete, overdue"


def test_who_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    told = """{"tcons": {
        "1": {"service": "vms@{%s}", "machine": "10.0.0.1"},
        "2": {"service": "vms@{%s}", "machine": "10.0.0.2"},
        "3": {"service": "vms@{%s}", "machine": "10.0.0.1"},
        "4": {"service": "vms", "machine": "10.0.0.3"}
    }}"""
    said = told % (COPY_ID, COPY_ID, COPY_ID)
    monkeypatch.setattr(control, "run", lambda argv, timeout: said)
    clients = rows.Clients(CONFIG)
    assert clients.of(share_of(COPY_ID)) == "10.0.0.1, 10.0.0.2"
    assert clients.of("vms@{another}") == "nobody"
    assert clients.of("") == "-"
    assert clients.to([share_of(COPY_ID), ""]) == "2 clients to 1 of them"
    assert clients.to([]) == "nobody"
    monkeypatch.setattr(control, "run", lambda argv, timeout: "no JSON")
    assert rows.Clients(CONFIG).of("vms") == "not known"


def test_status_tells_of_what_is_not_sealed(capsys: pytest.CaptureFixture[str]) -> None:
    copy = replace(COPY, phase=Phase.OPEN, state=SetState.EXPOSED, exposed_share="")
    there = looked(seen(copy))
    status.show(there, standing.standing(there, {}), 1, {})
    shown = capsys.readouterr().out
    assert "not sealed: 1\n" in shown
    assert f"{COPY.id} [VMs] open, 2 h 0 min old, connected: -, waits for RecoveryComplete" in shown
    assert "2 h 0 min ago\n" in shown
    assert re.search(r"^connected +nobody$", shown, re.M)
    assert re.search(r"^smbd +does not run$", shown, re.M)


# at a terminal


class Terminal:
    """The other end of a terminal on which a command runs."""

    def __init__(self, fd: int, process: "subprocess.Popen[bytes]") -> None:
        self._fd = fd
        self._data = b""
        self.process = process
        self.shown = ""

    def read(self, wanted: str = "") -> str:
        """Read until something is shown; without a word, to the end."""
        while not wanted or wanted not in self.shown:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                assert not wanted, self.shown
                break
            self._data += data
            self.shown = self._data.decode(errors="ignore")  # it may end within a letter
        return self.shown

    def key(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._fd, key)


@contextmanager
def _at_terminal(resting: "Resting", *words: str, columns: int = 140) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    argv = [sys.executable, "-m", "samba_rvss", "-s", str(resting.configuration), *words]
    with subprocess.Popen(
        argv,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env=environment({"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}),
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(ours, process)
        finally:
            process.kill()
            os.close(ours)


_ORDER = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.require("root", "smbd")
def test_list_at_a_terminal_and_in_a_pipe(
    resting: "Resting", capsys: pytest.CaptureFixture[str]
) -> None:
    with _at_terminal(resting, "list", columns=80) as terminal:
        shown = terminal.read()
    assert "\x1b[32msealed\x1b[0m" in shown
    plain = _ORDER.sub("", shown).splitlines()
    assert plain[0].split() == ["ID", "SHARE", "AGE", "PHASE", "CONNECTED", "WAITS", "FOR"]
    assert plain[1].startswith(f"{resting.copy}  vms ")
    assert max(map(len, plain)) <= 80
    assert "whoever" in shown
    assert cli.main(["-s", str(resting.configuration), "list"]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split("\t") == [
        *("ID", "SHARE", "TAKEN", "PHASE", "PATH", "CONNECTED", "WAITS FOR")
    ]
    assert line.split("\t")[3:] == [
        *("sealed", f"/run/samba-rvss/exposed/vms/{resting.copy}", "-", "whoever deletes it")
    ]


@pytest.mark.require("root", "smbd")
def test_backups_at_a_terminal(resting: "Resting", capsys: pytest.CaptureFixture[str]) -> None:
    """A line each: no column of which nothing is to be told, and no time beside the age."""
    with _at_terminal(resting, "backup", "list", columns=80) as terminal:
        shown = terminal.read()
    heading, line = _ORDER.sub("", shown).splitlines()
    assert heading.split() == ["ID", "SHARES", "CONSISTENT", "TAGS", "AGE"]  # "not seen"
    assert line.startswith(f"{resting.kept}  vms ")
    assert cli.main(["-s", str(resting.configuration), "backup", "list"]) == 0
    heading, _ = capsys.readouterr().out.splitlines()
    assert heading.split("\t") == [
        *(
            "ID",
            "TAKEN",
            "SHARES",
            "CONSISTENT",
            "HELD",
            "TAGS",
            "VERIFIED",
            "DISKS",
            "AGE",
            "SIZE",
            "EXPOSED",
            "RUN",
        )
    ]


@pytest.mark.require("root", "smbd")
def test_shares_at_a_terminal(resting: "Resting") -> None:
    """What nothing is known of leaves its room to the reason."""
    with _at_terminal(resting, "shares", columns=80) as terminal:
        shown = terminal.read()
    assert _ORDER.sub("", shown).split("\r\n")[0].split() == [
        *("SHARE", "STATE", "PATH", "WHY", "NOT")
    ]


@pytest.mark.require("root", "smbd")
def test_watch_shows_what_happens_and_ends_clean(resting: "Resting") -> None:
    with _at_terminal(resting, "watch", "--interval", "0.1") as terminal:
        terminal.read("the daemon does not run; 1 sealed")
        terminal.read(resting.copy)
        with closing(Ledger(resting.ledger)) as ledger:
            for number in range(50):
                ledger.add(replace(copy_of(f"new-{number}", Phase.OPEN), share="vms"), "create")
        terminal.read("and 44 more")
        terminal.key(b"\x03")
        end = terminal.read()
        assert terminal.process.wait() == 0
    assert "Traceback" not in end
    assert "interrupted" not in end
    # The screen from before is shown again, and the cursor.
    assert end.rindex("\x1b[?1049l") > end.rindex("new-49"[:4])
    assert end.rindex("\x1b[?25h") > end.rindex("\x1b[?25l")


@pytest.mark.require("root", "smbd")
def test_watch_in_a_pipe_ends_after_its_looks(
    resting: "Resting", capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    words = ["-s", str(resting.configuration), "watch", "--interval", "0.1", "--count", "2"]
    try:
        assert cli.main(words) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"{resting.copy}\tvms\t") for line in lines) == 2
    assert lines.count("the daemon does not run; 1 sealed") == 2
    assert "\x1b" not in "".join(lines)


def test_progress_is_told_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    shown = ""
    with open(ours, "rb", buffering=0) as terminal, open(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with output.progress("looking", after=0.0):
            while not re.search(r"looking \(\d+ s\)", shown):
                shown += terminal.read(1024).decode()
            output.print_error("something", prefix="")
        while not ("something" in shown and shown.endswith("\r\x1b[K")):
            shown += terminal.read(1024).decode()
        assert "\r\x1b[Ksomething\r\n" in shown
        monkeypatch.setenv("TERM", "dumb")
        with output.progress("looking", after=0.0):
            pass
        assert select.select([terminal], [], [], 0)[0] == []
