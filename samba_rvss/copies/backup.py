"""Backups as people see them: what was kept of one shadow copy set, over all its shares.

Place: below the commands; it changes nothing. What is recorded of each part comes from the ledger;
tags and holds from the marks of the images, as far as those could be seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from samba_rvss.copies.runs import Trace
from samba_rvss.ledger import Ledger
from samba_rvss.model import (
    Consistency,
    Context,
    Hold,
    Image,
    Phase,
    Run,
    SetState,
    ShadowCopy,
    Share,
)
from samba_rvss.samba.definitions import Definition

_AHEAD = timedelta(minutes=5)  # as in `samba_rvss.backups.pruning`


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One backup.

    Attributes:
        id: of its first part, in the order of shares.
        parts: the kept copies of the set, in that order.
        missing: why it is not application-consistent; empty if it is.
        tags: those that all parts have.
        holds: those that any part has.
        seen: whether the images of all parts were seen.
        damaged: whether one that was seen is incomplete, or somebody made it writable.
        unfinished: whether another part of its set is still a shadow copy, or to be sealed.
        sizes: how many bytes come free with a part alone, by ids of the parts of which that is
            known.
        exposed: its images that are shares, and the writable ones beside them, as far as seen.
        run: which run of a managed backup it came of, as far as seen; None if of none.
    """

    id: str
    parts: tuple[ShadowCopy, ...]
    missing: str
    tags: frozenset[str]
    holds: tuple[Hold, ...]
    seen: bool
    damaged: bool = False
    unfinished: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    exposed: tuple[Image, ...] = ()
    run: Run | None = None

    @property
    def size(self) -> int | None:
        """How many bytes come free with all of it; None if that is not known.

        What two parts of one volume have in common comes free with neither alone.
        """
        volumes = {part.volume.key for part in self.parts}
        if len(volumes) < len(self.parts) or len(self.sizes) < len(self.parts):
            return None
        return sum(self.sizes.values())

    @property
    def taken(self) -> datetime:
        """When its first part was taken."""
        return min(part.created for part in self.parts)

    @property
    def shares(self) -> tuple[str, ...]:
        """The shares that it is of."""
        return tuple(part.share for part in self.parts)

    @property
    def is_consistent(self) -> bool:
        """Whether the application has brought all of it to a consistent state."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class OfShare:
    """The backups of a share.

    Attributes:
        count: how many there are.
        newest: when the newest was taken, None if there is none.
        here_only: how many have no tag, and so are on the share's file system alone, as far as is
            known.
        warn_age: how old the newest may be; None if that does not matter.
    """

    share: str
    count: int
    newest: datetime | None
    here_only: int
    warn_age: timedelta | None

    def is_stale(self, present: datetime) -> bool:
        """Return whether the newest is too old, or there is none and there should be."""
        if self.warn_age is None:
            return False
        return self.newest is None or present - self.newest > self.warn_age


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDefinition:
    """The backups of a definition.

    Attributes:
        name: its name.
        server: whose its shares are; empty for our own Samba, which alone keeps them here.
        count: how many there are here.
        newest: when the newest was taken; of another server's, when the last good run ended.
        warn_age: how old that may be; None if that does not matter.
        trouble: what is wrong with its last run; empty if nothing is.
    """

    name: str
    server: str
    count: int
    newest: datetime | None
    warn_age: timedelta | None
    trouble: str

    def is_stale(self, present: datetime) -> bool:
        """Return whether the newest is too old, or there is none and there should be."""
        if self.warn_age is None:
            return False
        return self.newest is None or present - self.newest > self.warn_age


def of_definition(
    definition: Definition, found: Iterable[Backup], trace: Trace | None, present: datetime
) -> OfDefinition:
    """Return the backups of a definition.

    What is damaged, or dated in the future, is no newest one.

    Args:
        definition: which one.
        found: all backups.
        trace: what its last run has written down; one that goes on is none.
        present: the time.
    """
    own = [each for each in found if each.run and each.run.name == definition.name]
    newest = max((b.taken for b in own if _is_good(b, present)), default=None)
    if definition.server and trace is not None and trace.succeeded:
        newest = datetime.fromisoformat(trace.succeeded)
    trouble = ""
    if trace is not None:
        cut_off = "it was cut off, and the next one sees to what it has left"
        trouble = trace.reason if trace.ended else cut_off
    seconds = definition.warn_age
    return OfDefinition(
        name=definition.name,
        server=definition.server,
        count=len(own),
        newest=newest,
        warn_age=timedelta(seconds=seconds) if seconds else None,
        trouble=trouble,
    )


def of_shares(found: Iterable[Backup], shares: Iterable[Share], present: datetime) -> list[OfShare]:
    """Return the backups of each share that has any, or is to have some, by its name.

    What is damaged, or dated in the future, is no newest one.
    """
    by_share: dict[str, list[Backup]] = {}
    for backup in found:
        for name in {share.lower() for share in backup.shares}:
            by_share.setdefault(name, []).append(backup)
    told = []
    for share in shares:
        own = by_share.get(share.name.lower(), [])
        if own or share.backup_warn_age:
            seconds = share.backup_warn_age
            told.append(
                OfShare(
                    share=share.name,
                    count=len(own),
                    newest=max((b.taken for b in own if _is_good(b, present)), default=None),
                    here_only=sum(not backup.tags for backup in own),
                    warn_age=timedelta(seconds=seconds) if seconds else None,
                )
            )
    return sorted(told, key=lambda of: of.share)


def _is_good(backup: Backup, present: datetime) -> bool:
    return not backup.damaged and backup.taken - present <= _AHEAD


def in_ledger(ledger: Ledger, images: Iterable[Image]) -> list[Backup]:
    """Return the backups that a ledger has, oldest first.

    Args:
        ledger: the instance's.
        images: those that were seen.

    Raises:
        RvssError: STATE.
    """
    kept = ledger.backups()
    others = {
        set_id: [copy for copy in ledger.of_set(set_id) if copy.phase is not Phase.KEPT]
        for set_id in {copy.set_id for copy in kept if copy.set_id}
    }
    return backups(kept, others, images)


def backups(
    copies: Iterable[ShadowCopy],
    others: Mapping[str, Sequence[ShadowCopy]],
    images: Iterable[Image],
) -> list[Backup]:
    """Return the backups that copies are parts of, oldest first.

    Args:
        copies: those of the ledger that are kept.
        others: for each set, the copies of it that the ledger has and that are not kept.
        images: those that were seen.
    """
    there = {image.id: image for image in images}
    sets: dict[str, list[ShadowCopy]] = {}
    for copy in copies:
        if copy.phase is Phase.KEPT:
            sets.setdefault(copy.set_id or copy.id, []).append(copy)
    found = [_backup(members, others.get(name, ()), there) for name, members in sets.items()]
    return sorted(found, key=lambda backup: (backup.taken, backup.id))


def _backup(
    members: Iterable[ShadowCopy], others: Sequence[ShadowCopy], there: Mapping[str, Image]
) -> Backup:
    parts = tuple(sorted(members, key=lambda copy: (copy.share, copy.id)))
    images = [there[part.id] for part in parts if part.id in there]
    ids = {part.id for part in parts}
    branches = [i for i in there.values() if i.mark.branch and i.mark.branch.of in ids]
    marks = [image.mark for image in images]
    sizes = [mark.sealed.shares for mark in marks if mark.sealed]
    sizes += [part.set_size for part in parts]
    tags = [frozenset(mark.kept.tags if mark.kept else ()) for mark in marks]
    holds = {hold.tag: hold for mark in marks if mark.kept for hold in mark.kept.holds}
    runs = {mark.kept.run for mark in marks if mark.kept and mark.kept.run}
    run = next(iter(runs)) if len(runs) == 1 else None
    damaged = any(not (i.complete and i.read_only and i.mark.sealed) for i in images)
    past = (Phase.DELETING, Phase.GONE)
    return Backup(
        id=parts[0].id,
        parts=parts,
        missing=_missing(parts, len(others), max(sizes, default=0), run, damaged=damaged),
        tags=frozenset.intersection(*tags) if tags else frozenset(),
        holds=tuple(holds[tag] for tag in sorted(holds)),
        seen=len(images) == len(parts),
        damaged=damaged,
        unfinished=any(other.phase not in past for other in others),
        sizes={image.id: image.size for image in images if image.size is not None},
        exposed=(*(image for image in images if image.mark.exposed), *branches),
        run=run,
    )


def _missing(
    parts: tuple[ShadowCopy, ...], gone: int, size: int, run: Run | None, *, damaged: bool
) -> str:
    """Return why a backup is not application-consistent; empty if it is."""
    if damaged:
        return "a part of its image is missing, or somebody made it writable"
    if not size:
        return "how many shares its set had is not known"
    lost = max(gone, size - len(parts))
    if lost > 0:
        return f"{lost} of the shares of its set were not kept"
    if any(part.state is not SetState.RECOVERED for part in parts):
        return "its client never said RecoveryComplete"
    if any(part.context & Context.NO_WRITERS for part in parts):
        return "no writers took part (its context says so)"
    if run is not None and run.consistency is not Consistency.APPLICATION:
        return f"the run of {run.name} that took it proved no more"
    return ""
