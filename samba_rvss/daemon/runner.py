"""When to reconcile: at the start, when something is due, when a worker dies, and when asked to.

Contract: there are never two reconcilings at once. An action that fails does not stop the others,
and is tried again, less and less often. Nothing runs while nothing is due.
"""

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from samba_rvss.clock import now
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import fates, journal
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate
from samba_rvss.model import Moment
from samba_rvss.reconcile import apply
from samba_rvss.reconcile.decision import Action, Clear, Delete, Plan, Seal
from samba_rvss.reconcile.observation import Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.reconcile.report import Outcome

_logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
_AFTER_CHANGE = 1.0
_AFTER_START = 5.0
_DETAIL = 4000
_ACTION_SECONDS = 15.0
_LONG_SECONDS = 60.0  # longer than any step of a reconciling waits for anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last reconciling: when, what was done, and what failed or could not be seen."""

    time: datetime
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


Report = Callable[[Outcome], None]


class Runner:
    """Reconciles one instance.

    Args:
        present: returns the instance as it is now.
        watcher: follows the copies on which an action was done.
        turns: who waits for whom.
        abandoned: returns the ids of the sets whose client is known to have gone.

    Attributes:
        last: what came of the last reconciling, None before the first.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        watcher: Watcher,
        turns: Turns,
        abandoned: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._present = present
        self._abandoned = abandoned
        self._watcher = watcher
        self._turns = turns
        self._running = asyncio.Lock()
        self._due = math.inf
        self._woken = asyncio.Event()
        self._failures = 0
        self._done: Counter[tuple[str, str, str]] = Counter()
        self._heard = time.monotonic()
        self._workers: dict[int, int] = {}
        self._told: object = None
        self._stuck: dict[str, float] = {}  # since when an action on a file system has not ended
        self._step: tuple[str, float] | None = None  # what reconciling does, and since when
        self.last: Last | None = None

    def late(self, longest: float = _LONG_SECONDS) -> tuple[str, ...]:
        """Return a sentence on a reconciling that does not go on.

        Args:
            longest: how long a step of it may take, in seconds.
        """
        if self._step is None:
            return ()
        what, since = self._step
        seconds = time.monotonic() - since
        line = f"reconciling does not come to its end: it has tried to {what} for {seconds:.0f} s"
        return (f"{line}; see what the disks do, and the journal",) if seconds >= longest else ()

    def _begin(self, what: str) -> None:
        self._step = (what, time.monotonic())

    @property
    def quiet(self) -> float:
        """For how long no client has been heard of, in seconds."""
        return time.monotonic() - self._heard

    @property
    def busy(self) -> frozenset[str]:
        """Ids of the copies that are being sealed: reconciling leaves them alone."""
        return self._watcher.sealing

    @property
    def delayed(self) -> tuple[str, ...]:
        """A sentence on each copy whose sealing has failed and is tried again."""
        return self._watcher.delayed

    @property
    def due(self) -> float:
        """In how many seconds to reconcile, if nothing happens; infinity if nothing is due."""
        return self._due - time.monotonic()

    def heard(self) -> None:
        """Note that a client did something, and reconcile later in case it vanishes."""
        self._heard = time.monotonic()
        config = self._present().config
        self.wake(min(config.grace, config.recovery_timeout))

    def wake(self, seconds: float) -> None:
        """Reconcile in so many seconds, or before."""
        due = time.monotonic() + seconds
        if due < self._due:
            self._due = due
            self._woken.set()

    def retry(self) -> None:
        """Try at once again what has failed: something has changed."""
        self._watcher.retry()
        self.wake(0.0)

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
        while (left := self.due) > 0:
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
        """Observe, plan and apply, once a reconciling that is under way has ended.

        Args:
            starting: whether no request can be under way.
            patient: whether there is time to read srv_fss.tdb twice even when starting.
            report: called with each outcome as it comes.

        Raises:
            RvssError: STATE if the ledger fails; nothing is done then.
        """
        async with self._running:
            self._due = math.inf
            sources = Sources(
                instance=self._present(),
                quiet=lambda: self.quiet,
                busy=lambda: self.busy,
                abandoned=self._abandoned,
                starting=starting,
                patient=patient,
                looking=lambda what: self._begin(f"see {what}"),
            )
            try:
                return await self._reconcile(sources, report)
            finally:
                self._step = None

    async def _reconcile(self, sources: Sources, report: Report) -> tuple[Plan, list[Outcome]]:
        seen = await in_thread(observe, sources)
        decided = plan(seen)
        outcomes, done = [], Counter[tuple[str, str, str]]()
        for action in decided.actions:
            self._begin(action.describe())
            outcome = await self._attempt(action)
            if outcome.fate is Fate.DONE:
                done[fates.name(action)] = self._done[fates.name(action)] + 1
                outcome = fates.doubted(outcome, done[fates.name(action)])
            outcomes.append(outcome)
            report(outcome)
        self._done = done
        self._begin("record what was done")
        await in_thread(self._record, decided, outcomes, seen.findings)
        self._schedule(decided, outcomes)
        if sources.starting and decided.left_alone:
            self.wake(_AFTER_START)
        for worker in seen.workers or ():
            self._watch(worker.pid)
        return decided, outcomes

    async def _attempt(self, action: Action) -> Outcome:
        """Carry out an action; wait for a limited time, and for one on each file system only."""
        where = next((volume.file_system for volume in fates.volumes(action)), "")
        since = self._stuck.get(where)
        if since is not None:
            return fates.stuck(action, time.monotonic() - since, begun=True)
        began, turn = time.monotonic(), asyncio.Event()
        task = asyncio.ensure_future(self._apply(action, turn))
        try:
            await asyncio.wait({task}, timeout=_ACTION_SECONDS)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=_ACTION_SECONDS)
            raise
        if task.done():
            return task.result()
        self._stuck[where] = began
        task.add_done_callback(lambda done: self._on_late(where, done))
        return fates.stuck(action, _ACTION_SECONDS, begun=turn.is_set())

    def _on_late(self, where: str, task: "asyncio.Task[Outcome]") -> None:
        self._stuck.pop(where, None)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("cannot reconcile", exc_info=task.exception())
        self.wake(_AFTER_CHANGE)

    async def _apply(self, action: Action, turn: asyncio.Event) -> Outcome:
        """Carry out an action in its volume's turn, if it is still called for.

        Args:
            action: what to do.
            turn: is set when it has its turn.
        """
        try:
            async with self._turns.take(*fates.volumes(action)):
                turn.set()
                try:
                    if not await in_thread(apply.is_current, self._present(), action):
                        _logger.info("reconcile: no longer called for: %s", action.describe())
                        return Outcome(action=action, fate=Fate.STALE)
                    if isinstance(action, Delete):
                        await self._watcher.release(action.copy)
                    await in_thread(apply.perform, self._present(), action)
                finally:
                    await self._watcher.resume(action.target)
        except RvssError as exc:
            if isinstance(action, Clear) and exc.problem is Problem.BUSY:
                # Somebody reads it, or sends it: nobody has to see to that.
                _logger.info("reconcile: cannot %s yet: %s", action.describe(), exc)
                return Outcome(action=action, fate=Fate.STALE)
            about = journal.of_action(journal.Message.NOT_RECONCILED, action)
            _logger.error("reconcile: cannot %s: %s", action.describe(), exc, extra=about)
            return Outcome(action=action, fate=Fate.FAILED, error=exc)
        about = journal.of_action(journal.Message.RECONCILED, action)
        _logger.warning("reconcile: %s", action.describe(), extra=about)
        # Sealing goes on until it succeeds: the watcher does it.
        fate = Fate.BEGUN if isinstance(action, Seal) else Fate.DONE
        return Outcome(action=action, fate=fate)

    def _record(self, decided: Plan, outcomes: list[Outcome], before: Mapping[str, Moment]) -> None:
        done = [
            outcome.action.describe()
            for outcome in outcomes
            if outcome.fate in (Fate.DONE, Fate.BEGUN)
        ]
        failed = [
            f"{outcome.action.describe()}: {outcome.error}" for outcome in outcomes if outcome.error
        ]
        self.last = Last(time=now(), done=tuple(done), failed=(*decided.problems, *failed))
        ledger = self._present().ledger
        if decided.findings != before:
            ledger.set_findings(decided.findings)
        said = [
            outcome.action.describe()
            + (f" (failed: {outcome.error.message})" if outcome.error else "")
            for outcome in outcomes
            if outcome.fate is not Fate.STALE
        ]
        # What only fails again, as it did before, makes no more history.
        told = (tuple((*fates.name(o.action), o.fate) for o in outcomes), decided.problems)
        again, self._told = told == self._told, told
        if (said or decided.problems) and (done or not again):
            ledger.note_set(
                "", "reconciled", detail="; ".join([*said, *decided.problems])[:_DETAIL]
            )

    def _schedule(self, decided: Plan, outcomes: list[Outcome]) -> None:
        again = {Fate.FAILED, Fate.STALE}
        if decided.problems or any(outcome.fate in again for outcome in outcomes):
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
        """Have reconciling start when a worker ends, because the sets in its memory end with it."""
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
