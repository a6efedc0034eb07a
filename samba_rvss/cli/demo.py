"""``samba-rvss demo``: the main job, shown on a private Samba and a loop-mounted btrfs.

It can be ended at any moment: a signal takes effect between two steps, so that whatever was begun
is cleared away.
"""

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from samba_rvss.cli import output
from samba_rvss.cli.common import Verbs
from samba_rvss.cli.record import Record
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import tool

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOG_LINES = 20


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "demo",
        help="show the main job on a private Samba and a private btrfs",
        description="Make a btrfs in a file and start an smbd of its own on a loopback address."
        " Then, as a Backup Operator, back up a virtual disk that is being written to: take a"
        " shadow copy, recover it over SMB, seal it, read it, delete it. Each step and each"
        " expectation is shown; the exit status is 1 if one of them was not met. Everything is"
        " cleared away in the end; the machine's own Samba is not touched.",
    )
    verb.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where to put the file system's file; all users must be able to walk there"
        " (default: a directory for temporary files)",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run)


class _Interrupted(Exception):
    """A signal has asked for the end."""


class _Signals:
    """A context manager: signals are noted, raised where `look` is called, and passed on.

    Attributes:
        number: of the last signal, or 0.
        heir: a pidfd of the process that they are for, or -1.
    """

    def __init__(self) -> None:
        self.number = 0
        self.heir = -1

    def __enter__(self) -> Self:
        self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def look(self) -> None:
        """Raise _Interrupted if there was a signal."""
        if self.number:
            raise _Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.hand_on()

    def hand_on(self) -> None:
        """Send the last signal to the heir."""
        if self.number and self.heir >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.heir, self.number)


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration in a session of its own, and pass signals on to it.

    A terminal's Ctrl-C reaches all of the foreground: it would end the very programs that clear
    away, and samba-rvss before its Samba.
    """
    with _Signals() as signals:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.setsid()
            return _run(arguments, signals)
        signals.heir = os.pidfd_open(child)
        try:
            signals.hand_on()
            _, status = os.waitpid(child, 0)
        finally:
            os.close(signals.heir)
            signals.heir = -1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run(arguments: argparse.Namespace, signals: _Signals) -> int:
    # python-samba and the rigs are needed here only.
    from samba_rvss.cli.demonstration import TOOLS, perform

    for name in TOOLS:
        tool(name)
    parent = _walkable(arguments.directory or Path(tempfile.gettempdir()))
    started = time.monotonic()
    failure: RvssError | None = None
    record = Record(progress=_progress, look=signals.look)
    try:
        perform(record, parent)
    except _Interrupted:
        name = signal.Signals(signals.number).name
        print(f"samba-rvss: ended by {name}; everything is cleared away", file=sys.stderr)
        return 128 + signals.number
    except RvssError as exc:
        failure = exc
    unmet = [check.name for check in record.checks if not check.ok]
    if failure is None and unmet:
        failure = RvssError(
            Problem.INTERNAL, f"not as expected: {'; '.join(unmet)}", "report this defect"
        )
    _show(record, time.monotonic() - started, failure, as_json=arguments.json)
    if failure is not None:
        raise failure
    return 0


def _show(record: Record, seconds: float, failure: RvssError | None, *, as_json: bool) -> None:
    for name, text in record.logs.items():
        print(f"the end of {name}'s log:", file=sys.stderr)
        for line in text.splitlines()[-_LOG_LINES:]:
            print(f"    {line}", file=sys.stderr)
    if as_json:
        output.print_json(
            {
                "ok": failure is None,
                "error": failure.line() if failure else "",
                "seconds": round(seconds, 3),
                "stages": [dataclasses.asdict(stage) for stage in record.stages],
                "checks": [dataclasses.asdict(check) for check in record.checks],
            }
        )
        return
    output.print_table(
        ["STEP", "MS", "SEEN"],
        [[stage.name, f"{stage.milliseconds:.1f}", stage.saw] for stage in record.stages],
        "Nothing could be done.",
    )
    print()
    output.print_table(
        ["EXPECTATION", "MET", "FOUND"],
        [[check.name, "yes" if check.ok else "NO", check.found] for check in record.checks],
        "Nothing could be checked.",
    )
    met = sum(check.ok for check in record.checks)
    print(f"\n{met} of {len(record.checks)} expectations are met; it took {seconds:.1f} s.")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _walkable(directory: Path) -> Path:
    """Return the directory if Samba can follow a client's user into it.

    Raises:
        RvssError: USAGE naming the directory that is closed.
    """
    path = directory.resolve()
    if not path.is_dir():
        raise RvssError(Problem.USAGE, f"{path} is not a directory")
    for part in (path, *path.parents):
        if not os.stat(part).st_mode & 0o001:
            raise RvssError(
                Problem.USAGE,
                f"not all users can walk into {part}",
                "name another directory with --directory",
            )
    return path
