"""Ending an rpcd_fsrvp that serves nobody, as the last resort.

Place: beside the runner, fed by the callouts. Contract: it looks at a worker only after a client
has asked for a share, or while others wait for one that holds them up; what it ends is proven by
the worker's own memory, srv_fss.tdb and the ledger (`stuck` decides). Nothing waits for it.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.clock import moment
from samba_rvss.copies import repair
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import stuck
from samba_rvss.daemon.stuck import Asker, Glance, Waiting
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, SambaState, SetState
from samba_rvss.samba import control, fss_state, memory

_logger = logging.getLogger(__name__)

_AFTER_CHECK = 1.0  # StartShadowCopySet follows IsPathSupported in milliseconds
_AFTER_FAILURE = 0.1
_PAUSE = 3.0
_LONGEST_PAUSE = 30.0
_USUAL = 60.0  # a client that takes longer, and holds others up, is worth a word
_MOST_ASKERS = 100
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was seen.

    Attributes:
        began: when the look began.
        glances: what the workers showed, by pid.
        unfinished: whether a client may be at work on another set.
    """

    began: float
    glances: dict[int, Glance]
    unfinished: bool


class Rescue:
    """Watches over the workers of one instance's Samba.

    Args:
        present: returns the instance as it is now.
        ended: called when a worker was ended.
    """

    def __init__(self, present: Callable[[], Instance], ended: Callable[[], None]) -> None:
        self._present = present
        self._ended = ended
        self._running = 0
        self._postponed = False
        self._failed = -math.inf
        self._asked: Counter[Asker] = Counter()
        self._waiting: dict[int, Waiting] = {}  # by worker
        self._looked = -math.inf  # when the last good look began
        self._rest = -math.inf
        self._row = 0
        self._said = ""
        self._told: frozenset[str] = frozenset()
        self._due = math.inf
        self._woken = asyncio.Event()

    # what is heard

    def begins(self, verb: str, uid: int, path: str) -> None:
        """Note that a callout begins."""
        self._running += 1
        if verb == "check":
            asker = Asker(uid=uid, path=path)
            if asker in self._asked or len(self._asked) < _MOST_ASKERS:
                self._asked[asker] += 1
            self._wake(max(_AFTER_CHECK, self._looked + _PAUSE - time.monotonic()))

    def ends(self, verb: str, *, good: bool) -> None:
        """Note that a callout has been answered."""
        self._running -= 1
        if self._postponed and not self._running:
            self._postponed = False
            self._wake(_AFTER_FAILURE)
        if verb != "create":
            return
        if good:
            self._row = 0
        else:
            self._failed = time.monotonic()
            self._wake(_AFTER_FAILURE)

    def written(self) -> None:
        """Note that Samba has written srv_fss.tdb."""
        if self._waiting:
            self._wake(_AFTER_FAILURE)

    @property
    def delayed(self) -> tuple[str, ...]:
        """A sentence on each worker that waits for a client while others have come again."""
        return tuple(
            f"rpcd_fsrvp {pid} has waited for {time.monotonic() - waiting.since:.0f} s for the"
            f" client of the set {_set(waiting)}, and refuses all others ({self._knocking()})"
            for pid, waiting in self._waiting.items()
            if self._knocks() >= stuck.KNOCKS
            and time.monotonic() - waiting.since > min(waiting.allowed, _USUAL)
        )

    # looking, and what comes of it

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._wait()
            self._due = math.inf
            try:
                await self._watch()
            except RvssError as exc:
                self._say(exc)
            except Exception:
                _logger.exception("cannot look at what rpcd_fsrvp waits for")
                self._wake(_LONGEST_PAUSE)

    def _wake(self, seconds: float) -> None:
        due = time.monotonic() + max(seconds, 0.0)
        if due < self._due:
            self._due = due
            self._woken.set()

    async def _wait(self) -> None:
        while (left := self._due - time.monotonic()) > 0:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(left) else left):
                    await self._woken.wait()

    async def _watch(self) -> None:
        """Look once, end a worker if its time is over, and say when to look again."""
        if self._running:
            self._postponed = True  # a worker that waits for us cannot answer
            return
        clocks = self._present().config.clocks
        look = await in_thread(_look, self._present())
        failed, self._looked = self._failed > self._looked, look.began
        self._said = ""
        asked = tuple(self._asked)
        known, self._waiting = self._waiting, {}
        for pid, glance in look.glances.items():
            waiting = stuck.follow(known.get(pid), glance, clocks, failed=failed, asked=asked)
            if waiting is not None:
                self._waiting[pid] = waiting
                if waiting.since == glance.time:
                    self._asked.clear()
        if not self._waiting:
            self._asked.clear()
        for pid, waiting in list(self._waiting.items()):
            if self._knocks() < stuck.KNOCKS:
                continue
            now, deadline = time.monotonic(), max(waiting.deadline(clocks), self._rest)
            over = stuck.is_over(waiting, now, self._knocks(), self._rest, clocks)
            if over and not look.unfinished and not self._running:
                await self._end(pid, waiting)
            # If it is over, something else of a client is in the way.
            self._wake(_LONGEST_PAUSE if over else min(deadline - now, _LONGEST_PAUSE))
        lines, held = self.delayed, frozenset(known.held.id for known in self._waiting.values())
        if lines and held != self._told:
            self._told = held
            _logger.warning("%s", "; ".join(lines))

    async def _end(self, pid: int, waiting: Waiting) -> None:
        clocks = self._present().config.clocks
        if not await in_thread(_is_current, self._present(), pid, waiting):
            return
        if self._running:
            return
        waited = time.monotonic() - waiting.since
        asked = ", ".join(asker.describe() for asker in waiting.before[:_SHOWN]) or "nobody known"
        line = (
            f"it waited for {waited:.0f} s for the client of the set {_set(waiting)}, before which"
            f" had asked {asked}; it refused all others: {self._knocking()}"
        )
        self._rest = stuck.rest_after(time.monotonic(), self._row, clocks)
        self._row += 1
        _logger.warning("rpcd_fsrvp %d is ended: %s", pid, line)
        try:
            await in_thread(_end, self._present(), pid, waiting, line)
        except RvssError as exc:
            _logger.error("rpcd_fsrvp %d: %s", pid, exc)
        self._waiting.pop(pid, None)
        self._asked.clear()
        self._ended()

    def _knocks(self) -> int:
        return self._asked.total()

    def _knocking(self) -> str:
        some = [f"{asker.describe()}, {n} times" for asker, n in self._asked.most_common(_SHOWN)]
        more = len(self._asked) - len(some)
        return "; ".join([*some, *([f"{more} more"] if more else [])])

    def _say(self, exc: RvssError) -> None:
        """Log once why nothing can be told, and look again later."""
        if exc.line() != self._said:
            self._said = exc.line()
            _logger.warning("whether rpcd_fsrvp waits for a client cannot be told: %s", exc)
        self._wake(_LONGEST_PAUSE if self._waiting else math.inf)


