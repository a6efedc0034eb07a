"""Following srv_fss.tdb: open, amend and seal shadow copies as the states of their sets change.

Samba closes the file after each write (srv_fss_state.c, fss_state_store()), and before that libtdb
sets its times. Both are listened for, since the first cannot always be heard: where a write makes
the file larger, libtdb leaves a part of it mapped, and the kernel tells of no close until the
worker ends (seen with libtdb 1.4.8). The file is held open and read in a thread of its own, which
waits for nothing else. As soon as it has been read, the event loop closes and opens recovery
mounts; sealing, recording and amending follow in other threads. Nothing runs while nothing changes.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime

from samba_rvss.copies import follow, seal
from samba_rvss.copies.follow import Step, steps
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import journal
from samba_rvss.daemon.amending import Amender
from samba_rvss.daemon.doubts import Doubts
from samba_rvss.daemon.sealer import Sealer
from samba_rvss.daemon.tasks import in_thread, whole
from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import RvssError
from samba_rvss.kernel import inotify
from samba_rvss.kernel.priority import Urgency, hurry
from samba_rvss.model import ENDED, Phase, SambaCopy, SambaState, SetState, ShadowCopy
from samba_rvss.samba import fss_state

_logger = logging.getLogger(__name__)

# transaction.c, _tdb_transaction_commit(): utime(2), with the locks still held
_WRITTEN = inotify.IN_CLOSE_WRITE | inotify.IN_ATTRIB

_CATCH_UP_SECONDS = 10.0
_FIRST_PAUSE = 0.001
_PAUSE_AFTER_ERROR = 0.5
_LONGEST_PAUSE = 5.0


class Watcher:
    """Keeps shadow copies in step with Samba.

    Args:
        present: returns the instance as it is now.
        turns: who waits for whom.
        written: called whenever srv_fss.tdb was written.
        seen: gets what is in it, whenever it was read.

    The owner starts `run` as a task and cancels it, and calls `close` in the end; recovery mounts
    stay as they are then.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        turns: Turns,
        written: Callable[[], None] = lambda: None,
        seen: Callable[[SambaState], None] = lambda state: None,
    ) -> None:
        self._present = present
        self._turns = turns
        self._written = written
        self._seen = seen
        self._sealer = Sealer(present, turns, self._on_sealed)
        self._pending: dict[str, ShadowCopy] = {}  # by path
        self._opened: set[str] = set()  # ids of those whose mount was opened, not recorded yet
        self._doubts = Doubts(present)
        self._state: SambaState | None = None
        self._urgency = Urgency()
        self._reader = ThreadPoolExecutor(1, "srv_fss", hurry)
        self._file = fss_state.HeldFile(present().config.fss_state)
        self._reading = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._amender = Amender(present, lambda copy: copy.path in self._pending, self._changed.set)
        self._inotify = -1
        self._rewatch: asyncio.Future[None] | None = None

    # for the owner

    @property
    def sealing(self) -> frozenset[str]:
        """Ids of the copies that are being sealed and have their image and mount."""
        return self._sealer.busy

    @property
    def delayed(self) -> tuple[str, ...]:
        """A sentence on each copy whose sealing has failed and is tried again."""
        return self._sealer.delayed

    def retry(self) -> None:
        """Try at once again to seal what could not be sealed: something has changed."""
        self._sealer.retry()

    @property
    def followed(self) -> tuple[ShadowCopy, ...]:
        """The copies that are followed, as they were known last."""
        return tuple(self._pending.values())

    def close(self) -> None:
        """Give back what `run` does not: the file that is held open."""
        self._file.close()

    def track(self, copy: ShadowCopy) -> None:
        """Begin to follow a copy, until Samba will not change it any more and it is sealed.

        What a boot may have torn is left to reconciling: nothing says any more that its recovery is
        complete.
        """
        if copy.ended:
            if copy.phase is Phase.SEALING:
                self._sealer.begin(copy)
            return
        if seal.is_torn(copy) and not seal.is_recovered(copy):
            return
        self._pending[copy.path] = copy
        self._opened.discard(copy.id)
        if copy.phase is Phase.SEALING:
            self._sealer.begin(copy)
        self._hurry_or_not()

    async def resume(self, copy: str) -> None:
        """Follow a copy on, by its id, as its record says by now; not if it has ended."""
        found = await in_thread(self._present().ledger.get, copy)
        if found is not None and found.phase not in ENDED:
            self.track(found)
            await self.catch_up()

    async def on_delete(self, copy: ShadowCopy, uid: int) -> None:
        """Hear that a client is about to delete a copy; see `Doubts.on_delete`."""
        await self._doubts.on_delete(copy, uid)

    async def release(self, copy: ShadowCopy) -> None:
        """Stop following a copy that is to be deleted; no step of ours touches it on return."""
        self._drop(copy)
        await self._sealer.end(copy)

    async def catch_up(self) -> None:
        """Read srv_fss.tdb and open what is due, before this returns; `run` need not be running.

        If the file cannot be read just now, or in time, that is left to `run`: whoever catches up
        may hold a volume's turn.
        """
        good = None
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                good = await self._could_read()
        except TimeoutError:
            _logger.error("Samba's shadow copy sets cannot be read in %g s", _CATCH_UP_SECONDS)
        if not good:
            self.look()

    def look(self) -> None:
        """Read srv_fss.tdb as soon as possible, if any copy is followed."""
        self._wanted.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        with ExitStack() as cleanup:
            self._inotify = inotify.start()
            cleanup.callback(os.close, self._inotify)
            loop.add_reader(self._inotify, self._on_event)
            cleanup.callback(loop.remove_reader, self._inotify)
            cleanup.callback(self._turns.end_all_work)
            tasks = [
                asyncio.ensure_future(self._keep_reading()),
                asyncio.ensure_future(self._keep_following()),
            ]
            for task in tasks:
                cleanup.callback(task.cancel)
            await self._watch()
            await asyncio.gather(*tasks)

    # events

    async def _watch(self) -> None:
        """Watch Samba's lock directory as soon as there is one, and have the file read."""
        directory = self._present().config.samba_lock_directory
        mask = _WRITTEN | inotify.IN_DELETE_SELF
        said = False
        while True:
            try:
                await whole(inotify.add_watch, self._inotify, directory, mask)
                break
            except OSError as exc:
                if not said:
                    _logger.warning("cannot watch Samba's lock directory yet: %s", exc)
                    said = True
                await asyncio.sleep(1.0)
        self.look()

    def _on_event(self) -> None:
        events = inotify.read(self._inotify)
        if any(mask & inotify.IN_IGNORED for _, mask, _ in events):
            self._rewatch = asyncio.ensure_future(self._watch())
        if any(name == "srv_fss.tdb" or mask & inotify.IN_Q_OVERFLOW for _, mask, name in events):
            self._written()
            self.look()

    # reading, and the gate

    async def _keep_reading(self) -> None:
        """Read the file whenever that is wanted, and again shortly if it is being written."""
        pause: float | None = None
        while True:
            if await self._is_wanted(pause):
                pause = None
            self._wanted.clear()
            good = await self._could_read()
            following = 2 * pause if pause else _FIRST_PAUSE
            if good is None:
                following = max(following, _PAUSE_AFTER_ERROR)
            pause = None if good else min(following, _LONGEST_PAUSE)

    async def _could_read(self) -> bool | None:
        """Read the file and open what is due.

        Returns:
            False if the file is being written just now, None if it could not be read at all, or
            something could not be opened.
        """
        try:
            return await self._read()
        except RvssError as exc:
            _logger.error("%s", exc)
        except Exception:
            _logger.exception("cannot look at Samba's shadow copy sets")
        return None

    async def _read(self) -> bool | None:
        if not self._pending:
            return True
        async with self._reading:
            loop = asyncio.get_running_loop()
            written, state = await loop.run_in_executor(self._reader, _read, self._file)
            if state is None:
                return False
            acted = self._act_at_once(state)
            self._doubts.on_read(self._known(state), written)
            self._state = state
            self._seen(state)
            self._changed.set()
            return acted or None

    async def _is_wanted(self, seconds: float | None) -> bool:
        """Wait until a look is wanted, at most so many seconds; return whether one is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        return self._wanted.is_set()

    def _act_at_once(self, state: SambaState) -> bool:
        """Close, or open, every recovery mount that is due, without waiting and recording.

        What is closed begins to be sealed: neither the registry nor the ledger comes before that.
        While it is being sealed it is not opened, whatever the file says.

        Returns:
            Whether all that is due to be open is.
        """
        good = True
        for copy, known in self._known(state):
            due = steps(copy, known)
            if Step.SEAL in due:
                self._sealer.begin(follow.with_news(copy, known))
            elif Step.OPEN in due and copy.id not in self._turns.worked_on:
                try:
                    follow.open_mount(self._present(), copy)
                    self._opened.add(copy.id)
                except RvssError as exc:
                    about = journal.fields(copy=copy)
                    _logger.error("%s cannot be opened: %s", copy.title, exc, extra=about)
                    good = False
        self._hurry_or_not()
        return good

    def _known(self, state: SambaState) -> Iterable[tuple[ShadowCopy, SambaCopy]]:
        for known in state.copies:
            copy = self._pending.get(known.path)
            if copy is not None:
                yield copy, known

    # all else, in the order in which it was seen

    async def _keep_following(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if self._state is not None:
                    await self._follow(self._state)
            except Exception:
                _logger.exception("cannot follow Samba's shadow copy sets")

    async def _follow(self, state: SambaState) -> None:
        shown: list[tuple[ShadowCopy, bool]] = []
        for copy, known in list(self._known(state)):
            due = steps(copy, known)
            closed_still = Step.OPEN in due and copy.id not in self._opened
            if closed_still:
                # The next reading opens it: a record that says open must never come before that.
                due = tuple(step for step in due if step is not Step.OPEN)
            try:
                current = await self._record(copy, known, due) if due else copy
            except RvssError as exc:
                _logger.error("%s: %s", copy.title, exc, extra=journal.fields(copy=copy))
                continue
            if current is None:
                continue
            if copy.path in self._pending:
                self._pending[copy.path] = current
            if closed_still:
                continue
            closed = current.phase is not Phase.OPEN or Step.SEAL in due
            if known.is_exposed and not self._amender.has(copy.id, closed=closed):
                shown.append((current, closed))
        await self._amender.amend(shown)
        for copy, _ in list(self._known(state)):
            self._drop_if_done(copy)

    async def _record(
        self, copy: ShadowCopy, known: SambaCopy, due: tuple[Step, ...]
    ) -> ShadowCopy | None:
        return await in_thread(_record, self._present(), copy, known, due)

    def _on_sealed(self, copy: ShadowCopy) -> None:
        if copy.path in self._pending:
            self._pending[copy.path] = copy
            self._drop_if_done(copy)

    def _drop_if_done(self, copy: ShadowCopy) -> None:
        """Stop following a copy that Samba will not change any more."""
        done = copy.phase is Phase.SEALED and copy.state is SetState.RECOVERED
        if done and self._amender.has(copy.id, closed=True):
            self._drop(copy)

    def _drop(self, copy: ShadowCopy) -> None:
        self._pending.pop(copy.path, None)
        self._amender.forget(copy.id)
        self._opened.discard(copy.id)
        self._hurry_or_not()

    def _hurry_or_not(self) -> None:
        """Run before all others for as long as a copy may have to be opened or closed.

        A client may connect some 30 ms after Samba has recorded that its set is committed, and what
        it writes first must not find the copy closed, however busy the machine is.
        """
        self._urgency.set(
            wanted=any(
                copy.phase in {Phase.TAKEN, Phase.OPEN} and copy.id not in self._sealer.busy
                for copy in self._pending.values()
            )
        )


def _read(file: fss_state.HeldFile) -> tuple[datetime | None, SambaState | None]:
    """Return when a file had been written last before it was read, and what is in it."""
    return file.written(), file.read()


def _record(
    instance: Instance, copy: ShadowCopy, known: SambaCopy, due: tuple[Step, ...]
) -> ShadowCopy | None:
    """Record what was learned of a copy and that it was opened; None if it is past that."""
    current: ShadowCopy | None = copy
    if Step.LEARN in due:
        current = follow.learn(instance, copy, known)
    if Step.OPEN in due and current is not None:
        current = follow.record_open(instance, current)
    return current
