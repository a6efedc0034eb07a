"""Shares of one directory: what holds for its shadow copies, whichever of them a client means.

Place: on the shares of smb.conf. Contract: values only. A callout names the directory and not the
share, and a copy of one is a copy of all; which share it is exposed for stands in srv_fss.tdb, once
the set is committed. So the copy gets whatever any of them asks for.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from samba_rvss.model import Keep, Nested, Share, strongest

# There may be thousands of shares, and a client that waits for its Commit.
_plain = lru_cache(maxsize=1 << 16)(os.path.normpath)


def of(shares: Iterable[Share], path: str) -> tuple[Share, ...]:
    """Return the shares of a directory, in the order of smb.conf.

    Args:
        shares: those that are ours.
        path: the directory's, however many slashes it has.
    """
    wanted = _plain(path)
    return tuple(share for share in shares if _plain(share.path) == wanted)


def grouped(shares: Iterable[Share]) -> Mapping[str, tuple[Share, ...]]:
    """Return the shares of each directory, by its path with single slashes."""
    found: dict[str, list[Share]] = {}
    for share in shares:
        found.setdefault(_plain(share.path), []).append(share)
    return {path: tuple(twins) for path, twins in found.items()}


def union(share: Share, twins: Sequence[Share]) -> Share:
    """Return a share with what protects the copies of its directory.

    Args:
        share: one of them, whose name and path it has.
        twins: all shares of that directory.
    """
    include = any(twin.nested is Nested.INCLUDE for twin in twins)
    return replace(
        share,
        nested=Nested.INCLUDE if include else share.nested,
        previous_versions=any(twin.previous_versions for twin in twins),
        previous_versions_limit=max(
            (twin.previous_versions_limit for twin in twins if twin.previous_versions),
            default=share.previous_versions_limit,
        ),
        keep=strongest(*(twin.keep for twin in twins)) if twins else share.keep,
        recovery_link=any(twin.recovery_link for twin in twins),
        manifest=any(twin.manifest for twin in twins),
        # The call may have been for one of which Samba can expose copies.
        obstacle=share.obstacle if all(twin.obstacle for twin in twins) else "",
    )


def unions(shares: Iterable[Share]) -> Mapping[str, Share]:
    """Return each share, by its name, with what protects the copies of its directory.

    Args:
        shares: all that are ours.
    """
    return {
        share.name: union(share, alike) for alike in grouped(shares).values() for share in alike
    }


def whole(shares: Sequence[Share]) -> Mapping[str, Share]:
    """Return each share, by its name, with what protects its copies, and its own obstacle.

    Args:
        shares: all that are ours.
    """
    found = unions(shares)
    return {share.name: replace(found[share.name], obstacle=share.obstacle) for share in shares}


def shown_by(twins: Sequence[Share]) -> str:
    """Return the share after which their directory of Previous Versions is named; "" if none."""
    return next((twin.name for twin in twins if twin.previous_versions), "")


def forced(twins: Sequence[Share]) -> str:
    """Return a sentence on the user of a callout if he is not the client's own; else ""."""
    causes = dict.fromkeys(twin.forced for twin in twins if twin.forced)
    if not causes:
        return ""
    is_certain = all(twin.forced for twin in twins)
    return f"the user {'is' if is_certain else 'may be'} forced, by {' or '.join(causes)}"


def notes(shares: Iterable[Share]) -> Iterator[str]:
    """Yield a sentence on each directory whose shares differ in what concerns its copies."""
    for twins in grouped(shares).values():
        if len(twins) > 1:
            yield from (f"{_named(twins)} are one directory, {said}" for said in _differ(twins))


def _differ(twins: Sequence[Share]) -> Iterator[str]:
    including = [twin for twin in twins if twin.nested is Nested.INCLUDE]
    if 0 < len(including) < len(twins):
        yield f"and 'rvss:nested = include' of {_named(including)} is taken for all"
    showing = [twin for twin in twins if twin.previous_versions]
    if 0 < len(showing) < len(twins):
        yield f"and 'rvss:previous versions = yes' of {_named(showing)} is taken for all"
    if len({twin.previous_versions_limit for twin in showing}) > 1:
        yield "and the largest 'rvss:previous versions limit' is taken for all"
    kept = strongest(*(twin.keep for twin in twins))
    if len({twin.keep for twin in twins}) > 1:
        named = _named(twin for twin in twins if twin.keep is kept)
        yield f"and 'rvss:keep = {kept.value}' of {named} is taken for all"
    if len({twin.retention for twin in twins}) > 1 and kept is not Keep.NO:
        yield "and differ in what is to be pruned: nothing of them is"
    if len({twin.forced for twin in twins}) > 1:
        yield (
            "and differ in 'force user' or 'guest only': events cannot always tell whether a user"
            " is the client's own"
        )
    hindered = [twin for twin in twins if twin.obstacle]
    if 0 < len(hindered) < len(twins):
        yield f"but by {_named(hindered)} it can have no shadow copies"


def _named(twins: Iterable[Share]) -> str:
    return " and ".join(f"[{twin.name}]" for twin in twins)
