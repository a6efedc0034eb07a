"""Telling ``rvss:notify command`` what happens: aborts, failures, what `status` calls wrong.

Place: beside everything else in the daemon, which never waits for it. The ledger says what happens;
what is wrong is judged now and then, in a process of its own, by what `status` goes by. Contract:
the program runs once at a time, within a time limit, with our environment and no text in its words
but what smb.conf has. What it is too slow for is dropped and counted. A trouble is told when it
begins, and when it is over, and not in between (`troubles`). Without that option nothing is done.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from samba_rvss.child import Child
from samba_rvss.copies.delete import ABORTED
from samba_rvss.daemon import journal
from samba_rvss.daemon.news import (
    ABORT,
    FAILURE,
    NO_ROOM,
    NOT_DELETED,
    NOT_TAKEN,
    TEST,
    WRONG,
    Judge,
    News,
    of_copy,
)
from samba_rvss.daemon.present import Present
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.daemon.troubles import Troubles
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.priority import like_others
from samba_rvss.model import Event
from samba_rvss.run import run
from samba_rvss.samba import notification

_logger = logging.getLogger(__name__)

# What ends each of them, and whose it is.
_ENDS = {"taken": NOT_TAKEN, "gone": NOT_DELETED, "kept": NOT_DELETED}
_LOST = "lost"  # the image of a copy, or of a backup, has vanished
_HEARD = frozenset({ABORTED, NOT_TAKEN, NO_ROOM, NOT_DELETED, _LOST, *_ENDS})
_SECONDS = 30.0  # that the program may take
_JUDGE_SECONDS = 120.0
_TICK_SECONDS, _IDLE_SECONDS = 5.0, 60.0  # with, and without a program to tell
_LOOK_SECONDS = 600.0  # what changes with time alone need not be known sooner
_GAP_SECONDS = 15.0  # between two looks
_MOST = 50  # that wait
_HEARD_MOST = 1000
_LOOKS = 3  # that have not ended
_SETS = 100


class Notifier:
    """Tells a program what happens to one instance.

    Args:
        present: the instance as it is now.
        configfile: smb.conf, or an empty string for Samba's own.
        judge: tells what is wrong.
        signs: returns what changes when something may have gone wrong; without waiting.
    """

    def __init__(
        self,
        present: Present,
        configfile: str,
        judge: Judge,
        signs: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._present = present
        self._configfile = configfile
        self._judge = judge
        self._signs = signs
        self._troubles = Troubles(present().config.notified)
        self._events: deque[Event] = deque()
        self._queue: deque[News] = deque()
        self._dropped = 0
        self._failure = ""
        self._running = asyncio.Lock()
        self._woken, self._queued = asyncio.Event(), asyncio.Event()
        self._looked: tuple[float, frozenset[str]] | None = None  # when, and what the signs were
        self._looking: asyncio.Future[None] | None = None
        self._closing: list[Thread] = []
        self._aborted: deque[str] = deque(maxlen=_SETS)
        self._loop = asyncio.get_running_loop()
        present().ledger.listen(self._hear)

    @property
    def wrong(self) -> tuple[str, ...]:
        """A sentence on each thing that keeps the program from being told."""
        if not self._command:
            return ()
        lost = f"{self._dropped} notifications were lost: 'rvss:notify command' is too slow"
        return tuple(filter(None, [self._failure, lost if self._dropped else ""]))

    @property
    def _command(self) -> tuple[str, ...]:
        return self._present().config.notify_command

    async def try_out(self) -> str:
        """Run the program once; return a line that says how long it took.

        Raises:
            RvssError: CONFIG if there is none; as `_run`.
        """
        await self._present.refresh()
        if not self._command:
            raise RvssError(
                Problem.CONFIG,
                f"'rvss:notify command' is not set in [global] of {self._present().config.file}",
                "see 'samba-rvss status' if it should be",
            )
        started = time.monotonic()
        await self._tell(News(event=TEST, reason="an administrator tries the notify command"))
        return f"{self._command[0]} was told in {time.monotonic() - started:.1f} s"

    async def run(self) -> None:
        """Tell what happens until cancelled."""
        await in_thread(self._troubles.load)
        sending = asyncio.ensure_future(self._keep_telling())
        try:
            while True:
                self._woken.clear()
                if self._command:
                    try:
                        await self._turn()
                    except Exception:  # whatever it is, the next turn may see more
                        _logger.exception("cannot see what to notify")
                else:
                    self._events.clear()
                    self._queue.clear()
                    self._looked = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_SECONDS if self._command else _IDLE_SECONDS):
                        await self._woken.wait()
        finally:
            sending.cancel()
            if self._looking is not None:
                self._looking.cancel()

    # what happens

    def _hear(self, event: Event) -> None:
        """Take an event of the ledger; called by whichever thread has written it."""
        if event.what in _HEARD:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Event) -> None:
        if not self._command:
            return
        if len(self._events) >= _HEARD_MOST:
            self._dropped += 1
            return
        self._events.append(event)
        self._woken.set()

    async def _turn(self) -> None:
        while self._events:
            await self._on_event(self._events.popleft())
        if self._is_look_due():
            self._looked = time.monotonic(), self._now()
            self._looking = asyncio.ensure_future(self._look())
        for news in self._troubles.over(time.monotonic()):
            self._enqueue(news)
        text = self._troubles.text()
        if text:
            await in_thread(self._troubles.store, text)

    async def _on_event(self, event: Event) -> None:
        if event.what in _ENDS:
            failed = _ENDS[event.what]
            self._troubles.end(_key(failed, event), time.monotonic())
            return
        news = await self._news_of(event)
        if event.what in (NOT_TAKEN, NO_ROOM, NOT_DELETED):
            self._enqueue(self._troubles.begin(_key(event.what, event), news))
        elif event.what == _LOST:
            self._enqueue(news)
        elif event.set_id not in self._aborted:  # a set is told of once, for all its copies
            self._aborted.append(event.set_id)
            self._enqueue(news)

    async def _news_of(self, event: Event) -> News:
        kind = ABORT if event.what == ABORTED else FAILURE
        reason = event.detail if kind == ABORT else f"{event.what}: {event.detail}"
        if event.copy:
            with suppress(RvssError):
                copy = await in_thread(self._present().ledger.get, event.copy)
                if copy is not None:
                    return of_copy(kind, reason, copy)
        share = self._present().config.share(event.share)
        return News(
            event=kind,
            reason=reason,
            share=event.share,
            path=share.path if share else "",
            copy=event.copy,
            set_id=event.set_id,
        )

    # what is wrong

    def _is_look_due(self) -> bool:
        if self._looking is not None and not self._looking.done():
            return False
        if self._looked is None:
            return True
        when, signs = self._looked
        spent = time.monotonic() - when
        return spent >= _LOOK_SECONDS or (spent >= _GAP_SECONDS and self._now() != signs)

    def _now(self) -> frozenset[str]:
        return frozenset(News(event=WRONG, reason=line).key for line in self._signs())

    async def _look(self) -> None:
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        try:
            if len(self._closing) >= _LOOKS:
                raise RuntimeError(f"{_LOOKS} looks before have not ended")
            await self._present.refresh()
            found, whole = await in_thread(self._judged)
        except (RvssError, RuntimeError, OSError, EOFError) as exc:  # TimeoutError is an OSError
            _logger.error("what is wrong cannot be judged: %s", exc)
            return
        for news in self._troubles.look(found, time.monotonic(), whole=whole):
            self._enqueue(news)
        self._woken.set()

    def _judged(self) -> tuple[tuple[News, ...], bool]:
        """Judge in a process of its own, which a disk that stands still may keep from ending."""
        child = Child()
        try:
            return child.call(_JUDGE_SECONDS, self._judge, self._configfile)
        finally:
            self._closing.append(closing := Thread(target=child.close, daemon=True))
            closing.start()

    # telling

    def _enqueue(self, news: News | None) -> None:
        if news is None:
            return
        if len(self._queue) >= _MOST:
            self._dropped += 1
            about = _about(news)
            _logger.error("not told, for %d others wait: %s", _MOST, news.describe(), extra=about)
            return
        self._queue.append(news)
        self._queued.set()

    async def _keep_telling(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                news = self._queue.popleft()
                self._troubles.told(news)
                self._woken.set()
                try:
                    await self._tell(news)
                except RvssError as exc:
                    _logger.error("not told: %s: %s", news.describe(), exc, extra=_about(news))
                except Exception:  # whatever it is, the rest is told
                    _logger.exception("not told: %s", news.describe(), extra=_about(news))

    async def _tell(self, news: News) -> None:
        """Run the program once it has its turn.

        Raises:
            RvssError: as `_run`.
        """
        async with self._running:
            words, dropped, started = self._command, self._dropped, time.monotonic()
            if not words:
                return
            env = news.environment(self._present().config.file, dropped)
            try:
                await in_thread(_run, words, env)
            except RvssError as exc:
                self._failure = f"'rvss:notify command' fails: {exc.line()}"
                raise
            self._failure = ""
            self._dropped -= dropped
            spent = (time.monotonic() - started) * 1000
            _logger.info("told in %.0f ms: %s", spent, news.describe())


def _about(news: News) -> dict[str, str]:
    return journal.fields(journal.Message.NOT_TOLD, share=news.share, set_id=news.set_id)


def _key(what: str, event: Event) -> str:
    if what == NOT_DELETED:
        return f"{what}: {event.copy}"
    return f"{NOT_TAKEN}: {event.share}"


def _run(words: tuple[str, ...], env: dict[str, str]) -> None:
    """Run the program.

    Raises:
        RvssError: REFUSED or MISSING if it is none that root alone can change.
        ToolError: it failed, or did not end in time.
    """
    notification.require_program(words)
    with like_others():
        run(words, timeout=_SECONDS, env=env)
