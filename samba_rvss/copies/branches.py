"""Branches: writable images beside backups, from which a virtual machine can be started at once.

Place: on `exposing`. Contract: a backup is only read. It is held, by its mark, before there is a
branch of it, and for as long as there is one. A branch is found by listing; what was written to it
is deleted by `delete` and by nothing else. One backup has one branch at most.
"""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from samba_rvss.clock import now
from samba_rvss.copies import base, exposing, holds, keep
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Branch, Exposed, Image, Mark, Phase, ShadowCopy

_logger = logging.getLogger(__name__)

_BUSY_SECONDS = 5.0  # longer than an smbd takes to drop a connection, on a slow machine as well

# What `exposing.share` fails with before there is a share.
_UNSHARED = (Problem.REFUSED, Problem.NOT_FOUND, Problem.NOT_SUPPORTED)


def of(instance: Instance, copy: ShadowCopy) -> list[Image]:
    """Return the branches of a part of a backup, as they are now.

    Raises:
        RvssError: SYSTEM if they cannot be listed.
    """
    inventory = instance.inventory({copy.volume.file_system})
    for reason in inventory.unlisted.values():
        raise RvssError(Problem.SYSTEM, f"the images beside {copy.id} cannot be listed: {reason}")
    marks = [image.mark.branch for image in inventory.images]
    found = zip(inventory.images, marks, strict=True)
    return [image for image, branch in found if branch and branch.of == copy.id]


def expose(instance: Instance, copy: ShadowCopy, wish: Exposed, uid: int) -> str:
    """Expose a writable image beside a part of a backup; make one, if there is none.

    Args:
        instance: the backup's.
        copy: the part's record.
        wish: what its share is to be.
        uid: who wants it.

    Returns:
        The image's id.

    Raises:
        RvssError: as `exposing.expose`; as `samba_rvss.providers.Provider.branch`.
    """
    backup = exposing.backup(instance, copy)
    exposing.require_room(wish)
    base.base_of(instance, replace(backup, branch=Branch(of=copy.id)), wish)
    found = [each for each in of(instance, copy) if each.mark.branch and each.mark.branch.ready]
    made = not found
    mark = _make(instance, copy, backup, wish) if made else found[0].mark
    if not made and mark.exposed is not None and mark.exposed != wish:
        raise exposing.already(copy, mark.exposed)
    if not made and mark.branch is not None:
        hold(instance, copy)
        mark = replace(mark, branch=replace(mark.branch, exposed=wish))
        instance.provider(mark.volume).claim(mark)
        instance.reached("expose.recorded")
    shared = False
    try:
        path = exposing.mount(instance, mark)
        shared = True
        exposing.share(instance, mark, path)
    except RvssError as exc:
        exposing.undo(lambda: exposing.conceal(instance, mark, uid), exc)
        if made and (not shared or exc.problem in _UNSHARED):
            # Nobody can have written to it.
            exposing.undo(lambda: delete(instance, mark, uid), exc)
        raise
    detail = f"{base.described(wish)}, writable, as {mark.id}"
    instance.ledger.note(copy, "exposed", uid=uid, detail=detail)
    return mark.id


def _make(instance: Instance, copy: ShadowCopy, backup: Mark, wish: Exposed) -> Mark:
    hold(instance, copy)
    instance.reached("expose.held")
    created = now().replace(microsecond=0)
    branch = Branch(of=copy.id, exposed=wish)
    mark = Mark(
        id=f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        share=copy.share,
        share_path=copy.share_path,
        volume=backup.volume,
        created=created,
        nested=backup.nested,
        branch=branch,
    )
    try:
        volume = instance.provider(copy.volume).branch(copy.volume, copy.id, mark)
    except RvssError as exc:
        exposing.undo(lambda: settle(instance, copy, sure=True), exc)
        raise
    instance.reached("expose.branched")
    return replace(mark, volume=volume, branch=replace(branch, ready=True))


