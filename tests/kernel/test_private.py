"""A program in a mount namespace of its own: what it gets of signals."""

import os
import pty
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from samba_rvss.kernel import files

pytestmark = pytest.mark.require("root")

_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from samba_rvss.kernel import private
sys.exit(private.run(lambda: None, ["bash", "-c", sys.argv[2]], []))
"""
# With the signal the terminal would throw away what the trap has said by then (n_tty.c, isig()).
_SCRIPT = "stty noflsh; trap 'echo told' INT; echo ready; while ! read line; do :; done; exit 5"
_SECONDS = 60.0


def test_a_terminals_interrupt_is_not_told_twice() -> None:
    """A second one makes some programs end without clearing up."""
    child, terminal = pty.fork()
    if not child:
        # Whoever runs the tests in the background has it ignored, and then no shell traps it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        root = str(Path(__file__).parents[2])
        os.execv(sys.executable, [sys.executable, "-c", _RUN, root, _SCRIPT])  # noqa: S606 - as it says
    said = b""

    def read_until(word: bytes) -> None:
        nonlocal said
        while word not in said:
            assert select.select([terminal], [], [], _SECONDS)[0], said
            said += os.read(terminal, 1000)

    try:
        read_until(b"ready")
        os.write(terminal, b"\x03")
        read_until(b"told")
        os.write(terminal, b"line\n")
        with files.opened(os.pidfd_open(child)) as ended:
            assert select.select([ended], [], [], _SECONDS)[0], said
        said += os.read(terminal, 1000)
    finally:
        os.close(terminal)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(status), said.count(b"told")) == (5, 1)
