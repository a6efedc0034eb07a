"""Backups in Previous Versions: which are shown follows the ledger; each is mounted on demand.

Place: beside `requests`; `copies.versions` says what is shown, and `mounts.demand` how. Contract:
whoever looks into a backup gets an answer within a time limit: the backup, or that there is none.
The loop waits for no file system. Nothing runs while no backup is shown, nor lacking.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from samba_rvss.copies import versions
from samba_rvss.copies.create import INTENDED
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.keeper import Keeper
from samba_rvss.daemon.looks import Looks
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.errors import RvssError
from samba_rvss.kernel import autofs, files, processes
from samba_rvss.kernel.autofs import Asked
from samba_rvss.model import Event, Phase, ShadowCopy

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 10.0
_GRACE_SECONDS = 1.0  # after which somebody else answers
_SETTLE_SECONDS = 0.2
_AGAIN_SECONDS = 1.0  # after which a name may have become free
_EXPIRE_SECONDS = 60.0
_FAILED_SECONDS = 10.0  # for so long one that could not be mounted is not tried again


class Versions:
    """The backups of one instance in Previous Versions.

    Args:
        present: returns the instance as it is now.

    Attributes:
        lacking: a sentence on each share whose backups cannot be shown.

    The owner starts `run` as a task and cancels it, and calls `close` in the end: directories are
    as without backups then.
    """

    def __init__(self, present: Callable[[], Instance]) -> None:
        self._present = present
        self._demand = present().mounts.demand
        self._looks = Looks()
        self._tasks = Tasks()
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._woken.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="previous")
        self._keeper: Keeper | None = None
        self._lost = False  # whether that has ended
        self._places = versions.Places(_EXPIRE_SECONDS)
        self._shown: tuple[versions.Shown, ...] = ()
        self._copies: dict[str, ShadowCopy] = {}
        self._failed: dict[str, float] = {}  # until when, by the image
        self._expired = time.monotonic()
        self.lacking: tuple[str, ...] = ()
        present().ledger.listen(self._hear)

    def wake(self) -> None:
        """Have it looked at soon what is to be shown, and what the shares lead to."""
        self._places = versions.Places(_EXPIRE_SECONDS)
        self._woken.set()

    @property
    def late(self) -> tuple[str, ...]:
        """A sentence on each share whose backups have been waited for without an answer."""
        return self._looks.late()

    async def run(self) -> None:
        """Show what is to be shown until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            self._woken.clear()
            try:
                pause = _AGAIN_SECONDS if await self._refresh() else _EXPIRE_SECONDS
                await self._expire()
                busy = self._demand.covered or self.lacking
                idle = pause == _EXPIRE_SECONDS and not busy
            except Exception:  # whatever it is, the next look may see more
                _logger.exception("which backups are in Previous Versions cannot be told")
                pause, idle = _EXPIRE_SECONDS, False
            if not idle:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                self._woken.set()

    def close(self) -> None:
        """Take all of it away; whoever waits hears that there is nothing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._keeper is not None:
            self._loop.remove_reader(self._keeper.fileno())
            self._end(self._keeper)

    def _end(self, keeper: Keeper) -> None:
        self._keeper, self._lost = None, False
        with keeper:
            try:
                self._demand.close()
            except OSError:
                _logger.exception("backups stay in Previous Versions, and cannot be read there")

    def _hear(self, event: Event) -> None:
        """Hear of an event of the ledger, from whichever thread has written it."""
        if event.what not in (versions.RECORDED, INTENDED):  # which change nothing there
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._woken.set)

    # what is shown

    async def _refresh(self) -> bool:
        """Show what is to be shown; return whether something has to be tried again soon."""
        if self._keeper is not None and self._lost:
            await in_thread(self._end, self._keeper)
            await asyncio.sleep(_AGAIN_SECONDS)  # the next one may end as soon
        if self._keeper is None and self._demand.covered:  # it could not be closed
            await in_thread(self._demand.close)
        instance = self._present()
        showing = any(share.previous_versions for share in instance.config.shares)
        if not showing and not self._demand.covered:
            self._lack(())
            return False
        found = self._shown = await in_thread(_found, instance, self._places, self._shown)
        wanted = [of for of in found if of.backups]
        self._copies = {copy.id: copy for of in wanted for copy in of.backups.values()}
        if wanted and self._keeper is None:
            processes.lead()  # whoever is in our group meets empty directories
            questions, theirs = autofs.pipe()
            try:
                self._keeper = await in_thread(Keeper, questions, _ANSWER_SECONDS + _GRACE_SECONDS)
            except BaseException:
                os.close(theirs)
                raise
            self._demand.open(self._keeper.fileno(), theirs, self._keeper)
            self._loop.add_reader(self._keeper.fileno(), self._on_asked)
        lacking, again = await in_thread(_show, instance, wanted)
        self._lack((*lacking, *_left_out(found)))
        return again

    def _lack(self, lacking: tuple[str, ...]) -> None:
        for sentence in lacking:
            if sentence not in self.lacking:
                _logger.warning("%s", sentence)
        self.lacking = lacking

    async def _expire(self) -> None:
        present = time.monotonic()
        if self._demand.covered and present - self._expired >= _EXPIRE_SECONDS:
            self._expired = present
            await in_thread(self._demand.expire)

    # who looks into one

    def _on_asked(self) -> None:
        try:
            questions = self._demand.asked()
        except EOFError:
            _logger.error("the process has ended that hands on what clients ask of backups")
            self._demand.silence()
            if self._keeper is not None:
                self._lost = True
                self._loop.remove_reader(self._keeper.fileno())
            self.wake()
            return
        for asked in questions:
            copy = self._copies.get(self._demand.image(asked))
            if not asked.missing:
                self._tasks.start(self._answer(asked, self._in_turn(self._demand.release, asked)))
            elif (
                copy is None
                or self._failed.get(copy.id, 0.0) > time.monotonic()
                or self._looks.is_silent(copy.share_path, _ANSWER_SECONDS)
            ):
                self._tasks.start(self._answer(asked, self._refuse()))
            else:
                attach = partial(_attach, self._present(), asked, copy)
                end = time.monotonic() + _ANSWER_SECONDS
                look = self._looks.look(copy.share_path, attach, end)
                self._tasks.start(self._answer(asked, look, copy.id))

    async def _answer(self, asked: Asked, doing: Awaitable[bool], image: str = "") -> None:
        done = False
        try:
            done = await doing
        except (RvssError, OSError) as exc:
            present = time.monotonic()
            if self._failed.get(image, 0.0) <= present:  # others may have asked for it meanwhile
                _logger.warning("%s in Previous Versions cannot be read: %s", asked.name, exc)
            self._failed = {key: end for key, end in self._failed.items() if end > present}
            if image:
                self._failed[image] = present + _FAILED_SECONDS
        finally:
            with suppress(RuntimeError):  # `close` has answered
                await self._in_turn(partial(self._demand.answer, asked, done=done))

    async def _refuse(self) -> bool:
        return False

    async def _in_turn(self, function: Callable[..., T], *args: object) -> T:
        """Run what waits for no file system in a thread of its own: users may ask without end."""
        return await self._loop.run_in_executor(self._thread, function, *args)


def _found(
    instance: Instance, places: versions.Places, before: tuple[versions.Shown, ...]
) -> tuple[versions.Shown, ...]:
    config, ledger = instance.config, instance.ledger
    backups = ledger.backups()
    living = ledger.previous_paths() if backups else []
    there = places.look(instance) if backups else {}
    found = versions.shown(config.run_directory, config.shares, living, backups, there, before)
    versions.record(instance, found)
    return found


def _left_out(found: tuple[versions.Shown, ...]) -> Iterator[str]:
    for of in found:
        for count, why in (
            (of.others, f"they are of another directory than the one at {of.path}"),
            (of.untold, f"whether they are of the directory at {of.path} cannot be told"),
        ):
            if count:
                shown = f"[{of.share}] does not show {count} of its backups in Previous Versions"
                yield f"{shown}: {why}"


def _show(instance: Instance, wanted: list[versions.Shown]) -> tuple[tuple[str, ...], bool]:
    """Show some backups and no others; return what is lacking, and whether to try again soon."""
    demand, again = instance.mounts.demand, False
    # What could not be taken over at the start, if anything.
    paths = [copy.previous_path for copy in instance.ledger.backups()]
    lacking = instance.mounts.take_over(paths)
    stays = {of.directory for of in wanted}.intersection(instance.mounts.on_demand())
    for path in set(demand.covered) - stays:  # or somebody has unmounted it: it is covered anew
        try:
            demand.uncover(path)
        except OSError as exc:
            lacking.append(f"backups cannot be taken away from {path}: {exc.strerror}")
    for of in wanted:
        images = {name: copy.id for name, copy in of.backups.items()}
        try:
            demand.cover(of.directory)
            again |= bool(demand.show(of.directory, images))
        except (RvssError, OSError) as exc:
            why = exc.line() if isinstance(exc, RvssError) else str(exc)
            lacking.append(f"[{of.share}] does not show its backups in Previous Versions: {why}")
    return tuple(lacking), again


def _attach(instance: Instance, asked: Asked, copy: ShadowCopy) -> bool:
    """Mount a backup that somebody looks into, if it is one still; return whether it is there.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.open`, and `Demand.attach`.
        OSError: if it cannot be mounted.
    """

    def is_kept() -> bool:
        current = instance.ledger.get(copy.id)
        return current is not None and current.phase is Phase.KEPT

    if not is_kept():
        return False
    instance.mounts.demand.make_room()
    parts = instance.provider(copy.volume).open(copy.volume, copy.id)
    with files.all_opened(fd for _, fd in parts):
        return instance.mounts.demand.attach(asked, parts, is_kept)
