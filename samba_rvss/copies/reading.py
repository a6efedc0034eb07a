"""Reading backups: their parts, under leases.

Place: above `leases`; below what reads a backup. Contract: what is being read is not deleted;
nothing of a backup is, while a part of it is.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from samba_rvss.copies import leases
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, ShadowCopy


@contextmanager
def leased(instance: Instance, parts: Iterable[ShadowCopy]) -> Iterator[list[int]]:
    """Have a lease of each part of a backup for the time of a block, and whatever inherits them.

    Raises:
        RvssError: BUSY or NOT_FOUND if one is being deleted, or has been; NO_DAEMON or SYSTEM.
    """
    with ExitStack() as undo:
        held = []
        for part in parts:
            held.append(leases.take(instance.config.run_directory, part.id))
            undo.callback(os.close, held[-1])
            current = instance.ledger.get(part.id)
            if current is None or current.phase is not Phase.KEPT:
                raise RvssError(Problem.NOT_FOUND, f"the backup {part.id} has just been deleted")
        yield held


@contextmanager
def barred(instance: Instance, copy: ShadowCopy) -> Iterator[None]:
    """Have nobody begin to read a part of a backup for the time of a block, which deletes it.

    Raises:
        RvssError: BUSY if somebody reads the backup; NO_DAEMON or SYSTEM.
    """
    run = instance.config.run_directory
    others = [part for part in instance.ledger.of_set(copy.set_id) if part.phase is Phase.KEPT]
    with leases.ending(run, copy.id):
        for part in others:
            if part.id != copy.id:
                leases.require_none(run, part.id)
        yield