def _set(waiting: Waiting) -> str:
    shares = ", ".join(f"[{share}]" for share in waiting.held.shares) or "without shares yet"
    return f"{waiting.held.id} ({shares})"


def _look(instance: Instance) -> _Look:
    """Look at the workers, srv_fss.tdb and the ledger.

    Raises:
        RvssError: SAMBA, or STATE.
    """
    config = instance.config
    # The file comes first: what is begun meanwhile is new, and a new set is given its time.
    state = fss_state.settled(config.fss_state)
    past = {known.id for known in state.sets if known.state >= SetState.CREATING}
    glances: dict[int, Glance] = {}
    began = time.monotonic()
    for worker in control.workers(config.file, config.samba_lock_directory):
        told = memory.look(config.file, worker.pid)
        begun = [held for held in told.sets if held.id not in past]
        glances[worker.pid] = Glance(
            time=time.monotonic(),
            held=begun[0] if begun else None,
            renewals=told.renewals,
            clients=worker.clients,
        )
    return _Look(began=began, glances=glances, unfinished=_is_unfinished(instance, state))


def _is_unfinished(instance: Instance, state: SambaState) -> bool:
    """Return whether a client may be at work on a set that has been committed.

    One that was begun may be in the file as well, because another one changed. One that is exposed
    has its time from Expose, or from GetShareMapping soon after, which nobody sees; past that it
    loses nothing but a connection.
    """
    if any(SetState.ADDED < known.state < SetState.EXPOSED for known in state.sets):
        return True
    present, most = moment(), instance.config.clocks.long
    return any(
        copy.state is SetState.EXPOSED
        and copy.phase not in (Phase.DELETING, Phase.GONE)
        and copy.since.boot == present.boot
        and present.seconds - copy.since.seconds < most
        for copy in instance.ledger.copies()
    )


def _is_current(instance: Instance, pid: int, waiting: Waiting) -> bool:
    """Return whether a worker still has exactly what it was to be ended for."""
    told = memory.look(instance.config.file, pid)
    return waiting.held in told.sets and told.renewals == waiting.renewals


def _end(instance: Instance, pid: int, waiting: Waiting, line: str) -> None:
    """End a worker, and remove its set from srv_fss.tdb if it came there: the next would read it.

    Raises:
        RvssError: BUSY or SAMBA.
    """
    config, held = instance.config, waiting.held
    instance.ledger.note_set(held.id, "worker ended", detail=f"pid {pid}: {line}")
    if not control.end_worker(pid, config.samba_lock_directory):
        raise RvssError(Problem.BUSY, f"rpcd_fsrvp {pid} does not end on SIGTERM")
    for known in fss_state.settled(config.fss_state).sets:
        if known.id == held.id and known.state < SetState.CREATING:
            repair.delete_set(instance, held.id, known.state, "its worker was ended")