def hold(instance: Instance, copy: ShadowCopy) -> None:
    """Hold a backup because there is, or will be, a branch of it."""
    holds.hold_exposed(instance, copy, holds.WRITABLE)


def delete(instance: Instance, mark: Mark, uid: int) -> None:
    """Delete a branch with all that was written to it; its backup is released.

    Once its mark says that it goes, reconciling does the rest of what was cut off.

    Raises:
        RvssError: HELD if others hold it, and then it stays whole; SAMBA, or what else keeps it
            from being concealed; BUSY, READ_ONLY or SYSTEM, and then it goes as soon as it can.
    """
    provider = instance.provider(mark.volume)
    if mark.branch is not None and mark.branch.ready:
        provider.require_free(mark.volume, mark.id)
    condemned = False
    with _even_if_full(mark):  # it is hidden all the same
        exposing.conceal(instance, mark, uid)
    with _even_if_full(mark):
        current = instance.mark(mark.volume, mark.id)
        if current.branch is not None and current.branch.ready:
            provider.claim(replace(current, branch=replace(current.branch, ready=False)))
        condemned = True
    instance.reached("conceal.condemned")
    try:
        _destroy(instance, mark)
    except RvssError as exc:
        if not condemned:
            raise
        raise _left_behind(mark, exc) from exc
    instance.reached("conceal.destroyed")
    copy = instance.ledger.get(mark.branch.of) if mark.branch else None
    if copy is not None and copy.phase is Phase.KEPT:
        instance.ledger.note(copy, "writable copy deleted", uid=uid, detail=mark.id)
        with _even_if_full(mark):  # reconciling finds it, and tries again
            settle(instance, copy, sure=True)
        try:
            keep.clear(instance, copy)
        except RvssError as exc:  # likewise
            _logger.warning("%s: cannot clear away: %s", copy.title, exc)


@contextmanager
def _even_if_full(mark: Mark) -> Iterator[None]:
    """Go on where there is no room for what a mark is to say: deleting makes room."""
    try:
        yield
    except RvssError as exc:
        if exc.problem is not Problem.NO_SPACE:
            raise
        _logger.warning("%s is deleted, and no mark says so: %s", mark.id, exc)


def _left_behind(mark: Mark, reason: RvssError) -> RvssError:
    """Return the error for a branch that goes, and cannot go yet."""
    when = "nobody uses it" if reason.problem is Problem.BUSY else "that is possible"
    return RvssError(
        reason.problem,
        f"{mark.id} is concealed, and not deleted yet ({reason.line()})",
        f"it is deleted as soon as {when}",
    )


def _destroy(instance: Instance, mark: Mark) -> None:
    """Destroy a branch; try for a while, as an smbd that drops its connection may have it open.

    Raises:
        RvssError: as `samba_rvss.providers.Provider.destroy`.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            instance.provider(mark.volume).destroy(mark.volume, mark.id)
            return
        except RvssError as exc:
            if exc.problem is not Problem.BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def settle(instance: Instance, copy: ShadowCopy, *, sure: bool = False) -> None:
    """See that a backup is held while there is a branch of it, or something that may be one.

    Args:
        instance: the backup's.
        copy: which part of it.
        sure: whether nothing without a mark that can be read is one.

    Raises:
        RvssError: as `of`; as `holds.hold`.
    """
    inventory = instance.inventory({copy.volume.file_system})
    doubted = bool(inventory.unlisted)
    for foreign in inventory.foreign:
        branch = foreign.mark.branch if foreign.mark else None
        unreadable = foreign.mark is None and not sure
        doubted = doubted or unreadable or (branch is not None and branch.of == copy.id)
    if of(instance, copy) or doubted:
        hold(instance, copy)
    else:
        holds.release_exposed(instance, copy, holds.WRITABLE)
    mark = instance.mark(copy.volume, copy.id)
    if mark.exposed is not None:
        holds.hold_exposed(instance, copy, holds.EXPOSED)
    else:
        holds.release_exposed(instance, copy, holds.EXPOSED)
