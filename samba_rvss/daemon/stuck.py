"""When to give up a set whose client has gone, because an rpcd_fsrvp refuses all others for it.

Samba begins no set while another has been begun and is not exposed. Its timer would forget a set
whose client has vanished, but the first call of every other client replaces that timer by one that
forgets nothing (source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext()): as long as somebody
asks, nobody is served. Ending the worker forgets what it has in memory alone; a set that has been
committed is in srv_fss.tdb too, and goes with its copies.

A client has gone, or might as well have, when Samba's own time for it is over, or when none of the
connections that the worker had when the client was last heard of is there any more, and that for as
long as Samba lets a worker without a connection live: whoever is away for longer finds nothing of a
set that he has not committed. What is committed gets a sixth of Samba's own time at least.

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
        held: the set that it has begun and not exposed, if there is one.
        renewals: see `samba.memory.Memory`.
        clients: how many connections it served; None if that is not known.
        committed: whether the set has been committed.
        heir: whether the worker was started after that, and so has the set from srv_fss.tdb.
        pipes: its connections, see `samba.control.pipes`; None if they are not known.
    """

    time: float
    held: HeldSet | None
    renewals: int = 0
    clients: int | None = None
    committed: bool = False
    heir: bool = False
    pipes: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A set that a worker waits for.

    Attributes:
        held: the set, as it was seen last.
        renewals: as they were seen last.
        since: when its client had first done all that it has done.
        allowed: how long Samba gives it from there.
        alone: since when no look has shown that its client may be connected; None if the last did.
        heir: whether the worker has the set from srv_fss.tdb, and no connection of its client.
        before: who had asked before the set was seen: its client is one of them.
        committed: whether it has been committed.
        pipes: the worker's connections at ``since``: its client's is one of them, if it had one.
    """

    held: HeldSet
    renewals: int
    since: float
    allowed: float
    alone: float | None = None
    heir: bool = False
    before: tuple[Asker, ...] = ()
    committed: bool = False
    pipes: frozenset[int] = frozenset()

    def deadline(self, clocks: Clocks) -> float:
        """Return when its time is over, if its client does nothing more."""
        own = self.since + self.allowed + MARGIN
        if self.alone is None:
            return own
        # What is committed outlives its worker, and its client may come back for it.
        return min(own, self.alone + max(clocks.idle, clocks.short / 6 if self.committed else 0.0))


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
    shown = (held, glance.renewals, glance.committed)
    if before is not None and (before.held, before.renewals, before.committed) == shown:
        if not before.heir and glance.pipes and before.pipes & glance.pipes:
            return replace(before, alone=None)
        gone = glance.clients == 0 or _lost(before, glance)
        return replace(before, alone=glance.time) if gone and before.alone is None else before
    # After a Commit, also one that failed, a client has as long as after Start. Looks follow at
    # once.
    short = failed or glance.committed or not held.shares
    return Waiting(
        held=held,
        renewals=glance.renewals,
        since=glance.time,
        allowed=clocks.short if short else clocks.long,
        alone=glance.time if glance.heir and not same else None,
        heir=glance.heir and not same,
        before=before.before if before is not None and same else asked,
        committed=glance.committed,
        pipes=glance.pipes or frozenset(),
    )


def _lost(waiting: Waiting, glance: Glance) -> bool:
    """Return whether none of the connections is there any more of which one was the client's."""
    known = bool(waiting.pipes) and glance.pipes is not None
    return known and waiting.pipes.isdisjoint(glance.pipes or ())


def is_over(waiting: Waiting, time: float, knocks: int, rest: float, clocks: Clocks) -> bool:
    """Return whether to give up a set, if nothing else of a client could be lost with it.

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
