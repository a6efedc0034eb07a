"""When to end an rpcd_fsrvp that waits for a client that has gone, and refuses all others.

Samba begins no set while another has been begun and is not exposed. Its timer would forget a set
whose client has vanished, but the first call of every other client replaces that timer by one that
forgets nothing (source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext()): as long as somebody
asks, nobody is served. Ending the worker forgets what it has in memory alone.

Place: pure functions of values, for `rescue`, which looks and acts. Times are in seconds of one
clock that never goes back.
"""

from dataclasses import dataclass, replace

from samba_rvss.samba.clocks import Clocks
from samba_rvss.samba.memory import HeldSet

MARGIN = 2.0
"""How much longer than Samba we wait, in seconds: if its own timer still runs, it comes first."""

KNOCKS = 2
"""How often somebody must have asked since the client was last heard of."""

_FEWEST_PAUSE, _MOST_DOUBLED = 180.0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asked, by a check callout, and for what.

    Attributes:
        uid: the client's user.
        path: the share's path, as the callout had it.
    """

    uid: int
    path: str

    def describe(self) -> str:
        """Return it as people read it."""
        return f"uid {self.uid} for {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What a look at a worker showed.

    Attributes:
        time: when it was over.
        held: the set that it has begun and not committed, if there is one.
        renewals: see `samba.memory.Memory`.
        clients: how many connections it served; None if that is not known.
    """

    time: float
    held: HeldSet | None
    renewals: int = 0
    clients: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A set that a worker waits for.

    Attributes:
        held: the set, as it was seen last.
        renewals: as they were seen last.
        since: when its client had first done all that it has done.
        allowed: how long Samba gives it from there.
        alone: when the worker was first seen without any connection since then; None for never.
        before: who had asked before the set was seen: its client is one of them.
    """

    held: HeldSet
    renewals: int
    since: float
    allowed: float
    alone: float | None = None
    before: tuple[Asker, ...] = ()

    def deadline(self, clocks: Clocks) -> float:
        """Return when its time is over, if its client does nothing more."""
        own = self.since + self.allowed + MARGIN
        return own if self.alone is None else min(own, self.alone + clocks.idle)


def follow(
    before: Waiting | None,
    glance: Glance,
    clocks: Clocks,
    *,
    failed: bool = False,
    asked: tuple[Asker, ...] = (),
) -> Waiting | None:
    """Return what a worker waits for, after another look at it.

    Whoever is refused changes neither the set nor the renewals, so what they show of its client
    counts from the look that shows it: never too early.

    Args:
        before: after the look before.
        glance: what this look showed.
        clocks: Samba's.
        failed: whether a create callout has failed since the look before.
        asked: who has asked since a look at which nothing was held.
    """
    held = glance.held
    if held is None:
        return None
    same = before is not None and before.held.id == held.id
    if before is not None and same and (before.held, before.renewals) == (held, glance.renewals):
        alone = before.alone
        if alone is None and glance.clients == 0:
            alone = glance.time
        return replace(before, alone=alone)
    # After a Commit that failed a client has as long as after Start. Looks follow failures at once.
    short = failed or not held.shares
    return Waiting(
        held=held,
        renewals=glance.renewals,
        since=glance.time,
        allowed=clocks.short if short else clocks.long,
        before=before.before if before is not None and same else asked,
    )


def is_over(waiting: Waiting, time: float, knocks: int, rest: float, clocks: Clocks) -> bool:
    """Return whether to end the worker, if nothing else of a client could be lost with it.

    Args:
        waiting: what it waits for.
        time: the time.
        knocks: how often anybody has asked since ``waiting.since``.
        rest: until when no worker is ended; see `rest_after`.
        clocks: Samba's.
    """
    return knocks >= KNOCKS and time >= max(waiting.deadline(clocks), rest)


def rest_after(time: float, row: int, clocks: Clocks) -> float:
    """Return until when no other worker is ended, so that this is no weapon.

    Args:
        time: when one was ended.
        row: how many had been ended before it and after the last Commit that was good.
        clocks: Samba's.
    """
    return time + min(clocks.short, _FEWEST_PAUSE) * 2.0 ** min(row, _MOST_DOUBLED)
