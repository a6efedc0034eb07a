"""Runs of managed backups: what becomes of what an earlier one has left."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss import wire
from samba_rvss.cli.running import ending, own
from samba_rvss.cli.running.order import Order
from samba_rvss.copies.runs import Trace
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase
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
