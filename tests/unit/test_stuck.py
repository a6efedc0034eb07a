"""When a worker is ended: never before the time of a live client, soon after that of a dead one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.daemon.stuck import (
    KNOCKS,
    MARGIN,
    Asker,
    Glance,
    Waiting,
    follow,
    is_over,
    rest_after,
)
from samba_rvss.samba.clocks import Clocks
from samba_rvss.samba.memory import HeldSet

CLOCKS = Clocks(idle=10)
STARTED, ADDED = HeldSet(id="set"), HeldSet(id="set", shares=("vms",))
NEVER = -math.inf


def glance(time: float, held: HeldSet | None, renewals: int = 1, clients: int | None = 2) -> Glance:
    return Glance(time=time, held=held, renewals=renewals, clients=clients)


def waiting_for(held: HeldSet, time: float = 0.0) -> Waiting:
    """Return what a worker waits for that was seen once."""
    found = follow(None, glance(time, held), CLOCKS)
    assert found is not None
    return found


class Story:
    """A client with a set, others that knock, and the looks that the knocks bring about."""

    def __init__(self) -> None:
        self.time = 0.0
        self.renewals = 1
        self.held = STARTED
        self.clients = 2
        self.knocks = 0
        self.ended: float | None = None
        self._waiting: Waiting | None = None

    def look(self, *, failed: bool = False) -> None:
        seen = follow(
            self._waiting,
            glance(self.time, self.held, self.renewals, self.clients),
            CLOCKS,
            failed=failed,
        )
        assert seen is not None
        if seen.since == self.time:
            self.knocks = 0
        self._waiting = seen
        if is_over(seen, self.time, self.knocks, NEVER, CLOCKS):
            self.ended = self.time

    def act(self) -> None:
        """Add a share, or prepare."""
        self.held = ADDED
        self.renewals += 1

    def knock(self, every: float, until: float) -> None:
        while self.time < until and self.ended is None:
            self.knocks += 1
            self.time += every
            self.look()


@given(
    begin=st.floats(0, CLOCKS.short, exclude_max=True),
    waits=st.lists(st.floats(0, CLOCKS.long, exclude_max=True), max_size=4),
    every=st.floats(1, 200),
)
def test_a_live_client_has_its_time_however_slow_it_is(
    begin: float, waits: list[float], every: float
) -> None:
    story = Story()
    story.look()
    for wait in [begin, *waits]:
        acts = story.time + wait
        # The knock after its call brings the next look; there is no look in the same instant.
        story.knock(every, acts - every)
        assert story.ended is None
        story.time = max(story.time, acts)
        story.act()


@given(
    acts=st.integers(0, 3), fails=st.booleans(), every=st.floats(0.5, 20), vanishes=st.booleans()
)
def test_a_dead_client_holds_others_up_for_its_time_and_no_longer(
    *, acts: int, fails: bool, every: float, vanishes: bool
) -> None:
    story = Story()
    story.look()
    for _ in range(acts):
        story.act()
        story.time += 1
        story.look()
    if acts and fails:
        story.renewals += 1
        story.time += 1
        story.look(failed=True)
    died = story.time
    if not vanishes:
        story.clients = 1
    time = CLOCKS.short if fails or not acts else CLOCKS.long
    story.knock(every, died + time + 60)
    assert story.ended is not None
    assert died + time <= story.ended <= died + time + MARGIN + 3 * every


@given(held=st.sampled_from([STARTED, ADDED]), every=st.floats(0.5, 20))
def test_without_a_connection_it_is_soon(held: HeldSet, every: float) -> None:
    """As Samba would have ended the worker by itself, had nobody knocked."""
    story = Story()
    story.held = held
    story.look()
    story.clients = 0
    story.knock(every, every)
    story.clients = 1
    story.knock(every, 100)
    assert story.ended is not None
    assert CLOCKS.idle <= story.ended <= CLOCKS.idle + 3 * every


CLIENT, OTHER, NEWER = 1, 2, 3
COMMITTED = HeldSet(id="set", shares=("vms",))


def pipes(
    time: float, *numbers: int, held: HeldSet = ADDED, renewals: int = 1, committed: bool = False
) -> Glance:
    return Glance(
        time=time,
        held=held,
        renewals=renewals,
        clients=len(numbers),
        committed=committed,
        pipes=frozenset(numbers),
    )


@pytest.mark.parametrize("committed", [False, True])
def test_a_client_has_gone_when_no_connection_of_its_time_is_there(*, committed: bool) -> None:
    """Though others are connected; and it comes back when it does something over another one."""
    found = follow(None, pipes(0, CLIENT, committed=committed), CLOCKS)
    found = follow(found, pipes(5, CLIENT, NEWER, committed=committed), CLOCKS)
    assert found is not None
    assert found.alone is None
    found = follow(found, pipes(9, NEWER, committed=committed), CLOCKS)
    assert found is not None
    wait = CLOCKS.short / 6 if committed else CLOCKS.idle
    assert not is_over(found, 9 + wait - 0.1, 100, NEVER, CLOCKS)
    assert is_over(found, 9 + wait, 100, NEVER, CLOCKS)
    assert not is_over(found, 9 + wait, KNOCKS - 1, NEVER, CLOCKS)
    found = follow(found, pipes(12, NEWER, renewals=2, committed=committed), CLOCKS)
    assert found is not None
    assert not is_over(found, 9 + CLOCKS.short, 100, NEVER, CLOCKS)


def test_whose_connection_is_seen_again_has_not_gone() -> None:
    """The list of connections is no snapshot: one that is there can be missing in it."""
    found = follow(None, pipes(0, CLIENT), CLOCKS)
    for time, glance in (
        (5, pipes(5, NEWER)),
        (6, replace(pipes(6), clients=0, pipes=None)),
        (9, pipes(9, CLIENT, NEWER)),
    ):
        found = follow(found, glance, CLOCKS)
        assert found is not None
        assert found.alone == (5 if time < 9 else None)
    assert found is not None
    found = follow(found, replace(pipes(12), clients=None, pipes=None), CLOCKS)
    assert found is not None
    assert found.alone is None  # nothing is known


@pytest.mark.parametrize("first", [(CLIENT, OTHER), ()], ids=["others", "unknown"])
def test_whose_connection_may_be_there_has_samba_s_time(first: tuple[int, ...]) -> None:
    """Which of several is whose cannot be told; nor is anything told by a Samba that shows none."""
    found = follow(None, pipes(0, *first, committed=True), CLOCKS)
    found = follow(found, pipes(9, OTHER, NEWER, committed=True), CLOCKS)
    assert found is not None
    assert not is_over(found, CLOCKS.short, 100, NEVER, CLOCKS)
    assert is_over(found, CLOCKS.short + MARGIN, 100, NEVER, CLOCKS)


def test_a_commit_begins_a_time_of_its_own() -> None:
    found = follow(None, pipes(0, CLIENT), CLOCKS)
    found = follow(found, pipes(100, CLIENT, committed=True), CLOCKS)
    assert found is not None
    assert (found.since, found.allowed) == (100, CLOCKS.short)


def test_who_committed_over_another_worker_is_not_connected() -> None:
    """This one has read the set from srv_fss.tdb; but its client may come back."""
    first = replace(pipes(20, NEWER, renewals=0, committed=True), heir=True)
    found = follow(None, first, CLOCKS)
    assert found is not None
    assert found.alone == 20
    found = follow(found, replace(first, time=25, renewals=1), CLOCKS)
    assert found is not None
    assert (found.since, found.alone) == (25, None)


def test_who_connected_after_the_connections_were_counted_is_not_gone() -> None:
    """The count comes before the look into the memory."""
    found = follow(None, glance(0, STARTED, clients=0), CLOCKS)
    assert found is not None
    assert found.alone is None
    found = follow(found, glance(5, STARTED, clients=0), CLOCKS)
    assert found is not None
    assert found.alone == 5
    found = follow(found, glance(9, ADDED, renewals=2, clients=1), CLOCKS)
    assert found is not None
    assert found.alone is None


@pytest.mark.parametrize("knocks", range(KNOCKS))
def test_nothing_is_ended_for_nobody(knocks: int) -> None:
    assert not is_over(waiting_for(STARTED), 10**6, knocks, NEVER, CLOCKS)


def test_who_only_asks_ends_nothing() -> None:
    """Nothing is held: whoever asks can begin."""
    assert follow(None, glance(0, None), CLOCKS) is None
    assert follow(waiting_for(ADDED), glance(9, None), CLOCKS) is None


def test_another_set_has_a_time_of_its_own() -> None:
    found = follow(waiting_for(ADDED), glance(900, HeldSet(id="other"), renewals=1), CLOCKS)
    assert found is not None
    assert (found.since, found.allowed, found.before) == (900, CLOCKS.short, ())


def test_who_asked_before_the_set_was_there_is_remembered() -> None:
    first, second = Asker(uid=1, path="/srv/vms"), Asker(uid=2, path="/srv/sql")
    found = follow(None, glance(0, STARTED), CLOCKS, asked=(first,))
    found = follow(found, glance(5, ADDED, renewals=2), CLOCKS, asked=(second,))
    assert found is not None
    assert found.before == (first,)


@pytest.mark.parametrize("held", [STARTED, ADDED])
def test_a_timer_that_is_switched_off_never_fires(held: HeldSet) -> None:
    clocks = Clocks(short=math.inf, long=math.inf, idle=10)
    found = follow(None, glance(0, held), clocks)
    assert found is not None
    assert not is_over(found, 10**9, 100, NEVER, clocks)
    alone = follow(found, glance(5, held, clients=0), clocks)
    assert alone is not None
    assert is_over(alone, 15, 100, NEVER, clocks)


@given(st.floats(0, 1e6), st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_it_is_no_weapon(start: float, rows: list[int]) -> None:
    """Nobody has it done twice in less than Samba's time, and in vain ever more rarely."""
    for row in rows:
        rest = rest_after(start, row, CLOCKS)
        assert rest >= start + CLOCKS.short
        assert rest >= rest_after(start, max(row - 1, 0), CLOCKS)
        assert not is_over(waiting_for(STARTED, start), rest - 1e-3 - 1, 10**6, rest, CLOCKS)
