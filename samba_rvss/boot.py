"""Reconciling without a daemon, before smbd starts: once, from beginning to end.

For a container's entry point, and for service managers that cannot wait for a daemon to be ready.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from samba_rvss import instance
from samba_rvss.reconcile.decision import Plan
from samba_rvss.reconcile.runner import Outcome, Report, Runner
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from samba_rvss.watcher import Watcher, in_thread


async def reconcile(configfile: str, report: Report) -> tuple[Plan, list[Outcome], bool]:
    """Reconcile as the daemon does when it starts, and wait for what is being sealed.

    Args:
        configfile: smb.conf, or an empty string for Samba's own.
        report: called with each outcome as it comes.

    Returns:
        what was decided, what came of it, and whether nothing is left to be sealed.

    Raises:
        RvssError: BUSY if a daemon runs; CONFIG, STATE or SYSTEM.
    """
    os.umask(0o077)
    with ExitStack() as cleanup:
        samba = SambaProcess()
        cleanup.callback(samba.close)
        config = await in_thread(samba.call, conf.load, configfile)
        lifecycle = instance.take(
            config,
            samba,
            cleanup,
            hint="it reconciled when it started; 'samba-rvss reconcile' asks it to again",
        )
        watcher = Watcher(lifecycle)
        runner = Runner(lifecycle, watcher, samba, _only)
        # Nobody waits for us in a Commit: smbd does not run yet.
        decided, outcomes = await runner.reconcile(starting=True, patient=True, report=report)
        return decided, outcomes, await watcher.settled(config.seal_deadline)


@asynccontextmanager
async def _only(key: str) -> AsyncIterator[None]:
    """Be the only one for a key: nobody else is here."""
    await asyncio.sleep(0)
    yield
