"""Running the demonstration: each step is printed as it happens, all that was found in the end.

Place: what ``samba-rvss demo`` calls. It can be ended at any moment; everything is cleared away.
"""

import dataclasses
import os
import signal
import tempfile
import time
from pathlib import Path

from samba_rvss import output
from samba_rvss.demo.reporter import Reporter
from samba_rvss.demo.session import Interrupted, Signals, in_session
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import tool

_LOG_LINES = 20


def run(directory: Path | None, *, as_json: bool) -> int:
    """Run the demonstration and print what was found; return the exit status.

    Args:
        directory: where to put the file system's file; a directory for temporary files if None.
        as_json: print JSON instead of tables.

    Raises:
        RvssError: what a step failed with; INTERNAL if an expectation was not met.
    """
    return in_session(lambda signals: _run(directory, signals, as_json=as_json))


def _run(directory: Path | None, signals: Signals, *, as_json: bool) -> int:
    # python-samba and the rigs are needed here only.
    from samba_rvss.demo.stage import TOOLS, perform

    for name in TOOLS:
        tool(name)
    parent = _walkable(directory or Path(tempfile.gettempdir()))
    started = time.monotonic()
    failure: RvssError | None = None
    reporter = Reporter(progress=_progress, look=signals.look)
    try:
        perform(reporter, parent)
    except Interrupted:
        name = signal.Signals(signals.number).name
        output.print_error(f"ended by {name}; everything is cleared away")
        return 128 + signals.number
    except RvssError as exc:
        failure = exc
    unmet = [check.name for check in reporter.checks if not check.ok]
    if failure is None and unmet:
        failure = RvssError(
            Problem.INTERNAL, f"not as expected: {'; '.join(unmet)}", "report this defect"
        )
    _show(reporter, time.monotonic() - started, failure, as_json=as_json)
    if failure is not None:
        raise failure
    return 0


def _show(reporter: Reporter, seconds: float, failure: RvssError | None, *, as_json: bool) -> None:
    for name, text in reporter.logs.items():
        output.print_error(f"the end of {name}'s log:", prefix="")
        for line in text.splitlines()[-_LOG_LINES:]:
            output.print_error(line, prefix="    ")
    if as_json:
        output.print_json(as_data(reporter, seconds, failure))
        return
    output.print_table(
        ["STEP", "MS", "SEEN"],
        [[step.name, f"{step.milliseconds:.1f}", step.saw] for step in reporter.steps],
        "Nothing could be done.",
    )
    output.print_line()
    output.print_table(
        ["EXPECTATION", "MET", "FOUND"],
        [[check.name, "yes" if check.ok else "NO", check.found] for check in reporter.checks],
        "Nothing could be checked.",
    )
    met = sum(check.ok for check in reporter.checks)
    output.print_line()
    output.print_line(
        f"{met} of {len(reporter.checks)} expectations are met; it took {seconds:.1f} s."
    )


def as_data(reporter: Reporter, seconds: float, failure: RvssError | None) -> dict[str, object]:
    """Return what was found as JSON has it.

    Args:
        reporter: what has noted it.
        seconds: how long it took.
        failure: what it failed with.
    """
    return {
        "ok": failure is None,
        "error": failure.line() if failure else "",
        "seconds": round(seconds, 3),
        "stages": [dataclasses.asdict(step) for step in reporter.steps],
        "checks": [dataclasses.asdict(check) for check in reporter.checks],
    }


def _progress(line: str) -> None:
    output.print_error(line, prefix="")


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
