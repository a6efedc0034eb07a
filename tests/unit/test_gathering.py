"""What is taken along with a share, told from what a worker has asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_rvss.daemon.gathering import MOST, ONCE_SECONDS, TWICE_SECONDS, Gathering

ONE, OTHER = "worker 1", "worker 2"
CLIENT, ANOTHER = 1001, 1002


@dataclass(kw_only=True)
class Told:
    """A gathering with a clock, and with what it was told."""

    gathering: Gathering[str]
    time: float = 1000.0

    def ask(self, *shares: str, worker: str = ONE, user: int = CLIENT, after: float = 0.01) -> None:
        """Have a worker ask for shares, one after the other."""
        for share in shares:
            self.time += after
            self.gathering.asked(worker, share, self.time, user, f"found {share}")

    def begin(
        self, share: str, *, worker: str = ONE, user: int = CLIENT, after: float = 0.01
    ) -> set[str] | None:
        """Have a worker want a copy; return what is to be taken along."""
        self.time += after
        found = self.gathering.begin(worker, share, self.time, user)
        if found is None:
            return None
        assert all(found[name] == f"found {name}" for name in found)
        return set(found)


@pytest.fixture
def told() -> Told:
    return Told(gathering=Gathering())


def _set(*shares: str) -> tuple[str, ...]:
    """Return what is asked for as Windows does: all, and again when each is added."""
    return (*shares, *shares)


def test_a_set_is_what_was_asked_for_twice(told: Told) -> None:
    told.ask(*_set("a", "b", "c"))
    assert told.begin("a") == {"b", "c"}
    # Each is taken once; the later callouts claim theirs.
    assert told.begin("b") is None
    assert told.begin("c") is None


def test_what_was_asked_for_once_is_as_many_again_at_most(told: Told) -> None:
    told.ask(*(f"s{number}" for number in range(60)))
    told.ask("s3", "s7")
    found = told.begin("s3")
    assert found is not None
    assert "s7" in found
    assert len(found) == 1 + 2
    # Those that were asked for last are likelier.
    assert {"s59", "s58"} < found


def test_a_client_that_only_adds_has_all_that_he_added(told: Told) -> None:
    told.ask("x", "y", "z", user=ANOTHER)
    told.ask(*(f"s{number}" for number in range(8)))
    found = told.begin("s0")
    assert found is not None
    assert {f"s{number}" for number in range(1, 8)} <= found


@pytest.mark.parametrize(("ago", "most"), [(ONCE_SECONDS + 1, 0), (10.0, 1)])
def test_nobody_pays_for_what_another_client_asks(told: Told, ago: float, most: int) -> None:
    told.ask(*_set(*(f"s{number}" for number in range(60))), user=ANOTHER)
    told.ask(*_set("x"), after=ago / 2)
    found = told.begin("x")
    assert found is not None
    assert len(found) <= most


def test_somebody_else_asks_for_the_first_share_meanwhile(told: Told) -> None:
    told.ask(*_set("a", "b", "c"))
    told.ask("a", user=ANOTHER)
    assert told.begin("a") == {"b", "c"}


def test_of_many_no_more_than_a_set_can_have(told: Told) -> None:
    told.ask(*_set(*(f"s{number}" for number in range(3 * MOST))))
    found = told.begin("s0")
    assert found is not None
    assert len(found) == MOST


@pytest.mark.parametrize(
    ("shares", "seconds", "found"),
    [
        (("a", "b"), ONCE_SECONDS - 1, {"b"}),
        (("a", "b"), ONCE_SECONDS + 1, set()),
        (_set("a", "b"), ONCE_SECONDS + 1, {"b"}),
        (_set("a", "b"), TWICE_SECONDS - 1, {"b"}),
        (_set("a", "b"), TWICE_SECONDS + 1, set()),
    ],
)
def test_it_forgets_by_time(
    told: Told, shares: Sequence[str], seconds: float, found: set[str]
) -> None:
    told.ask(*shares)
    assert told.begin("a", after=seconds) == found


def test_what_samba_has_committed_is_forgotten(told: Told) -> None:
    told.ask(*_set("a", "b"), "never added")
    told.begin("a")
    since = told.time
    told.begin("b")
    told.gathering.committed(ONE, since)
    told.ask(*_set("c", "d"))
    assert told.begin("c") == {"d"}


def test_what_is_asked_for_before_the_commit_is_seen_is_not_forgotten(told: Told) -> None:
    told.ask(*_set("a", "b"))
    told.begin("a")
    since = told.time
    told.begin("b")
    told.ask("c", "c", "d", "d")
    told.gathering.committed(ONE, since)
    assert told.begin("c") == {"d"}


def test_a_commit_is_tried_again_without_being_asked_again(told: Told) -> None:
    told.ask(*_set("a", "b", "c"))
    assert told.begin("a") == {"b", "c"}
    assert told.begin("b") is None  # and that fails
    assert told.begin("a") == {"b", "c"}
    assert told.begin("b") is None
    assert told.begin("c") is None


def test_the_first_share_of_a_commit_fails_and_it_is_tried_again(told: Told) -> None:
    told.ask(*_set("a", "b"))
    assert told.begin("a") == {"b"}
    assert told.begin("a") == {"b"}


def test_the_first_share_of_a_commit_cannot_be_found_and_it_is_tried_again(told: Told) -> None:
    """What the first try took along is older than the second one, and of no use to it."""
    told.ask(*_set("a", "b", "c"))
    told.gathering.missed(ONE, "a")
    assert told.begin("b") == {"c"}  # "a" has had its turn
    assert told.begin("c") is None
    assert told.begin("a") == {"b", "c"}
    assert told.begin("b") is None
    assert told.begin("c") is None


def test_a_share_cannot_be_found_at_any_try(told: Told) -> None:
    told.ask(*_set("a", "b", "c"))
    for _ in range(2):
        assert told.begin("a") == {"b", "c"}
        told.gathering.missed(ONE, "b")
        assert told.begin("c") is None
    for _ in range(2):
        told.gathering.missed(ONE, "a")
        assert told.begin("b") == {"c"}
        assert told.begin("c") is None


def test_two_clients_in_turn(told: Told) -> None:
    told.ask("a", "b")
    told.ask("b", "c", user=ANOTHER)
    told.ask("a", "b")
    assert told.begin("a") == {"b", "c"}
    since = told.time
    assert told.begin("b") is None
    told.gathering.committed(ONE, since)
    told.ask("b", "c", user=ANOTHER)
    assert told.begin("b", user=ANOTHER) == {"c"}


def test_workers_have_nothing_to_do_with_each_other(told: Told) -> None:
    told.ask(*_set("a", "b"))
    told.ask(*_set("a", "c"), worker=OTHER)
    assert told.begin("a") == {"b"}
    assert told.begin("a", worker=OTHER) == {"c"}
    assert told.begin("b") is None


def test_what_nobody_asked_for_is_taken_alone(told: Told) -> None:
    """As after samba-rvss was started anew between the questions and the Commit."""
    assert told.begin("a") == set()
    assert told.begin("b") is None


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("ask", "begin", "missed", "committed")),
        st.sampled_from("abcde"),
        st.sampled_from((ONE, OTHER)),
        st.floats(0, 2000),
    ),
    max_size=60,
)


@given(steps=_STEPS)
def test_whatever_comes(steps: Sequence[tuple[str, str, str, float]]) -> None:
    """Nothing is taken that its worker did not ask for, and nothing twice in one Commit."""
    told = Told(gathering=Gathering())
    asked: dict[str, set[str]] = {ONE: set(), OTHER: set()}
    had: dict[str, set[str] | None] = {ONE: None, OTHER: None}
    verbs: dict[str, Callable[[str, str], None]] = {}

    def ask(share: str, worker: str) -> None:
        told.ask(share, worker=worker, after=0)
        asked[worker].add(share)
        had[worker] = None

    def begin(share: str, worker: str) -> None:
        found = told.begin(share, worker=worker, after=0)
        before = had[worker]
        if found is not None:
            assert found <= asked[worker] - {share}
            before = had[worker] = set()
        assert before is not None
        assert share not in before
        before.add(share)

    def missed(share: str, worker: str) -> None:
        told.gathering.missed(worker, share)
        before = had[worker]
        if before is None or share in before:
            had[worker] = None
        else:
            before.add(share)

    def committed(_: str, worker: str) -> None:
        told.gathering.committed(worker, told.time)
        had[worker] = None
        asked[worker] = set()

    verbs.update(ask=ask, begin=begin, missed=missed, committed=committed)
    for verb, share, worker, after in steps:
        told.time += after
        verbs[verb](share, worker)
