"""Sealing in the background: step by step, tried again until a copy is sealed.

Place: between the verbs of `copies.seal` and `watcher`, which says when. Contract: a copy has at
most one sealing at a time (`turns`); a step that has begun comes to its end even if the sealing is
ended; a program that goes on writing is named in the journal.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from samba_rvss.copies import seal
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.tasks import in_thread, whole
from samba_rvss.daemon.turns import Turns, Work
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, ShadowCopy

_logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 5.0
_LONGEST_WRITER_PAUSE = 1.0
# If a writer delays sealing longer than this, what recovery wrote is brought to the disk meanwhile.
_WRITE_OUT_SECONDS = 1.0
_REPORT_SECONDS = 60.0


class Sealer:
    """Seals the copies of one instance.

    Args:
        present: returns the instance as it is now.
        turns: knows which copies are being sealed.
        sealed: called with each copy when it is sealed.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        turns: Turns,
        sealed: Callable[[ShadowCopy], None],
    ) -> None:
        self._present = present
        self._turns = turns
        self._sealed = sealed
        self._lost: set[str] = set()  # ids of copies whose image or mount is not there

    @property
    def busy(self) -> frozenset[str]:
        """Ids of the copies that are being sealed and have their image and mount."""
        return self._turns.worked_on - self._lost

    def begin(self, copy: ShadowCopy) -> None:
        """Begin to seal a copy, unless it is being sealed already."""
        if copy.id not in self._turns.worked_on:
            work = self._turns.begin_work(copy, self._seal(copy, time.monotonic()))
            work.add_done_callback(partial(self._on_end, copy))

    async def end(self, copy: ShadowCopy) -> None:
        """Give up sealing a copy, which is to be deleted; no step of it runs on return."""
        self._lost.discard(copy.id)
        await self._turns.end_work(copy)

    def _on_end(self, copy: ShadowCopy, work: Work) -> None:
        self._lost.discard(copy.id)
        sealed = None if work.cancelled() else work.result()
        if sealed is not None:
            self._sealed(sealed)

    async def _seal(self, copy: ShadowCopy, started: float) -> ShadowCopy | None:
        """Seal a copy; try again after each failure. None as `_seal_once`."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._seal_once(copy, started)
            except RvssError as exc:
                _logger.error("[%s] %s is not sealed: %s", copy.share, copy.id, exc)
                if exc.problem is Problem.NOT_FOUND:
                    self._lost.add(copy.id)
            except Exception:
                _logger.exception("[%s] %s is not sealed", copy.share, copy.id)
            pause = min(pause * 10, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _seal_once(self, copy: ShadowCopy, started: float) -> ShadowCopy | None:
        """Seal a copy, waiting for its last writer; None if it is being deleted."""
        sealing = await whole(seal.begin, self._present(), copy)
        if sealing is None:
            # It was sealed meanwhile, and whoever wanted this had an older record of it.
            found = await whole(self._present().ledger.get, copy.id)
            return found if found is not None and found.phase is Phase.SEALED else None
        pause, reported, written = _FIRST_PAUSE, 0.0, False
        while True:
            sealed = await whole(seal.finish, self._present(), sealing, started)
            if sealed is not None and sealed.phase is not Phase.SEALED:
                return None
            if sealed is not None:
                spent = (time.monotonic() - started) * 1000
                _logger.info("[%s] %s sealed in %.0f ms", copy.share, copy.id, spent)
                return sealed
            await whole(seal.drop_writers, self._present(), sealing)
            waited = time.monotonic() - started
            if waited > _WRITE_OUT_SECONDS and not written:
                await whole(seal.write_out, self._present(), sealing)
                written = True
            late = waited > self._present().config.seal_deadline
            if late and (not reported or waited - reported > _REPORT_SECONDS):
                reported = waited
                await self._report_writers(sealing, waited)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_WRITER_PAUSE)

    async def _report_writers(self, copy: ShadowCopy, waited: float) -> None:
        who = "unknown"
        with suppress(OSError):
            who = await in_thread(seal.describe_writers, self._present(), copy)
        _logger.error(
            "[%s] %s is still open for writing %.0f s after its recovery, by %s: end that process",
            copy.share,
            copy.id,
            waited,
            who,
        )
