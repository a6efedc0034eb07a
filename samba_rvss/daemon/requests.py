"""What clients, through Samba, and administrators ask for: each request in its turn.

Place: between both sockets and the verbs of `copies`. Contract: a request that fails has undone
what it did, or has woken the runner to try again.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from samba_rvss.backups.plausibility import PRUNED, UNPRUNED
from samba_rvss.copies import room
from samba_rvss.copies.create import examine, make_ready
from samba_rvss.copies.delete import find
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import Target, locate
from samba_rvss.daemon.adoptions import Adoptions
from samba_rvss.daemon.deletions import RETRY_SECONDS, Deletions
from samba_rvss.daemon.exposures import Exposures
from samba_rvss.daemon.guards import Guards
from samba_rvss.daemon.looks import Looks, too_late
from samba_rvss.daemon.news import NO_ROOM, NOT_DELETED, NOT_TAKEN
from samba_rvss.daemon.present import Present
from samba_rvss.daemon.rescue import Rescue
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.sets import Sets
from samba_rvss.daemon.stuck import Asker
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.permissions import User
from samba_rvss.kernel.processes import Peer
from samba_rvss.model import ShadowCopy, Share
from samba_rvss.samba import twins
from samba_rvss.samba.conf import find_share

_logger = logging.getLogger(__name__)

_LONGEST = 30.0  # that a request should take, or as long as a Commit may, if that is less
_STATUS_SECONDS = 2.0
_SEALING_PAUSES = (0.05,) * 20 + (0.5,) * 28  # between looks whether a copy is sealed
_AT_ONCE = 8  # shares that are looked at for a status
_READY_SECONDS = 60.0  # that a volume is taken for ready for copies
# Of how many users it is said that they cannot read smb.conf, and for how long.
_MOST_UNREAD, _UNREAD_SECONDS = 20, 3600.0
# What fails again as it did is recorded no more often.
_NOTE_SECONDS, _MOST_NOTED = 60.0, 1000

NOTED = {"create": NOT_TAKEN, "delete": NOT_DELETED}
"""The callouts whose failures are recorded, and as what event."""


class Requests:
    """The requests of one instance.

    Args:
        present: the instance as it is now.
        turns: who waits for whom.
        watcher: follows the new copies.
        runner: tries again what failed.
        tasks: holds what goes on while nobody waits for it any more.
        rescue: hears of the callouts.

    Attributes:
        deletions: those of this instance.
        adoptions: the same.
        exposures: what is exposed of it.
        guards: backups before something is restored.
        sets: what clients put into sets.
    """

    def __init__(
        self,
        present: Present,
        turns: Turns,
        watcher: Watcher,
        runner: Runner,
        tasks: Tasks,
        rescue: Rescue,
    ) -> None:
        self._present = present
        self._turns = turns
        self._watcher = watcher
        self._runner = runner
        self._tasks = tasks
        self._ready: set[str] = set()
        self._looks = Looks()
        self._under_way = UnderWay()
        self.deletions = Deletions(present, turns, watcher, runner, tasks, self._under_way)
        self.adoptions = Adoptions(present, turns, runner, tasks)
        self.exposures = Exposures(present, turns, runner, self._under_way)
        self.guards = Guards(present, turns, self._under_way)
        self.sets = Sets(present, turns, tasks, partial(runner.wake, RETRY_SECONDS))
        self._rescue = rescue
        self._unread: dict[int, tuple[float, str]] = {}  # when, and why, by uid
        self._noted: dict[tuple[str, str, int], float] = {}  # when failures were recorded

    @property
    def refused(self) -> tuple[str, ...]:
        """A sentence on each reason for which clients are refused."""
        since = time.monotonic() - _UNREAD_SECONDS
        unread = (line for seen, line in self._unread.values() if seen > since)
        return (*self._rescue.delayed, *dict.fromkeys(unread))

    @property
    def late(self) -> tuple[str, ...]:
        """A sentence on all that was asked for and takes longer than it should."""
        return (*self._under_way.late(), *self._looks.late())

    def begins(
        self, verb: str, uid: int, words: tuple[str, ...], started: float
    ) -> Callable[..., None]:
        """Note that a client did something that a callout was made for.

        Args:
            verb: the callout's.
            uid: the client's user.
            words: the paths as the callout got them.
            started: when the request came (`time.monotonic`).

        Returns:
            What is to be called when the callout has its answer; ``good`` is whether that is good.
        """
        self._runner.heard()
        path = " ".join(words)
        self._rescue.begins()
        what = f"the {verb} callout of uid {uid} for {path} has been under way"
        number = self._under_way.begin(what, started, self._usual)
        return partial(self._end, verb, Asker(uid=uid, path=path), number)

    def _end(self, verb: str, asker: Asker, number: int, *, good: bool) -> None:
        self._under_way.end(number)
        self._rescue.ends(verb, asker, good=good)

    @property
    def _usual(self) -> float:
        return min(_LONGEST, self._present().config.commit_deadline)

    async def refresh(self, *, anew: bool = False) -> None:
        """Read smb.conf again if it has changed; with ``anew``, in any case."""
        if anew:
            self._present.expire()
        before = self._present().config
        await self._present.refresh()
        config = self._present().config
        if config is not before and config.shares != before.shares:
            self._runner.wake(RETRY_SECONDS)  # what is exposed has the security of its base share

    async def check(self, words: tuple[str, ...], user: User | None, peer: Peer) -> None:
        """Find out whether the share that a callout's words mean can be snapshotted, and exposed.

        Args:
            words: the share's path as the callout got it.
            user: the callout's, if he sees the smb.conf that we see.
            peer: the callout.

        Raises:
            RvssError: NOT_OURS; BUSY or DEADLINE if its file system does not answer; as
                `copies.locate.locate`, `copies.room.require` and `samba.readable.require`.
        """
        instance = self._present()
        share = find_share(instance.config, words)
        deadline = time.monotonic() + instance.config.commit_deadline
        look = partial(examine, instance, share, user)
        try:
            target = await self._looks.look(share.path, look, deadline)
        except RvssError as exc:
            self._note_unread(user, exc)
            raise
        self._note_unread(user, None)
        self.sets.asked(peer.worker, peer.uid, target)
        # After the answer: it may wait for the disk. Samba checks a share twice, and then commits.
        key = target.volume.key
        if key not in self._ready:
            self._ready.add(key)
            asyncio.get_running_loop().call_later(_READY_SECONDS, self._ready.discard, key)
            self._tasks.start(in_thread(make_ready, instance, target.volume))

    async def lacking(self) -> tuple[str, ...]:
        """Return a sentence on each share that this process can take no shadow copies of.

        What does not answer soon is none of them; see `late`.
        """
        refreshing = self._tasks.start(self.refresh())
        await asyncio.wait({refreshing}, timeout=_STATUS_SECONDS)
        instance, gate = self._present(), asyncio.Semaphore(_AT_ONCE)
        directory = instance.config.run_directory
        deadline = time.monotonic() + _STATUS_SECONDS

        async def look(share: Share) -> str:
            find = partial(locate, share, instance.providers, directory, thorough=True)
            async with gate:
                if time.monotonic() >= deadline:
                    return ""
                try:
                    await self._looks.look(share.path, find, deadline)
                except RvssError as exc:
                    late = exc.problem is Problem.DEADLINE
                    return "" if late else f"[{share.name}]: {exc.line()}"
            return ""

        whole = twins.whole(instance.config.shares)
        meant = (s.name for s in instance.config.sections if s.share and not s.inherits)
        found = await asyncio.gather(*(look(whole[name]) for name in meant))
        return tuple(line for line in found if line)

    def _note_unread(self, user: User | None, exc: RvssError | None) -> None:
        """Have `status` say for a while who cannot read smb.conf; whom a check did not stop can."""
        if user is None or (exc and exc.problem in (Problem.BUSY, Problem.DEADLINE)):
            return
        self._unread.pop(user.uid, None)
        if exc and exc.problem is Problem.CONFIG:
            past = time.monotonic() - _UNREAD_SECONDS
            self._unread = {uid: told for uid, told in self._unread.items() if told[0] > past}
            if len(self._unread) < _MOST_UNREAD:
                self._unread[user.uid] = (time.monotonic(), exc.line())

    async def create(self, words: tuple[str, ...], peer: Peer, started: float) -> ShadowCopy:
        """Take a shadow copy, for as long as ``rvss:commit deadline`` allows.

        Where the file system does not answer in time, the copy is undone when it does.

        Args:
            words: the share's path as the callout got it.
            peer: the callout.
            started: when the request came (`time.monotonic`).

        Raises:
            RvssError: NOT_OURS, DEADLINE or BUSY; as `copies.locate.locate` and `Sets.create`.
        """
        instance = self._present()
        deadline = started + instance.config.commit_deadline
        share = find_share(instance.config, words)
        look = partial(
            locate, share, instance.providers, instance.config.run_directory, thorough=False
        )
        try:
            target = await self._looks.look(share.path, look, deadline)
        except RvssError:
            self.sets.missed(peer.worker, share.name)
            raise
        creation = self._tasks.start(self._create(target, peer, started, deadline))
        await asyncio.wait({creation}, timeout=max(0.0, deadline - time.monotonic()))
        if creation.done():
            return creation.result()
        creation.add_done_callback(self._undo_late)
        what = f"a shadow copy of {target.share.path} that came too late has been under way"
        self._under_way.until_done(creation, what, started)
        raise too_late(f"the file system of {target.share.path}")

    async def _create(
        self, target: Target, peer: Peer, started: float, deadline: float
    ) -> ShadowCopy:
        try:
            return await self.sets.create(peer.worker, target, peer.uid, started, deadline)
        except RvssError:
            self._runner.wake(RETRY_SECONDS)
            raise

    def _undo_late(self, creation: "asyncio.Task[ShadowCopy]") -> None:
        """Withdraw a copy that nobody waited for any more; one that failed has undone itself."""
        exc = None if creation.cancelled() else creation.exception()
        if creation.cancelled():
            return
        if exc is None:
            copy = creation.result()
            self._tasks.start(self.deletions.withdraw(copy, "it was ready too late"))
        elif isinstance(exc, RvssError):
            _logger.warning("a shadow copy that was too late is undone: %s", exc)
        else:
            _logger.error("a shadow copy was too late", exc_info=exc)

    async def find(self, words: tuple[str, ...]) -> ShadowCopy:
        """Find the copy that a delete callout means.

        Raises:
            RvssError: as `copies.delete.find`.
        """
        return await in_thread(find, self._present(), words)

    async def get(self, copy: str) -> ShadowCopy:
        """Return a copy by its id.

        Raises:
            RvssError: NOT_FOUND.
        """
        found = await in_thread(self._present().ledger.get, copy)
        if found is None:
            raise RvssError(Problem.NOT_FOUND, f"there is no shadow copy {copy}")
        return found

    async def note_pruned(self, reason: str, *, done: bool) -> str:
        """Note that backups were pruned by the clock, or that the clock was not believed.

        Args:
            reason: what of it failed, or why the clock was not believed.
            done: whether they were pruned.

        Returns:
            A line that says so.

        Raises:
            RvssError: STATE.
        """
        ledger, event = self._present().ledger, PRUNED if done else UNPRUNED
        await in_thread(ledger.note_set, "", event, detail=reason)
        return "noted"

    async def note(self, copy: ShadowCopy, event: str, reason: str, uid: int) -> str:
        """Note what an administrator's command did with a backup; return a line that says so.

        Raises:
            RvssError: STATE.
        """
        await in_thread(self._present().ledger.note, copy, event, uid=uid, detail=reason)
        return "noted"

    async def annotate(
        self, copy: ShadowCopy, change: Callable[[Instance, ShadowCopy], object]
    ) -> None:
        """Change what is said of a copy as a backup, in its volume's turn.

        Args:
            copy: which one; if it is being sealed, that is waited for.
            change: gets the copy as it is by then.

        Raises:
            RvssError: BUSY if its sealing does not come to its end soon; as ``change`` does.
        """
        for pause in (*_SEALING_PAUSES, 0.0):
            async with self._turns.take(copy.volume):
                if copy.id not in self._watcher.sealing:
                    await in_thread(change, self._present(), await self.get(copy.id))
                    return
            await asyncio.sleep(pause)
        raise RvssError(Problem.BUSY, f"{copy.id} is being sealed", "try again in a moment")

    async def explained(self, exc: RvssError, words: tuple[str, ...]) -> RvssError:
        """Return what a callout failed with, as `copies.room.explained` says it."""
        if exc.problem is not Problem.NO_SPACE:
            return exc
        instance = self._present()
        with suppress(RvssError):
            share = find_share(instance.config, words)
            return room.explained(exc, share, await in_thread(instance.ledger.backups))
        return exc

    def share_of(self, words: tuple[str, ...]) -> str:
        """Return the name of the share that a callout is for; empty if it is none of ours."""
        with suppress(RvssError):
            return find_share(self._present().config, words).name
        return ""

    async def note_failure(
        self,
        verb: str,
        words: tuple[str, ...],
        copy: ShadowCopy | None,
        uid: int,
        status: int,
        line: str,
    ) -> None:
        """Record that a callout for a share of ours, or for a copy, has failed.

        Args:
            verb: one of `NOTED`.
            words: the paths as the callout got them.
            copy: the one that was to be deleted, if it was found.
            uid: the client's user.
            status: the `Problem`.
            line: the error.
        """
        instance = self._present()
        share = self.share_of(words) if verb == "create" else ""
        key, present = (verb, copy.id if copy else share, status), time.monotonic()
        if not key[1] or present - self._noted.get(key, -math.inf) < _NOTE_SECONDS:
            return
        if len(self._noted) >= _MOST_NOTED:
            self._noted.clear()
        self._noted[key] = present
        ledger, event = instance.ledger, NOTED[verb]
        if (event, status) == (NOT_TAKEN, Problem.NO_SPACE):
            event = NO_ROOM
        try:
            if copy is not None:
                await in_thread(ledger.note, copy, event, uid=uid, detail=line)
            else:
                await in_thread(ledger.note_share, share, event, uid=uid, detail=line)
        except RvssError as exc:
            _logger.error("a failure is not recorded: %s", exc)

    def delivered(self, copy: ShadowCopy) -> None:
        """Note that Samba has the path of a new copy, and begin to follow the copy."""
        self._watcher.track(copy)
