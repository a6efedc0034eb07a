"""What shows whether copies are of one instant: somebody who writes to all their sources in turn.

The next number goes into one file after the other, each on the disk before the next. So in copies
of one instant the numbers never rise from a file to the next one, and differ by one at most.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_FIRST = 10**9  # all numbers are of one length

_WRITER = f"""
import os, sys
files = [os.open(path, os.O_WRONLY) for path in sys.argv[1:]]
number = {_FIRST}
while True:
    number += 1
    for file in files:
        os.pwrite(file, b"%d" % number, 0)
        os.fdatasync(file)
"""


class Writer:
    """The programs that write and keep the processors busy."""

    def __init__(self, programs: Sequence["subprocess.Popen[bytes]"]) -> None:
        self._programs = programs

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Have them rest for the time of a block: for what is not measured, and takes long."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for program in self._programs:
            program.send_signal(number)


@contextmanager
def writing(paths: Sequence[Path]) -> Iterator[Writer]:
    """Write to files in turn, without a pause, and keep every processor busy."""
    for path in paths:
        path.write_text(str(_FIRST))
    with ExitStack() as undo:
        programs = [[sys.executable, "-c", _WRITER, *map(str, paths)]]
        programs += [[sys.executable, "-c", "while True: pass"]] * (os.cpu_count() or 1)
        started = []
        for program in programs:
            process = subprocess.Popen(program)
            undo.callback(process.wait)
            undo.callback(process.kill)
            started.append(process)
        yield Writer(started)


def is_of_one_instant(numbers: Sequence[int]) -> bool:
    """Return whether numbers, found in copies of the files, can be of one instant."""
    return sorted(numbers, reverse=True) == list(numbers) and numbers[0] - numbers[-1] < 2
