"""File systems that are mounted, or unmounted, while the daemon runs.

At boot a disk may come late, or a dataset's key may be loaded by hand after smbd has started: its
copies are served without a word. One that is unmounted, but for our recovery mounts, is named.
Contract: the table is read only after a change, and not more often than every few seconds, however
many recovery mounts come and go.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack

from samba_rvss.copies.delete import NOT_DESTROYED
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import holding
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounttable
from samba_rvss.kernel.mountwatch import MountWatch
from samba_rvss.model import Phase

_logger = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.5
_PAUSE_SECONDS = 5.0


async def follow(present: Callable[[], Instance], runner: Runner, known: frozenset[str]) -> None:
    """Have the runner look whenever a file system with volumes has come, until cancelled.

    Args:
        present: the instance as it is now.
        runner: reconciles.
        known: what `volumes` returned before everything was reconciled at the start.
    """
    held: tuple[str, ...] = ()
    changed = asyncio.Event()
    changed.set()  # something may have come since then
    loop = asyncio.get_running_loop()

    def hear() -> None:
        watch.heard()
        changed.set()

    with ExitStack() as cleanup:
        watch = MountWatch()
        cleanup.callback(watch.close)
        loop.add_reader(watch.fileno(), hear)
        cleanup.callback(loop.remove_reader, watch.fileno())
        while True:
            await changed.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            changed.clear()
            try:
                known = await _look(present, runner, known)
                said, held = held, await in_thread(present().mounts.holding)
                for sentence in held:
                    if sentence not in said:
                        _logger.warning("%s", sentence)
            except (RvssError, OSError) as exc:  # the hourly reconciling looks as well
                _logger.error("whether file systems were mounted cannot be told: %s", exc)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _look(
    present: Callable[[], Instance], runner: Runner, known: frozenset[str]
) -> frozenset[str]:
    """Return what is mounted, and have the runner look if copies may have waited for it."""
    there = await in_thread(volumes, present())
    if there - known:
        await in_thread(holding.make_previous, present())
        if await in_thread(_is_waited_for, present()):
            names = ", ".join(sorted(there - known))
            _logger.info("mounted since, and copies wait: %s", names)
            runner.retry()
    return there


def _is_waited_for(instance: Instance) -> bool:
    """Return whether a copy should be mounted, sealed or deleted, and is not, or an image is left.

    What was deleted while its file system was not there left its image behind.
    """
    if instance.ledger.last_event(NOT_DESTROYED) is not None:
        return True
    if any(copy.phase is not Phase.KEPT for copy in instance.ledger.backups()):
        return True
    mounted = set(instance.mounts.listing())
    return any(
        copy.phase in (Phase.SEALING, Phase.DELETING) or copy.path not in mounted
        for copy in instance.ledger.copies()
        if copy.phase is not Phase.CREATING
    )


def volumes(instance: Instance) -> frozenset[str]:
    """Return what is mounted of the kinds that we know, but for our own mounts."""
    ours = os.fsencode(f"{instance.config.run_directory}/")
    kinds = [f" - {provider.name} ".encode() for provider in instance.providers]
    lines = [
        line
        for line in mounttable.read_mountinfo().split(b"\n")
        if any(kind in line for kind in kinds) and ours not in line
    ]
    if not lines:
        return frozenset()
    return frozenset(
        f"{mount.kind} {mount.source} at {mount.target}"
        for mount in mounttable.mountinfo(b"\n".join(lines))
    )
