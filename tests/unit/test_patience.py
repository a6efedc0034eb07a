"""Waiting for a file system that never answers: for a bounded time, and with bounded threads."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from samba_rvss.daemon.looks import Looks
from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.patience import Patience, Place

DEAD = Place(device="dead", words="the file system mounted at /dead")
GOOD = Place(device="good", words="the file system mounted at /good")


def test_who_does_not_answer_is_not_asked_again() -> None:
    answer = threading.Event()
    patience = Patience(0.01)
    for _ in range(3):
        with pytest.raises(RvssError, match="mounted at /dead has not answered for") as caught:
            patience.call(DEAD, answer.wait)
        assert caught.value.problem is Problem.BUSY
    assert sum(thread.name == "look dead" for thread in threading.enumerate()) == 1
    # A disk that answers makes no difference to another.
    patient = Patience(60.0)
    assert patient.call(GOOD, lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        patient.call(GOOD, lambda: 1 // 0)
    assert patient.call(GOOD, lambda: 2) == 2
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "look dead":
            thread.join(60.0)
    assert Patience(60.0).call(DEAD, answer.wait)


def test_two_at_once_are_both_answered() -> None:
    """A reconciling and an administrator's request may look at the same time."""
    answer, began = threading.Event(), threading.Event()
    patience = Patience(60.0)

    def look() -> bool:
        began.set()
        return answer.wait(60.0)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(patience.call, GOOD, look)
        assert began.wait(60.0)
        second = threads.submit(patience.call, GOOD, lambda: 2)
        assert not wait([second], timeout=0.05).done
        answer.set()
        assert (first.result(60.0), second.result(60.0)) == (True, 2)


def test_looks_at_a_dead_share_take_nothing_from_others() -> None:
    answer = threading.Event()

    async def scenario() -> None:
        looks = Looks()
        for _ in range(4):  # one after the other, and not yet too long
            with pytest.raises(RvssError):
                await looks.look("/dead", answer.wait, time.monotonic() + 0.001)
        await asyncio.sleep(1.1)
        problems = []
        for _ in range(100):
            with pytest.raises(RvssError) as caught:
                await looks.look("/dead", answer.wait, time.monotonic() + 0.001)
            problems.append(caught.value.problem)
        assert set(problems) == {Problem.BUSY}
        (line,) = looks.late(1.0)
        assert line.startswith("the file system of /dead has not answered for ")
        assert looks.late() == ()
        assert await looks.look("/good", lambda: 1, time.monotonic() + 60.0) == 1
        with pytest.raises(ZeroDivisionError):
            await looks.look("/good", lambda: 1 // 0, time.monotonic() + 60.0)
        answer.set()
        while True:
            try:
                assert await looks.look("/dead", answer.wait, time.monotonic() + 60.0)
            except RvssError:
                await asyncio.sleep(0.001)
            else:
                break
        while looks.late(0.0):
            await asyncio.sleep(0.001)

    asyncio.run(scenario())
