"""Sealing in the background: step by step, tried again until a copy is sealed.

Place: between the verbs of `copies.seal` and `watcher`, which says when and has closed the copy.
Contract: a copy has at most one sealing at a time (`turns`); a step that has begun comes to its end
even if the sealing is ended; a step that was done is not done again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, repeat

from samba_rvss.copies import keep, seal
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import described
from samba_rvss.daemon import journal
from samba_rvss.daemon.disks import Disks
from samba_rvss.daemon.tasks import in_thread, whole
from samba_rvss.daemon.turns import Turns, Work
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, ShadowCopy

_logger = logging.getLogger(__name__)

_PAUSES = (0.05, 0.5, 5.0, 10.0, 20.0, 40.0, 60.0)  # the last one again and again
_DROP_SECONDS = 1.0
_DROPS = 10


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
        self._lost: set[str] = set()  # ids of copies whose image is not there
        self._delayed: dict[str, str] = {}  # why copies are not sealed yet, by their ids
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._woken = asyncio.Event()
        self._disks = Disks(present)

    @property
    def busy(self) -> frozenset[str]:
        """Ids of the copies that are being sealed and have their image."""
        return self._turns.worked_on - self._lost

    @property
    def delayed(self) -> tuple[str, ...]:
        """A sentence on each copy whose sealing has failed and is tried again."""
        return tuple(f"{copy} is not sealed: {why}" for copy, why in self._delayed.items())

    def begin(self, copy: ShadowCopy) -> None:
        """Close a copy at once and begin to seal it, unless it is being sealed already.

        Args:
            copy: with what Samba says of it.
        """
        if copy.id in self._turns.worked_on:
            return
        started = time.monotonic()
        self._close(copy)
        work = self._turns.begin_work(copy, self._seal(copy, started))
        seconds = self._present().config.seal_deadline
        timer = asyncio.get_running_loop().call_later(seconds, self._on_late, copy, seconds)
        self._timers[copy.id] = timer
        work.add_done_callback(partial(self._on_end, copy))

    def retry(self) -> None:
        """Try at once again what has failed: something has changed."""
        self._woken.set()

    async def end(self, copy: ShadowCopy) -> None:
        """Give up sealing a copy, which is to be deleted; no step of it runs on return.

        Nor does a look of ours at another part of its backup: no part is deleted while one is read.
        """
        await self._turns.end_work(copy)
        parts = [copy]
        if copy.phase is Phase.KEPT:
            others = await in_thread(self._present().ledger.of_set, copy.set_id)
            parts += [part for part in others if part.id != copy.id]
        await asyncio.gather(*map(self._disks.end, parts))

    def _on_end(self, copy: ShadowCopy, work: Work) -> None:
        self._lost.discard(copy.id)
        self._is_in_time(copy)
        sealed = None if work.cancelled() else work.result()
        if sealed is not None:
            self._sealed(sealed)
            self._disks.begin(sealed)

    def _is_in_time(self, copy: ShadowCopy) -> None:
        self._delayed.pop(copy.id, None)
        timer = self._timers.pop(copy.id, None)
        if timer is not None:
            timer.cancel()

    def _close(self, copy: ShadowCopy) -> None:
        try:
            seal.close(self._present(), copy)
        except RvssError as exc:
            _logger.error("%s is not closed: %s", copy.title, exc, extra=_unsealed(copy))

    async def _seal(self, copy: ShadowCopy, started: float) -> ShadowCopy | None:
        """Seal a closed copy; try again after each failure. None if it is being deleted."""
        steps, pauses = _Steps(copy, started), pauses_between()
        dropping: asyncio.Future[None] | None = None
        drops: list[asyncio.Future[None]] = []
        self._begin_step(copy, seal.note)
        if copy.auto_recovery:
            drops.append(self._begin_step(copy, seal.drop))
        while True:
            try:
                while not steps.done:
                    if steps.is_mounted and drops:
                        # Before it is recorded: who connects afterwards finds the new mount, and
                        # is not dropped.
                        await asyncio.wait(drops, timeout=_DROP_SECONDS)
                        drops = []
                    await whole(steps.take, self._present())
                    self._lost.discard(copy.id)
                    if steps.mounted_just_now:
                        dropping = self._begin_step(copy, seal.drop)
                        drops.append(dropping)
            except RvssError as exc:
                reason = exc.line()
                _logger.error("%s is not sealed: %s", copy.title, exc, extra=_unsealed(copy))
                if exc.problem is Problem.NOT_FOUND:
                    self._lost.add(copy.id)
            except Exception as exc:
                reason = str(exc)
                _logger.exception("%s is not sealed", copy.title, extra=_unsealed(copy))
            else:
                break
            known, self._delayed[copy.id] = self._delayed.get(copy.id), reason
            if known is None:
                await self._delay(copy, reason)
            await self._rest(next(pauses))
            self._close(copy)
        self._is_in_time(copy)
        if steps.newly_sealed:
            spent = (time.monotonic() - started) * 1000
            about = journal.fields(journal.Message.SEALED, copy=copy)
            _logger.info("%s sealed in %.0f ms", copy.title, spent, extra=about)
            if dropping is not None:
                # Who is connected still reads what is to be cleared away.
                for _ in range(_DROPS):
                    if await _is_done(dropping):
                        break
                    if dropping.done():
                        dropping = self._begin_step(copy, seal.drop)
            await self._clear(copy)
        return steps.sealed

    async def _rest(self, seconds: float) -> None:
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _on_late(self, copy: ShadowCopy, seconds: float) -> None:
        """Say of a step that has not ended in time what it is likely to wait for."""
        if copy.id in self._delayed:
            return
        reason = f"{described(copy.volume, copy.share_path)} has not answered for {seconds:g} s"
        self._delayed[copy.id] = reason
        _logger.error("%s is not sealed: %s", copy.title, reason, extra=_unsealed(copy))
        self._begin_step(copy, partial(seal.delay, reason=reason))

    def _begin_step(
        self, copy: ShadowCopy, step: Callable[[Instance, ShadowCopy], None]
    ) -> "asyncio.Future[None]":
        """Begin what sealing does not depend on; if it fails, that is logged."""
        begun = asyncio.ensure_future(in_thread(step, self._present(), copy))
        begun.add_done_callback(partial(_report, copy))
        return begun

    async def _delay(self, copy: ShadowCopy, reason: str) -> None:
        try:
            await whole(seal.delay, self._present(), copy, reason)
        except RvssError as exc:
            _logger.error("%s: %s", copy.title, exc, extra=journal.fields(copy=copy))

    async def _clear(self, copy: ShadowCopy) -> None:
        try:
            await whole(seal.clear, self._present(), copy)
        except RvssError as exc:  # reconciling finds it, and tries again
            about = journal.fields(copy=copy)
            _logger.error("%s: cannot clear away: %s", copy.title, exc, extra=about)


def _unsealed(copy: ShadowCopy) -> dict[str, str]:
    return journal.fields(journal.Message.NOT_SEALED, copy=copy)


def pauses_between() -> Iterator[float]:
    """Yield the seconds between two attempts, without end."""
    return chain(_PAUSES, repeat(_PAUSES[-1]))


class _Steps:
    """How far the sealing of a copy has come; `take` does the next step.

    Attributes:
        done: whether there is no step left but to clear away.
        sealed: then the sealed copy, or the backup; None if it is being deleted.
        newly_sealed: whether it was sealed here, and not before.
        mounted_just_now: whether the last step put another image to its paths.
    """

    def __init__(self, copy: ShadowCopy, started: float) -> None:
        self._copy = copy
        self._started = started
        self._is_due = self._has_image = self._is_another = self._is_mounted = False
        self.done = self.mounted_just_now = self.newly_sealed = False
        self.sealed: ShadowCopy | None = None

    @property
    def is_mounted(self) -> bool:
        """Whether the image is where it belongs, and only the record is left."""
        return self._is_mounted

    def take(self, instance: Instance) -> None:
        """Do the next step.

        Raises:
            RvssError: as the step of `copies.seal`.
        """
        self.mounted_just_now = False
        if not self._is_due:
            self._is_due = seal.is_due(instance, self._copy)
            if not self._is_due:
                self.sealed = seal.sealed_record(instance, self._copy)
                self.done = True
        elif not self._has_image:
            self._copy, self._is_another = seal.make_image(instance, self._copy)
            self._has_image = True
        elif self._copy.ended:
            self.sealed = keep.conclude(instance, self._copy)
            self.done = self.newly_sealed = True
        elif not self._is_mounted:
            seal.mount(instance, self._copy, anew=self._is_another)
            self._is_mounted = True
            self.mounted_just_now = self._is_another
        else:
            self.sealed = seal.record(instance, self._copy, self._started)
            self.done = True
            self.newly_sealed = self.sealed is not None


async def _is_done(step: "asyncio.Future[None]") -> bool:
    """Return whether a step has succeeded, once it has ended or its time is up."""
    await asyncio.wait([step], timeout=_DROP_SECONDS)
    if not step.done():
        return False
    good = not step.cancelled() and step.exception() is None
    if not good:
        await asyncio.sleep(_DROP_SECONDS)
    return good


def _report(copy: ShadowCopy, task: "asyncio.Future[None]") -> None:
    """Log why something failed that sealing does not depend on."""
    exc = None if task.cancelled() else task.exception()
    if isinstance(exc, RvssError):
        _logger.error("%s is being sealed: %s", copy.title, exc, extra=journal.fields(copy=copy))
    elif exc is not None:
        about = journal.fields(copy=copy)
        _logger.error("%s is being sealed", copy.title, exc_info=exc, extra=about)
