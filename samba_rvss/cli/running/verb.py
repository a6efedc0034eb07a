"""``samba-rvss backup run``: the command, which waits for the process that does the run.

Contract: Ctrl-C, SIGTERM and SIGHUP cancel the run, and are waited for; whatever ends this process
does so as well. If that process dies, this one sees to what it has left.
"""

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from samba_rvss import output
from samba_rvss.child import Child
from samba_rvss.cli.common import Verbs, configuration
from samba_rvss.cli.running import order as orders
from samba_rvss.cli.running import work
from samba_rvss.cli.running.order import CALL_SECONDS, Healed, Order, Outcome
from samba_rvss.copies import runs
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.samba import definitions

_CANCELLED = 130
_CALLS = 12  # with what undoes them; and for each share
_COMMANDS = 5


def register(verbs: Verbs) -> None:
    """Add the verb to those of ``backup``."""
    verb = verbs.add_parser(
        "run",
        help="take a managed backup",
        description=f"Take a backup as {definitions.NAME}, beside smb.conf, defines it: one shadow"
        " copy set over its shares. It can be cancelled at any time, and leaves nothing then.",
    )
    verb.add_argument("name", metavar="NAME", help="of its section there")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument(
        "--heal",
        action="store_true",
        help="take nothing: only see to what a run has left that was killed",
    )
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Take a managed backup."""
    config = configuration(arguments)
    definition = definitions.load(config).get(arguments.name)
    order = orders.make(config, definition, os.getpid())
    if arguments.heal:
        healed = _healed(order)
        output.print_line(f"[{definition.name}] {healed.told}")
        return int(Problem.BUSY) if healed.failed else 0
    try:
        outcome = done(order)
    except work.Cancelled as exc:
        output.print_error(exc.line())
        return _CANCELLED
    for problem in outcome.problems:
        output.print_error(problem)
    if arguments.json:
        output.print_json(as_data(order, outcome))
    else:
        _show(order, outcome)
    return outcome.status


def done(order: Order) -> Outcome:
    """Have another process do a run, and wait for it.

    Raises:
        Cancelled: it was.
        RvssError: as `work.do`; INTERNAL if the process died.
    """
    name = order.definition.name
    died: str
    with _passed_on() as passing:
        with Child(apart=True) as child, output.progress(lambda: _told(order)):
            try:
                return passing.call(child, _limit(order), order)
            except (OSError, EOFError) as exc:
                died = str(exc) or "it died"
                # A program of the definition may still run: it must do nothing after the next one.
                processes.end_session(child.pid)
        try:
            left = _healed(order).told
        except RvssError as exc:
            left = f"what it has left is for the next run to see to: {exc}"
    if passing.cancelled:  # before it could do that in its own way
        raise work.Cancelled(left)
    raise RvssError(
        Problem.INTERNAL, f"the process that ran the backup {name} failed: {died}", left
    )


def _healed(order: Order) -> Healed:
    """Have another process see to what a run has left whose process died; as `work.heal`.

    Raises:
        RvssError: as `work.heal`; INTERNAL if the process died.
    """
    with Child(apart=True) as child:
        try:
            return child.call(_limit(order), work.heal, order)
        except (OSError, EOFError) as exc:
            raise RvssError(Problem.INTERNAL, f"healing has failed: {exc or 'it died'}") from exc


class _Passing:
    """Passes on what would end us.

    Attributes:
        cancelled: whether there was anything to be passed on.
    """

    def __init__(self) -> None:
        self.cancelled = False
        self._pid = 0

    def call(self, child: Child, seconds: float, order: Order) -> Outcome:
        """Have a child do a run, which is told when it is cancelled; as `Child.call`."""
        self._pid = child.pid
        try:
            if self.cancelled:
                raise work.Cancelled
            return child.call(seconds, work.do, order)
        finally:
            self._pid = 0

    def handle(self, _number: int, _frame: object) -> None:
        """Handle a signal: what undoes a run that died is not ended by it."""
        self.cancelled = True
        with suppress(OSError):
            if self._pid:
                os.kill(self._pid, signal.SIGTERM)
            os.write(2, b"samba-rvss: the run is cancelled, and what was begun undone\n")


@contextmanager
def _passed_on() -> Iterator[_Passing]:
    """Pass what would end us on, for the time of a block, and wait."""
    passing = _Passing()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, passing.handle) for number in numbers}
    try:
        yield passing
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limit(order: Order) -> float:
    """Return for how many seconds a run can last at most, if all that it waits for is in time."""
    of = order.definition
    calls = (_CALLS + 5 * len(of.shares)) * CALL_SECONDS
    sealing = order.config.seal_deadline + 4 * CALL_SECONDS
    return 2 * (work.BUSY_SECONDS + calls + _COMMANDS * of.command_timeout + sealing)


def _told(order: Order) -> str:
    """Return what a run is doing, for people."""
    name, stage = order.definition.name, ""
    with suppress(RvssError):
        trace = runs.read(order.config, name)
        stage = trace.stage if trace and not trace.ended else ""
    return f"[{name}] {stage or 'begins'}"


def _keeping(order: Order) -> str:
    if order.own:
        return "it is kept here"
    return f"whether it is kept is up to {order.host}: 'rvss:keep' there, or what it has for that"


def as_data(order: Order, outcome: Outcome) -> dict[str, Any]:
    """Return what came of a run as JSON has it."""
    return {
        "backup": order.definition.name,
        "id": outcome.id or None,
        "server": "" if order.own else order.host,
        "set_id": outcome.set_id,
        "consistency": outcome.consistency.value,
        "keeping": _keeping(order),
        "problems": list(outcome.problems),
        "parts": [
            {"share": share, "copy_id": name, "id": outcome.parts.get(share)}
            for share, name in outcome.copies.items()
        ],
    }


def _show(order: Order, outcome: Outcome) -> None:
    backup = outcome.id or outcome.set_id
    shares, consistency = ", ".join(outcome.copies), outcome.consistency.value
    output.print_line(f"{backup} of {shares}, {consistency}-consistent: {_keeping(order)}")
