"""Which backups are in Previous Versions, and by which names.

Place: on records and on the shares of smb.conf; pure, but for `record` and `Places`. Contract:
shadow copies are always shown, and the newest backups where the limit leaves room. A share shows
backups of the directory that it leads to now, and of no other that was at its path before. A backup
has the name that it had as a shadow copy, if that is free, and keeps whichever it got.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import find
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, ShadowCopy, Share
from samba_rvss.mounts import previous_directory
from samba_rvss.mounts.previous import names
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba import twins

RECORDED = "in previous versions"
"""The event of a backup whose name there has been recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one directory of Previous Versions shows besides shadow copies.

    Attributes:
        share: the share after which the directory is named.
        path: where that leads to.
        directory: the path of the directory in Previous Versions.
        backups: by name.
        others: how many backups are not shown because they are of another directory, which was at
            the path before.
        untold: how many because it cannot be told what is at the path.
    """

    share: str
    path: str
    directory: str
    backups: Mapping[str, ShadowCopy]
    others: int = 0
    untold: int = 0


class Places:
    """What the shares of an instance lead to, by what backups of that have in common.

    Args:
        seconds: how long an answer is remembered: on ZFS it costs two commands. Longer, if all of
            them took more than a fiftieth of that.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, str]] = {}

    def look(self, instance: Instance) -> Mapping[str, str]:
        """Return the `Volume.group` of each path that shows backups, "" if nothing is there.

        A path is missing if that cannot be told, because a disk does not answer, say.
        """
        found, asked, spent = dict[str, str](), list[str](), 0.0
        known = self._known
        for path, alike in twins.grouped(instance.config.shares).items():
            if (
                not twins.shown_by(alike)
                or not twins.union(alike[0], alike).previous_versions_limit
            ):
                continue
            began = time.monotonic()
            until, group = known.get(path, (0.0, ""))
            if until > began:
                found[path] = group
                continue
            try:
                found[path] = COMMON.look(path, partial(find, alike[0], instance.providers)).group
            except RvssError as exc:
                if exc.problem in (Problem.BAD_PATH, Problem.NOT_SUPPORTED):
                    found[path] = ""
            else:
                asked.append(path)
                spent += time.monotonic() - began
        until = time.monotonic() + max(self._seconds, 50 * spent)
        self._known = {path: known[path] for path in found.keys() & known.keys()}
        self._known |= {path: (until, found[path]) for path in asked}
        return found


def shown(
    run: str,
    shares: Iterable[Share],
    living: Sequence[str],
    backups: Sequence[ShadowCopy],
    there: Mapping[str, str],
    before: Iterable[Shown] = (),
) -> tuple[Shown, ...]:
    """Return what each directory shows, also if that is no backup.

    Args:
        run: the run directory.
        shares: those that are ours.
        living: the paths that shadow copies have in Previous Versions.
        backups: those that have ended and are kept.
        there: what `Places.look` returned.
        before: what is shown so far; where it cannot be told what is there, that stays, and nothing
            comes to it.
    """
    groups = {path: alike for path, alike in twins.grouped(shares).items() if twins.shown_by(alike)}
    directories = {path: previous_directory(run, twins.shown_by(groups[path])) for path in groups}
    stays = {
        copy.id: of.path
        for of in before
        if of.path in groups and of.path not in there
        for copy in of.backups.values()
    }
    alike_there: dict[str, list[str]] = {}
    for path in groups:
        if there.get(path):
            alike_there.setdefault(there[path], []).append(path)
    kept: dict[str, list[ShadowCopy]] = {}
    left_out: dict[str, int] = {}
    for copy in backups:
        if copy.phase is not Phase.KEPT:
            continue
        own = os.path.normpath(copy.share_path)
        paths = alike_there.get(copy.volume.group, [])
        if own in paths or copy.id in stays:
            path = own if own in paths else stays[copy.id]
            kept.setdefault(path, []).append(copy)
        elif paths:  # the directory has moved; each backup is in one place
            recorded = os.path.dirname(copy.previous_path)
            path = next((path for path in paths if directories[path] == recorded), paths[0])
            kept.setdefault(path, []).append(copy)
        else:
            left_out[own] = left_out.get(own, 0) + 1
    return tuple(
        replace(
            _of_directory(run, path, alike, living, kept.get(path, [])),
            others=left_out.get(path, 0) if path in there else 0,
            untold=left_out.get(path, 0) if path not in there and _limit(alike) else 0,
        )
        for path, alike in groups.items()
    )


def _limit(alike: Sequence[Share]) -> int:
    return twins.union(alike[0], alike).previous_versions_limit


def _of_directory(
    run: str,
    path: str,
    alike: Sequence[Share],
    living: Sequence[str],
    kept: Sequence[ShadowCopy],
) -> Shown:
    share = twins.shown_by(alike)
    directory = previous_directory(run, share)
    there = [path for path in living if os.path.dirname(path) == directory]
    limit = _limit(alike)
    ordered = sorted(kept, key=lambda copy: (copy.created, copy.id))
    chosen = {copy.id for copy in ordered[::-1][: max(0, limit - len(there))]}
    taken = {os.path.basename(path) for path in there}
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
    return Shown(share=share, path=path, directory=directory, backups=backups)


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
