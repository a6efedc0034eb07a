"""Adopting on purpose: sealed images of another instance become copies of this one.

Contract: what a mark says of share and path does not count: they are those of our share that sits
in the same directory of the same volume. Only images that are sealed, on the file system and under
the name that their marks say, are taken. The mark comes first, so that after a crash reconciling
finds an image of ours, and makes its record.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from samba_rvss.copies import concern, holds, repair
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import find, volume_of
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import (
    Foreign,
    Image,
    Inventory,
    Mark,
    Phase,
    Sealed,
    SetState,
    ShadowCopy,
    Share,
    Volume,
    Whose,
)
from samba_rvss.providers.patience import COMMON


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that another instance's mark is on.

    Attributes:
        id: what it is called.
        where: what an administrator finds it by.
        mark: what its mark becomes; None if it is refused.
        refusal: why it is not taken.
    """

    id: str
    where: str
    mark: Mark | None
    refusal: str = ""

    @property
    def title(self) -> str:
        """Its ids, ours and as far as they are known Samba's, for a line of a log."""
        return f"{self.id}{self.mark.samba_ids if self.mark else ''}"


def candidates(instance: Instance, source: str, on: str = "") -> list[Candidate]:
    """Find the images of an instance, and decide which can be taken over; nothing is changed.

    Args:
        instance: the one that is to have them.
        source: what their marks bear: an id, ``name:`` and a name, or a run directory.
        on: a directory on the file system that they are to be on; empty for any.

    Raises:
        RvssError: BAD_PATH or NOT_SUPPORTED if ``on`` is on no file system that has images; BUSY if
            that does not answer; STATE if the ledger fails.
    """
    wanted = _file_system(instance, on) if on else ""
    inventory = instance.inventory({wanted} if wanted else None)
    shares = list(_located(instance, inventory, wanted))
    found = [foreign for foreign in inventory.foreign if foreign.instance == source]
    found += [
        _as_foreign(image, source)
        for image in inventory.images
        if image.former and source == instance.config.run_directory
    ]
    known = {copy.id: copy for copy in instance.ledger.copies(gone=True) if not copy.lost}
    return [
        _judge(instance, foreign, inventory, shares, known.get(foreign.id))
        for foreign in found
        if wanted in ("", foreign.file_system)
        and not (foreign.whose is Whose.FORMER and _is_left(known.get(foreign.id)))
    ]


def take(instance: Instance, candidate: Candidate) -> ShadowCopy:
    """Take over an image: its mark, its record, its mounts; its exposed share is not made anew.

    A record that is there stays, and becomes what the mark says at the next reconciling.

    Raises:
        RvssError: NOT_FOUND, READ_ONLY, BAD_PATH, STATE or SYSTEM.
    """
    mark = candidate.mark
    if mark is None:
        raise RvssError(Problem.STATE, f"{candidate.id} is not taken: {candidate.refusal}")
    instance.provider(mark.volume).claim(mark)
    instance.reached("adopt.claimed")
    copy = instance.ledger.get(mark.id)
    if copy is not None and not copy.lost:
        repair.mount_again(instance, copy)
        return copy
    image = Image(
        id=mark.id, provider=mark.volume.provider, mark=mark, complete=True, read_only=True
    )
    copy = repair.adopt(instance, image)
    repair.mount_again(instance, copy)
    return copy


