"""A plan in the making: who judges something says here what to do about it, or why to leave it.

It knows the one rule on time that all who judge share: what is unaccounted for is acted on once it
has been so through the grace period, counted in this start of the machine.
"""

import math
from collections.abc import Mapping

from samba_rvss.model import Moment
from samba_rvss.reconcile.decision import Action, Kept, Kind, Plan

_ORDER = {kind: number for number, kind in enumerate(Kind)}


class Draft:
    """Collects what is decided.

    Args:
        present: the time.
        grace: how long something may be unaccounted for, in seconds.
        before: what was unaccounted for when it was looked for last, by name, and since when.

    Attributes:
        leaving: paths of the shadow copies that are to be deleted.
        adopted: ids of the images that are to be adopted.
    """

    def __init__(self, *, present: Moment, grace: float, before: Mapping[str, Moment]) -> None:
        self._present = present
        self._grace = grace
        self._before = before
        self._actions: list[Action] = []
        self._kept: list[Kept] = []
        self._findings: dict[str, Moment] = {}
        self.leaving: set[str] = set()
        self.adopted: set[str] = set()

    def act(self, action: Action) -> None:
        """Do something."""
        self._actions.append(action)
        if action.kind is Kind.DELETE and action.copy is not None:
            self.leaving.add(action.copy.path)
        elif action.kind is Kind.ADOPT:
            self.adopted.add(action.target)

    def keep(
        self, target: str, reason: str, due: float | None = None, *, wrong: bool = False
    ) -> None:
        """Leave something as it is; the arguments are those of `Kept`."""
        due = None if due is None else max(due, 0.0)
        self._kept.append(Kept(target=target, reason=reason, due=due, wrong=wrong))

    def keep_unlisted(self, target: str, reason: str) -> None:
        """Leave something whose image may be there, but cannot be listed now."""
        self.keep(target, f"{reason}, but the images cannot be listed", wrong=True)

    def give_time(self, name: str, action: Action, due: float = math.inf) -> None:
        """Act on something if it has been unaccounted for through the grace period.

        Args:
            name: by which it is found again.
            action: what to do then; its reason says why it is unaccounted for.
            due: seconds until something else is to be done about it.
        """
        since = self.found(name)
        left = self._grace - (self._present.seconds - since.seconds)
        if left <= 0:
            self.act(action)
        else:
            reason = f"{action.reason}; it has {left:.0f} s left"
            self.keep(action.target, reason, min(left, due))

    def found(self, name: str) -> Moment:
        """Note that something is unaccounted for, and return since when it has been."""
        since = self._before.get(name)
        if since is None or since.boot != self._present.boot:
            since = self._present
        self._findings[name] = since
        return since

    def finish(self, problems: tuple[str, ...]) -> Plan:
        """Return the plan: its actions by kind, those of one kind as they were decided.

        Args:
            problems: why something could not be seen.
        """
        return Plan(
            actions=tuple(sorted(self._actions, key=lambda action: _ORDER[action.kind])),
            kept=tuple(self._kept),
            findings=self._findings,
            problems=problems,
        )
