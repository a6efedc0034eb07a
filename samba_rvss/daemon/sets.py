"""Shadow copies that are taken together: those of a set, at the first create callout of its Commit.

Place: between the requests and `copies.create`; what belongs to a set is told by `gathering`.
Contract: a request waits for its own file system alone, and for nobody's turn but its own volume's.
What was taken along and is not asked for goes as soon as the set is committed without it, and in
any case when the time of a Commit is over.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from samba_rvss.copies.create import Prepared, claim, discard, prepare, take
from samba_rvss.copies.locate import Target
from samba_rvss.daemon.gathering import Gathering
from samba_rvss.daemon.looks import too_late
from samba_rvss.daemon.present import Present
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import RvssError
from samba_rvss.model import Instant, SambaState, ShadowCopy

_logger = logging.getLogger(__name__)

_MOST_PAST = 16  # workers end, and are forgotten

_Made: TypeAlias = Mapping[str, Prepared | RvssError]


@dataclass(slots=True, kw_only=True)
class _Commit:
    """What a worker is committing.

    Attributes:
        since: when it began (`time.monotonic`).
        waiting: of each share that was taken along, what is made of its file system's shares.
        paths: of the copies that were claimed.
        end: ends it when its time is over.
    """

    since: float
    waiting: dict[str, "asyncio.Future[_Made]"] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    end: asyncio.TimerHandle | None = None


class Sets:
    """The sets that clients are making, on one instance.

    Args:
        present: the instance as it is now.
        turns: who waits for whom.
        tasks: holds what goes on while nobody waits for it any more.
        retry: called when something could not be removed.
    """

    def __init__(
        self, present: Present, turns: Turns, tasks: Tasks, retry: Callable[[], None]
    ) -> None:
        self._present = present
        self._turns = turns
        self._tasks = tasks
        self._retry = retry
        self._gathering = Gathering[Target]()
        self._commits: dict[str, _Commit] = {}
        self._past: dict[str, _Commit] = {}  # those that are over, and not seen in srv_fss.tdb yet

    def asked(self, worker: str, uid: int, target: Target) -> None:
        """Note that a worker was told that a share can have shadow copies."""
        if worker:
            self._end(worker, "its Commit is over")
            name = target.share.name
            self._gathering.asked(worker, name, time.monotonic(), uid, target)

    def missed(self, worker: str, share: str) -> None:
        """Note that a worker wanted a copy of a share that cannot be found just now."""
        if worker:
            self._gathering.missed(worker, share)

    def seen(self, state: SambaState) -> None:
        """Note what Samba has written down: what is committed and was not claimed goes."""
        if not (self._commits or self._past):
            return
        there = {known.path for known in state.copies}
        for worker, commit in [*self._commits.items(), *self._past.items()]:
            if commit.paths & there:
                self._gathering.committed(worker, commit.since)
                if self._commits.get(worker) is commit:
                    self._end(worker, "its set was committed without it")
                self._past.pop(worker, None)

    def end(self) -> None:
        """Let go of everything that nobody has claimed."""
        for worker in list(self._commits):
            self._end(worker, "samba-rvss ends")

    async def create(
        self, worker: str, target: Target, uid: int, started: float, deadline: float
    ) -> ShadowCopy:
        """Take a shadow copy, together with those that may be asked for next; or claim one.

        Args:
            worker: who asks; empty if it is none.
            target: the share, and where it is.
            uid: the client's user.
            started: when it was asked for (`time.monotonic`).
            deadline: until when it is wanted (`time.monotonic`).

        Raises:
            RvssError: as `copies.create.prepare` and `copies.create.claim`.
        """
        together = bool(worker) and target.share.instant is Instant.SET
        name, present = target.share.name, time.monotonic()
        found = self._gathering.begin(worker, name, present, uid) if together else None
        commit = self._commits.get(worker)
        # One that fails ends nothing: Samba asks for the rest of its set all the same
        # (srv_fss_agent.c, _fss_CommitShadowCopySet()).
        if found is not None:
            self._end(worker, "it is asked for anew")
            commit = self._begin(worker, present)
            copy = await self._take(commit, target, found, uid, started, deadline)
        elif commit is not None and name in commit.waiting:
            copy = await self._claim(commit, target, uid, started, deadline)
        else:
            copy = await self._take_now(target, uid, started, deadline)
        if commit is not None:
            commit.paths.add(copy.path)
        return copy

    def _begin(self, worker: str, since: float) -> _Commit:
        commit = self._commits[worker] = _Commit(since=since)
        seconds = self._present().config.commit_deadline
        loop = asyncio.get_running_loop()
        commit.end = loop.call_later(seconds, self._end, worker, "nobody asked for it in time")
        return commit

    async def _take(
        self,
        commit: _Commit,
        target: Target,
        found: Mapping[str, Target],
        uid: int,
        started: float,
        deadline: float,
    ) -> ShadowCopy:
        """Begin to take everything, each file system on its own, and wait for one of it."""
        by_system: dict[str, list[Target]] = defaultdict(list)
        for other in self._together(found.values()):
            by_system[other.volume.file_system].append(other)
        own = by_system.pop(target.volume.file_system, [])
        for others in by_system.values():
            making = self._tasks.start(self._prepare(others, uid, deadline))
            commit.waiting.update((other.share.name, making) for other in others)
        loop = asyncio.get_running_loop()
        made: asyncio.Future[_Made] = loop.create_future()
        commit.waiting.update((other.share.name, made) for other in own)

        def tell(result: _Made) -> None:
            loop.call_soon_threadsafe(_settle, made, result)

        try:
            return await self._take_now(target, uid, started, deadline, own, tell)
        finally:
            _settle(made, {})

    def _together(self, found: Iterable[Target]) -> list[Target]:
        """Return what may be taken along, as it is by now."""
        shares = self._present().config.shares
        current = {share.name: share for share in shares}
        return [
            replace(other, share=share)
            for other in found
            if (share := current.get(other.share.name)) is not None
            and share.path == other.share.path
            and not share.obstacle
            and share.instant is Instant.SET
        ]

    async def _prepare(self, targets: Sequence[Target], uid: int, deadline: float) -> _Made:
        """Take what is on a file system of which nothing is asked for yet."""
        try:
            async with self._turns.free(*(other.volume for other in targets)) as free:
                along = [other for other in targets if other.volume.key in free]
                return await in_thread(prepare, self._present(), None, along, uid, deadline)
        except Exception:  # each is taken by its own callout then
            _logger.exception("shadow copies that may be asked for cannot be taken yet")
            return {}

    async def _take_now(
        self,
        target: Target,
        uid: int,
        started: float,
        deadline: float,
        others: Sequence[Target] = (),
        tell: Callable[[_Made], object] = lambda made: None,
    ) -> ShadowCopy:
        """Take a copy in its volume's turn, with those of volumes on which nobody works.

        All in one thread: to go on in another one takes a part of a millisecond each time.
        """
        own = target.volume
        async with (
            self._turns.take(own, deadline=deadline),
            self._turns.free(*(o.volume for o in others if o.volume.key != own.key)) as free,
        ):
            along = [other for other in others if other.volume.key in {own.key, *free}]
            instance = self._present()
            return await in_thread(take, instance, target, along, uid, started, deadline, tell)

    async def _claim(
        self, commit: _Commit, target: Target, uid: int, started: float, deadline: float
    ) -> ShadowCopy:
        """Claim what was taken along; take it now if it was left out, or is of another volume."""
        name = target.share.name
        making = commit.waiting.pop(name)
        await asyncio.wait({making}, timeout=max(0.0, deadline - time.monotonic()))
        found = making.result().get(name) if making.done() else None
        if making.done() and not (isinstance(found, Prepared) and found.is_of(target)):
            # What kept it from being taken may be over, or is said now.
            self._leave(name, making, "its share, or the way to it, is another one by now")
            return await self._take_now(target, uid, started, deadline)
        held = False
        try:
            if not isinstance(found, Prepared):
                raise too_late(f"the file system of {target.share.path}")
            async with self._turns.take(target.volume, deadline=deadline):
                held = True
                return await in_thread(claim, self._present(), found, uid, started, deadline)
        finally:
            if not held:
                self._leave(name, making, "it came too late")

    def _end(self, worker: str, reason: str) -> None:
        """End what a worker commits: remove what was not claimed."""
        commit = self._commits.pop(worker, None)
        if commit is None:
            return
        if commit.end is not None:
            commit.end.cancel()
        for share, making in commit.waiting.items():
            self._leave(share, making, reason)
        commit.waiting = {}
        if len(self._past) >= _MOST_PAST:
            del self._past[next(iter(self._past))]
        self._past[worker] = commit

    def _leave(self, share: str, making: "asyncio.Future[_Made]", reason: str) -> None:
        """Remove what was taken along of a share, or will be: nobody claims it."""
        making.add_done_callback(partial(self._on_unclaimed, share, reason))

    def _on_unclaimed(self, share: str, reason: str, making: "asyncio.Future[_Made]") -> None:
        if making.cancelled() or making.exception() is not None:
            return
        found = making.result().get(share)
        if isinstance(found, Prepared):
            self._tasks.start(self._discard(found, reason))

    async def _discard(self, prepared: Prepared, reason: str) -> None:
        async with self._turns.take(prepared.copy.volume):
            try:
                await in_thread(discard, self._present(), prepared, reason)
            except RvssError as exc:
                _logger.error("%s cannot be removed yet: %s", prepared.copy.title, exc)
                self._retry()


def _settle(making: "asyncio.Future[_Made]", made: _Made) -> None:
    if not making.done():
        making.set_result(made)
