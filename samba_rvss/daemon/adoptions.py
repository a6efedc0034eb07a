"""Adoptions for an administrator: one image after the other, each waited for for a limited time.

Place: beside `requests`, which has one. Contract: an adoption that fails, or that nobody waits for
any more, is logged, and reconciling sees what is left to do.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from samba_rvss.copies import adopt
from samba_rvss.copies.adopt import Candidate
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import described
from samba_rvss.daemon import living
from samba_rvss.daemon.deletions import HIDE_SECONDS, RETRY_SECONDS
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import Tasks, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate, Finding
from samba_rvss.model import Mark
from samba_rvss.reconcile import report

_logger = logging.getLogger(__name__)


class Adoptions:
    """The adoptions of one instance.

    Args:
        present: returns the instance as it is now.
        turns: who waits for whom.
        runner: sees what is left to do.
        tasks: holds an adoption that goes on while nobody waits for it any more.
        seconds: how long to wait for a file system.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        turns: Turns,
        runner: Runner,
        tasks: Tasks,
        seconds: float = HIDE_SECONDS,
    ) -> None:
        self._present = present
        self._turns = turns
        self._runner = runner
        self._tasks = tasks
        self._seconds = seconds

    async def of_instance(self, source: str, on: str, tell: Callable[[Finding], object]) -> None:
        """Take over the sealed images of another instance.

        Args:
            source: what their marks bear.
            on: a directory on their file system; empty for any.
            tell: called with what comes of each.

        Raises:
            RvssError: BUSY if that instance is served here; as `copies.adopt.candidates`.
        """
        instance = self._present()
        await in_thread(living.require_silence, instance.identity, source)
        found = await in_thread(adopt.candidates, instance, source, on)
        await self.take(found, tell)

    async def take(self, found: list[Candidate], tell: Callable[[Finding], object]) -> None:
        """Take over images; a file system that has not answered once is not waited for again.

        Args:
            found: the images; those that are refused are only told.
            tell: called with what comes of each.
        """
        silent: set[str] = set()
        for candidate in found:
            fate, error = Fate.DONE, ""
            if candidate.mark is not None:
                try:
                    await self._take(candidate, candidate.mark, silent)
                except RvssError as exc:
                    _logger.error("%s cannot be adopted: %s", candidate.title, exc)
                    self._runner.wake(RETRY_SECONDS)
                    fate, error = Fate.FAILED, exc.line()
            tell(report.of_candidate(candidate, fate, error))

    async def _take(self, candidate: Candidate, mark: Mark, silent: set[str]) -> None:
        if mark.volume.file_system not in silent:
            adoption = self._tasks.start(self._in_turn(candidate, mark))
            await asyncio.wait({adoption}, timeout=self._seconds)
            if adoption.done():
                return adoption.result()
            adoption.add_done_callback(partial(self._on_late, candidate))
            silent.add(mark.volume.file_system)
        file_system = described(mark.volume, mark.share_path)
        raise RvssError(
            Problem.BUSY,
            f"{file_system} has not answered for {self._seconds:g} s",
            "what was begun goes on; ask again when it answers",
        )

    async def _in_turn(self, candidate: Candidate, mark: Mark) -> None:
        async with self._turns.take(mark.volume):
            await in_thread(adopt.take, self._present(), candidate)

    def _on_late(self, candidate: Candidate, adoption: "asyncio.Task[None]") -> None:
        """Say what came of an adoption that nobody waited for, and have it seen what is left."""
        exc = None if adoption.cancelled() else adoption.exception()
        if adoption.cancelled():
            return
        if exc is None:
            _logger.info("%s is adopted, after all", candidate.title)
        elif isinstance(exc, RvssError):
            _logger.error("%s cannot be adopted: %s", candidate.title, exc)
        else:
            _logger.error("%s cannot be adopted", candidate.title, exc_info=exc)
        self._runner.wake(RETRY_SECONDS)
