"""Who waits for whom: one at a time per volume, several volumes at once, and work on a copy."""

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from samba_rvss.daemon.turns import Turns
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Volume
from tests.unit.values import VOLUME, copy_of

OTHER = replace(VOLUME, file_system="another")
FOREVER = 60.0


async def _hold(turns: Turns, log: list[str], name: str, *volumes: Volume) -> None:
    async with turns.take(*volumes):
        log.append(f"{name} begins")
        await asyncio.sleep(0)
        log.append(f"{name} ends")


def _run(*holds: Coroutine[Any, Any, None]) -> None:
    async def all_of_them() -> None:
        async with asyncio.timeout(FOREVER):
            await asyncio.gather(*holds)

    asyncio.run(all_of_them())


def test_one_at_a_time_on_a_volume() -> None:
    turns, log = Turns(), list[str]()
    same = replace(VOLUME, name="renamed", directory="below")
    _run(_hold(turns, log, "a", VOLUME), _hold(turns, log, "b", same))
    assert log == ["a begins", "a ends", "b begins", "b ends"]


def test_side_by_side_on_different_volumes() -> None:
    turns, log = Turns(), list[str]()
    _run(_hold(turns, log, "a", VOLUME), _hold(turns, log, "b", OTHER))
    assert log == ["a begins", "b begins", "a ends", "b ends"]


def test_nobody_waits_for_no_volume() -> None:
    turns, log = Turns(), list[str]()
    _run(_hold(turns, log, "a"), _hold(turns, log, "b"), _hold(turns, log, "c", VOLUME))
    assert log[:3] == ["a begins", "b begins", "c begins"]


def test_a_volume_that_is_named_twice_is_taken_once() -> None:
    turns, log = Turns(), list[str]()
    _run(_hold(turns, log, "a", VOLUME, VOLUME))
    assert log == ["a begins", "a ends"]


def test_several_at_once_never_wait_in_a_circle() -> None:
    """In whatever order they are named: each of 200 wants three of five volumes."""
    turns, log = Turns(), list[str]()
    volumes = [replace(VOLUME, file_system=name) for name in "edcba"]
    draw = random.Random(9)  # noqa: S311 - an order is no secret
    _run(*(_hold(turns, log, str(number), *draw.sample(volumes, 3)) for number in range(200)))
    assert len(log) == 400


@pytest.mark.parametrize("wanted", [(VOLUME,), (OTHER, VOLUME), (VOLUME, OTHER)])
def test_the_deadline_ends_the_waiting_and_leaves_nothing_taken(wanted: tuple[Volume, ...]) -> None:
    turns = Turns()

    async def late() -> None:
        async with turns.take(VOLUME):
            with pytest.raises(RvssError) as caught:
                async with turns.take(*wanted, deadline=time.monotonic() + 0.05):
                    pytest.fail("it has two owners")
            assert caught.value.problem is Problem.DEADLINE
            async with turns.take(OTHER, deadline=time.monotonic() + FOREVER):
                pass
        async with turns.take(*wanted, deadline=time.monotonic() + FOREVER):
            pass

    asyncio.run(late())


def test_who_is_cancelled_while_he_waits_leaves_nothing_taken() -> None:
    turns, log = Turns(), list[str]()

    async def cancelled() -> None:
        async with turns.take(VOLUME):
            waiting = asyncio.ensure_future(_hold(turns, log, "a", OTHER, VOLUME))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
            async with turns.take(OTHER, deadline=time.monotonic() + FOREVER):
                pass

    asyncio.run(cancelled())
    assert log == []


# work on a copy


def test_work_on_a_copy_needs_no_turn_and_is_ended_for_good() -> None:
    turns, copy, other = Turns(), copy_of("a"), copy_of("b")
    steps: list[str] = []

    async def seal() -> None:
        while True:
            steps.append("step")
            await asyncio.sleep(0.001)

    async def story() -> None:
        async with turns.take(copy.volume):
            turns.begin_work(copy, seal())
            turns.begin_work(other, seal())
            assert turns.worked_on == {"a", "b"}
            assert not await turns.settled(0.02)
            await turns.end_work(copy)
        assert turns.worked_on == {"b"}
        turns.end_all_work()
        assert await turns.settled(FOREVER)
        count = len(steps)
        await asyncio.sleep(0.02)
        assert len(steps) == count
        await turns.end_work(copy)  # there is none: nothing to do

    asyncio.run(story())
    assert steps


def test_finished_work_makes_room_for_the_next_at_once() -> None:
    """Between its last step and its end nothing may ask in vain."""
    turns, copy = Turns(), copy_of("a")
    asked: list[bool] = []

    async def last_step() -> None:
        asyncio.get_running_loop().call_soon(lambda: asked.append("a" in turns.worked_on))

    async def story() -> None:
        first = turns.begin_work(copy, last_step())
        await first
        second = turns.begin_work(copy, last_step())
        await asyncio.sleep(0)
        assert turns.worked_on == frozenset()
        await second
        assert await turns.settled(FOREVER)

    asyncio.run(story())
    assert asked == [False, False]
