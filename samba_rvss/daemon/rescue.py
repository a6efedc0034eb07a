"""Giving up the set of a client that has gone, while an rpcd_fsrvp serves nobody because of it.

A set that is only in the worker's memory goes with the worker, which is ended as the last resort;
one that has been committed is `abandoned`, and removed by reconciling, with its copies.

Place: beside the runner, fed by the callouts. Contract: it looks at a worker only after a client
has asked for a share or committed a set, or while others wait for one that holds them up; whose
share is refused waits for none. What it ends is proven by the worker's own memory and connections,
srv_fss.tdb and the ledger (`stuck` decides). Nothing waits for it.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from samba_rvss.clock import moment
from samba_rvss.copies import repair
from samba_rvss.copies.delete import ABORTED
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import journal, stuck
from samba_rvss.daemon.stuck import Asker, Glance, Waiting
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.errors import RvssError
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
        committed: ids of the sets that have been committed and not exposed.
        unfinished: whether a client may be at work on another set.
    """

    began: float
    glances: dict[int, Glance]
    committed: frozenset[str]
    unfinished: bool


class Rescue:
    """Watches over the workers of one instance's Samba.

    Args:
        present: returns the instance as it is now.
        ended: called when a worker was ended, or a set is abandoned.
    """

    def __init__(self, present: Callable[[], Instance], ended: Callable[[], None]) -> None:
        self._present = present
        self._ended = ended
        self._running = 0
        self._postponed = False
        self._made = False
        self._counting: asyncio.Future[None] | None = None
        self._then: dict[int, frozenset[int]] = {}  # the workers' connections at the first create
        self._checks = 0
        self._failed = -math.inf
        self._asked: Counter[Asker] = Counter()
        self._waiting: dict[int, Waiting] = {}  # by worker
        self._looked = -math.inf  # when the last good look began
        self._rest = -math.inf
        self._row = 0
        self._said = ""
        self._told: frozenset[str] = frozenset()
        self._abandoned: frozenset[str] = frozenset()
        self._due = math.inf
        self._woken = asyncio.Event()

    # what is heard

    def begins(self) -> None:
        """Note that a callout begins."""
        self._running += 1

    def ends(self, verb: str, asker: Asker, *, good: bool) -> None:
        """Note that a callout has been answered."""
        self._running -= 1
        if self._postponed and not self._running:
            self._postponed = False
            self._wake(_AFTER_FAILURE)
        if verb == "check" and good:  # else the client's request ends here, and it begins no set
            if asker in self._asked or len(self._asked) < _MOST_ASKERS:
                self._asked[asker] += 1
            # What follows is of another set, perhaps.
            self._made, self._then, self._checks = False, {}, self._checks + 1
            self._wake(max(_AFTER_CHECK, self._looked + _PAUSE - time.monotonic()))
        if verb != "create":
            return
        if good:
            self._row = 0
            if not self._made and self._counting is None:
                self._counting = asyncio.ensure_future(self._count())
            self._made = True
        else:
            self._failed = time.monotonic()
            self._wake(_AFTER_FAILURE)

    def written(self) -> None:
        """Note that Samba has written srv_fss.tdb."""
        if self._waiting or self._made:
            self._made = False
            self._wake(_AFTER_FAILURE)

    @property
    def knocks(self) -> int:
        """How often anybody has asked since the client of a set was heard of, or none was begun."""
        return self._asked.total()

    @property
    def abandoned(self) -> frozenset[str]:
        """Ids of the sets that were committed, whose client has gone, and that hold others up."""
        return self._abandoned

    @property
    def delayed(self) -> tuple[str, ...]:
        """A sentence on each worker that waits for a client while others have come again."""
        return tuple(
            f"rpcd_fsrvp {pid} has waited for {time.monotonic() - waiting.since:.0f} s for the"
            f" client of the set {_set(waiting)}, and refuses all others ({self._knocking()})"
            for pid, waiting in self._waiting.items()
            if self.knocks >= stuck.KNOCKS
            and time.monotonic() - waiting.since > min(waiting.allowed, _USUAL)
        )

    async def _count(self) -> None:
        """Note the connections while, or soon after, a client waits for its Commit: one is his."""
        checks, found = self._checks, dict[int, frozenset[int]]()
        try:
            found = await in_thread(_connections, self._present())
        except (OSError, RvssError) as exc:
            _logger.debug("rpcd_fsrvp's connections cannot be told: %s", exc)
        finally:
            self._counting = None
        if checks == self._checks:
            self._then = found

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
        self._abandoned &= look.committed
        for pid, glance in look.glances.items():
            waiting = stuck.follow(known.get(pid), glance, clocks, failed=failed, asked=asked)
            if waiting is not None and waiting.committed and waiting.since == glance.time:
                waiting = replace(waiting, pipes=self._then.pop(pid, waiting.pipes))
            if waiting is not None:
                self._waiting[pid] = waiting
                if waiting.since == glance.time:
                    self._asked.clear()
        if not self._waiting:
            self._asked.clear()
        for pid, waiting in list(self._waiting.items()):
            if self.knocks < stuck.KNOCKS:
                continue
            now, deadline = time.monotonic(), max(waiting.deadline(clocks), self._rest)
            over = stuck.is_over(waiting, now, self.knocks, self._rest, clocks)
            if over and not look.unfinished and not self._running and not self._lives(pid, now):
                if waiting.committed:
                    self._abandon(pid, waiting)
                else:
                    await self._end(pid, waiting)
            # If it is over, something else of a client is in the way.
            self._wake(_LONGEST_PAUSE if over else min(deadline - now, _LONGEST_PAUSE))
        lines, held = self.delayed, frozenset(known.held.id for known in self._waiting.values())
        if lines and held != self._told:
            self._told = held
            _logger.warning("%s", "; ".join(lines))

    def _lives(self, pid: int, now: float) -> bool:
        """Return whether another worker has the same set, and its client may be connected there."""
        own, clocks = self._waiting[pid].held.id, self._present().config.clocks
        return any(
            other.held.id == own and now < other.deadline(clocks)
            for number, other in self._waiting.items()
            if number != pid
        )

    def _abandon(self, pid: int, waiting: Waiting) -> None:
        """Have a set removed that has been committed."""
        if waiting.held.id in self._abandoned:
            return
        self._abandoned |= {waiting.held.id}
        how = "is not connected any more" if waiting.alone is not None else "does not expose it"
        _logger.warning(
            "the set %s is given up: rpcd_fsrvp %d has waited for %.0f s for its client, who %s; it"
            " refused all others: %s",
            _set(waiting),
            pid,
            time.monotonic() - waiting.since,
            how,
            self._knocking(),
            extra=journal.fields(journal.Message.WORKER_ENDED, set_id=waiting.held.id),
        )
        self._ended()

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
        about = journal.fields(journal.Message.WORKER_ENDED, set_id=waiting.held.id)
        _logger.warning("rpcd_fsrvp %d is ended: %s", pid, line, extra=about)
        try:
            await in_thread(_end, self._present(), pid, waiting, line)
        except RvssError as exc:
            _logger.error("rpcd_fsrvp %d: %s", pid, exc)
        self._waiting.pop(pid, None)
        self._asked.clear()
        self._ended()

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
    past = {known.id: known.state for known in state.sets if known.state >= SetState.CREATING}
    committed = frozenset(key for key in past if past[key] is SetState.COMMITTED)
    glances: dict[int, Glance] = {}
    began = time.monotonic()
    for worker in control.workers(config.file, config.samba_lock_directory):
        told = memory.look(config.file, worker.pid)
        begun = [held for held in told.sets if held.id not in past]
        begun += [held for held in told.sets if held.id in committed]
        # The connections come after the memory: what has been done was done over one of them.
        glances[worker.pid] = Glance(
            time=time.monotonic(),
            held=begun[0] if begun else None,
            renewals=told.renewals,
            clients=worker.clients,
            committed=bool(begun) and begun[0].id in committed,
            heir=bool(begun) and worker.started > _committed_at(instance, begun[0].id),
            pipes=control.pipes(worker.pid),
        )
    unfinished = _is_unfinished(instance, state)
    return _Look(began=began, glances=glances, committed=committed, unfinished=unfinished)


