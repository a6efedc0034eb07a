"""The instance as smb.conf has it now; the file is read again when it has changed, or on demand.

Contract: the value changes in one step, in the event loop; a verb that still has the value before
works on with that. A configuration that cannot be used, or read, for whatever reason, is logged,
and the one before stays in force.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from samba_rvss.copies import advice
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import holding, journal
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess

_logger = logging.getLogger(__name__)

_FIXED = ("run_directory", "state_directory", "samba_lock_directory", "instance")


class Present:
    """Returns the present instance when it is called.

    Args:
        instance: as it was taken.
        configfile: smb.conf, or an empty string for Samba's own.
        samba: where python-samba runs.
        signature: what `samba.conf.signature_of_read` returned for the configuration.
    """

    def __init__(
        self,
        instance: Instance,
        configfile: str,
        samba: SambaProcess,
        signature: tuple[object, ...],
    ) -> None:
        self._instance = instance
        self._configfile = configfile
        self._samba = samba
        self._signature = signature
        self._reading = asyncio.Lock()
        self._changed: tuple[Callable[[], None], ...] = ()

    def __call__(self) -> Instance:
        """Return the instance as it is now."""
        return self._instance

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have a function called, in the event loop, whenever the instance has changed."""
        self._changed = (*self._changed, changed)

    def expire(self) -> None:
        """Have the next `refresh` read everything again, changed or not."""
        self._signature = ()

    async def refresh(self) -> None:
        """Read smb.conf again if it, a file it includes, or the registry has changed."""
        async with self._reading:
            try:
                await self._refresh()
            except RvssError as exc:
                about = journal.fields(journal.Message.CONFIGURATION)
                _logger.error("the changed configuration is not used: %s", exc, extra=about)
            except Exception:
                _logger.exception("the changed configuration is not used, or not all of it")

    async def _refresh(self) -> None:
        current = self._instance.config
        signature = await in_thread(conf.signature, current)
        if signature == self._signature:
            return
        if signature[:-1] != self._signature[:-1]:
            # When Samba's library reads a file again, shares and options that are not in it any
            # more stay (source3/param/loadparm.c, add_a_service()): take a fresh process.
            await in_thread(self._samba.close)
        self._signature, began = signature, time.time()
        config = await in_thread(self._samba.call, conf.load, self._configfile)
        moved = [name for name in _FIXED if getattr(config, name) != getattr(current, name)]
        if moved:
            names = " and ".join(name.replace("_", " ") for name in moved)
            raise RvssError(Problem.CONFIG, f"{names} can change at a restart only")
        said = advice.of(current)
        for warning in advice.of(config):
            if warning not in said:
                _logger.warning("%s", warning)
        self._instance = replace(self._instance, config=config)
        self._signature = await in_thread(conf.signature_of_read, config, began)
        await in_thread(holding.make_previous, self._instance)
        for changed in self._changed:
            changed()
