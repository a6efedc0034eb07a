"""Deleting a shadow copy: its exposed share, its mounts and its image; the record stays as history.

Contract: deleting again is success. A copy is recorded as being deleted before anything is
touched, and as gone when nothing is left; after a failure or a crash it is deleted again. An image
whose file system is not there is as good as gone: reconciling destroys it if it comes back.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from samba_rvss.copies import exposed, manifests
from samba_rvss.copies.follow import facts_of
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.locate import described
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, SetState, ShadowCopy
from samba_rvss.samba import fss_state
from samba_rvss.samba.conf import find_share
from samba_rvss.samba.values import directory

_logger = logging.getLogger(__name__)

NOT_DESTROYED = "not destroyed"
"""The event of a copy that was deleted while the file system of its image was not there."""

ABORTED = "aborted"
"""The event of a copy that goes before its recovery was complete: whoever wanted it has nothing."""


def find(instance: Instance, words: tuple[str, ...]) -> ShadowCopy:
    """Find the copy that a delete callout means.

    Args:
        instance: the share's.
        words: the share's path as the callout got it, and the path that create printed.

    Raises:
        RvssError: BAD_REQUEST, NOT_OURS or NOT_FOUND.
    """
    if len(words) < 2:
        raise RvssError(Problem.BAD_REQUEST, "delete needs a share path and a snapshot path")
    copy = instance.ledger.by_path(words[-1])
    if copy is not None and " ".join(words[:-1]).split() == copy.share_path.split():
        return copy  # whatever has become of its share meanwhile
    share = find_share(instance.config, words[:-1])
    if copy is None:
        raise RvssError(
            Problem.NOT_FOUND,
            f"{words[-1]} is not a shadow copy that we made",
            "nothing is done",
        )
    # Records of before have the path as it stands in smb.conf.
    if directory(copy.share_path) != share.path:
        raise RvssError(
            Problem.NOT_FOUND,
            f"{copy.path} is a shadow copy of {copy.share_path}, not of {share.path}",
            "nothing is done",
        )
    return copy


def withdraw(instance: Instance, copy: ShadowCopy, reason: str) -> None:
    """Delete a copy without being asked by anybody, and record why.

    Raises:
        RvssError: as `delete`.
    """
    if copy.phase is not Phase.DELETING:  # then it is tried again, and known why
        event = ABORTED if _is_abort(copy) else "withdrawn"
        instance.ledger.note(copy, event, detail=reason)
    delete(instance, copy)


def delete(
    instance: Instance,
    copy: ShadowCopy,
    uid: int = -1,
    hidden: Callable[[], object] = lambda: None,
    detail: str = "",
) -> None:
    """Delete a copy: exposed share, mounts, image. Gone already is success.

    Args:
        instance: the copy's.
        copy: which one.
        uid: who wants it, -1 if nobody asked.
        hidden: called when exposed share and mounts are gone for certain, so that nobody can
            reach the copy, and only the image remains to be destroyed.
        detail: what is to be known of who wants it.

    Raises:
        RvssError: BUSY, READ_ONLY, STATE, SAMBA or SYSTEM. What could be removed is gone then,
            and the caller sees to it that the rest is tried again.
    """
    started = time.monotonic()
    if uid >= 0 and _is_abort(copy):
        reason = "it was deleted before its recovery was complete"
        instance.ledger.note(copy, ABORTED, uid=uid, detail=reason)
    if copy.phase is Phase.DELETING and uid < 0:
        current = instance.ledger.get(copy.id)
    else:
        current = instance.ledger.change(
            copy, "delete", unless=(Phase.GONE,), uid=uid, phase=Phase.DELETING, detail=detail
        )
    copy = current or replace(copy, phase=Phase.GONE)
    if copy.phase is Phase.GONE:
        return
    instance.reached("delete.intent")
    # One that fails does not keep the others from running.
    with ExitStack() as remaining:
        remaining.callback(_destroy, instance, copy)
        hide(instance, copy)
        hidden()
    instance.ledger.change(
        copy,
        "gone",
        uid=uid,
        phase=Phase.GONE,
        duration=time.monotonic() - started,
        detail=detail,
    )
    instance.reached("delete.gone")


def _is_abort(copy: ShadowCopy) -> bool:
    """Return whether a copy that goes is one of a set whose client has not come to its end."""
    if copy.phase not in (Phase.TAKEN, Phase.OPEN) or not copy.set_id:
        return False
    return copy.auto_recovery or copy.state is SetState.COMMITTED


def hide(instance: Instance, copy: ShadowCopy) -> None:
    """Take away a copy's exposed share and its mounts, so that nobody can reach it.

    Raises:
        RvssError: BUSY, SAMBA or SYSTEM. What could be taken away is gone then.
    """
    copy = _with_share(instance, copy)
    # Later callbacks run first.
    with ExitStack() as hiding:
        for path in copy.paths:
            hiding.callback(instance.mounts.detach, path)
        # smbd drops its connections before the mounts that they are on go.
        hiding.callback(_unshare, instance, copy)


def _with_share(instance: Instance, copy: ShadowCopy) -> ShadowCopy:
    """Return a copy with its exposed share, recorded, where nobody followed Samba when it got it.

    Samba removes the share from its registry itself when its client deletes the copy, and leaves
    the security descriptor, of which nothing else tells whose it is.
    """
    if copy.exposed_share:
        return copy
    try:
        known = fss_state.copy_at(instance.config.fss_state, copy.path)
    except RvssError as exc:
        _logger.warning("whether %s is exposed cannot be told: %s", copy.title, exc)
        return copy
    if known is None or not known.exposed_share:
        return copy
    learned = instance.ledger.change(copy, "exposed, unrecorded", **facts_of(copy, known))
    return learned or copy


def _destroy(instance: Instance, copy: ShadowCopy) -> None:
    instance.reached("delete.unmounted")
    try:
        instance.provider(copy.volume).destroy(copy.volume, copy.id)
    except RvssError as exc:
        if exc.problem is not Problem.NOT_FOUND:
            raise
        detail = f"{exc.message}: its image is destroyed if that comes back"
        _logger.warning("%s: %s", copy.title, detail)
        instance.ledger.note(copy, NOT_DESTROYED, detail=detail)
    manifests.forget(instance.config, copy.id)
    instance.reached("delete.destroyed")


def _unshare(instance: Instance, copy: ShadowCopy) -> None:
    if copy.exposed_share:
        exposed.delete_share(instance, copy.exposed_share)
        instance.reached("delete.unshared")


def not_hidden(copy: ShadowCopy, seconds: float) -> RvssError:
    """Return the error for a copy that clients may still reach after so many seconds."""
    file_system = described(copy.volume, copy.share_path)
    return RvssError(
        Problem.BUSY,
        f"{copy.id} could not be taken away in {seconds:g} s: {file_system}, or Samba's registry,"
        " does not answer",
        "it is deleted when they do",
    )


def left_behind(copy: ShadowCopy, reason: str, problem: Problem = Problem.BUSY) -> RvssError:
    """Return the error for a copy that nobody can reach, but whose image is left."""
    return RvssError(
        problem,
        f"{copy.id} is taken away from clients and unmounted, but its image is not destroyed"
        f" ({reason})",
        "it is destroyed as soon as that is possible",
    )
