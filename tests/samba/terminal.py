"""A terminal, at which lines are run as an administrator types them.

Place: called on a host of its own.
"""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from contextlib import suppress

_COLUMNS = 80


def run_line(line: str, password: str) -> tuple[int, str]:
    """Run a line at a terminal; return its exit status and what it printed.

    Args:
        line: for bash.
        password: what is typed where it asks for one.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
    words = ["setsid", "--ctty", "bash", "-c", line]  # who asks for a password opens /dev/tty
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said, typed = b"", False
        with suppress(OSError):  # EIO, when nobody has the terminal any more
            while some := os.read(ours, 1 << 16):
                said += some
                if not typed and b"Password" in said:
                    os.write(ours, f"{password}\n".encode())
                    typed = True
        os.close(ours)
    return process.returncode, said.decode(errors="replace").replace("\r\n", "\n")
