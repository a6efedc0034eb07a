"""A plan in the making: the modules that judge put in what to do, and what to leave alone and why.

It has the rule on time that they share: what is unaccounted for is acted on once it has been so
through the grace period, counted in this boot.
"""

import math
from collections.abc import Mapping

from samba_rvss.model import Moment
from samba_rvss.reconcile.decision import ORDER, Action, Adopt, Delete, LeftAlone, Plan


class Draft:
    """Collects what is decided.

    Args:
        present: the time.
        grace: how long something may be unaccounted for, in seconds.
        before: what was unaccounted for at the last reconciling, by name, and since when.

    Attributes:
        leaving: paths of the shadow copies that will be deleted.
        ended: paths of those that turn out to be backups.
        staying: ids of the images without a record that will be adopted, or are left alone: what
            is named after them stays.
        shown: ids of the images that are shares by their marks, or have been.
    """

    def __init__(self, *, present: Moment, grace: float, before: Mapping[str, Moment]) -> None:
        self._present = present
        self._grace = grace
        self._before = before
        self._actions: list[Action] = []
        self._left_alone: list[LeftAlone] = []
        self._findings: dict[str, Moment] = {}
        self.leaving: set[str] = set()
        self.ended: set[str] = set()
        self.staying: set[str] = set()
        self.shown: set[str] = set()

    def act(self, action: Action) -> None:
        """Put an action into the plan."""
        self._actions.append(action)
        if isinstance(action, Delete):
            self.leaving.add(action.copy.path)
        elif isinstance(action, Adopt):
            if action.image.mark.is_backup:
                self.ended.add(action.path)
            else:
                self.staying.add(action.image.id)

    def leave(
        self, target: str, reason: str, due: float | None = None, *, wrong: bool = False
    ) -> None:
        """Leave something alone; the arguments are those of `LeftAlone`."""
        due = None if due is None else max(due, 0.0)
        self._left_alone.append(LeftAlone(target=target, reason=reason, due=due, wrong=wrong))

    def leave_unlisted(self, target: str, reason: str) -> None:
        """Leave something alone because it may have an image, and images cannot be listed now."""
        self.leave(target, f"{reason}, but the images cannot be listed", wrong=True)

    def give_time(self, name: str, action: Action, due: float = math.inf) -> None:
        """Act on something if it has been unaccounted for through the grace period.

        Args:
            name: what it is called among the findings, the same in every plan.
            action: what to do then; its reason says why it is unaccounted for.
            due: seconds until something else is to be done about it.
        """
        since = self.found(name)
        left = self._grace - (self._present.seconds - since.seconds)
        if left <= 0:
            self.act(action)
        else:
            reason = f"{action.reason}; it has {left:.0f} s left"
            self.leave(action.target, reason, min(left, due))

    def found(self, name: str) -> Moment:
        """Note that something is unaccounted for, and return since when it has been."""
        since = self._before.get(name)
        if since is None or since.boot != self._present.boot:
            since = self._present
        self._findings[name] = since
        return since

    def finish(self, problems: tuple[str, ...]) -> Plan:
        """Return the plan, with its actions in the order of their kinds (`decision.ORDER`).

        Args:
            problems: why something could not be seen.
        """
        return Plan(
            actions=tuple(sorted(self._actions, key=lambda action: ORDER.index(type(action)))),
            left_alone=tuple(self._left_alone),
            findings=self._findings,
            problems=problems,
        )
