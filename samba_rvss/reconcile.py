"""Reconciling: bring ledger, images and mounts back into one state.

Observe, as values; plan, purely; apply, one bad item never stopping the rest. This is what makes a
crash at any instruction harmless: the ledger's intents, the images' marks and the mount table
together tell what was going on.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from samba_rvss.errors import RvssError
from samba_rvss.lifecycle import Lifecycle
from samba_rvss.model import Image, Inventory, Phase, ShadowCopy

_logger = logging.getLogger(__name__)


class Kind(Enum):
    """What can be done about a finding."""

    DELETE = "delete"
    LOST = "lost"
    ADOPT = "adopt"
    DESTROY = "destroy"
    REMOUNT = "remount"
    UNMOUNT = "unmount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a plan depends on.

    ``mounts`` are the paths of recovery mounts, ``directories`` those of everything at a place
    where one could be.
    """

    copies: tuple[ShadowCopy, ...]
    gone: frozenset[str]
    inventory: Inventory
    mounts: frozenset[str]
    directories: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, and why."""

    kind: Kind
    target: str
    reason: str
    copy: ShadowCopy | None = None
    image: Image | None = None

    def describe(self) -> str:
        """Return the action as a line for people."""
        return f"{self.kind.value} {self.target}: {self.reason}"


def plan(seen: Observation) -> list[Action]:
    """Decide what brings everything back into one state.

    An image counts as lost only if its file system was listed; what bears no mark of ours is not
    in the observation at all.
    """
    images = {image.id: image for image in seen.inventory.images}
    actions: list[Action] = []
    kept: set[str] = set()
    for copy in seen.copies:
        image = images.pop(copy.id, None)
        listed = copy.volume.file_system in seen.inventory.file_systems
        if copy.phase is Phase.CREATING:
            actions.append(_of(Kind.DELETE, copy, "its creation was cut off"))
        elif copy.phase is Phase.DELETING:
            actions.append(_of(Kind.DELETE, copy, "its deletion was cut off"))
        elif image is None and listed:
            actions.append(_of(Kind.LOST, copy, "its image does not exist any more"))
        elif image is not None and not image.complete:
            actions.append(_of(Kind.LOST, copy, "its image is not complete"))
        else:
            paths = {path for path in (copy.path, copy.previous_path) if path}
            kept |= paths
            if image is not None and not paths <= seen.mounts:
                actions.append(_of(Kind.REMOUNT, copy, "it is not mounted"))
    for image in images.values():
        if image.id in seen.gone:
            reason = "it was deleted and came back with a crash of the machine"
        elif not image.complete:
            reason = "its creation was cut off"
        else:
            actions.append(
                Action(
                    kind=Kind.ADOPT,
                    target=image.id,
                    reason="the ledger does not know it",
                    image=image,
                )
            )
            continue
        actions.append(Action(kind=Kind.DESTROY, target=image.id, reason=reason, image=image))
    handled = {path for copy in seen.copies for path in (copy.path, copy.previous_path)}
    # A recovery mount is named after its image: what is adopted keeps the one that it has.
    adopted = {action.target for action in actions if action.kind is Kind.ADOPT}
    unmounts = [
        Action(kind=Kind.UNMOUNT, target=path, reason="no shadow copy belongs to it")
        for path in sorted((seen.mounts | seen.directories) - kept - handled)
        if path.rpartition("/")[2] not in adopted
    ]
    return unmounts + actions


def deletion(copy: ShadowCopy, reason: str) -> Action:
    """Return the action that removes a copy."""
    return _of(Kind.DELETE, copy, reason)


def _of(kind: Kind, copy: ShadowCopy, reason: str) -> Action:
    return Action(kind=kind, target=copy.id, reason=reason, copy=copy)


def observe(lifecycle: Lifecycle) -> Observation:
    """Look at the ledger, the images and the mounts.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    everything = lifecycle.ledger.copies(gone=True)
    return Observation(
        copies=tuple(copy for copy in everything if copy.phase is not Phase.GONE),
        gone=frozenset(copy.id for copy in everything if copy.phase is Phase.GONE),
        inventory=lifecycle.inventory(),
        mounts=frozenset(lifecycle.mounts.listing()),
        directories=frozenset(lifecycle.mounts.directories()),
    )


def apply(lifecycle: Lifecycle, actions: Sequence[Action]) -> list[tuple[Action, RvssError]]:
    """Carry out a plan; return what failed. Every failure is logged, none stops the others."""
    failed = []
    for action in actions:
        try:
            _apply_one(lifecycle, action)
        except RvssError as exc:
            _logger.error("reconcile: cannot %s: %s", action.describe(), exc)
            failed.append((action, exc))
        else:
            _logger.warning("reconcile: %s", action.describe())
    return failed


def _apply_one(lifecycle: Lifecycle, action: Action) -> None:
    match action:
        case Action(kind=Kind.DELETE, copy=ShadowCopy() as copy):
            lifecycle.withdraw(copy, action.reason)
        case Action(kind=Kind.LOST, copy=ShadowCopy() as copy):
            lifecycle.withdraw(copy, action.reason)
        case Action(kind=Kind.REMOUNT, copy=ShadowCopy() as copy):
            lifecycle.remount(copy)
        case Action(kind=Kind.DESTROY, image=Image() as image):
            lifecycle.destroy_image(image)
        case Action(kind=Kind.ADOPT, image=Image() as image):
            lifecycle.remount(lifecycle.adopt(image))
        case Action(kind=Kind.UNMOUNT):
            lifecycle.mounts.detach(action.target)
        case _:
            raise AssertionError(action)
