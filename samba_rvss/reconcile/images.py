"""Judging what was found on file systems: images without a record, others' images, and the rest.

An image is ours only if its mark bears our identity, on the file system and under the name that the
mark says. Of those, a whole one without a record is adopted, and one that we deleted is destroyed
when it comes back. Everything else is named and left alone, and what is named after it stays,
unless that was a copy that we deleted.
"""

from collections.abc import Callable

from samba_rvss.model import Foreign, Image, Volume, Whose
from samba_rvss.mounts import image_of
from samba_rvss.reconcile.decision import Adopt, Destroy
from samba_rvss.reconcile.draft import Draft
from samba_rvss.reconcile.observation import Observation


def judge(seen: Observation, draft: Draft) -> None:
    """Judge every image that no copy in the ledger accounts for."""
    if seen.inventory is None:
        return
    recorded = {copy.id for copy in (*seen.copies, *seen.backups)}
    accounted = recorded | seen.changing
    unknown = [i for i in seen.inventory.images if i.id not in accounted and not i.mark.branch]
    for image in {i.id: i for i in unknown}.values():
        if image.former:
            _leave_former(seen, draft, image)
        else:
            _judge_ours(seen, draft, image, seen.inventory.present)
    # What is of a copy in the ledger, or of a backup that is adopted now, is judged with that,
    # whoever else claims its name.
    judged = recorded | set(map(image_of, draft.ended)) | _deleted(seen, draft)
    for foreign in seen.inventory.foreign:
        draft.staying |= ({foreign.id} | ({foreign.mark.id} if foreign.mark else set())) - judged
        # One of this instance's is odd here; another's is no fault of this server.
        draft.leave(foreign.id, explain(foreign), wrong=foreign.instance in seen.instances)
    ours = {copy.volume.file_system for copy in (*seen.copies, *seen.backups)}
    for file_system, reason in seen.inventory.unlisted.items():
        why = f"its images cannot be listed: {reason}"
        draft.leave(file_system, why, wrong=file_system in ours)


def explain(foreign: Foreign) -> str:
    """Return whose an image is that is not ours, and what can be done about it."""
    mark, where = foreign.mark, f"at {foreign.where} on {foreign.provider} {foreign.file_system}"
    match foreign.whose:
        case Whose.MACHINE:
            why = (
                "it was made by this instance on another machine; 'samba-rvss adopt --from"
                f" {foreign.instance}' takes it over"
            )
        case Whose.CLONE:
            origin = mark.volume.file_system if mark else "another one"
            why = (
                f"it was made on the file system {origin}, of which this one is a copy, unless its"
                " id was changed; remove it by hand if it is not wanted"
            )
        case Whose.RENAMED:
            origin = mark.id if mark else "another one"
            why = f"it was renamed or copied, and is {origin} by its mark; rename it back by hand"
        case Whose.UNKNOWN:
            why = "its mark cannot be read; remove it by hand if it is not wanted"
        case _:
            why = f"it is another instance's, {foreign.instance}"
    return f"{why} ({where})"


def _deleted(seen: Observation, draft: Draft) -> set[str]:
    """Return the ids of the copies that we have deleted, or delete in this plan."""
    return {*seen.gone, *map(image_of, draft.leaving)}


def _leave(seen: Observation, draft: Draft, image: Image, reason: str) -> None:
    draft.staying |= {image.id} - _deleted(seen, draft)
    draft.leave(image.id, reason, wrong=True)


def _leave_former(seen: Observation, draft: Draft, image: Image) -> None:
    reason = "its mark says nothing but our run directory, and the ledger does not know it"
    what = "'samba-rvss adopt --from RUN-DIRECTORY' takes it over if it is ours"
    if not image.read_only:
        what = "it is not sealed: remove it by hand if it is not wanted"
    _leave(seen, draft, image, f"{reason}; {what}")


def _judge_ours(
    seen: Observation, draft: Draft, image: Image, present: Callable[[Volume], Volume]
) -> None:
    cut_off = Destroy(image=image, reason="its creation was cut off")
    deleted = seen.gone.get(image.id)
    if image.mark.kept and image.mark.kept.holding(seen.wall) and deleted is not None:
        if image.complete:
            reason = "it was deleted while it could not be seen, and its mark says that it is held"
            draft.act(Adopt(image=image, path=_path_of(seen, image.id), reason=reason))
        else:
            _leave(seen, draft, image, "it was deleted and came back, held, and a part is missing")
        return
    if deleted is not None:
        if present(deleted).key == present(image.mark.volume).key:
            reason = "it was deleted and came back with a crash of the machine"
            draft.act(Destroy(image=image, reason=reason))
        else:
            reason = f"one of that name was deleted, but of the volume {deleted.key}"
            _leave(seen, draft, image, f"{reason}, and this is of {image.mark.volume.key}")
    elif image.complete:
        reason = "the ledger does not know it"
        draft.act(Adopt(image=image, path=_path_of(seen, image.id), reason=reason))
    elif (image.mark.sealed and not image.empty) or image.read_only:
        reason = "it was sealed, and a part of it is missing; the ledger has no record of it"
        _leave(seen, draft, image, reason)
    elif seen.starting:
        draft.act(cut_off)
    else:
        draft.give_time(f"image {image.id}", cut_off)


def _path_of(seen: Observation, image: str) -> str:
    """Return the path by which Samba has a copy; empty if it has none.

    An older version may have named it otherwise than we would now.
    """
    known = [copy.path for copy in (seen.samba.copies if seen.samba else ())]
    paths = (*known, *(seen.shares or {}).values())
    ours = (path for path in paths if path.startswith(seen.exposed_directory))
    return next((path for path in ours if image_of(path) == image), "")
