"""What administrators want exposed and concealed: a backup over all its shares, or a branch.

Place: beside `requests`, which has one. Contract: all parts or none; in the turns of all volumes
concerned, so that nothing else is done with the backup or with what is beside it meanwhile.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime

from samba_rvss.clock import now
from samba_rvss.copies import base, branches, concern, exposing
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon.runner import Runner
from samba_rvss.daemon.tasks import in_thread
from samba_rvss.daemon.turns import Turns
from samba_rvss.daemon.underway import UnderWay
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Branch, Exposed, Mark, Phase, ShadowCopy
from samba_rvss.samba import accounts

_logger = logging.getLogger(__name__)

_LONGEST = 60.0  # seconds that it should take
_AFTER_FAILURE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be exposed, and how.

    Attributes:
        writable: whether a branch beside it is meant.
        account: who alone may connect; empty for all whom the base share lets.
        until: when it is to be concealed by itself; None for never.
    """

    writable: bool = False
    account: str = ""
    until: datetime | None = None


class Exposures:
    """What is exposed of one instance.

    Args:
        present: returns the instance as it is now.
        turns: who waits for whom.
        runner: conceals what is over, and finishes what failed.
        under_way: hears of each request.
    """

    def __init__(
        self,
        present: Callable[[], Instance],
        turns: Turns,
        runner: Runner,
        under_way: UnderWay,
    ) -> None:
        self._present = present
        self._turns = turns
        self._runner = runner
        self._under_way = under_way

    async def expose(self, copy: ShadowCopy, wish: Wish, uid: int) -> str:
        """Expose a backup; return the names of its shares, for a line.

        Args:
            copy: one of its parts.
            wish: how.
            uid: who wants it.

        Raises:
            RvssError: NOT_FOUND if there is no such account; as `exposing.expose` and
                `branches.expose`.
        """
        with self._under_way.doing(f"the exposing of {copy.id} has been under way", _LONGEST):
            parts = await in_thread(_parts, self._present(), copy)
            number = await in_thread(accounts.uid_of, wish.account) if wish.account else -1
            async with self._turns.take(*(part.volume for part in parts)):
                try:
                    names = await in_thread(_expose, self._present(), parts, wish, number, uid)
                except RvssError:
                    self._runner.wake(_AFTER_FAILURE)
                    raise
        if wish.until is not None:
            self._runner.wake(max(0.0, (wish.until - now()).total_seconds()))
        return ", ".join(f"[{name}]" for name in names)

    async def conceal(self, image: str, uid: int, *, delete: bool) -> str:
        """Conceal a backup and its branches, or one branch; return a line.

        Args:
            image: the id of a part of the backup, or of the branch.
            uid: who wants it.
            delete: whether it is deleted with what was written to it; it must be a branch then, so
                that what is deleted is what somebody has seen.

        Raises:
            RvssError: NOT_FOUND if nothing of it is exposed, or it is not there; as
                `exposing.conceal` and `branches.delete`.
        """
        with self._under_way.doing(f"the concealing of {image} has been under way", _LONGEST):
            try:
                marks, copies = await in_thread(_meant, self._present(), image)
            except RvssError:
                if not delete:  # its marks cannot be read: then by its id alone
                    await in_thread(exposing.hide, self._present(), image)
                raise
            volumes = [*(mark.volume for mark in marks), *(copy.volume for copy in copies)]
            async with self._turns.take(*volumes):
                try:
                    line = await in_thread(_conceal, self._present(), image, uid, delete=delete)
                except RvssError:
                    self._runner.wake(_AFTER_FAILURE)
                    raise
        if delete:
            self._runner.wake(_AFTER_FAILURE)  # its backup may not be released, or cleared, yet
        return line


