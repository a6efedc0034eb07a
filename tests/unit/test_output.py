"""What is printed and logged: lines that nobody can forge, in any locale, whatever a name holds."""

import ast
import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from systemd.journal import JournalHandler

import samba_rvss
from samba_rvss import output
from samba_rvss.cli.daemon import log_to_journal_or_stderr
from samba_rvss.errors import Problem, RvssError
from samba_rvss.text import printable

LOGGER = logging.getLogger("samba_rvss.tests.output")
PACKAGE = Path(samba_rvss.__file__).parent

# The end of a line and a line of the log, a terminal's orders, writing from right to left, the
# separators that Python and Unicode know, a byte that is not UTF-8, a surrogate that is no byte.
FORGED = "a\n2026-01-01 00:00:00,000 error all is lost\r\x1b[2J\x9b1m\u202e\u2028\x85\udcff\ud800"
ESCAPED = r"a\n2026-01-01 00:00:00,000 error all is lost\r\x1b[2J\x9b1m\u202e\u2028\x85\udcff\ud800"
NAMES = "Архив ü 目录 €"


@given(st.text() | st.binary().map(os.fsdecode), st.sampled_from(["utf-8", "ascii", "koi8-r"]))
def test_a_printable_text_is_one_line_that_can_be_encoded(text: str, encoding: str) -> None:
    shown = printable(text, encoding)
    assert shown.encode(encoding).decode(encoding) == shown
    assert shown.isprintable()


def test_what_is_printable_stays() -> None:
    assert printable(NAMES) == NAMES
    assert printable(NAMES, "koi8-r") == r"Архив \xfc \u76ee\u5f55 \u20ac"
    assert printable(FORGED) == ESCAPED


@pytest.fixture
def sent() -> Iterator[list[dict[str, str]]]:
    """Yield what is sent to the journal, with every field, of what `LOGGER` logs."""
    fields: list[dict[str, str]] = []

    def send(text: str, **more: object) -> None:
        fields.append({name: str(value) for name, value in more.items()} | {"MESSAGE": text})

    handler = JournalHandler(sender_function=send)
    handler.setFormatter(output.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    yield fields
    LOGGER.removeHandler(handler)


def test_a_log_line_cannot_be_forged_and_is_not_lost(sent: list[dict[str, str]]) -> None:
    LOGGER.error("%s is in use by %r", FORGED, "b")
    LOGGER.error("cannot: %s", RvssError(Problem.BUSY, FORGED))
    LOGGER.error(FORGED)
    LOGGER.error(RvssError(Problem.BUSY, FORGED))
    assert [fields["MESSAGE"] for fields in sent] == [
        f"{ESCAPED} is in use by 'b'",
        f"cannot: {ESCAPED}",
        ESCAPED,
        ESCAPED,
    ]
    for fields in sent:
        assert all(text.encode().decode().isprintable() for text in fields.values()), fields


def test_a_traceback_is_told_apart_from_lines_of_the_log(sent: list[dict[str, str]]) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        LOGGER.exception("it failed")
    ((first, *lines),) = [fields["MESSAGE"].split("\n") for fields in sent]
    assert first == "it failed"
    assert any("Traceback" in line for line in lines)
    assert all(line.startswith("    ") and line.isprintable() for line in lines)
    assert all(text.encode() for text in sent[0].values() if text)


def test_the_daemons_log_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))
    log_to_journal_or_stderr(debug=False)
    logging.root.error("%s", FORGED)
    assert stream.getvalue().endswith(f" error {ESCAPED}\n")
    assert len(stream.getvalue().splitlines()) == 1


def _written(raw: BinaryIO, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Print one of everything into a stream of an encoding, strict as Python makes them."""
    stream = io.TextIOWrapper(raw, encoding, errors="strict")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        output.prepare()
        output.print_table(["NAME", "PATH"], [[NAMES, FORGED]], "nothing")
        output.print_table(["NAME"], [], NAMES)
        output.print_facts({"name": NAMES, "path": FORGED})
        output.print_line(f"warning: {NAMES}")
        output.print_json({"name": NAMES, "path": FORGED})
        stream.flush()
        stream.detach()


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "koi8-r", "shift_jis"])
def test_everything_can_be_printed_in_any_locale(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    _written(raw, encoding, monkeypatch)
    lines = raw.getvalue().decode(encoding).splitlines()
    assert lines[1] == f"{printable(NAMES, encoding)}\t{printable(FORGED, encoding)}"
    assert json.loads("\n".join(lines[lines.index("{") :])) == {
        "version": output.JSON_VERSION,
        "name": NAMES,
        "path": FORGED,
    }


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_tables_can_be_shown_on_a_terminal_of_any_locale(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def hear() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.append(data)
        except OSError:
            pass  # the other end was closed

    reader = threading.Thread(target=hear)
    reader.start()
    with open(theirs, "wb") as raw:
        _written(raw, encoding, monkeypatch)
    reader.join()
    os.close(ours)
    assert printable(NAMES, encoding) in b"".join(shown).decode(encoding)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    ],
)
@pytest.mark.require("root")
def test_the_command_speaks_in_any_locale(environment: dict[str, str], tmp_path: Path) -> None:
    """Its own sentences with a file name in them, and help; the exit status is the problem's."""
    name = os.fsencode(tmp_path / NAMES) + b"\xff\n\x1b"
    words = [*map(os.fsencode, (sys.executable, "-m", "samba_rvss", "-s")), name, b"shares"]
    done = subprocess.run(
        words,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), **environment},
        cwd="/",
        capture_output=True,
        check=False,
    )
    line = done.stderr.decode("ascii" if "PYTHONIOENCODING" in environment else "utf-8")
    assert done.returncode == Problem.CONFIG, line
    assert line.startswith("samba-rvss: cannot read ")
    assert line.endswith("\\udcff\\n\\x1b, which does not exist: name another file with -s\n")
    assert len(line.splitlines()) == 1


def test_a_terminal_that_does_not_know_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal, open(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output.print_hanging("head: ", "word " * 30 + "end")
        monkeypatch.undo()
        stream.flush()
        shown = b""
        while not shown.endswith(b"end\r\n"):
            shown += terminal.read(1024)
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) > 70
    assert lines[1].startswith("      word")


def test_sizes() -> None:
    shown = [output.size(count) for count in (None, 0, 1023, 1024, 3 << 19, 5 << 40)]
    assert shown == ["not known", "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 TiB"]


def test_nothing_is_printed_past_the_one_door() -> None:
    """The rigs and the hook, which imports nothing of ours, have no other."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("output.py", "hook.py", "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "print" or name.startswith(("sys.stdout.write", "sys.stderr.write")):
                    found.append(f"{path}:{node.lineno}")
    assert found == []
