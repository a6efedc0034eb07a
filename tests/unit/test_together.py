"""How often snapshots that did not meet are taken again."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from samba_rvss.providers.btrfs import together
from samba_rvss.providers.btrfs.together import Snapshot


class _Made:
    def __init__(self, transid: int) -> None:
        self.transid = transid


class _Home:
    """A home in which everything can be deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def delete(self, name: str) -> None:
        self.deleted.append(name)


class _Disk:
    """A disk on which each try takes so long, by a clock that it moves."""

    def __init__(self, seconds: Sequence[float], meets_at: int) -> None:
        self.now, self.tries = 1000.0, 0
        self._seconds = seconds
        self._meets_at = meets_at

    def monotonic(self) -> float:
        return self.now

    def take(self, _threads: object, _home: object, wanted: Sequence[Snapshot], _: str) -> None:
        self.now += self._seconds[min(self.tries, len(self._seconds) - 1)]
        self.tries += 1
        for place, each in enumerate(wanted):
            made: Any = _Made(7 if self.tries == self._meets_at else 7 + place % 2)
            each.made = made


def _taken(monkeypatch: pytest.MonkeyPatch, disk: _Disk, deadline: float) -> tuple[int, list[str]]:
    @contextmanager
    def starters(*_: object) -> Iterator[str]:
        yield "starters"

    monkeypatch.setattr("time.monotonic", disk.monotonic)
    monkeypatch.setattr(together, "_together", disk.take)
    monkeypatch.setattr(together, "_starters", starters)
    home: Any = _Home()
    wanted = [Snapshot(tree=256 + number, name=f"{number}/x") for number in range(3)]
    instant = together.take(home, wanted, "starters", deadline)
    assert all(each.made for each in wanted)
    return instant, home.deleted


@pytest.mark.parametrize(
    ("seconds", "within", "tries"),
    [
        # Applications stand still: what would not end within five seconds is not begun.
        ((0.05,), math.inf, 4),
        ((1.2,), math.inf, 4),
        ((1.5,), math.inf, 3),
        ((2.0,), math.inf, 2),
        ((2.6,), math.inf, 1),
        ((60.0,), math.inf, 1),
        ((0.5, 4.0), math.inf, 2),
        # Nor what would end later than half way to the deadline.
        ((0.05,), 0.5, 4),
        ((0.1,), 0.5, 2),
        ((1.2,), 6.0, 2),
        ((1.2,), 2.0, 1),
    ],
)
def test_there_are_no_more_tries_than_applications_can_wait_for(
    monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], within: float, tries: int
) -> None:
    disk = _Disk(seconds, meets_at=0)
    instant, deleted = _taken(monkeypatch, disk, 1000.0 + within)
    assert (instant, disk.tries) == (0, tries)
    assert deleted == ["0/x", "1/x", "2/x"] * (tries - 1)


@pytest.mark.parametrize("meets_at", [1, 2, 4])
def test_what_has_met_is_kept(monkeypatch: pytest.MonkeyPatch, meets_at: int) -> None:
    disk = _Disk((0.01,), meets_at)
    instant, deleted = _taken(monkeypatch, disk, 1050.0)
    assert (instant, disk.tries) == (7, meets_at)
    assert len(deleted) == 3 * (meets_at - 1)


def test_what_cannot_be_made_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(_threads: object, _home: object, wanted: Sequence[Snapshot], _: str) -> None:
        tries.append(len(wanted))
        for each in wanted:
            each.failure = OSError("no space")

    monkeypatch.setattr(together, "_together", fail)
    monkeypatch.setattr(together, "_starters", lambda *_: nullcontext(""))
    home: Any = _Home()
    wanted = [Snapshot(tree=256, name="0/x"), Snapshot(tree=257, name="1/x")]
    assert together.take(home, wanted, "starters", math.inf) == 0
    assert (tries, home.deleted) == ([2], [])
