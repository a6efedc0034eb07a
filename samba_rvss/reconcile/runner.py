"""When to reconcile: at the start, when something is due, when a worker dies, and when asked to.

Never two at once, one bad item never stopping the rest, and what failed is tried again, less and
less often. Nothing runs on a server on which nothing is due.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime

from samba_rvss.errors import RvssError
from samba_rvss.ledger import now
from samba_rvss.lifecycle import Lifecycle
from samba_rvss.model import Phase
from samba_rvss.reconcile import apply
from samba_rvss.reconcile.decision import Action, Kind, Plan
from samba_rvss.reconcile.observation import Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba.process import SambaProcess
from samba_rvss.watcher import Watcher, in_thread

_logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
_AFTER_CHANGE = 1.0
_AFTER_START = 5.0
_DETAIL = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one action: ``error`` is None if it was done, ``stale`` if it was not needed."""

    action: Action
    error: RvssError | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What came of the last reconciling: what was done, and what failed or could not be seen."""

    time: datetime
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


Report = Callable[[Outcome], None]


class Runner:
    """Reconciles one instance.

    Args:
        lifecycle: the verbs.
        watcher: who follows copies.
        samba: where python-samba runs.
        only: gives the lock of a volume, by its key.

    Attributes:
        last: what came of the last reconciling, None before the first.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        watcher: Watcher,
        samba: SambaProcess,
        only: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._lifecycle = lifecycle
        self._watcher = watcher
        self._samba = samba
        self._only = only
        self._one = asyncio.Lock()
        self._due = math.inf
        self._woken = asyncio.Event()
        self._failures = 0
        self._heard = time.monotonic()
        self._workers: dict[int, int] = {}
        self.last: Last | None = None

    @property
    def quiet(self) -> float:
        """For how long no client has been heard of, in seconds."""
        return time.monotonic() - self._heard

    @property
    def busy(self) -> frozenset[str]:
        """Ids of the copies that a request works on."""
        return self._watcher.sealing()

    def heard(self) -> None:
        """Note that a client did something, so that there may be something due later."""
        self._heard = time.monotonic()
        config = self._lifecycle.config
        self.wake(min(config.grace, config.recovery_timeout))

    def wake(self, seconds: float) -> None:
        """Reconcile in so many seconds, or before."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._woken.set()

    async def run(self) -> None:
        """Reconcile whenever it is due, until cancelled."""
        try:
            while True:
                await self._wait()
                try:
                    await self.reconcile()
                except RvssError as exc:
                    self._failures += 1
                    self.wake(self._pause())
                    self.last = Last(time=now(), failed=(exc.line(),))
                    _logger.error("cannot reconcile: %s", exc)
                except Exception:
                    self._failures += 1
                    self.wake(self._pause())
                    self.last = Last(time=now(), failed=("an internal error; see the journal",))
                    _logger.exception("cannot reconcile")
        finally:
            for pid in list(self._workers):
                self._unwatch(pid)

    async def _wait(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(left) else left):
                    await self._woken.wait()

    def _pause(self) -> float:
        return min(2.0 ** (self._failures - 1), _LONGEST_PAUSE)

    async def reconcile(
        self,
        *,
        starting: bool = False,
        patient: bool = False,
        report: Report = lambda outcome: None,
    ) -> tuple[Plan, list[Outcome]]:
        """Observe, plan and apply, after one that is under way.

        Args:
            starting: whether no request can be under way.
            patient: whether there is time to prove that Samba has forgotten something even then.
            report: called with each outcome as it comes.

        Raises:
            RvssError: STATE if the ledger fails; nothing is done then.
        """
        async with self._one:
            self._due = math.inf
            seen = await in_thread(observe, self._sources(starting=starting, patient=patient))
            decided = plan(seen)
            outcomes = []
            for action in decided.actions:
                outcome = await self._apply(action)
                outcomes.append(outcome)
                report(outcome)
            await in_thread(self._record, decided, outcomes, dict(seen.findings))
            self._schedule(decided, outcomes)
            if starting and decided.kept:
                self.wake(_AFTER_START)
            for worker in seen.workers or ():
                self._watch(worker.pid)
            return decided, outcomes

    def _sources(self, *, starting: bool, patient: bool) -> Sources:
        lifecycle = self._lifecycle
        return Sources(
            config=lifecycle.config,
            ledger=lifecycle.ledger,
            mounts=lifecycle.mounts,
            samba=self._samba,
            inventory=lifecycle.inventory,
            quiet=lambda: self.quiet,
            busy=lambda: self.busy,
            starting=starting,
            patient=patient,
        )

    async def _apply(self, action: Action) -> Outcome:
        """Do one thing, if it is still called for, as the only one on its volume."""
        image, copy = action.image, action.copy
        volume = copy.volume if copy else image.mark.volume if image else None
        try:
            async with self._only(volume.key if volume else ""):
                try:
                    if not await in_thread(apply.is_current, self._lifecycle, action):
                        _logger.info("reconcile: no longer called for: %s", action.describe())
                        return Outcome(action=action, stale=True)
                    if copy is not None and action.kind is Kind.DELETE:
                        await self._watcher.release(copy)
                    await in_thread(apply.perform, self._lifecycle, action)
                finally:
                    self._follow(action.target)
        except RvssError as exc:
            _logger.error("reconcile: cannot %s: %s", action.describe(), exc)
            return Outcome(action=action, error=exc)
        _logger.warning("reconcile: %s", action.describe())
        return Outcome(action=action)

    def _follow(self, target: str) -> None:
        copy = self._lifecycle.ledger.get(target)
        if copy is not None and copy.phase not in (Phase.DELETING, Phase.GONE):
            self._watcher.track(copy)
            self._watcher.look()

    def _record(self, decided: Plan, outcomes: list[Outcome], before: dict[str, object]) -> None:
        self.last = Last(
            time=now(),
            done=tuple(
                one.action.describe() for one in outcomes if one.error is None and not one.stale
            ),
            failed=decided.problems
            + tuple(f"{one.action.describe()}: {one.error}" for one in outcomes if one.error),
        )
        ledger = self._lifecycle.ledger
        if decided.findings != before:
            ledger.set_findings(decided.findings)
        said = [
            one.action.describe() + (f" (failed: {one.error.message})" if one.error else "")
            for one in outcomes
            if not one.stale
        ]
        if said or decided.problems:
            ledger.note_set(
                "", "reconciled", detail="; ".join([*said, *decided.problems])[:_DETAIL]
            )

    def _schedule(self, decided: Plan, outcomes: list[Outcome]) -> None:
        if any(one.error or one.stale for one in outcomes) or decided.problems:
            self._failures += 1
            self.wake(self._pause())
        else:
            self._failures = 0
            if outcomes:
                self.wake(_AFTER_CHANGE)  # to see that nothing is left to do
        if decided.due is not None:
            self.wake(max(decided.due, _AFTER_CHANGE))

    # workers

    def _watch(self, pid: int) -> None:
        """Reconcile when a worker ends: with it goes what it had in memory."""
        if pid in self._workers:
            return
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            self.wake(_AFTER_CHANGE)
            return
        self._workers[pid] = fd
        asyncio.get_running_loop().add_reader(fd, self._on_death, pid)

    def _on_death(self, pid: int) -> None:
        self._unwatch(pid)
        self.wake(_AFTER_CHANGE)

    def _unwatch(self, pid: int) -> None:
        fd = self._workers.pop(pid)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
