"""What the journal is told beside the text of a message, and what its catalog says of it."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.cli.repeats import Repeats
from samba_rvss.daemon import journal
from samba_rvss.daemon.journal import Message
from samba_rvss.model import Phase, SetState
from samba_rvss.reconcile.decision import DeleteSet, Destroy, Seal
from samba_rvss.run import environment
from tests.unit.values import COPY_ID, SET, copy_of, image_of

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "packaging" / "samba-rvss.catalog"
COPY = replace(copy_of("x", Phase.SEALED), set_id=SET, copy_id=COPY_ID)
ABOUT_COPY = {
    "RVSS_SHARE": "VMs",
    "RVSS_COPY": "x",
    "RVSS_SAMBA_COPY": COPY_ID,
    "RVSS_SET": SET,
}

# Has the journal's place for itself, sends one message as the daemon does, and prints the entry.
_SEND = """
import logging, os, socket, sys
os.makedirs("/run/systemd/journal", exist_ok=True)
place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
place.bind("/run/systemd/journal/socket")
from dataclasses import replace
from samba_rvss.cli.daemon import log_to_journal_or_stderr
from samba_rvss.daemon import journal
from tests.unit.values import copy_of
log_to_journal_or_stderr(debug=False)
copy = replace(copy_of("x"), share="a\\nRVSS_COPY=forged\\udcff")
about = journal.fields(journal.Message.NOT_SEALED, copy=copy, client=1000)
logging.getLogger("samba_rvss").error("%s is not sealed", copy.title, extra=about)
sys.stdout.buffer.write(place.recv(65536))
"""


@pytest.mark.require("root")
def test_fields_reach_the_journal_and_cannot_be_forged(tmp_path: Path) -> None:
    inner = 'mount -t tmpfs none /run && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inner, "sh", sys.executable, "-c", _SEND],
        env=environment({"PYTHONPATH": str(ROOT), "JOURNAL_STREAM": "1:1"}),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    told = dict(line.split("=", 1) for line in lines if line.split("=", 1)[0].isupper())
    share = r"a\nRVSS_COPY=forged\udcff"
    assert told["MESSAGE"] == f"[{share}] x is not sealed"
    assert told["MESSAGE_ID"] == Message.NOT_SEALED.value
    assert told["SYSLOG_IDENTIFIER"] == "samba-rvss"
    assert (told["RVSS_SHARE"], told["RVSS_COPY"], told["RVSS_CLIENT"]) == (share, "x", "1000")
    assert not {"RVSS_SET", "RVSS_SAMBA_COPY"} & told.keys()


def test_what_a_message_is_about() -> None:
    id_of = {"MESSAGE_ID": Message.RECONCILED.value}
    assert journal.fields(copy=COPY) == ABOUT_COPY
    assert journal.fields(share="vms", client=0) == {"RVSS_SHARE": "vms", "RVSS_CLIENT": "0"}
    seal = Seal(copy=COPY, reason="why")
    assert journal.of_action(Message.RECONCILED, seal) == {**id_of, **ABOUT_COPY}
    destroy = Destroy(image=image_of("y"), reason="why")
    about = {"RVSS_SHARE": "VMs", "RVSS_COPY": "y"}
    assert journal.of_action(Message.RECONCILED, destroy) == {**id_of, **about}
    of_set = DeleteSet(set_id=SET, state=SetState.COMMITTED, reason="why")
    assert journal.of_action(Message.RECONCILED, of_set) == {**id_of, "RVSS_SET": SET}


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Yield what a logger passes on that holds back what comes again and again."""
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler()
    logger = logging.getLogger("samba_rvss.test_journal")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_what_was_held_back_is_about_the_same(logged: list[logging.LogRecord]) -> None:
    repeats = Repeats(clock=lambda: 0.0)
    logger = logging.getLogger("samba_rvss.test_journal")
    logger.handlers[0].addFilter(repeats)
    for _ in range(3):
        logger.error("no", extra=journal.fields(Message.NOT_SEALED, copy=COPY))
    repeats.tell()
    assert [record.getMessage() for record in logged] == ["no", "no (2 more, the last 0 s ago)"]
    for record in logged:
        assert record.__dict__["MESSAGE_ID"] == Message.NOT_SEALED.value
        assert record.__dict__["RVSS_COPY"] == "x"


def test_each_message_is_in_the_catalog_and_sent() -> None:
    text = CATALOG.read_text()
    assert re.findall(r"^-- (\w+)$", text, re.M) == [message.value for message in Message]
    package = ROOT / "samba_rvss"
    source = "".join(path.read_text() for path in package.rglob("*.py"))
    for message in Message:
        assert f"journal.Message.{message.name}" in source, message
    known = {*ABOUT_COPY, "RVSS_CLIENT"}
    assert set(re.findall(r"@(\w+)@", text)) <= known
    for entry in re.split(r"^-- ", text, flags=re.M)[1:]:
        head, body = entry.split("\n\n", 1)
        assert [line.split(": ")[0] for line in head.splitlines()[1:]] == [
            "Subject",
            "Defined-By",
            "Documentation",
        ]
        assert body.strip()


@pytest.mark.require("journalctl")
def test_systemd_takes_the_catalog(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (place / CATALOG.name).write_text(CATALOG.read_text())
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    done = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--update-catalog"],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "var/lib/systemd/catalog/database").stat().st_size > 0
    assert CATALOG.name in done.stderr
