"""Which backups are in Previous Versions, and by which names.

Place: on records and on the shares of smb.conf; pure, but for `record`. Contract: shadow copies are
always shown, and the newest backups where the limit leaves room. A backup has the name that it had
as a shadow copy, if that is free, and keeps whichever it got.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.copies.instance import Instance
from samba_rvss.model import Phase, ShadowCopy, Share
from samba_rvss.mounts import previous_directory
from samba_rvss.mounts.previous import names
from samba_rvss.samba import twins

RECORDED = "in previous versions"
"""The event of a backup whose name there has been recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one directory of Previous Versions shows besides shadow copies.

    Attributes:
        share: the share after which the directory is named.
        directory: its path.
        backups: by name.
    """

    share: str
    directory: str
    backups: Mapping[str, ShadowCopy]


def shown(
    run: str,
    shares: Iterable[Share],
    living: Sequence[ShadowCopy],
    backups: Sequence[ShadowCopy],
) -> tuple[Shown, ...]:
    """Return what each directory shows, also if that is no backup.

    Args:
        run: the run directory.
        shares: those that are ours.
        living: the shadow copies that there are.
        backups: those that have ended and are kept.
    """
    groups = twins.grouped(shares)
    kept: dict[str, list[ShadowCopy]] = {}
    for copy in backups:
        if copy.phase is Phase.KEPT:
            kept.setdefault(os.path.normpath(copy.share_path), []).append(copy)
    return tuple(
        _of_directory(run, alike, living, kept.get(path, []))
        for path, alike in groups.items()
        if twins.shown_by(alike)
    )


def _of_directory(
    run: str, alike: Sequence[Share], living: Sequence[ShadowCopy], kept: Sequence[ShadowCopy]
) -> Shown:
    share = twins.shown_by(alike)
    directory = previous_directory(run, share)
    there = [copy for copy in living if os.path.dirname(copy.previous_path) == directory]
    limit = twins.union(alike[0], alike).previous_versions_limit
    ordered = sorted(kept, key=lambda copy: (copy.created, copy.id))
    chosen = {copy.id for copy in ordered[::-1][: max(0, limit - len(there))]}
    taken = {os.path.basename(copy.previous_path) for copy in there}
    backups: dict[str, ShadowCopy] = {}
    nameless = []
    # Those that are not shown keep their names as well: the limit may be another one tomorrow.
    for copy in ordered:
        above, name = os.path.split(copy.previous_path)
        if above != directory or name in taken:
            nameless.append(copy)
            continue
        taken.add(name)
        if copy.id in chosen:
            backups[name] = copy
    for copy in nameless:
        if copy.id in chosen:
            with suppress(StopIteration):  # 3600 within one hour
                name = next(name for name in names(copy.created) if name not in taken)
                taken.add(name)
                backups[name] = copy
    return Shown(share=share, directory=directory, backups=backups)


def renamed(found: Iterable[Shown]) -> Iterator[tuple[ShadowCopy, str]]:
    """Yield the backups whose records do not have the path that they are shown at, and that."""
    for of in found:
        for name, copy in of.backups.items():
            path = f"{of.directory}/{name}"
            if copy.previous_path != path:
                yield copy, path


def record(instance: Instance, found: Iterable[Shown]) -> None:
    """Record where backups are shown, so that it stays the same.

    Raises:
        RvssError: STATE.
    """
    others = [phase for phase in Phase if phase is not Phase.KEPT]
    for copy, path in renamed(found):
        instance.ledger.change(copy, RECORDED, unless=others, previous_path=path)
