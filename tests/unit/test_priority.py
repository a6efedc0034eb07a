"""How urgent threads of ours are to the kernel."""

import os
import subprocess
import sys
import threading

import pytest

from samba_rvss.daemon.tasks import Threads
from samba_rvss.kernel.priority import (
    Urgency,
    give_way,
    hurry,
    idle,
    like_others,
    nice,
    prefer,
    set_nice,
)

pytestmark = pytest.mark.require("root")

_POLICY = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"


def _policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_an_urgent_thread_hurries_and_what_it_starts_does_not() -> None:
    found: list[int] = []
    urgency = Urgency()
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    urgency.set(wanted=True)
    try:
        assert _policy() == os.SCHED_RR
        other = threading.Thread(target=lambda: found.append(_policy()))
        other.start()
        other.join()
        child = subprocess.run([sys.executable, "-c", _POLICY], stdout=subprocess.PIPE, check=True)
    finally:
        urgency.set(wanted=False)
    assert found == [os.SCHED_OTHER]
    assert child.stdout.split() == [b"0", b"0"]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_it_is_urgent_again() -> None:
    urgency = Urgency()
    for _ in range(2):
        urgency.set(wanted=True)
        urgency.set(wanted=True)
        assert _policy() == os.SCHED_RR
        urgency.set(wanted=False)
        urgency.set(wanted=False)
        assert _policy() == os.SCHED_OTHER


def test_where_nothing_may_hurry_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    urgency = Urgency()
    urgency.set(wanted=True)
    urgency.set(wanted=False)
    hurry()
    with idle():
        pass
    assert _policy() == os.SCHED_OTHER


def test_where_no_real_time_is_given_it_is_the_highest_of_the_usual_priorities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    found: list[int] = []

    def work() -> None:
        urgency = Urgency()
        for wanted in (True, False):
            urgency.set(wanted=wanted)
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [-20, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]


def test_a_process_that_is_preferred_has_what_it_starts_preferred_but_for_what_is_others() -> None:
    found: list[tuple[bool, int, int, int]] = []

    def work() -> None:
        permitted = prefer()
        with like_others():
            among = nice()
        child = subprocess.run([sys.executable, "-c", _POLICY], stdout=subprocess.PIPE, check=True)
        found.append((permitted, nice(), among, int(child.stdout.split()[1])))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(True, -10, max(nice(), 0), -10)]


@pytest.mark.parametrize(("before", "after"), [(-10, 10), (0, 10), (15, 15)])
def test_who_gives_way_does_so_whoever_started_it(before: int, after: int) -> None:
    """A daemon that is preferred starts what must not be."""
    found: list[int] = []

    def work() -> None:
        assert set_nice(before)
        give_way()
        found.append(nice())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [after]


def test_threads_are_as_the_one_that_made_their_pool_though_another_hurries() -> None:
    usual = nice()
    threads, urgency = Threads(), Urgency()
    urgency.set(wanted=True)
    try:
        assert threads.submit(lambda: (_policy(), nice())).result() == (os.SCHED_OTHER, usual)
    finally:
        urgency.set(wanted=False)
        threads.shutdown()
