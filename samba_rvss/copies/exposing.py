"""Exposing: an image as a share again, as its mark says, with all that keeps people from its share.

    show        mount it, and make the share: a clone of the base share that leads to it
    hide        take both away
    expose      a backup, read-only
    conceal     undo that; of a branch as well, which stays

Contract: the mark comes first, and bears the share's name until nothing is left of that; so after a
crash reconciling finishes either. What is shown is as its mark says: a backup read-only by its
image, its mount and its share. A branch (`branches`) alone is mounted for writing. Again is
success.
"""

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace

from samba_rvss.clock import now
from samba_rvss.copies import base, holds
from samba_rvss.copies import exposed as shares
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Exposed, Kept, Mark, Phase, ShadowCopy
from samba_rvss.mounts import image_of
from samba_rvss.samba import clones, control
from samba_rvss.samba.process import SambaProcess

_logger = logging.getLogger(__name__)

_ROOM = 550  # characters for the names in a mark


def show(instance: Instance, mark: Mark) -> None:
    """See that an image is the share that its mark says.

    Raises:
        RvssError: as `base.base_of`, `mount` and `share`.
    """
    share(instance, mark, mount(instance, mark))


def mount(instance: Instance, mark: Mark) -> str:
    """See that an image is mounted where its share is to lead to; return the path.

    Raises:
        RvssError: as `base.base_of`; NOT_FOUND, NOT_SEALED, BAD_PATH, NOT_SUPPORTED or SYSTEM.
    """
    own = base.base_of(instance, mark, base.exposed_by(mark))
    mounts = instance.mounts
    path = base.path_of(instance, mark, own)
    if not mounts.is_mounted(path):
        parts = instance.provider(mark.volume).open(mark.volume, mark.id)
        with files.all_opened(fd for _, fd in parts):
            mounts.attach(parts, path)
    if mark.branch is not None:
        mounts.open(path)
    elif not mounts.is_closed(path):
        raise RvssError(Problem.NOT_SEALED, f"the mount {path} is writable")
    instance.reached("expose.mounted")
    return path


def share(instance: Instance, mark: Mark, path: str) -> None:
    """See that clients have a share that leads to where an image is mounted, and no other one.

    Raises:
        RvssError: REFUSED, NOT_FOUND or NOT_SUPPORTED, and then there is none; SAMBA or SYSTEM.
    """
    config = instance.config
    clone = base.clone_of(config, mark, base.base_of(instance, mark, base.exposed_by(mark)), path)
    with closing(SambaProcess()) as fresh:
        fresh.call(clones.make, config.file, config.samba_state_directory, clone)
    instance.reached("expose.shared")
    control.reload_config(config.file)
    unshare(instance, tuple(_shares(instance, mark.id) - {clone.name}))
    for other in instance.mounts.shared(mark.id):
        if other != path:  # the way to the share has changed
            instance.mounts.detach(other)


def is_shown(instance: Instance, mark: Mark) -> bool:
    """Return whether an image is the share that its mark says, and is mounted there alone.

    Raises:
        RvssError: SAMBA.
    """
    exposed, mounts = mark.exposed, instance.mounts
    there = mounts.shared(mark.id)
    if exposed is None or len(there) != 1 or _shares(instance, mark.id) != {exposed.share}:
        return False
    return mounts.is_mounted(there[0]) and mounts.is_closed(there[0]) == (mark.branch is None)


def hide(instance: Instance, image: str, name: str = "") -> None:
    """See that an image is no share: shares, connections, mounts and descriptors go.

    Args:
        instance: the image's.
        image: its id.
        name: what the share is called by its mark; empty if that is not known.

    Raises:
        RvssError: SAMBA or SYSTEM. What could be taken away is gone then.
    """
    names = _shares(instance, image) | {name} - {""}
    with ExitStack() as hiding:  # later callbacks run first
        for path in instance.mounts.shared(image):
            hiding.callback(instance.mounts.detach, path)
            hiding.callback(instance.mounts.close, path)
        unshare(instance, tuple(sorted(names)))


def _shares(instance: Instance, image: str) -> set[str]:
    """Return the shares that lead to where an image is, or was, mounted."""
    config = instance.config
    found = instance.samba.call(
        clones.present, config.file, config.samba_state_directory, base.shared_directory(config)
    )
    return {share for share, path in found.items() if image_of(path) == image}


def unshare(instance: Instance, names: tuple[str, ...]) -> None:
    """Remove shares of what is exposed, with connections and descriptors; others' stay.

    Raises:
        RvssError: SAMBA.
    """
    config = instance.config
    place = base.shared_directory(config)
    if not names:
        return
    removed, nobodys = instance.samba.call(
        clones.remove, config.file, config.samba_state_directory, place, names
    )
    if removed:
        control.reload_config(config.file)
    for name in nobodys:  # also if it was removed before, and nobody was told
        shares.drop_connections(instance, name)


