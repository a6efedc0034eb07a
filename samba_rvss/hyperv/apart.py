"""Looking at a tree's disks in a process of its own: what a guest has written is parsed there.

Contract: of what root may, the process may only read any file, and it can write none; others come
before it; it ends by itself when its time is over or its owner is gone, and hands out texts and
numbers.
"""

import math
import os
import resource
import signal
import socket
import threading
from contextlib import suppress

from samba_rvss.hyperv.report import messages
from samba_rvss.hyperv.survey import Limits, survey
from samba_rvss.kernel import processes
from samba_rvss.kernel.priority import give_way

NAMES = 100_000
"""So many names of a tree are looked at: some tenths of a second."""

DISKS = 1000
"""So many disks, and files of machines."""

UNWANTED = 3
"""The exit status when the owner is gone before all was looked at."""

_DEEPEST = 32
_MEMORY = 512 << 20


def serve(fd: int, seconds: float, root: int) -> None:
    """Look at a tree's disks and send what was found, a message for each and one at the end.

    Args:
        fd: our end of a socket pair.
        seconds: how long it may take.
        root: the tree's directory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(math.ceil(seconds) + 1)
    os.chdir("/")
    processes.keep_capability(processes.CAP_DAC_READ_SEARCH)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    limits = Limits(names=NAMES, held=DISKS, seconds=seconds, deepest=_DEEPEST)
    give_way()
    with socket.socket(fileno=fd) as owner, suppress(BrokenPipeError):
        threading.Thread(target=_leave_with, args=(owner,), daemon=True).start()
        for message in messages(survey(root, limits)):
            owner.send(message)


def _leave_with(owner: socket.socket) -> None:
    """End this process when nobody wants to know any more: the image may be destroyed then."""
    with suppress(OSError):
        owner.recv(1)
    os._exit(UNWANTED)
