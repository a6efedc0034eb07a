"""What is said of a backup: that it is to be one, its holds and its tags.

Contract: tags and holds stand in the mark alone, which goes where the image goes. A hold forbids
deletion by whomever: `samba_rvss.providers.Provider.destroy` refuses what is held. Every change is
made in the volume's turn, with the record as it is by then.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from samba_rvss.backups.policy import parse_tag
from samba_rvss.clock import now
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Hold, Keep, Kept, Mark, Phase, Run, ShadowCopy

EXPOSED, WRITABLE = "exposed", "writable"
"""The tags with which a backup is held while it is exposed, and while there is a branch of it."""

_ROOM = 600  # characters for all tags and holds of one image: a mark has a limit
_OF_HOLD = 36  # for the time until which one holds


def want(instance: Instance, copy: ShadowCopy, uid: int = -1) -> ShadowCopy:
    """Have a shadow copy become a backup when it ends, whatever its share's options say.

    Returns:
        Its record.

    Raises:
        RvssError: STATE if it has ended; NOT_FOUND, READ_ONLY or SYSTEM.
    """
    if copy.phase in (Phase.DELETING, Phase.GONE):
        raise RvssError(Problem.STATE, f"{copy.id} is {copy.phase.value}, and cannot be kept")
    if copy.phase is Phase.KEPT or copy.keep is Keep.YES:
        return copy
    if copy.phase is Phase.SEALED:
        provider, mark = instance.provider(copy.volume), instance.mark(copy.volume, copy.id)
        if mark.sealed is None:
            raise _not_sealed(copy)
        provider.keep(copy.volume, copy.id)
        provider.claim(replace(mark, sealed=replace(mark.sealed, keep=Keep.YES)))
    # Sealing writes into the mark what the record says.
    wanted = instance.ledger.change(
        copy,
        "to be kept",
        unless=[phase for phase in Phase if phase is not copy.phase],
        uid=uid,
        keep=Keep.YES,
    )
    if wanted is None:
        raise RvssError(Problem.STATE, f"{copy.id} has changed just now", "try again")
    return wanted


def unwant(instance: Instance, copy: ShadowCopy, uid: int = -1) -> ShadowCopy:
    """Have a shadow copy be deleted when it ends, whatever its share's options say.

    Returns:
        Its record.

    Raises:
        RvssError: STATE if it is sealed, or has ended: then its mark may say otherwise.
    """
    early = (Phase.TAKEN, Phase.OPEN)
    changed = instance.ledger.change(
        copy,
        "not to be kept",
        unless=[phase for phase in Phase if phase not in early],
        uid=uid,
        keep=Keep.NO,
    )
    if changed is None:
        raise RvssError(
            Problem.STATE,
            f"{copy.id} is {copy.phase.value}: whether it is kept is decided",
        )
    return changed


def hold(instance: Instance, copy: ShadowCopy, tag: str, until: datetime | None, uid: int) -> None:
    """Hold an image: until that is released or over, it is not deleted.

    A shadow copy that is held becomes a backup when it ends.

    Raises:
        RvssError: USAGE if the tag or the time is none, LIMIT, NOT_SEALED, NOT_FOUND, READ_ONLY,
            STATE or SYSTEM.
    """
    _require_another(tag)
    if until is not None and until <= now():
        raise RvssError(Problem.USAGE, f"a hold until {until.isoformat()} would be over already")
    _require_sealed(copy)
    copy = want(instance, copy, uid)
    held = Hold(tag=tag, until=until)

    def add(kept: Kept) -> Kept:
        others = [other for other in kept.holds if other.tag != tag]
        return replace(kept, holds=tuple(sorted([*others, held], key=lambda each: each.tag)))

    _change(instance, copy, add)
    detail = f"{tag} until {until.isoformat()}" if until else tag
    instance.ledger.note(copy, "held", uid=uid, detail=detail)


def release(instance: Instance, copy: ShadowCopy, tag: str, uid: int) -> None:
    """Release a hold; the image stays.

    Raises:
        RvssError: NOT_FOUND if there is no such hold; as `hold`.
    """
    _require_another(tag)

    def remove(kept: Kept) -> Kept:
        holds = tuple(other for other in kept.holds if other.tag != tag)
        if holds == kept.holds:
            raise RvssError(Problem.NOT_FOUND, f"{copy.id} is not held as '{tag}'")
        return replace(kept, holds=holds)

    _change(instance, copy, remove)
    instance.ledger.note(copy, "released", uid=uid, detail=tag)


def tag_with(instance: Instance, copy: ShadowCopy, tag: str, uid: int) -> None:
    """Give an image a tag.

    Raises:
        RvssError: as `hold`.
    """
    require_tag(tag)
    _change(instance, copy, lambda kept: replace(kept, tags=tuple(sorted({*kept.tags, tag}))))
    instance.ledger.note(copy, "tagged", uid=uid, detail=tag)


def record(instance: Instance, copy: ShadowCopy, run: Run, uid: int) -> None:
    """Write down which run an image came of, and have it become a backup when it ends.

    Raises:
        RvssError: as `hold`.
    """
    _require_sealed(copy)
    copy = want(instance, copy, uid)
    _change(instance, copy, lambda kept: replace(kept, run=run), limit=False)
    detail = f"{run.name}, {run.consistency.value}-consistent"
    instance.ledger.note(copy, "of a run", uid=uid, detail=detail)


def require_unheld(instance: Instance, copy: ShadowCopy) -> None:
    """Refuse to delete what is held, or a part of a backup of which another part is.

    Raises:
        RvssError: HELD; NOT_FOUND, BAD_PATH, READ_ONLY or SYSTEM if a mark cannot be read.
    """
    copy = instance.ledger.get(copy.id) or copy
    parts = {copy.id: copy}
    if copy.phase is Phase.KEPT:
        parts |= {p.id: p for p in instance.ledger.of_set(copy.set_id) if p.phase is Phase.KEPT}
    elif copy.phase is not Phase.SEALED:
        return
    for part in parts.values():
        try:
            mark = instance.provider(part.volume).mark(part.volume, part.id)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                raise
            raise RvssError(
                Problem.NOT_FOUND,
                f"whether {part.id} is held cannot be told: {exc.message}",
                "'delete --lost' gives up what is on a file system that is gone for good",
            ) from exc
        if mark is None:
            continue
        instance.provider(part.volume).require_free(part.volume, part.id)
        kept = mark.kept or Kept()
        holds = kept.holding(now())
        if holds:
            raise RvssError(
                Problem.HELD,
                f"{part.id} is held as {', '.join(repr(hold.tag) for hold in holds)}",
                _way_out(part, holds[0].tag),
            )


def hold_exposed(
    instance: Instance, copy: ShadowCopy, tag: str, change: Callable[[Kept], Kept] = lambda it: it
) -> None:
    """Hold a backup because it is exposed; change its mark in the same step.

    Args:
        instance: the backup's.
        copy: which part of it.
        tag: EXPOSED or WRITABLE.
        change: what else is to change.

    Raises:
        RvssError: as `hold`.
    """

    def add(kept: Kept) -> Kept:
        holds = {each.tag: each for each in (*kept.holds, Hold(tag=tag))}
        return change(replace(kept, holds=tuple(holds[name] for name in sorted(holds))))

    _change(instance, copy, add, limit=False)


def release_exposed(
    instance: Instance, copy: ShadowCopy, tag: str, change: Callable[[Kept], Kept] = lambda it: it
) -> None:
    """Undo `hold_exposed`; again is success."""

    def remove(kept: Kept) -> Kept:
        return change(replace(kept, holds=tuple(each for each in kept.holds if each.tag != tag)))

    _change(instance, copy, remove, limit=False)


def without_exposure(kept: Kept) -> Kept:
    """Return what a mark says of a backup, but for what another instance has exposed of it."""
    holds = tuple(each for each in kept.holds if each.tag not in (EXPOSED, WRITABLE))
    return replace(kept, exposed=None, holds=holds)


def _require_another(tag: str) -> None:
    if require_tag(tag) in (EXPOSED, WRITABLE):
        raise RvssError(
            Problem.USAGE,
            f"'{tag}' is the hold of what is exposed",
            "'samba-rvss backup conceal' releases it; take another tag for yours",
        )


def _way_out(part: ShadowCopy, tag: str) -> str:
    if tag == EXPOSED:
        return f"'samba-rvss backup conceal {part.id}' takes its share away"
    if tag == WRITABLE:
        return (
            f"what was written to the image beside it goes with 'samba-rvss backup conceal"
            f" {part.id} --delete'"
        )
    return f"'samba-rvss release {part.id} --tag {tag}' lets go of it"


def _change(
    instance: Instance, copy: ShadowCopy, change: Callable[[Kept], Kept], *, limit: bool = True
) -> None:
    """Change what the mark of a sealed image says of it as a backup."""
    _require_sealed(copy)
    mark = instance.mark(copy.volume, copy.id)
    if mark.sealed is None:
        raise _not_sealed(copy)
    kept = change(mark.kept or Kept())
    room = sum(len(tag) + 4 for tag in kept.tags)
    asked = [each for each in kept.holds if each.tag not in (EXPOSED, WRITABLE)]
    room += sum(len(each.tag) + _OF_HOLD for each in asked)
    if limit and room > _ROOM and len(kept.tags) + len(kept.holds) > len(_all_of(mark)):
        raise RvssError(
            Problem.LIMIT, f"{copy.id} has {_ROOM} characters of tags and holds, which is the limit"
        )
    provider = instance.provider(copy.volume)
    # The mark forbids deletion: it comes before a hold of the file system's, and goes after it.
    tags = [each.tag for each in kept.holding(now())]
    if len(kept.holds) < len((mark.kept or Kept()).holds):
        provider.hold(copy.volume, copy.id, tags)
        provider.claim(replace(mark, kept=kept))
    else:
        provider.claim(replace(mark, kept=kept))
        provider.hold(copy.volume, copy.id, tags)


def _all_of(mark: Mark) -> tuple[object, ...]:
    return (*mark.kept.tags, *mark.kept.holds) if mark.kept else ()


def _require_sealed(copy: ShadowCopy) -> None:
    if copy.phase in (Phase.DELETING, Phase.GONE):
        raise RvssError(Problem.STATE, f"{copy.id} is {copy.phase.value}")
    if copy.phase not in (Phase.SEALED, Phase.KEPT):
        raise _not_sealed(copy)


def _not_sealed(copy: ShadowCopy) -> RvssError:
    return RvssError(
        Problem.NOT_SEALED, f"{copy.id} is not sealed yet", "try again when it is; see 'list'"
    )


def require_tag(tag: str) -> str:
    """Return a tag.

    Raises:
        RvssError: USAGE if it is none.
    """
    try:
        return parse_tag(tag)
    except ValueError as exc:
        raise RvssError(Problem.USAGE, f"{tag!r} is no tag", str(exc)) from None
