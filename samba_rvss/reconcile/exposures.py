"""Judging what is exposed: backups that are shares by their marks, and the branches beside them.

Place: beside judging backups. A branch is never destroyed here, but one whose making was cut off
before anybody could write to it, or whose deletion was, which somebody had ordered. What is over,
or cannot have its base share's security any more, is concealed, and stays.
"""

from samba_rvss.copies.holds import EXPOSED, WRITABLE
from samba_rvss.model import Branch, Image, Inventory, Phase, ShadowCopy
from samba_rvss.mounts import image_of
from samba_rvss.reconcile.decision import Conceal, Discard, Expose, Settle
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation
from samba_rvss.samba.parser import lower_case


def judge(seen: Observation, draft: Draft) -> None:
    """Judge every image that is exposed by its mark, or is a branch; then what holds backups."""
    if seen.inventory is None:
        return
    backups = {copy.id: copy for copy in seen.backups if copy.phase is Phase.KEPT}
    images = {image.id: image for image in seen.inventory.images}
    for image in images.values():
        branch = image.mark.branch
        if image.mark.exposed is not None:
            draft.shown.add(image.id)
        elif branch is None:
            continue
        if image.id in seen.changing or (branch and branch.of in seen.changing):
            draft.leave(image.id, "something is being done with it", seen.options.grace)
        elif branch is not None:
            _judge_branch(seen, draft, image, branch, backups.get(branch.of))
        elif image.mark.exposed is not None and image.id in backups:
            if image.complete and image.read_only:
                _judge_exposed(seen, draft, image, backups[image.id])
            else:
                reason = "its image is not whole and read-only any more"
                draft.act(Conceal(image=image, backup=backups[image.id], reason=reason))
    for copy in backups.values():
        if copy.id in images and copy.id not in seen.changing:
            _judge_holds(seen.inventory, draft, copy, images[copy.id])


def _judge_branch(
    seen: Observation, draft: Draft, image: Image, branch: Branch, backup: ShadowCopy | None
) -> None:
    what = f"it is a writable copy of the backup {branch.of}"
    if not branch.ready:
        reason = f"{what}, and its making, or its deletion, was cut off"
        action = Discard(image=image, backup=backup, reason=reason)
        if seen.starting:
            draft.act(action)
        else:
            draft.give_time(f"branch {image.id}", action)
    elif not image.complete:
        draft.leave(image.id, f"{what}, and a part of it is missing", wrong=True)
    elif image.mark.exposed is not None:
        _judge_exposed(seen, draft, image, backup)
    else:
        delete = f"'samba-rvss backup conceal {image.id} --delete' removes it"
        draft.leave(image.id, f"{what}, and concealed; {delete}")
    if branch.ready and backup is None:
        draft.leave(image.id, f"{what}, of which there is no record", wrong=True)


def _judge_exposed(
    seen: Observation, draft: Draft, image: Image, backup: ShadowCopy | None
) -> None:
    exposed = image.mark.exposed
    if exposed is None:
        return
    reason = ""
    if exposed.ending:
        reason = "its concealing was cut off"
    elif exposed.is_over(seen.wall):
        reason = "the time for which it was exposed is over"
    elif image.id in seen.unfit:
        reason = f"it cannot be exposed any more: {seen.unfit[image.id]}"
    if reason:
        draft.act(Conceal(image=image, backup=backup, reason=reason))
        return
    fault = _fault(seen, image, exposed.share)
    if fault:
        draft.act(Expose(image=image, backup=backup, reason=fault))
        return
    if image.id in seen.outdated:
        reason = "those who may connect to its base share are others now"
        draft.act(Expose(image=image, backup=backup, reason=reason, anew=True))
        return
    due = (exposed.until - seen.wall).total_seconds() if exposed.until else None
    draft.leave(image.id, f"it is exposed as [{exposed.share}]", due)


def _fault(seen: Observation, image: Image, share: str) -> str:
    """Return how clients reach an image otherwise than by its one share; empty if they do not."""
    if seen.shared is None or seen.mounts is None or seen.directories is None:
        return ""
    ours = {name: path for name, path in seen.shared.items() if image_of(path) == image.id}
    if {lower_case(name) for name in ours} != {lower_case(share)}:
        return f"it is to be the share {share} alone"
    (path,) = ours.values()
    there = {p for p in seen.mounts | seen.directories if p.startswith(seen.shared_directory)}
    if {p for p in there if image_of(p) == image.id} != {path} or path not in seen.mounts:
        return "it is not mounted where its share leads to, and only there"
    if image.mark.branch is not None and seen.opened is not None and path not in seen.opened:
        return "it is to be writable, and its mount is not"
    return ""


def _judge_holds(inventory: Inventory, draft: Draft, copy: ShadowCopy, image: Image) -> None:
    kept = image.mark.kept
    if kept is None or image.mark.sealed is None:
        return
    tags = {hold.tag for hold in kept.holds}
    marks = [other.mark for other in inventory.images]
    due = {EXPOSED} if kept.exposed else set[str]()
    if any(mark.branch and mark.branch.of == copy.id for mark in marks):
        due.add(WRITABLE)
    present = tags & {EXPOSED, WRITABLE}
    if WRITABLE in present - due and _is_doubted(inventory, copy):
        due.add(WRITABLE)
    if present != due:
        reason = f"it is held as {_words(present)}, and is to be held as {_words(due)}"
        draft.act(Settle(copy=copy, reason=reason))


def _is_doubted(inventory: Inventory, copy: ShadowCopy) -> bool:
    """Return whether something that is not provably ours may be a branch of a backup."""
    present = inventory.present(copy.volume).file_system
    for foreign in inventory.foreign:
        branch = foreign.mark.branch if foreign.mark else None
        if foreign.file_system == present and (
            foreign.mark is None or (branch is not None and branch.of == copy.id)
        ):
            return True
    return False


def _words(tags: set[str]) -> str:
    return " and ".join(sorted(tags)) or "neither"
