"""The daemon of one instance, from beginning to end.

Contract: what was cut off is finished or undone before the first request is served; requests that
have begun come to their end before the daemon ends, within a time limit.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

from samba_rvss.access import Access
from samba_rvss.clock import now
from samba_rvss.copies.seal import close_recovered
from samba_rvss.daemon import admin, arrivals, holding, hook, manager, sockets
from samba_rvss.daemon.news import Judge, nothing_wrong
from samba_rvss.daemon.notifier import Notifier
from samba_rvss.daemon.present import Present
from samba_rvss.daemon.requests import Requests
from samba_rvss.daemon.rescue import Rescue
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import Tasks, Threads, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.versions import Versions
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.kernel import priority, processes
from samba_rvss.model import Phase
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess

_logger = logging.getLogger(__name__)

_STOP_SECONDS = 30.0
_HISTORY = timedelta(days=90)
_DAY_SECONDS = 86400.0
_ADMITTING = 2  # threads
_AFTER_RESCUE = 1.0
_AGAIN_SECONDS = 1.0
# For so long a thread that computes keeps others from the interpreter. A callout changes threads
# four times, and may meet one each time; Python's own 5 ms would cost it 20.
_SWITCH_SECONDS = 0.0005
_NOT_PREFERRED = (
    "on a machine that has much to do, a copy may be opened too late for what its client writes"
    " first: give samba-rvss the capability CAP_SYS_NICE (--cap-add=SYS_NICE for a container,"
    " CapabilityBoundingSet= for a service)"
)


class Daemon:
    """The daemon of one instance.

    Args:
        configfile: smb.conf, or an empty string for Samba's own.
        reached: called at each of `copies.instance.POINTS`; for tests of crashes.
        judge: tells what is wrong, for who is to be notified of it.
    """

    def __init__(
        self,
        configfile: str = "",
        reached: Callable[[str], None] = lambda point: None,
        judge: Judge = nothing_wrong,
    ) -> None:
        self._configfile = configfile
        self._reached = reached
        self._judge = judge
        self._tasks = Tasks()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RvssError: CONFIG, STATE or SYSTEM if it cannot start.
        """
        loop = asyncio.get_running_loop()
        if not priority.prefer():
            _logger.warning("%s", _NOT_PREFERRED)
        loop.set_default_executor(Threads())
        processes.share_memory()
        sys.setswitchinterval(_SWITCH_SECONDS)
        os.umask(0o077)
        processes.open_many_files()
        with ExitStack() as cleanup:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopping.set)
            present = await self._take(cleanup)
            turns = Turns()
            watcher = Watcher(
                present, turns, lambda: written(), lambda state: requests.sets.seen(state)
            )
            cleanup.callback(watcher.close)
            runner = Runner(present, watcher, turns, lambda: rescue.abandoned)
            rescue = Rescue(present, lambda: runner.wake(_AFTER_RESCUE))
            requests = Requests(present, turns, watcher, runner, self._tasks, rescue)

            def written() -> None:
                runner.heard()
                rescue.written()

            def signs() -> tuple[str, ...]:
                failed = runner.last.failed if runner.last else ()
                late = (*requests.late, *runner.late())
                return (*failed, *runner.delayed, *requests.refused, *late)

            notifier = Notifier(present, self._configfile, self._judge, signs)
            there = await in_thread(arrivals.volumes, present())
            await self._begin(present, watcher, runner)
            versions = Versions(present)
            cleanup.callback(versions.close)
            present.on_change(versions.wake)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup, requests)
            config = present().config
            for_hooks, for_admins = await in_thread(sockets.listen, config, cleanup)
            threads = ThreadPoolExecutor(_ADMITTING, thread_name_prefix="admit")
            cleanup.callback(threads.shutdown, wait=False, cancel_futures=True)
            door = sockets.Door(self._tasks, threads)
            access = cleanup.enter_context(
                Access(config.run_directory, config.samba_lock_directory)
            )
            serve_hook = partial(hook.serve, requests=requests)
            serve_admin = partial(
                admin.serve,
                requests=requests,
                runner=runner,
                access=access,
                notifier=notifier,
                versions=versions,
            )
            processes.keep_loaded()
            tasks = [
                asyncio.ensure_future(watcher.run()),
                asyncio.ensure_future(runner.run()),
                asyncio.ensure_future(rescue.run()),
                asyncio.ensure_future(notifier.run()),
                asyncio.ensure_future(versions.run()),
                asyncio.ensure_future(door.run(for_hooks, access, serve_hook)),
                asyncio.ensure_future(door.run(for_admins, sockets.RootOnly(), serve_admin)),
                asyncio.ensure_future(arrivals.follow(present, runner, there)),
                asyncio.ensure_future(_housekeep(present)),
                asyncio.ensure_future(self._stopping.wait()),
            ]
            for line in access.lacking:
                _logger.warning("%s", line)
            ours = len(config.shares)
            _logger.info("serving %d shares of %s at %s", ours, config.file, config.hook_socket)
            tasks.append(asyncio.ensure_future(be_watched()))
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                manager.tell(manager.STOPPING)
                requests.sets.end()
                await self._stop(tasks)

    async def _take(self, cleanup: ExitStack) -> Present:
        samba = SambaProcess()
        cleanup.callback(samba.close)
        began = time.time()
        config = await in_thread(samba.call, conf.load, self._configfile)
        signature = await in_thread(conf.signature_of_read, config, began)
        instance = await in_thread(holding.take, config, samba, cleanup, self._reached)
        return Present(instance, self._configfile, samba, signature)

    async def _begin(self, present: Present, watcher: Watcher, runner: Runner) -> None:
        """Finish or undo what was cut off, then follow every copy; before requests are served.

        What Samba recovered meanwhile is closed before anything else is looked at.
        """
        await in_thread(close_recovered, present())
        await runner.reconcile(starting=True)
        for copy in await in_thread(present().ledger.copies):
            if copy.phase is not Phase.DELETING:
                watcher.track(copy)
        await watcher.catch_up()

    async def _stop(self, tasks: Sequence["asyncio.Future[Any]"]) -> None:
        """Let requests that have begun come to their end, within a time limit."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._tasks:
            _logger.info("waiting for %d requests", len(self._tasks))
            await self._tasks.finish(_STOP_SECONDS)
        _logger.info("stopped; recovery mounts stay as they are")

    def _on_hangup(self, requests: Requests) -> None:
        self._tasks.start(requests.refresh(anew=True))


async def be_watched() -> None:
    """Tell systemd that we serve, and if the unit has ``WatchdogSec=``, that the event loop runs.

    What a thread waits for is no reason to be restarted: that would wait again. Neither is it that
    systemd takes nothing for a while.
    """
    while not manager.tell(manager.READY):
        await asyncio.sleep(_AGAIN_SECONDS)
    # sd_watchdog_enabled(3): microseconds, and whom they are for.
    given = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    seconds = int(given) / 2e6 if ours and given.isdecimal() else 0.0
    while seconds:
        manager.tell(manager.WATCHDOG)
        await asyncio.sleep(seconds)
    await asyncio.get_running_loop().create_future()


async def _housekeep(present: Present) -> None:
    """Once a day, delete the history of gone copies that were created long ago."""
    while True:
        await in_thread(present().ledger.delete_history, now() - _HISTORY)
        await asyncio.sleep(_DAY_SECONDS)
