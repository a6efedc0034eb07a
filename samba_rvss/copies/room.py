"""Room for one more shadow copy: how many a share may have, and how much space must be free.

Contract: nothing is changed. What is short soon is said before it hurts.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import ShadowCopy, Share

_logger = logging.getLogger(__name__)

_SOON = 0.75
_TWICE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Space on a share's file system, as it counts for who writes to the share; in bytes."""

    free: int
    size: int


def require(instance: Instance, share: Share, space: Space) -> None:
    """Refuse a share that has no room for one more shadow copy; log if it has little.

    Raises:
        RvssError: LIMIT or NO_SPACE; STATE.
    """
    count = instance.ledger.counts().get(share.name.lower(), 0)
    refuse_many(share, count)
    refuse_full(share, space)
    shortage = warning(share, count, space)
    if shortage:
        _logger.warning("[%s] %s", share.name, shortage)


def refuse_many(share: Share, count: int) -> None:
    """Refuse one more shadow copy of a share that has as many as it may have.

    Raises:
        RvssError: LIMIT.
    """
    if share.maximum_copies and count >= share.maximum_copies:
        raise RvssError(
            Problem.LIMIT,
            f"[{share.name}] has {count} shadow copies, and 'rvss:maximum copies' allows"
            f" {share.maximum_copies}",
            "see what 'samba-rvss list' shows and 'samba-rvss delete' it, or allow more",
        )


def refuse_full(share: Share, space: Space) -> None:
    """Refuse a shadow copy where less space is free than there must be.

    Raises:
        RvssError: NO_SPACE.
    """
    floor = _floor(share, space)
    if space.free < floor:
        raise RvssError(
            Problem.NO_SPACE,
            f"the file system of {share.path} has {_shown(space.free)} free, and"
            f" 'rvss:minimum free' wants {_shown(floor)}",
            "free some space",
        )


def explained(exc: RvssError, share: Share, backups: Iterable[ShadowCopy]) -> RvssError:
    """Return a refusal of a share; one for want of room with what backups have to do with that.

    Args:
        exc: the refusal.
        share: whose.
        backups: all that are kept.
    """
    if exc.problem is not Problem.NO_SPACE:
        return exc
    kept = list(backups)
    places = {copy.volume.file_system for copy in kept if copy.share_path == share.path}
    count = len({copy.set_id or copy.id for copy in kept if copy.volume.file_system in places})
    if not count:
        return exc
    hint = f"kept backups, {count} of them, hold space there, and 'samba-rvss prune' deletes those"
    return RvssError(
        exc.problem, exc.message, f"{exc.hint}: {hint} that no rule keeps ('rvss:retention')"
    )


def warning(share: Share, count: int, space: Space) -> str:
    """Return what is short soon, as a clause after the share's name; empty if nothing is."""
    if share.maximum_copies and count >= _SOON * share.maximum_copies:
        return (
            f"has {count} of at most {share.maximum_copies} shadow copies ('rvss:maximum copies')"
        )
    floor = _floor(share, space)
    if space.free < _TWICE * floor:
        return (
            f"has {_shown(space.free)} free on its file system; below {_shown(floor)}"
            " ('rvss:minimum free') it can have no shadow copies"
        )
    return ""


def _floor(share: Share, space: Space) -> int:
    return max(share.minimum_free, int(space.size * share.minimum_free_percent / 100))


def _shown(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size >> 10} KiB"
