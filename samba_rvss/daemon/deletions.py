"""Deletions: for Samba, which must not wait, for an administrator, and of what came too late.

Place: beside `requests`, which has one. Contract: a deletion that fails, or that nobody waits for
any more, goes on or is tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from samba_rvss.copies import holds, keep, reading
from samba_rvss.copies.create import forced
from samba_rvss.copies.delete import delete, left_behind, not_hidden, withdraw
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import described
from samba_rvss.copies.repair import note_lost
from samba_rvss.daemon import journal
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Keep, Phase, ShadowCopy

_logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""After how long what has failed is tried again."""

HIDE_SECONDS = 30.0
"""How long Samba's only worker waits until nobody can reach a copy, less than the hook waits for an
answer; an administrator waits as long for a file system."""

# How long Samba's only worker waits for the image to be destroyed, once nobody can reach the copy.
_DESTROY_SECONDS = 1.0
# How long an administrator's deletion waits to see whether something is held.
_CHECK_SECONDS = 5.0
_LONGEST = 30.0
_GIVEN_UP = "an administrator says that its file system is gone for good"


class Deletions:
    """The deletions of one instance.

    Args:
        present: returns the instance as it is now.
        turns: who waits for whom.
        watcher: follows the copies.
        runner: tries again what failed.
        tasks: holds a deletion that goes on while nobody waits for it any more.
        under_way: hears of each.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        turns: Turns,
        watcher: Watcher,
        runner: Runner,
        tasks: Tasks,
        under_way: UnderWay,
    ) -> None:
        self._present = present
        self._turns = turns
        self._watcher = watcher
        self._runner = runner
        self._tasks = tasks
        self._under_way = under_way

    async def for_samba(self, copy: ShadowCopy, uid: int) -> None:
        """Delete a copy without letting Samba wait for the file system.

        One rpcd_fsrvp serves all clients, a request at a time: while it waits for us, no other
        client can commit. As soon as a copy is recorded as being deleted and nobody can reach it,
        it is gone for Samba; an image that is in use is destroyed when its users let go.

        Raises:
            RvssError: as `copies.delete.delete`.
        """
        await self._watcher.on_delete(copy, uid)  # no turn is held meanwhile
        deletion, hidden = self._begin(copy, uid, forced(self._present(), copy))
        seconds = min(HIDE_SECONDS, self._present().config.commit_deadline)
        reached = asyncio.ensure_future(hidden.wait())
        await asyncio.wait(
            {deletion, reached}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        reached.cancel()
        if not deletion.done() and not hidden.is_set():
            deletion.add_done_callback(partial(_log_late, copy))
            raise not_hidden(copy, seconds)
        await asyncio.wait({deletion}, timeout=_DESTROY_SECONDS)
        if not deletion.done():
            deletion.add_done_callback(partial(_log_late, copy))
            return
        try:
            deletion.result()
        except RvssError as exc:
            if not hidden.is_set() or not (
                exc.problem is Problem.BUSY or await self._is_kept(copy)
            ):
                raise
            _log_late(copy, deletion)

    async def _is_kept(self, copy: ShadowCopy) -> bool:
        """Return whether a copy has ended as a backup, so that it is no more for its client."""
        found = await in_thread(self._present().ledger.get, copy.id)
        return found is not None and (found.phase is Phase.KEPT or found.ended)

    async def for_administrator(self, copy: ShadowCopy, uid: int) -> None:
        """Delete a copy for an administrator, who is told what is left if it takes too long.

        Raises:
            RvssError: HELD; as `copies.delete.delete`: then it is tried again later. BUSY if
                something does not answer, or somebody reads the backup or has it mounted.
        """
        deletion, hidden = self._begin(copy, uid, by=_delete_unheld)
        await asyncio.wait({deletion}, timeout=HIDE_SECONDS)
        if not deletion.done():
            deletion.add_done_callback(partial(_log_late, copy))
            if not hidden.is_set():
                raise not_hidden(copy, HIDE_SECONDS)
            file_system = described(copy.volume, copy.share_path)
            raise left_behind(copy, f"{file_system} has not answered for {HIDE_SECONDS:g} s")
        try:
            deletion.result()
        except RvssError as exc:
            if not hidden.is_set():
                raise
            raise left_behind(copy, exc.line(), exc.problem) from exc
        self._runner.wake(RETRY_SECONDS)  # Samba still has its set

    async def give_up(self, copy: ShadowCopy) -> None:
        """Record that a copy is lost, whose file system is not there, and destroy nothing.

        Should its image come back, it is ours as before.

        Raises:
            RvssError: REFUSED if its file system is there; BUSY, SAMBA, STATE or SYSTEM.
        """
        async with self._turns.take(copy.volume):
            await in_thread(_require_gone, self._present(), copy)
            await self._watcher.release(copy)
            try:
                await in_thread(note_lost, self._present(), copy, _GIVEN_UP)
            finally:
                await self._watcher.resume(copy.id)

    async def withdraw(self, copy: ShadowCopy, reason: str) -> None:
        """Delete a new copy whose path could not be handed to Samba."""
        about = journal.fields(journal.Message.WITHDRAWN, copy=copy)
        _logger.warning("%s is withdrawn: %s", copy.title, reason, extra=about)
        async with self._turns.take(copy.volume):
            try:
                await in_thread(withdraw, self._present(), copy, reason)
            except RvssError as exc:
                about = journal.fields(journal.Message.NOT_DELETED, copy=copy)
                _logger.error("%s cannot be withdrawn yet: %s", copy.title, exc, extra=about)
                self._runner.wake(RETRY_SECONDS)

    def _begin(
        self,
        copy: ShadowCopy,
        uid: int,
        detail: str = "",
        by: Callable[..., bool] = keep.end,
    ) -> "tuple[asyncio.Task[None], asyncio.Event]":
        """Begin to delete a copy; return the task, and what is set when nobody can reach it."""
        loop, hidden = asyncio.get_running_loop(), asyncio.Event()
        hide = partial(loop.call_soon_threadsafe, hidden.set)
        return self._tasks.start(self._delete(copy, uid, hide, detail, by)), hidden

    async def _delete(
        self,
        copy: ShadowCopy,
        uid: int,
        hidden: Callable[[], object] = lambda: None,
        detail: str = "",
        by: Callable[..., bool] = keep.end,
    ) -> None:
        with self._under_way.doing(f"the deletion of {copy.id} has been under way", _LONGEST):
            if by is _delete_unheld:  # before it is let go of: what is held is followed on
                await self._require_unheld(copy)
            # First without the turn: a step of the sealing may take long, and nobody must wait.
            await self._watcher.release(copy)
            async with self._turns.take(copy.volume):
                await self._watcher.release(copy)  # reconciling may have tracked it again
                goes_on = True
                try:
                    goes_on = await in_thread(by, self._present(), copy, uid, hidden, detail)
                except RvssError:
                    self._runner.wake(RETRY_SECONDS)
                    raise
                finally:
                    if goes_on:  # not being deleted after all, or ended and to be sealed
                        await self._watcher.resume(copy.id)
        if copy.keep is not Keep.NO and not goes_on:
            self._tasks.start(self._clear(copy))  # its client does not wait for that

    async def _clear(self, copy: ShadowCopy) -> None:
        async with self._turns.take(copy.volume):
            try:
                await in_thread(keep.clear, self._present(), copy)
            except RvssError as exc:
                _logger.warning("%s: cannot clear away: %s", copy.title, exc)
                self._runner.wake(RETRY_SECONDS)

    async def _require_unheld(self, copy: ShadowCopy) -> None:
        """Refuse what is held, unless that cannot be told in time: the provider refuses it, too.

        What clients can reach is taken away from them even where a disk stands still.

        Raises:
            RvssError: HELD; of a backup, whatever keeps that from being seen.
        """
        check = self._tasks.start(in_thread(holds.require_unheld, self._present(), copy))
        await asyncio.wait({check}, timeout=_CHECK_SECONDS)
        try:
            if check.done():
                check.result()
                return
            reason = f"{described(copy.volume, copy.share_path)} does not answer"
        except RvssError as exc:
            if exc.problem is Problem.HELD or copy.phase is Phase.KEPT:
                raise
            reason = exc.line()
        if copy.phase is Phase.KEPT:
            raise RvssError(Problem.BUSY, f"whether {copy.id} is held cannot be told: {reason}")
        about = journal.fields(copy=copy)
        _logger.warning("whether %s is held cannot be told: %s", copy.title, reason, extra=about)


def _require_gone(instance: Instance, copy: ShadowCopy) -> None:
    """Refuse to give up a copy whose file system is there."""
    try:
        instance.provider(copy.volume).mark(copy.volume, copy.id)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
    else:
        file_system = described(copy.volume, copy.share_path)
        raise RvssError(Problem.REFUSED, f"{file_system} is there", "delete it without --lost")


def _delete_unheld(
    instance: Instance, copy: ShadowCopy, uid: int, hidden: Callable[[], object], detail: str
) -> bool:
    current = instance.ledger.get(copy.id)
    with ExitStack() as bars:
        if current is not None and current.phase is Phase.KEPT:
            holds.require_unheld(instance, current)  # once more, now that nothing changes it
            bars.enter_context(reading.barred(instance, current))
        delete(instance, copy, uid, hidden, detail)
    return False


def _log_late(copy: ShadowCopy, deletion: "asyncio.Task[None]") -> None:
    """Log why a copy that is gone for Samba still has its image; the deletion is tried again."""
    exc = None if deletion.cancelled() else deletion.exception()
    about = journal.fields(journal.Message.NOT_DELETED, copy=copy)
    if isinstance(exc, RvssError):
        _logger.warning("%s is not done with: %s", copy.title, exc, extra=about)
    elif exc is not None:
        _logger.error("%s is not done with", copy.title, exc_info=exc, extra=about)
