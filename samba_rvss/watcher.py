"""Following srv_fss.tdb: open, amend and seal shadow copies as their sets go on.

Samba closes the file after each write, so one inotify event follows each (srv_fss_state.c,
fss_state_store()). Opening a recovery mount happens at once in the event loop; all else in worker
threads, in the order in which it was seen. Nothing runs while nothing changes.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from samba_rvss import kernel
from samba_rvss.errors import Problem, RvssError
from samba_rvss.lifecycle import Lifecycle, Step, steps
from samba_rvss.model import Phase, SambaCopy, SambaState, SetState, ShadowCopy
from samba_rvss.samba import fss_state

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_AMEND_SECONDS = 1.0
_FIRST_PAUSE = 0.005
# After which it is worth while to bring a copy to the disk that somebody keeps from being sealed.
_WRITE_OUT_SECONDS = 1.0
_LONGEST_PAUSE = 5.0
_REPORT_SECONDS = 60.0


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking function in the loop's executor."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(function, *args, **kwargs))


async def _whole(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking function to its end even if the task that waits for it is cancelled."""
    step = asyncio.ensure_future(in_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


class Watcher:
    """Keeps shadow copies in step with Samba.

    Args:
        lifecycle: the verbs.
        changed: called whenever srv_fss.tdb was written.

    The owner starts `run` as a task and cancels it; recovery mounts stay as they are then.
    """

    def __init__(self, lifecycle: Lifecycle, changed: Callable[[], None] = lambda: None) -> None:
        self._lifecycle = lifecycle
        self._written = changed
        self._pending: dict[str, ShadowCopy] = {}
        self._amended: dict[str, bool] = {}
        self._sealing: dict[str, asyncio.Task[None]] = {}
        self._lost: set[str] = set()  # of these, those whose image or mount is not there
        self._state: SambaState | None = None
        self._changed = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._inotify = -1
        self._rewatch: asyncio.Future[None] | None = None

    def track(self, copy: ShadowCopy) -> None:
        """Begin to follow a copy, until it is sealed and its exposed share is amended."""
        self._pending[copy.path] = copy
        if copy.phase is Phase.SEALING:
            self._start_seal(copy)

    def sealing(self) -> frozenset[str]:
        """Return the ids of the copies that are being sealed, and of which nothing is missing."""
        return frozenset(self._sealing) - self._lost

    async def settled(self, seconds: float) -> bool:
        """Wait until nothing is being sealed any more; return whether that is so in time."""
        if self._sealing:
            await asyncio.wait(self._sealing.values(), timeout=seconds)
        return not self._sealing

    async def release(self, copy: ShadowCopy) -> None:
        """Stop following a copy: it is to be removed. No step of ours touches it on return."""
        self._forget(copy)
        self._lost.discard(copy.id)
        task = self._sealing.pop(copy.id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _forget(self, copy: ShadowCopy) -> None:
        self._pending.pop(copy.path, None)
        self._amended.pop(copy.id, None)

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        self._inotify = kernel.inotify()
        try:
            loop.add_reader(self._inotify, self._on_event)
            await self._watch()
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    if self._state is not None:
                        await self._follow(self._state)
                except Exception:
                    _logger.exception("cannot follow Samba's shadow copy sets")
        finally:
            loop.remove_reader(self._inotify)
            os.close(self._inotify)
            if self._retry:
                self._retry.cancel()
            for task in self._sealing.values():
                task.cancel()

    async def _watch(self) -> None:
        """Watch Samba's lock directory, once there is one, and look at what is there."""
        directory = self._lifecycle.config.samba_lock_directory
        mask = kernel.IN_CLOSE_WRITE | kernel.IN_DELETE_SELF
        said = False
        while True:
            try:
                kernel.inotify_add_watch(self._inotify, directory, mask)
                break
            except FileNotFoundError:
                if not said:
                    _logger.info("waiting for Samba's lock directory %s", directory)
                    said = True
                await asyncio.sleep(1.0)
        self.look()

    def _on_event(self) -> None:
        events = kernel.inotify_read(self._inotify)
        if any(mask & kernel.IN_IGNORED for _, mask, _ in events):
            self._rewatch = asyncio.ensure_future(self._watch())
        if any(name == "srv_fss.tdb" or mask & kernel.IN_Q_OVERFLOW for _, mask, name in events):
            self._written()
            self.look()

    def look(self, pause: float = 0.001) -> None:
        """Read Samba's state without waiting; try again shortly if it is being written."""
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if not self._pending:
            return
        try:
            state = fss_state.read(self._lifecycle.config.fss_state)
        except RvssError as exc:
            _logger.error("%s", exc)
            state, pause = None, max(pause, 0.5)
        if state is None:
            again = min(pause * 2, _LONGEST_PAUSE)
            self._retry = asyncio.get_running_loop().call_later(pause, self.look, again)
            return
        for copy, seen in self._seen(state):
            if Step.OPEN in steps(copy, seen):
                try:
                    self._lifecycle.open(copy)
                except RvssError as exc:
                    _logger.error("[%s] %s cannot be opened: %s", copy.share, copy.id, exc)
        self._state = state
        self._changed.set()

    def _seen(self, state: SambaState) -> Iterable[tuple[ShadowCopy, SambaCopy]]:
        for seen in state.copies:
            copy = self._pending.get(seen.path)
            if copy is not None:
                yield copy, seen

    async def _follow(self, state: SambaState) -> None:
        exposed: list[tuple[ShadowCopy, bool]] = []
        seals: list[ShadowCopy] = []
        for copy, seen in list(self._seen(state)):
            due = steps(copy, seen)
            try:
                current = await in_thread(self._record, copy, seen, due) if due else copy
            except RvssError as exc:
                _logger.error("[%s] %s: %s", copy.share, copy.id, exc)
                continue
            if current is None:
                continue
            if copy.path in self._pending:
                self._pending[copy.path] = current
            closed = current.phase is not Phase.OPEN or Step.SEAL in due
            if seen.is_exposed and self._amended.get(copy.id) is not closed:
                exposed.append((current, closed))
            if Step.SEAL in due:
                seals.append(replace(current, state=seen.state))
        await self._amend({copy.exposed_share: closed for copy, closed in exposed})
        self._amended.update((copy.id, closed) for copy, closed in exposed)
        for copy in seals:
            self._start_seal(copy)
        for copy, _ in list(self._seen(state)):
            self._drop_if_done(copy)

    def _record(
        self, copy: ShadowCopy, seen: SambaCopy, due: tuple[Step, ...]
    ) -> ShadowCopy | None:
        current: ShadowCopy | None = copy
        if Step.LEARN in due:
            current = self._lifecycle.learn(copy, seen)
        if Step.OPEN in due and current is not None:
            current = self._lifecycle.opened(current)
        return current

    async def _amend(self, shares: dict[str, bool]) -> None:
        """Amend exposed shares; wait for it for a moment only, because the kernel seals."""
        if not shares:
            return
        task = asyncio.ensure_future(in_thread(self._lifecycle.amend, shares))
        task.add_done_callback(_report)
        done, _ = await asyncio.wait([task], timeout=_AMEND_SECONDS)
        if not done:
            _logger.warning("Samba's registry is slow to take the changed shares")

    def _drop_if_done(self, copy: ShadowCopy | None) -> None:
        """Stop following a copy that Samba will not change any more."""
        done = copy and copy.phase is Phase.SEALED and copy.state is SetState.RECOVERED
        if copy and done and self._amended.get(copy.id):
            self._forget(copy)

    def _start_seal(self, copy: ShadowCopy) -> None:
        if copy.id not in self._sealing:
            task = asyncio.ensure_future(self._seal(copy))
            self._sealing[copy.id] = task

    async def _seal(self, copy: ShadowCopy) -> None:
        """Seal a copy, however long a writer holds out."""
        started = time.monotonic()
        pause = _FIRST_PAUSE
        while True:
            try:
                sealed = await self._seal_once(copy, started)
                break
            except RvssError as exc:
                _logger.error("[%s] %s is not sealed: %s", copy.share, copy.id, exc)
                if exc.problem is Problem.NOT_FOUND:
                    self._lost.add(copy.id)
            except Exception:
                _logger.exception("[%s] %s is not sealed", copy.share, copy.id)
            pause = min(pause * 10, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
        self._sealing.pop(copy.id, None)
        self._lost.discard(copy.id)
        if sealed is None:
            return
        spent = (time.monotonic() - started) * 1000
        _logger.info("[%s] %s sealed in %.0f ms", copy.share, copy.id, spent)
        if copy.path in self._pending:
            self._pending[copy.path] = sealed
            self._drop_if_done(sealed)

    async def _seal_once(self, copy: ShadowCopy, started: float) -> ShadowCopy | None:
        """Seal a copy, waiting for its last writer; None if it is being removed."""
        sealing = await _whole(self._lifecycle.begin_seal, copy)
        if sealing is None:
            return None
        pause, reported, written = _FIRST_PAUSE, 0.0, False
        while True:
            sealed = await _whole(self._lifecycle.finish_seal, sealing, started)
            if sealed is not None:
                return sealed if sealed.phase is Phase.SEALED else None
            await _whole(self._lifecycle.drop_writers, sealing)
            waited = time.monotonic() - started
            if waited > _WRITE_OUT_SECONDS and not written:
                await _whole(self._lifecycle.write_out, sealing)
                written = True
            late = waited > self._lifecycle.config.seal_deadline
            if late and (not reported or waited - reported > _REPORT_SECONDS):
                reported = waited
                await self._report_writers(sealing, waited)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _report_writers(self, copy: ShadowCopy, waited: float) -> None:
        who = "unknown"
        with suppress(OSError):
            who = await in_thread(self._lifecycle.describe_writers, copy)
        _logger.error(
            "[%s] %s is still open for writing %.0f s after its recovery, by %s: end that process",
            copy.share,
            copy.id,
            waited,
            who,
        )


def _report(task: "asyncio.Future[None]") -> None:
    """Log why exposed shares could not be amended: Samba's manners suffer, no promise does."""
    exc = None if task.cancelled() else task.exception()
    if isinstance(exc, RvssError):
        _logger.error("cannot amend exposed shares: %s", exc)
    elif exc is not None:
        _logger.error("cannot amend exposed shares", exc_info=exc)
