"""Machines that reboot or lose their power while the host's tests run, for tests that judge it.

Place: a program, above `disks` and `losses`, and the tests' end of it; for tests/vm/conftest.py,
`test_reboot`, `test_power`, `test_package` and `test_upgrade`. Contract: each part is done once, in
order, and its result appears whole as a file of its name. The program ends when the session does,
however that ends.

It is given a directory and the parts. After this, what came of it is there, and a transcript of all
that an administrator types::

    python3 tests/vm/boots.py DIRECTORY reboot
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))  # we may have been started as a program

from samba_rvss.errors import RvssError  # noqa: E402
from tests.vm import background, losses, packages  # noqa: E402
from tests.vm.disks import LONG_SECONDS, Disks, furnished  # noqa: E402
from tests.vm.machine import CHECKOUT, Result  # noqa: E402

if TYPE_CHECKING:
    import subprocess

REBOOT = "reboot"
"""The part that is no power loss; those are called by their numbers."""

LONG = bool(os.environ.get("SAMBA_RVSS_LONG"))
"""Whether the parts have all that there is, whatever time it takes."""

LATER = ("maintain", "upgrade", "purge", "reinstall") if LONG else ("maintain", "purge")
"""What `administrator` does after the reboot."""

TRANSCRIPT = "transcript"
"""The file beside the results that shows what an administrator types in the part `REBOOT`."""

_SHOWN_LINES = 60
# Far less than the other machines have: its work comes one after the other, and is the longest. The
# tests of the host wait most of the time.
_NICENESS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Booting:
    """The program, as it runs.

    Attributes:
        directory: where the results appear.
        process: what runs.
    """

    directory: Path
    process: "subprocess.Popen[bytes]"

    def result(self, part: str) -> dict[str, Any]:
        """Return what came of a part; wait for it.

        Raises:
            pytest.fail.Exception: it failed, or the program has ended before it.
        """
        file = self.directory / part
        while not file.exists():
            if self.process.poll() is not None and not file.exists():
                lines = background.log(self.directory).read_text("utf-8", "replace").splitlines()
                said = f"its program ended with status {self.process.returncode}"
                pytest.fail("\n".join([said, *lines[-_SHOWN_LINES:]]), pytrace=False)
            time.sleep(0.2)
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if found["failed"]:
            pytest.fail(found["failed"], pytrace=False)
        return found

    def end(self) -> None:
        """Kill it and its machine, if it still runs."""
        self.process.kill()
        self.process.wait()


def start(parts: Sequence[str], directory: Path) -> Booting:
    """Start the program.

    Args:
        parts: what it is to do.
        directory: an empty one, for disks and results.
    """
    words = [sys.executable, __file__, str(directory), *parts]
    # The same seed has chosen the parts.
    env = {losses.SEED_NAME: losses.SEED}
    process = background.spawn(words, directory, env=env, niceness=_NICENESS)
    return Booting(directory=directory, process=process)


def _reboot(below: Disks, installed: Result, newer: Path, directory: Path) -> dict[str, Any]:
    """Take copies, reboot, and look; then do what an administrator does in the end.

    Args:
        below: what to begin with.
        installed: what came of setting it up.
        newer: the package of the upgrade.
        directory: for the disks.
    """
    disks = Disks(directory, below)
    programs, place = f"python3 {CHECKOUT}/tests/vm", f"/root/{newer.name}"
    taken = disks.run(["sh", "-c", f"{programs}/driver.py take"])
    later = " && ".join(f"{programs}/administrator.py {verb} {place}" for verb in LATER)
    # What he does tells by itself whether it has failed.
    words = f"{programs}/driver.py look && {{ {later} || :; }}"
    looked = disks.run(["sh", "-c", words], seconds=LONG_SECONDS, more={place: newer})
    files = {**installed.files, **taken.files, **looked.files}
    told = {name: json.loads(content) for name, content in files.items()}
    texts = [told[verb]["transcript"] for verb in ("install", *LATER) if verb in told]
    (directory.parent / TRANSCRIPT).write_text("\n".join(texts), "utf-8")
    return told


def _lose(machine: losses.Machine, number: int) -> dict[str, Any]:
    """Let a machine lose its power."""
    losses.lose_power(machine, number)
    return {"row": machine.row}


def _note(directory: Path, part: str, work: Callable[[], dict[str, Any]]) -> bool:
    """Do a part and write down what came of it; return whether it succeeded."""
    started, failed = time.monotonic(), ""
    told: dict[str, Any] = {}
    try:
        told = work()
    except (AssertionError, RvssError):
        failed = f"{losses.SEED_NAME}={losses.SEED}\n{traceback.format_exc()}"
    seconds = time.monotonic() - started
    print(f"{part}: {seconds:.0f} s", failed or told.get("row", ""), flush=True)
    half = directory / f"{part}.partial"
    half.write_text(json.dumps({"failed": failed, "seconds": seconds, **told}), "utf-8")
    half.rename(directory / part)
    return not failed


def main(argv: Sequence[str]) -> int:
    """Do the parts that are named after the directory."""
    home, *parts = argv
    directory = Path(home)
    with ExitStack() as stack:

        def new() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))

        print(f"{losses.SEED_NAME}={losses.SEED}", flush=True)
        this, newer = packages.build(new())
        below, installed = furnished(new(), this)
        if REBOOT in parts:
            _note(directory, REBOOT, partial(_reboot, below, installed, newer, new()))
        machine = losses.Machine(below, new)
        stack.callback(machine.forget)
        for part in parts:
            if part != REBOOT and not _note(directory, part, partial(_lose, machine, int(part))):
                machine.forget()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