def _judge(
    instance: Instance,
    foreign: Foreign,
    inventory: Inventory,
    shares: Iterable[tuple[Share, Volume | RvssError]],
    known: ShadowCopy | None,
) -> Candidate:
    mark, refusal = foreign.mark, ""
    first_form = foreign.instance.startswith("/")
    if mark is None or foreign.whose not in (Whose.INSTANCE, Whose.MACHINE, Whose.FORMER):
        refusal = f"it is {foreign.whose.value}"
    elif mark.branch is not None:
        refusal = f"it is a writable copy of the backup {mark.branch.of}"
    elif mark.sealed is None and not first_form:
        refusal = "it is not sealed"
    elif not foreign.read_only:
        refusal = "it is not sealed, or a part of it is missing"
    elif known is not None and not _is_its_record(known, mark, inventory):
        refusal = "the ledger has a record of that name"
    elif instance.mounts.standing(foreign.id) and mark.sealed is None:
        refusal = "something is mounted under its name"
    if mark is None or refusal:
        return Candidate(id=foreign.id, where=_where(foreign), mark=None, refusal=refusal)
    volume = inventory.present(mark.volume)
    try:
        share = _share(mark, volume, shares)
    except RvssError as exc:
        return Candidate(id=foreign.id, where=_where(foreign), mark=None, refusal=exc.message)
    sealed = mark.sealed or Sealed(
        set_id="", copy_id="", context=0, exposed_share="", state=SetState.RECOVERED
    )
    ours = replace(
        mark,
        share=share.name,
        share_path=share.path,
        volume=volume,
        sealed=sealed,
        kept=mark.kept and holds.without_exposure(mark.kept),
    )
    return Candidate(id=foreign.id, where=_where(foreign), mark=ours)


def _is_left(copy: ShadowCopy | None) -> bool:
    """Return whether there is a record of a copy that is not gone."""
    return copy is not None and copy.phase is not Phase.GONE


def _is_its_record(copy: ShadowCopy, mark: Mark, inventory: Inventory) -> bool:
    """Return whether a record is of an image that was ours, before our id or name changed."""
    if copy.phase in (Phase.DELETING, Phase.GONE):
        return False
    return inventory.present(copy.volume).key == inventory.present(mark.volume).key


def _where(foreign: Foreign) -> str:
    return f"{foreign.where} on {foreign.provider} {foreign.file_system}"


def _as_foreign(image: Image, source: str) -> Foreign:
    return Foreign(
        id=image.id,
        provider=image.provider,
        file_system=image.mark.volume.file_system,
        where=image.mark.volume.name,
        whose=Whose.FORMER,
        instance=source,
        mark=image.mark,
        read_only=image.read_only and image.complete,
    )


def _located(
    instance: Instance, inventory: Inventory, wanted: str
) -> Iterable[tuple[Share, Volume | RvssError]]:
    """Yield our shares with the volume of each, or why it has none.

    Args:
        instance: whose shares.
        inventory: tells what a file system is called.
        wanted: the file system of those that are to be looked at; empty for all.
    """
    for share in instance.config.shares:
        if wanted and wanted not in concern.of_path(instance, share.path):
            continue
        try:
            volume = COMMON.look(share.path, partial(find, share, instance.providers))
        except RvssError as exc:
            yield share, exc
        else:
            yield share, inventory.present(volume)


def _share(mark: Mark, volume: Volume, shares: Iterable[tuple[Share, Volume | RvssError]]) -> Share:
    """Return our share that sits where an image was taken.

    Raises:
        RvssError: NOT_OURS if there is none, or if it cannot be told which one.
    """
    fitting, failed = [], []
    for share, place in shares:
        if isinstance(place, RvssError):
            failed.append(share.name)
        elif (place.key, place.directory) == (volume.key, volume.directory) and volume.id:
            fitting.append(share)
    named = [share for share in fitting if share.name.lower() == mark.share.lower()]
    chosen = named if len(fitting) > 1 else fitting
    if len(chosen) == 1:
        return chosen[0]
    if fitting:
        names = ", ".join(share.name for share in fitting)
        why = f"which of the shares {names} it is of cannot be told"
    else:
        why = f"no share of ours sits in /{volume.directory} of {volume.name}"
        if failed:
            why += f" (where {', '.join(failed)} sits cannot be told)"
    raise RvssError(Problem.NOT_OURS, why)


def _file_system(instance: Instance, path: str) -> str:
    return COMMON.look(path, partial(_look_at, instance, path))


def _look_at(instance: Instance, path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise RvssError(Problem.BAD_PATH, f"{path} cannot be opened: {exc.strerror}") from exc
    with files.opened(fd):
        volume = volume_of(fd, path, instance.providers)
    if volume is not None:
        return volume.file_system
    raise RvssError(Problem.NOT_SUPPORTED, f"the file system of {path} has no shadow copies")
