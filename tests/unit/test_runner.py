"""The runner: never two at once, one failure never stops the rest, and what failed is retried."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.reconcile import apply, runner
from samba_rvss.reconcile.decision import Action, Kind, Plan
from samba_rvss.reconcile.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BROKEN = RvssError(Problem.STATE, "the ledger fails")
ACTIONS = tuple(Action(kind=Kind.UNMOUNT, target=name, reason="a test") for name in "abc")


class Surroundings:
    """What a runner works on: a ledger that may fail, and actions that take a moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.performed: list[str] = []
        self.failing: set[str] = set()
        self.unreadable = False
        config = SimpleNamespace(grace=10.0, recovery_timeout=10.0)
        ledger = SimpleNamespace(get=self._get, note_set=self._note, set_findings=self._note)
        lifecycle: Any = SimpleNamespace(config=config, ledger=ledger, mounts=None, inventory=None)
        watcher: Any = SimpleNamespace(sealing=frozenset)
        samba: Any = None

        @asynccontextmanager
        async def only(key: str) -> "AsyncIterator[None]":
            yield

        seen = SimpleNamespace(findings={}, workers=())
        decided = Plan(actions=ACTIONS, kept=(), findings={})
        monkeypatch.setattr(runner, "observe", lambda sources: seen)
        monkeypatch.setattr(runner, "plan", lambda seen: decided)
        monkeypatch.setattr(apply, "is_current", lambda lifecycle, action: True)
        monkeypatch.setattr(apply, "perform", self._perform)
        self.runner = Runner(lifecycle, watcher, samba, only)

    def _get(self, name: str) -> None:
        if self.unreadable:
            raise BROKEN

    def _note(self, *arguments: object, **more: object) -> None:
        pass

    def _perform(self, lifecycle: object, action: Action) -> None:
        self.performed.append(action.target)
        if action.target in self.failing:
            raise RvssError(Problem.BUSY, f"{action.target} is busy")


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(monkeypatch)


def test_one_failure_does_not_stop_the_rest(surroundings: Surroundings) -> None:
    surroundings.failing = {"a", "b"}
    _, outcomes = asyncio.run(surroundings.runner.reconcile())
    assert surroundings.performed == ["a", "b", "c"]
    assert [outcome.error is None for outcome in outcomes] == [False, False, True]
    last = surroundings.runner.last
    assert last is not None
    assert last.done == ("unmount c: a test",)
    assert last.failed == (
        "unmount a: a test: a is busy",
        "unmount b: a test: b is busy",
    )


def test_a_ledger_that_cannot_be_read_does_not_stop_the_rest(surroundings: Surroundings) -> None:
    surroundings.unreadable = True
    _, outcomes = asyncio.run(surroundings.runner.reconcile())
    assert surroundings.performed == ["a", "b", "c"]
    assert [outcome.error for outcome in outcomes] == [BROKEN] * 3


def test_never_two_at_once(surroundings: Surroundings) -> None:
    async def both() -> None:
        await asyncio.gather(surroundings.runner.reconcile(), surroundings.runner.reconcile())

    asyncio.run(both())
    assert surroundings.performed == ["a", "b", "c"] * 2


def test_what_failed_is_tried_again_less_and_less_often(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(surroundings.runner, "wake", pauses.append)
    surroundings.failing = {"b"}
    for _ in range(8):
        asyncio.run(surroundings.runner.reconcile())
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    surroundings.failing = set()
    asyncio.run(surroundings.runner.reconcile())
    surroundings.failing = {"b"}
    asyncio.run(surroundings.runner.reconcile())
    assert pauses[8:] == [1.0, 1.0]  # to see that nothing is left to do; from the beginning
