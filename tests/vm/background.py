"""Test machines that work while the host's tests run.

Place: above `machine` and `reporter`; for tests/vm/conftest.py. Contract: a machine is
a process of its own that ends when we do, however we end, and it runs at a lower priority, so that
the host's tests keep their time. `start` returns when it runs: a test sees none of its processes,
files and mounts come.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from samba_rvss.run import tool
from tests.vm import machine, reporter

SECONDS = "seconds in the test machine"  # a property of a test's report
# Where a session keeps what is to run in machines, with its seconds, and how many are left out.
CHOSEN = pytest.StashKey[dict[str, float]]()
LEFT_OUT = pytest.StashKey[int]()
_LAST_SECONDS = 120.0  # of a machine's life, for its start and for the results
_NICENESS = 10
_SHOWN_LINES = 60


@dataclass(kw_only=True)
class Background:
    """Tests in a test machine, and what becomes of them.

    Attributes:
        nodes: what was to run.
        directory: for what comes out of the machine.
        process: the machine.
    """

    nodes: Sequence[str]
    directory: Path
    process: "subprocess.Popen[bytes]"
    _reports: dict[str, list[reporter.Report]] | None = None
    _told: bool = False

    @property
    def log(self) -> Path:
        """Where the machine's output is, while it runs too."""
        return log(self.directory)

    def reports(self, node: str) -> list[reporter.Report]:
        """Return what a test came to, all phases of it or none; wait for it."""
        if self._reports is None:
            self.process.wait()
            try:
                content = (self.directory / "results" / reporter.FILE).read_bytes()
            except FileNotFoundError:
                content = b""
            self._reports = reporter.read(content)
        found = self._reports.get(node, [])
        return found if "teardown" in {report.phase for report in found} else []

    def explain(self) -> str:
        """Return why a test has no result: at length once, since there may be hundreds."""
        if self._told:
            return "it did not run, see the first such test"
        self._told = True
        heard = self.log.read_text("utf-8", "replace")
        # What the machine's own program says at its end is as short as it can be.
        _, own, words = heard.rpartition(f"\n{machine.NAME}: ")
        lines = words.splitlines() if own else heard.splitlines()[-_SHOWN_LINES:]
        status = self.process.returncode
        said = f"the machine's pytest ended with status {status} before this test did; the end of"
        return "\n".join([f"{said} what was heard:", *lines])

    def end(self) -> None:
        """Kill the machine, if it still runs."""
        self.process.kill()
        self.process.wait()


def start(
    nodes: Sequence[str], directory: Path, *, seconds: float, env: Mapping[str, str]
) -> Background:
    """Start tests in a machine of their own and return as soon as they have begun.

    Args:
        nodes: node ids.
        directory: an empty one, for the results.
        seconds: how long the tests may take; pytest's last words are then where it was.
        env: variables for them.
    """
    words = [
        *(sys.executable, machine.__file__, "run", "--seconds", f"{seconds + _LAST_SECONDS:g}"),
        *("--results", str(directory / "results")),
        *(word for name, text in env.items() for word in ("--env", f"{name}={text}")),
        *("--", "sh", "-c", f"echo begun; exec {shlex.join(_command(nodes, seconds))}"),
    ]
    started = Background(nodes=nodes, directory=directory, process=spawn(words, directory))
    while started.process.poll() is None and not started.log.stat().st_size:
        time.sleep(0.2)  # an image is built first where there is none, within its own limit
    return started


def log(directory: Path) -> Path:
    """Return where what a process in the background says is, while it runs too."""
    return directory / "output"


def spawn(
    words: Sequence[str],
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    niceness: int = _NICENESS,
) -> "subprocess.Popen[bytes]":
    """Start a process that gives way to the host's tests, and ends when we do, however we end.

    Args:
        words: argv.
        directory: for what it says.
        env: more variables than ours.
        niceness: how much it gives way.
    """
    prefix = ["nice", "-n", str(niceness), "setpriv", "--pdeathsig", "KILL"]
    with log(directory).open("wb") as output:
        return subprocess.Popen(
            [tool(prefix[0]), *prefix[1:], *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )


def _command(nodes: Sequence[str], seconds: float) -> list[str]:
    return [
        *("timeout", "--foreground", "--signal=ABRT", "--kill-after=10", f"{seconds:g}"),
        *("python3", "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", reporter.__name__),
        *nodes,
    ]
