"""Runs of managed backups: what becomes of what an earlier one has left."""

import argparse
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from samba_rvss import wire
from samba_rvss.cli.running import ending, own, verb, work
from samba_rvss.cli.running import order as orders
from samba_rvss.cli.running.order import Healed, Order
from samba_rvss.copies import runs
from samba_rvss.copies.runs import Trace
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase
from samba_rvss.samba import definitions
from samba_rvss.samba.definitions import Definition
from tests.unit.values import CONFIG, SET, copy_of


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """A run of our own Samba's shares, whose FSRVP service does not answer."""

    def connect(_order: Order) -> None:
        raise RvssError(Problem.SAMBA, "it does not answer")

    monkeypatch.setattr(Order, "connect", connect)
    config = replace(CONFIG, state_directory=str(tmp_path))
    definition = Definition(name="nightly", shares=("vms", "logs"))
    return Order(config=config, definition=definition, parent=1, host="files", own=True)


@pytest.mark.parametrize(
    ("phases", "deleted", "told"),
    [
        ((Phase.SEALED, Phase.GONE), ["a"], ""),
        ((Phase.KEPT, Phase.KEPT), [], "what had become a backup meanwhile is kept: a, b"),
        ((Phase.KEPT, Phase.OPEN), ["b"], "what had become a backup meanwhile is kept: a"),
    ],
)
def test_a_backup_by_now_is_not_undone(
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
    phases: tuple[Phase, Phase],
    deleted: list[str],
    told: str,
) -> None:
    """Nobody came back to a run that was cut off before the daemon kept what it had recorded."""
    asked = []

    def ask(_config: object, request: wire.AdminRequest, **_: object) -> None:
        asked.append((request.verb, request.copy))

    monkeypatch.setattr(own, "ask", ask)
    with closing(Ledger(order.config.ledger)) as ledger:
        for name, phase in zip("ab", phases, strict=True):
            ledger.add(replace(copy_of(name, phase), set_id=SET), "create")
        assert ending.undo(order, Trace(began="", set_id=SET)) == told
    assert asked == [("delete", name) for name in deleted]


def test_a_recovery_that_was_not_done_in_time_proves_nothing(order: Order) -> None:
    copies = {"vms": UUID(int=1), "logs": UUID(int=2)}
    with closing(Ledger(order.config.ledger)) as ledger:
        for number, phase in enumerate((Phase.OPEN, Phase.OPEN, Phase.SEALED), 1):
            copy = replace(copy_of(f"c{number}", phase), copy_id=str(UUID(int=number)))
            ledger.add(copy, "create")
    own.require_open(order, copies)
    with pytest.raises(RvssError, match="the shadow copy of sql is sealed before it was done"):
        own.require_open(order, {**copies, "sql": UUID(int=3)})


def test_what_could_not_be_written_down_is_undone(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose file system is full has not begun to make a backup of its copies."""
    undone = []

    def write(_config: object, _name: str, trace: Trace) -> None:
        if trace.finishing:
            raise RvssError(Problem.SYSTEM, "no space left")

    def take(self: work._Run, *_: object) -> None:
        self._note("ends the shadow copies", finishing=True)

    def undo(*_: object) -> str:
        undone.append(True)
        return ""

    monkeypatch.setattr(Order, "connect", lambda _: nullcontext())
    monkeypatch.setattr(work, "closing", lambda client: client)
    monkeypatch.setattr(runs, "write", write)
    monkeypatch.setattr(work._Run, "_take", take)
    monkeypatch.setattr(ending, "undo", undo)
    with pytest.raises(RvssError, match="no space left"):
        work._Run(order, threading.Event()).do()
    assert undone == [True]


def test_what_is_owed_is_done_though_somebody_restores(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a run is refused is written down, after what an earlier one has left is seen to."""
    done = []

    def post(*_: object) -> str:
        done.append(True)
        return ""

    def undisturbed(_order: Order) -> None:
        raise RvssError(Problem.BUSY, "somebody restores")

    monkeypatch.setattr(ending, "post", post)
    monkeypatch.setattr(own, "undisturbed", undisturbed)
    with runs.alone(order.config, "nightly"):
        runs.write(order.config, "nightly", Trace(began="2026-01-01", owed=True))
    with pytest.raises(RvssError, match="somebody restores"):
        work._Run(order, threading.Event()).do()
    trace = runs.read(order.config, "nightly")
    assert done == [True]
    assert trace is not None
    assert (trace.result, trace.reason) == (runs.FAILED, "somebody restores")


def cancelled_early(_order: Order) -> None:
    """Have the command cancelled, in a process that does not know that signal yet."""
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()


def healed_in_spite(_order: Order) -> Healed:
    """Have the command cancelled once more."""
    os.kill(os.getppid(), signal.SIGINT)
    return Healed(told="healed")


def test_a_run_that_is_cancelled_before_it_begins(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called cancelled, and nothing ends what undoes it."""
    monkeypatch.setattr(work, "do", cancelled_early)
    monkeypatch.setattr(work, "heal", healed_in_spite)
    with pytest.raises(work.Cancelled) as caught:
        verb.done(order)
    assert caught.value.hint == "healed"


def test_healing_by_hand_does_what_is_owed_and_takes_nothing(
    order: Order, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that would have healed may have been killed too."""
    done = []
    wrong = ["", "'postexec' failed: it"]

    class Here:
        """As `Child`, but that it calls in this process."""

        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...
        def call(
            self, _seconds: float, function: Callable[[Order], Healed], given: Order
        ) -> Healed:
            return function(given)

    def post(*_: object) -> str:
        done.append(True)
        return wrong[len(done) - 1]

    class Known:
        def get(self, _name: str) -> Definition:
            return order.definition

    monkeypatch.setattr(ending, "post", post)
    monkeypatch.setattr(verb, "Child", Here)
    monkeypatch.setattr(verb, "configuration", lambda _: order.config)
    monkeypatch.setattr(definitions, "load", lambda _: Known())
    monkeypatch.setattr(orders, "make", lambda *_: order)
    heal = argparse.Namespace(name="nightly", heal=True, json=False)
    owed = Trace(began="2026-01-01T00:00:00+00:00", owed=True)
    for trace, told, status in (
        (owed, "nothing of it is left", 0),
        (None, "it had not begun, or had ended", 0),
        (owed, "'postexec' failed: it", int(Problem.BUSY)),  # what it was to thaw stands still
    ):
        if trace:
            with runs.alone(order.config, "nightly"):
                runs.write(order.config, "nightly", trace)
        assert verb.run(heal) == status
        assert capsys.readouterr().out == f"[nightly] {told}\n"
    assert len(done) == 2
