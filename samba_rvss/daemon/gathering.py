"""Which shares a client is putting into a set, told from the callouts before it.

Samba asks for each share whether it can have shadow copies: when the client asks for that
(IsPathSupported), and again when he adds the share to his set. At Commit it has the copies made,
share by share; it tells nobody which they will be. A worker has one set in creation, and asks
nothing else while it commits. So what a worker has asked for and has not got is in its set, and
perhaps more is.

Contract: values in, values out; nothing here waits, looks or knows the time.
"""

from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

ONCE_SECONDS = 180.0
"""For how long a share that was asked for once may be in a set: as long as Samba waits for a set
that nothing is added to (srv_fss_agent.c, fss_seq_tout_set())."""

TWICE_SECONDS = 1800.0
"""The same of one that was asked for again, which Samba has in a set."""

MOST = 64
"""How many shares are taken besides the one that is asked for, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[T]):
    """A share that a worker has asked for.

    Attributes:
        times: how often, since the last set that was committed.
        last: when last, in seconds of any clock.
        before: when the time before, or ``last`` if there was none.
        user: whose callout that was; it may be another one than the client's.
        found: what was found then.
    """

    times: int
    last: float
    before: float
    user: int
    found: T


@dataclass(slots=True, kw_only=True)
class _Commit:
    """A Commit that goes on.

    Attributes:
        had: the shares of which a copy was wanted.
        is_begun: whether it was told what is to be taken along.
    """

    had: set[str] = field(default_factory=set)
    is_begun: bool = False


class Gathering(Generic[T]):
    """What the workers have asked for; `T` is what was found of a share."""

    def __init__(self) -> None:
        self._asked: dict[Hashable, dict[str, Asked[T]]] = {}
        self._commits: dict[Hashable, _Commit] = {}

    def asked(self, worker: Hashable, share: str, at: float, user: int, found: T) -> None:
        """Note that a share was found fit for a shadow copy. No Commit goes on then.

        Args:
            worker: which one asked.
            share: the share's name.
            at: when, in seconds.
            user: whose callout it was.
            found: what was found.
        """
        self._commits.pop(worker, None)
        self._forget(at)
        own = self._asked.setdefault(worker, {})
        before = own.get(share)
        own[share] = Asked(
            times=before.times + 1 if before else 1,
            last=at,
            before=before.last if before else at,
            user=user,
            found=found,
        )

    def begin(self, worker: Hashable, share: str, at: float, user: int) -> Mapping[str, T] | None:
        """Note that a worker wants a copy of a share; return what is to be taken along.

        A share that the same Commit had before is wanted by the next try of it.

        Args:
            worker: which one.
            share: the share's name.
            at: when, in seconds.
            user: whose callout it is.

        Returns:
            What was found of each share that is, or may be, wanted next; None if that was returned
            before, in the same Commit.
        """
        self._forget(at)
        commit = self._commit(worker, share)
        before = frozenset(commit.had)
        commit.had.add(share)
        if commit.is_begun:
            return None
        commit.is_begun = True
        return self._gathered(worker, share, at, user, before)

    def missed(self, worker: Hashable, share: str) -> None:
        """Note that a worker wanted a copy of a share, and that the share cannot be found just now.

        If it is wanted again, that is another try of the Commit.

        Args:
            worker: which one.
            share: the share's name.
        """
        self._commit(worker, share).had.add(share)

    def _commit(self, worker: Hashable, share: str) -> _Commit:
        """Return the Commit in which a share is wanted: a new one if that was so before."""
        commit = self._commits.get(worker)
        if commit is None or share in commit.had:
            commit = self._commits[worker] = _Commit()
        return commit

    def committed(self, worker: Hashable, since: float) -> None:
        """Note that Samba has written down what a worker has committed: nothing is tried again.

        What the worker asked for meanwhile stays.

        Args:
            worker: which one.
            since: when its Commit began, in seconds.
        """
        self._commits.pop(worker, None)
        own = self._asked.get(worker, {})
        for share in [share for share, asked in own.items() if asked.last <= since]:
            del own[share]

    def _gathered(
        self, worker: Hashable, share: str, at: float, user: int, besides: Container[str]
    ) -> dict[str, T]:
        known = self._asked.get(worker, {})
        own = {name: each for name, each in known.items() if name not in besides}
        first = own.pop(share, None)
        if first is None:
            return {}
        certain, perhaps = [], []
        for name, asked in sorted(own.items(), key=lambda item: item[1].last, reverse=True):
            if _is_certain(asked, first, user) and (asked.times > 1 or _is_recent(asked, at)):
                certain.append(name)
            elif _is_recent(asked, at):
                perhaps.append(name)
        chosen = [*certain, *perhaps[: len(certain) + 1]][:MOST]
        return {name: own[name].found for name in chosen}

    def _forget(self, at: float) -> None:
        for worker, own in list(self._asked.items()):
            for share in [name for name, asked in own.items() if at - asked.last >= TWICE_SECONDS]:
                del own[share]
            if not own:
                del self._asked[worker]
                self._commits.pop(worker, None)


def _is_recent(asked: Asked[T], at: float) -> bool:
    return at - asked.last < ONCE_SECONDS


def _is_certain(asked: Asked[T], first: Asked[T], user: int) -> bool:
    """Return whether a share is in a set for all that is known.

    Copies are made in the order in which shares were added (srv_fss_agent.c,
    _fss_AddToShadowCopySet()): so the others of a set were asked for after its first share. Where
    somebody else has asked for that one since, the client's own user tells.

    Args:
        asked: how it was asked for.
        first: how the share was asked for of which a copy is wanted.
        user: whose callout wants that.
    """
    own = asked.user == user
    if asked.last >= first.last:
        return asked.times > 1 or (own and first.times == 1)
    return asked.times > 1 and own and asked.last >= first.before
