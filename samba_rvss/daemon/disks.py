"""Looking at the virtual disks of what has been sealed: after the client has its answer.

Place: beside `sealer`, which says of which copy. The files are read by a process of its own
(`hyperv.apart`): the daemon, which may do everything, parses nothing that a guest has written.
Contract: nobody waits for it; one process at a time for each file system; what takes too long is
ended. Whoever deletes a copy ends its look first; if the copy becomes a backup, it is looked at
again.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from subprocess import Popen, TimeoutExpired
from weakref import WeakValueDictionary

from samba_rvss import child
from samba_rvss.copies import disks
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import journal
from samba_rvss.daemon.tasks import whole
from samba_rvss.errors import RvssError
from samba_rvss.hyperv import apart, report
from samba_rvss.hyperv.report import Report
from samba_rvss.model import ShadowCopy

_logger = logging.getLogger(__name__)

SECONDS = 20.0
"""So long a look may take."""

_START_SECONDS = 10.0  # for the process to start, and to be answered, on a busy machine
_AGAIN_SECONDS = 5.0
_REAP_SECONDS = 1.0
_END_SECONDS = 5.0


class Disks:
    """Looks at the disks of one instance's sealed copies.

    Args:
        present: returns the instance as it is now.
    """

    def __init__(self, present: Callable[[], Instance]) -> None:
        self._present = present
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def is_busy(self) -> bool:
        """Whether a copy is being looked at."""
        return bool(self._looks)

    def begin(self, copy: ShadowCopy) -> None:
        """Begin to look at a copy that has just been sealed, unless that goes on already."""
        if timer := self._again.pop(copy.id, None):
            timer.cancel()
        if copy.id in self._looks:
            return
        task = self._looks[copy.id] = asyncio.ensure_future(self._look(copy))
        task.add_done_callback(lambda _: self._looks.pop(copy.id, None))

    async def end(self, copy: ShadowCopy) -> None:
        """End the look at a copy that is to be deleted, or kept: nothing of it is open then.

        None begins meanwhile either. What does not answer is not waited for.
        """
        timer, task = self._again.pop(copy.id, None), self._looks.get(copy.id)
        if timer is not None:
            timer.cancel()
        elif task is None:
            return
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=_END_SECONDS)
        later = asyncio.get_running_loop().call_later
        self._again[copy.id] = later(_AGAIN_SECONDS, self.begin, copy)

    async def _look(self, copy: ShadowCopy) -> None:
        about = journal.fields(copy=copy)
        lock = self._locks.setdefault(copy.volume.file_system, asyncio.Lock())
        try:
            async with lock:
                found = await self._found(copy)
            if found is not None:
                await whole(disks.record, self._present(), copy, found)
        except RvssError as exc:
            _logger.warning("%s: its disks are not known: %s", copy.title, exc, extra=about)
        except (OSError, ValueError) as exc:  # TimeoutError among them
            why = str(exc) or "it took too long"
            _logger.warning("%s: its disks are not known: %s", copy.title, why, extra=about)

    async def _found(self, copy: ShadowCopy) -> Report | None:
        """Return what a process of its own finds; None if the copy is gone by now."""
        undo = ExitStack()
        try:
            pipe = await whole(_start, self._present(), copy, undo)
            if pipe is None:
                return None
            async with asyncio.timeout(SECONDS + _START_SECONDS):
                return report.received(await _messages(pipe))
        finally:
            await whole(undo.close)


def _start(instance: Instance, copy: ShadowCopy, undo: ExitStack) -> socket.socket | None:
    """Start a process that looks at a copy; return where it says what it finds."""
    root = disks.opened(instance, copy, undo)
    if root is None:
        return None
    process, pipe = child.start(apart.serve, SECONDS, fd=root)
    undo.callback(_end, process)
    undo.callback(pipe.close)
    pipe.settimeout(0.0)  # for the event loop
    return pipe


async def _messages(pipe: socket.socket) -> list[bytes]:
    """Return what a process sends until it ends."""
    loop = asyncio.get_running_loop()
    found: list[bytes] = []
    size = 0
    while size <= report.MOST:
        part = await loop.sock_recv(pipe, report.LARGEST)
        if not part:
            return found
        found.append(part)
        size += len(part)
    raise ValueError("there is more than was asked for")


def _end(process: "Popen[bytes]") -> None:
    """End a process; one that waits for a dead disk is left to the kernel, which ends it later."""
    process.kill()
    with suppress(TimeoutExpired):
        process.wait(_REAP_SECONDS)