def _parts(instance: Instance, copy: ShadowCopy) -> list[ShadowCopy]:
    """Return all parts of a backup, as they are recorded."""
    current = instance.ledger.get(copy.id) or copy
    if current.phase is not Phase.KEPT:
        raise RvssError(
            Problem.STATE,
            f"{copy.id} is {current.phase.value}, and no backup",
            "see 'samba-rvss backup list'",
        )
    parts = [part for part in instance.ledger.of_set(copy.set_id) if part.phase is Phase.KEPT]
    return parts or [current]


def _expose(
    instance: Instance, parts: list[ShadowCopy], wish: Wish, number: int, uid: int
) -> list[str]:
    wishes = []
    for part in parts:
        share = instance.config.share(part.share)
        mark = exposing.backup(instance, part)
        if share is None:
            reason = base.obstacle(instance.config, mark)
            raise RvssError(Problem.REFUSED, f"{part.id} cannot be exposed: {reason}")
        name = base.name_of(part, share, writable=wish.writable)
        each = Exposed(share=name, account=wish.account, uid=number, until=wish.until)
        branch = Branch(of=part.id) if wish.writable else None
        base.base_of(instance, replace(mark, branch=branch), each)
        wishes.append(each)
    with ExitStack() as undo:
        for part, each in zip(parts, wishes, strict=True):
            new = not _shown(instance, part, each, writable=wish.writable)
            if wish.writable:
                branches.expose(instance, part, each, uid)
            else:
                exposing.expose(instance, part, each, uid)
            if new:
                undo.callback(_undo, instance, part, uid, writable=wish.writable)
        undo.pop_all()
    return [each.share for each in wishes]


def _shown(instance: Instance, part: ShadowCopy, wish: Exposed, *, writable: bool) -> bool:
    """Return whether a part is exposed already as it is to be."""
    return any(mark.exposed == wish for mark in _marks(instance, part, writable=writable))


def _undo(instance: Instance, part: ShadowCopy, uid: int, *, writable: bool) -> None:
    """Conceal a part again because another cannot be exposed; a branch stays."""
    try:
        for mark in _marks(instance, part, writable=writable):
            exposing.conceal(instance, mark, uid)
    except RvssError:
        _logger.exception("[%s] %s is exposed and cannot be concealed yet", part.share, part.id)


def _marks(instance: Instance, part: ShadowCopy, *, writable: bool) -> list[Mark]:
    if writable:
        return [image.mark for image in branches.of(instance, part)]
    return [exposing.backup(instance, part)]


def _meant(instance: Instance, image: str) -> tuple[list[Mark], list[ShadowCopy]]:
    """Return the marks of what is, or may be, exposed, and the parts of backups concerned."""
    copy = instance.ledger.get(image)
    if copy is not None:
        parts = _parts(instance, copy)
        found = [mark for part in parts for mark in _marks(instance, part, writable=True)]
        return [*(exposing.backup(instance, part) for part in parts), *found], parts
    inventory = instance.inventory(concern.file_systems(instance))
    for each in inventory.images:
        branch = each.mark.branch
        if each.id == image and branch is not None:
            copy = instance.ledger.get(branch.of)
            return [each.mark], [copy] if copy is not None else []
    raise RvssError(
        Problem.NOT_FOUND, f"there is no backup {image}", "see 'samba-rvss backup list'"
    )


def _conceal(instance: Instance, image: str, uid: int, *, delete: bool) -> str:
    marks, _ = _meant(instance, image)
    written = [mark for mark in marks if mark.branch is not None]
    if delete:
        for mark in marks:
            if mark.branch is None:
                raise RvssError(
                    Problem.USAGE, f"{image} is a backup", "name the writable copy beside it"
                )
            branches.delete(instance, mark, uid)
        return f"{image} is deleted"
    shown = [exposing.conceal(instance, mark, uid) for mark in marks]
    if not any(shown):
        raise RvssError(Problem.NOT_FOUND, f"{image} is not exposed")
    left = [mark.id for mark in written]
    stays = f"; what was written stays in {', '.join(left)}" if left else ""
    return f"{image} is concealed{stays}"
