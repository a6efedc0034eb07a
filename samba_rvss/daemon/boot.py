"""Reconciling without a daemon, before smbd starts: once, from beginning to end.

For a container's entry point, and for service managers that cannot wait for a daemon to be ready.
"""

import asyncio
import os
from contextlib import ExitStack

from samba_rvss.copies.seal import close_recovered
from samba_rvss.daemon import holding
from samba_rvss.daemon.runner import Report, Runner
from samba_rvss.daemon.tasks import Threads, in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.watcher import Watcher
from samba_rvss.reconcile.decision import Plan
from samba_rvss.reconcile.report import Outcome
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess


async def reconcile(configfile: str, report: Report) -> tuple[Plan, list[Outcome], bool]:
    """Reconcile as the daemon does when it starts, and wait for what is being sealed.

    Args:
        configfile: smb.conf, or an empty string for Samba's own.
        report: called with each outcome as it comes.

    Returns:
        What was decided, what came of it, and whether nothing is left to be sealed.

    Raises:
        RvssError: BUSY if a daemon runs; CONFIG, STATE or SYSTEM.
    """
    asyncio.get_running_loop().set_default_executor(Threads())
    os.umask(0o077)
    with ExitStack() as cleanup:
        samba = SambaProcess()
        cleanup.callback(samba.close)
        config = await in_thread(samba.call, conf.load, configfile)
        hint = "it reconciled when it started; 'samba-rvss reconcile' asks it to again"
        instance = await in_thread(holding.take, config, samba, cleanup, hint=hint)
        turns = Turns()
        watcher = Watcher(lambda: instance, turns)
        cleanup.callback(watcher.close)
        runner = Runner(lambda: instance, watcher, turns)
        await in_thread(close_recovered, instance)
        # Nobody waits for us in a Commit: smbd does not run yet.
        decided, outcomes = await runner.reconcile(starting=True, patient=True, report=report)
        return decided, outcomes, await turns.settled(config.seal_deadline)
