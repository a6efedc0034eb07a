"""Holds and clones of many images at once: by one program, and in one transaction group."""

import json
import logging
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
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
        RvssError: TOOL if it did not end in time.
    """
    wanted = json.dumps({"holds": dict.fromkeys(snapshots, HOLD), "clones": dict(clones)})
    reason = None
    try:
        told = run([sys.executable, "-ISE", "-c", _PROGRAM], timeout=seconds, text=wanted)
    except NotStarted as exc:
        reason, told = "the program for them cannot be started", ""
        _logger.debug("%s", exc)
    except ToolError as exc:
        if exc.status is None:
            what = f"the holds and clones of {len(snapshots)} snapshots"
            message = f"{what} were not there within {seconds:g} s"
            raise RvssError(Problem.TOOL, message, "see 'zpool status'") from exc
        reason, told = exc.said, exc.stdout
    if reason is not None:
        _logger.info("holds and clones are left to zfs(8): %s", reason)
    return _done(told)


def _done(told: str) -> Done:
    """Return what was done, from what the program has told; it may have been cut off."""
    found: dict[str, set[str]] = {"held": set(), "cloned": set()}
    for line in told.splitlines():
        with suppress(ValueError, TypeError, LookupError):
            what, name = json.loads(line)
            found[what].add(name)
    return Done(held=frozenset(found["held"]), cloned=frozenset(found["cloned"]))
