"""Looking for sets that may have another client's context, beside all else.

Contract: sealing waits for no look, and a client that gives up for a moment at most; there is a
bounded number at once.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from samba_rvss.copies import doubt
from samba_rvss.copies.follow import with_news
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.model import ENDED, SambaCopy, SetState, ShadowCopy

_logger = logging.getLogger(__name__)

# smbstatus takes less than 0.1 s. One rpcd_fsrvp serves all clients, a request at a time.
_MOMENT_SECONDS = 0.5
_AT_ONCE = 8  # each has a thread and a process, for seconds if Samba's databases are locked


class Doubts:
    """Looks whether a client was connected to a copy too early.

    Args:
        present: returns the instance as it is now.
    """

    def __init__(self, present: Callable[[], Instance]) -> None:
        self._present = present
        self._tasks = Tasks()
        self._exposed: frozenset[str] = frozenset()  # paths, when srv_fss.tdb was read last

    def on_read(
        self, found: Iterable[tuple[ShadowCopy, SambaCopy]], written: datetime | None
    ) -> None:
        """Look at what was recovered since srv_fss.tdb was read last.

        When a set was recovered that nobody has seen exposed in this run, nothing tells.

        Args:
            found: each copy that is followed, as it is in the file now.
            written: when the file had been written last; None if that is not known.
        """
        exposed, before = set(), self._exposed
        recovered = []
        for copy, known in found:
            if known.state is SetState.EXPOSED:
                exposed.add(known.path)
            elif known.state is SetState.RECOVERED and known.path in before:
                recovered.append(with_news(copy, known))
        self._exposed = frozenset(exposed)
        due = list(filter(doubt.is_due, recovered))
        if due and written is not None:
            self._begin(doubt.note, due, written)

    async def on_delete(self, copy: ShadowCopy, uid: int) -> None:
        """Look at a copy that its client deletes before it has said that recovery is complete.

        That is waited for, for a moment: the deletion drops who is connected.
        """
        if copy.state is SetState.EXPOSED and copy.phase not in ENDED and doubt.is_due(copy):
            looking = self._begin(doubt.note_deleted, copy, uid)
            if looking is not None:
                await asyncio.wait({looking}, timeout=_MOMENT_SECONDS)

    def _begin(self, function: Callable[..., None], *args: object) -> "asyncio.Task[None] | None":
        if len(self._tasks) < _AT_ONCE:
            return self._tasks.start(in_thread(function, self._present(), *args))
        _logger.info("whether a set's context fits is not looked at: too many are, just now")
        return None
