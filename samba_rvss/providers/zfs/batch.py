"""Holds and clones of many images at once: by one program, and in one transaction group."""

import json
import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from samba_rvss.providers.zfs import at_once
from samba_rvss.providers.zfs.holding import HOLD
from samba_rvss.run import NotStarted, ToolError, run

_logger = logging.getLogger(__name__)

# Its text as it is now: a package may be upgraded while its daemon runs.
with open(at_once.__file__, encoding="utf-8") as _file:
    _PROGRAM = _file.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done.

    Attributes:
        held: the snapshots that are held.
        cloned: the clones that were made.
    """

    held: frozenset[str] = frozenset()
    cloned: frozenset[str] = frozenset()


def hold_and_clone(snapshots: Collection[str], clones: Mapping[str, str], seconds: float) -> Done:
    """Hold snapshots that were made just now, and clone some of them, setting nothing.

    Args:
        snapshots: what is to be held; all of one pool.
        clones: the snapshot that each clone is made from.
        seconds: time limit.

    Returns:
        What was done; the rest is left to zfs(8), which says why it cannot be done.

    Raises:
        ToolError: it did not end in time.
    """
    wanted = json.dumps({"holds": dict.fromkeys(snapshots, HOLD), "clones": dict(clones)})
    try:
        argv = [sys.executable, "-ISE", "-c", _PROGRAM]
        done = json.loads(run(argv, timeout=seconds, text=wanted))
        return Done(held=frozenset(done["held"]), cloned=frozenset(done["cloned"]))
    except (NotStarted, ValueError, LookupError) as exc:
        reason = str(exc)
    except ToolError as exc:
        if exc.status is None:
            raise
        reason = exc.said
    _logger.info("holds and clones are made one by one: %s", reason)
    return Done()