def expose(instance: Instance, copy: ShadowCopy, wish: Exposed, uid: int) -> None:
    """Expose a part of a backup, read-only; all is undone if that fails.

    Args:
        instance: the backup's.
        copy: the part's record.
        wish: what its share is to be.
        uid: who wants it.

    Raises:
        RvssError: STATE or NOT_SEALED if it is no backup; REFUSED if it is exposed otherwise; as
            `show`.
    """
    mark = backup(instance, copy)
    require_room(wish)
    base.base_of(instance, mark, wish)
    present = mark.exposed
    if present is not None and present != wish:
        raise already(copy, present)
    there = instance.inventory({copy.volume.file_system}).images
    if not any(image.id == copy.id and image.complete and image.read_only for image in there):
        raise RvssError(
            Problem.NOT_SEALED, f"the image of {copy.id} is not whole and read-only any more"
        )
    as_wished(instance, copy, wish)
    mark = instance.mark(copy.volume, copy.id)
    instance.reached("expose.recorded")
    try:
        show(instance, mark)
    except RvssError as exc:
        undo(lambda: conceal(instance, mark, uid), exc)
        raise
    instance.ledger.note(copy, "exposed", uid=uid, detail=base.described(wish))


def as_wished(instance: Instance, copy: ShadowCopy, wish: Exposed | None) -> None:
    """Write into the mark of a backup that it is exposed, or not; it is held for as long."""

    def change(kept: Kept) -> Kept:
        return replace(kept, exposed=wish)

    if wish is not None:
        holds.hold_exposed(instance, copy, holds.EXPOSED, change)
    else:
        holds.release_exposed(instance, copy, holds.EXPOSED, change)


def conceal(instance: Instance, mark: Mark, uid: int = -1, detail: str = "") -> bool:
    """Take away the share of a backup or of a branch; what is in either stays.

    Args:
        instance: the image's.
        mark: its mark.
        uid: who wants it; -1 if nobody asked.
        detail: why.

    Returns:
        Whether it was exposed.

    Raises:
        RvssError: SAMBA, SYSTEM, READ_ONLY or NO_SPACE: reconciling does the rest then.
    """
    exposed = mark.exposed
    if exposed is None:
        hide(instance, mark.id)
        return False
    with ExitStack() as hiding:  # also if that it is to be so cannot be written
        hiding.callback(hide, instance, mark.id, exposed.share)
        if not exposed.ending:
            _write(instance, mark, replace(exposed, ending=True))
        instance.reached("conceal.intent")
    instance.reached("conceal.hidden")
    _write(instance, mark, None)
    instance.reached("conceal.recorded")
    copy = instance.ledger.get(mark.branch.of if mark.branch else mark.id)
    if copy is not None:
        said = f"{base.described(exposed)}{f': {detail}' if detail else ''}"
        instance.ledger.note(copy, "concealed", uid=uid, detail=said)
    return True


def _write(instance: Instance, mark: Mark, exposed: Exposed | None) -> None:
    """Write what becomes of an exposure into a mark; what else it says by now stays."""
    current = instance.mark(mark.volume, mark.id)
    provider = instance.provider(mark.volume)
    if current.branch is not None:
        provider.claim(replace(current, branch=replace(current.branch, exposed=exposed)))
        return
    copy = instance.ledger.get(mark.id)
    if copy is None or copy.phase is not Phase.KEPT:
        raise RvssError(Problem.STATE, f"{mark.id} has no record as a backup", "try again")
    as_wished(instance, copy, exposed)


def backup(instance: Instance, copy: ShadowCopy) -> Mark:
    """Return the mark of a part of a backup.

    Raises:
        RvssError: STATE or NOT_SEALED if it is none; NOT_FOUND, BAD_PATH or SYSTEM.
    """
    if copy.phase is not Phase.KEPT:
        raise RvssError(Problem.STATE, f"{copy.id} is {copy.phase.value}, and no backup")
    mark = instance.mark(copy.volume, copy.id)
    if mark.sealed is None or not mark.is_backup:
        raise RvssError(Problem.NOT_SEALED, f"the mark of {copy.id} does not say that it is sealed")
    return mark


def require_room(wish: Exposed) -> None:
    """Refuse names that a mark has no room for, and a time that is over.

    Raises:
        RvssError: LIMIT or USAGE.
    """
    if len(json.dumps([wish.share, wish.account])) > _ROOM:
        raise RvssError(Problem.LIMIT, f"the names {wish.share} and {wish.account} are too long")
    if wish.is_over(now()):
        raise RvssError(Problem.USAGE, "it would be concealed at once: that time is over")


def already(copy: ShadowCopy, present: Exposed) -> RvssError:
    """Return the error for something that is exposed, and otherwise than it is to be."""
    how = (
        "is being concealed" if present.ending else f"is exposed already: {base.described(present)}"
    )
    return RvssError(
        Problem.REFUSED, f"{copy.id} {how}", f"'samba-rvss backup conceal {copy.id}' first"
    )


def undo(conceal: Callable[[], object], reason: RvssError) -> None:
    """Undo what was begun; what fails is logged, and left to reconciling."""
    try:
        conceal()
    except RvssError:
        _logger.exception("what was begun (%s) cannot be undone yet", reason)
