"""What becomes of a name when it is restored. Pure: values in, a value out."""

from collections.abc import Callable
from enum import Enum

from samba_rvss.manifests.entry import CARRIED, Entry, Kind, lasting, metadata


class Overwrite(Enum):
    """What is to be done with what is there."""

    NEVER = "never"
    IF_CHANGED = "if-changed"
    ALWAYS = "always"


class State(Enum):
    """What becomes of a name."""

    RESTORED = "restored"  # nothing is there
    UPDATED = "updated"  # something else is there
    UNCHANGED = "unchanged"  # the same is there
    LEFT = "left"  # something is there, and nothing is to be overwritten
    IN_USE = "in use"  # something else is there, and somebody has it open
    IN_WAY = "in the way"  # a directory is there, and it was none


def decide(
    source: Entry,
    present: Entry | None,
    overwrite: Overwrite,
    *,
    in_use: bool = False,
    same: Callable[[], bool] = lambda: False,
) -> State:
    """Return what becomes of a name.

    Args:
        source: what the image has.
        present: what is there; None for nothing.
        overwrite: what is to be done with that.
        in_use: whether somebody has it open. That of a directory does not matter: it stays.
        same: tells, of two files of one size, whether their content is the same; it may have to
            read them, and is called only if that matters.
    """
    if present is None:
        return State.RESTORED
    if overwrite is Overwrite.NEVER:
        return State.LEFT
    if present.kind is Kind.DIRECTORY and source.kind is not Kind.DIRECTORY:
        return State.IN_WAY
    if present.kind is source.kind is Kind.DIRECTORY:
        return State.UNCHANGED if _is_alike(source, present) else State.UPDATED
    is_file = source.kind is Kind.FILE
    alike = overwrite is Overwrite.IF_CHANGED and _is_alike(source, present)
    if alike and (not is_file or same()):
        return State.UNCHANGED
    return State.IN_USE if in_use else State.UPDATED


def _is_alike(source: Entry, present: Entry) -> bool:
    """Return whether two entries are the same as far as one sees without reading them."""
    if (source.kind, source.size, source.target) != (present.kind, present.size, present.target):
        return False
    return not metadata(source, present, lasting(source, CARRIED))
