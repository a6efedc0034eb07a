"""Whether the shadow copies of a set are of one instant, told from when their images were taken.

Contract: values in, values out.
"""

from collections.abc import Iterable
from datetime import timedelta
from enum import Enum

from samba_rvss.model import ShadowCopy


class OneInstant(Enum):
    """What is of one instant."""

    SET = "set"  # all copies of the set that are on one file system
    VOLUME = "volume"  # all of the copy's volume, with what is nested in it
    NONE = "none"  # not even that: the nested volumes are of other instants


def of(copy: ShadowCopy, members: Iterable[ShadowCopy]) -> OneInstant | None:
    """Return what of a copy is of one instant; None if it is not known when it was taken.

    Args:
        copy: the copy.
        members: all copies of its set; nothing, before Samba has said which they are.
    """
    if copy.taken is None:
        return None
    if not copy.transid:
        return OneInstant.NONE
    if not copy.set_id:
        return OneInstant.VOLUME
    known, system = list(members), copy.volume.file_system
    there = {each.transid for each in known if each.volume.file_system == system}
    # Of one whose record is not there, or does not say yet that it is a member, nothing is known.
    whole = len(known) >= copy.set_size > 0
    return OneInstant.SET if whole and there <= {copy.transid} else OneInstant.VOLUME


def gap(members: Iterable[ShadowCopy]) -> timedelta | None:
    """Return the time between the first and the last file system on which copies were taken.

    Args:
        members: all copies of a set.

    Returns:
        That; None if all are on one file system, or it is not known when they were taken.
    """
    last: dict[str, list[float]] = {}
    for each in members:
        if each.taken is not None:
            last.setdefault(each.volume.file_system, []).append(each.taken.timestamp())
    if len(last) < 2:
        return None
    times = [max(found) for found in last.values()]
    return timedelta(seconds=max(times) - min(times))