def _connections(instance: Instance) -> dict[int, frozenset[int]]:
    pids = control.worker_pids(instance.config.samba_lock_directory)
    return {pid: found for pid in pids if (found := control.pipes(pid)) is not None}


def _committed_at(instance: Instance, set_id: str) -> float:
    """Return when it was known that a set is committed, in seconds since this boot.

    The answer is infinity if that is not known.
    """
    boot = moment().boot
    known = (
        copy.since.seconds
        for copy in instance.ledger.of_set(set_id)
        if copy.state is SetState.COMMITTED
        and copy.phase not in (Phase.KEPT, Phase.GONE)
        and copy.since.boot == boot
    )
    return max(known, default=math.inf)


def _is_unfinished(instance: Instance, state: SambaState) -> bool:
    """Return whether a client may be at work on a set besides the one that holds others up.

    That one may be in the file as well, committed or because another one changed. One that is
    exposed has its time from Expose, or from GetShareMapping soon after, which nobody sees; past
    that it loses nothing but a connection.
    """
    if any(known.state is SetState.CREATING for known in state.sets):
        return True
    present = moment()
    since = replace(present, seconds=present.seconds - instance.config.clocks.long)
    return instance.ledger.is_any_since(SetState.EXPOSED, since)


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
    control.end_worker(pid, config.samba_lock_directory)
    instance.ledger.note_set(held.id, ABORTED, detail=f"its worker was ended: {line}")
    for known in fss_state.settled(config.fss_state).sets:
        if known.id == held.id and known.state < SetState.CREATING:
            repair.delete_set(instance, held.id, known.state, "its worker was ended")
