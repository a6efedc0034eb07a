"""A run of a managed backup, in a process of its own: from the first call to the last.

Contract: SIGTERM cancels it, and so does the end of the command that waits for it. A call is never
cut off by that, a program is. Whatever ends a run, the `postexec` is run if it is owed, and nothing
is left of the shadow copies; as soon as the Commit is over, so is the frozen moment.
"""

import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace

from samba_rvss import output
from samba_rvss.cli.running import commands, ending, own
from samba_rvss.cli.running.order import Healed, Order, Outcome
from samba_rvss.clock import now
from samba_rvss.copies import runs
from samba_rvss.copies.runs import Trace
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.parents import signal_at_end
from samba_rvss.model import Consistency, Context
from samba_rvss.run import Stopped
from samba_rvss.samba.definitions import Wanted
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.methods import BACKUP, FILE_SHARE_BACKUP
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult

BUSY_SECONDS = 300.0
"""For how long a run waits while the server is busy with another client's set."""

# Longer than `rpcd_fsrvp:idle_seconds`, as it is recommended.
_PAUSE = 15.0
_BEGINNING = ("SetContext", "StartShadowCopySet")
_CONTEXTS = {
    Consistency.APPLICATION: BACKUP | Context.AUTO_RECOVERY,
    Consistency.CRASH: FILE_SHARE_BACKUP,
}


class Cancelled(RvssError):
    """A run was cancelled."""

    def __init__(self, hint: str = "") -> None:
        super().__init__(Problem.BUSY, "the run was cancelled", hint)

    def __reduce__(self) -> "tuple[type[Cancelled], tuple[str]]":
        return (Cancelled, (self.hint,))


class _NotRecovered(RvssError):
    """The recovery command failed: what is in the copies is of no use any more."""


def do(order: Order) -> Outcome:
    """Do a run; for a child process.

    Raises:
        Cancelled: it was, and nothing is left but what its hint says.
        RvssError: why nothing was kept.
    """
    cancelled = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    signal_at_end(signal.SIGTERM, order.parent)
    with runs.alone(order.config, order.definition.name):
        return _Run(order, cancelled).do()


def heal(order: Order) -> Healed:
    """See to what a run has left whose process died; for a child process.

    Raises:
        RvssError: BUSY, STATE or SYSTEM.
    """
    config, name = order.config, order.definition.name
    with runs.alone(config, name):
        trace = runs.read(config, name)
        if trace is None or trace.ended:
            return Healed(told="it had not begun, or had ended")
        left, present = ending.heal(order, trace), _time()
        reason = "; ".join(filter(None, ["its process died", left]))
        ended = replace(trace, ended=present, owed=False, result=runs.FAILED, reason=reason)
        if trace.finishing and not left:
            ended = replace(ended, result=runs.KEPT, succeeded=present)
        runs.write(config, name, ended)
        _notify(order, ended)
        well = "its backup is whole" if trace.finishing else "nothing of it is left"
        return Healed(told=left or well, failed=bool(left))


class _Run:
    """One run.

    Args:
        order: what is to be done.
        cancelled: is set when it is cancelled.
    """

    def __init__(self, order: Order, cancelled: threading.Event) -> None:
        self._order = order
        self._of = order.definition
        self._cancelled = cancelled
        self._trace = Trace(began=_time(), server="" if order.own else order.host)
        self._problems: list[str] = []
        self._status = 0

    def do(self) -> Outcome:
        """Do it; as the function of that name."""
        config, name = self._order.config, self._of.name
        last = runs.read(config, name)
        left = ending.heal(self._order, last)
        if left:
            self._wrong(f"of the last run, {left}", Problem.BUSY)
        self._note("begins", succeeded=last.succeeded if last else "")
        try:
            with own.undisturbed(self._order):
                outcome = self._first_that_succeeds()
        except BaseException as exc:
            result = _result(exc)
            reason = "; ".join([_reason(exc), *self._problems])
            self._note_anyway("ended", ended=_time(), result=result, reason=reason)
            _notify(self._order, self._trace)
            if result == runs.CANCELLED:
                raise Cancelled("; ".join(self._problems)) from exc
            if isinstance(exc, RvssError):
                hint = "; ".join(filter(None, [exc.hint, *self._problems]))
                raise RvssError(exc.problem, exc.message, hint) from exc
            raise
        present = _time()
        self._note(
            "ended",
            ended=present,
            succeeded=present,
            result=runs.KEPT,
            consistency=outcome.consistency.value,
            reason="; ".join(outcome.problems),
        )
        if outcome.problems:
            _notify(self._order, self._trace)
        return outcome

    def _first_that_succeeds(self) -> Outcome:
        if self._of.consistency is Wanted.CRASH or not self._of.recovery_command:
            return self._attempt(Consistency.CRASH)
        if self._of.consistency is Wanted.APPLICATION:
            return self._attempt(Consistency.APPLICATION)
        try:
            return self._attempt(Consistency.APPLICATION)
        except _NotRecovered as exc:
            self._wrong(f"only crash-consistent: {exc.line()}", exc.problem)
            return self._attempt(Consistency.CRASH)

    def _attempt(self, aim: Consistency) -> Outcome:
        """Take one set; wait while the server is busy with another one.

        Without a connection: who is connected, and asks again and again, has Samba keep the set of
        a client that has vanished (source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext()).
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._connected(aim)
            except FsrvpError as exc:
                busy = exc.hresult == HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS
                if not busy or exc.method not in _BEGINNING or time.monotonic() > until:
                    raise
            self._note("waits for another client's shadow copy set")
            self._cancelled.wait(_PAUSE)
            self._check()

    def _connected(self, aim: Consistency) -> Outcome:
        commands.environment(self._order, paths=commands.sources(self._order))  # or it is refused
        self._note(f"connects to {self._order.where}", set_id="", copies={}, pre_failed=False)
        with closing(self._order.connect()) as client:
            taken = CopySet(client, _CONTEXTS[aim], abort_on_failure=False)
            try:
                return self._take(taken, aim)
            except BaseException:
                if self._trace.finishing:
                    self._problems.append("what it was deleting is a backup, or becomes one")
                    raise
                self._note_anyway("undoes what was begun")
                if left := ending.undo(self._order, self._trace, client):
                    self._problems.append(left)
                raise

    def _take(self, taken: CopySet, aim: Consistency) -> Outcome:
        order, shares = self._order, self._of.shares
        taken.check(*shares)
        self._check()
        taken.start()
        self._note("starts a shadow copy set", set_id=str(taken.id))
        for share in shares:
            taken.add(share)
            self._note("adds the shares", copies=_texts(taken))
            self._check()
        taken.prepare()
        self._freeze(taken, aim)
        self._note("exposes the shadow copies")
        taken.expose()
        paths = tuple(f"\\\\{order.host}\\{share}" for share in taken.exposed_shares)
        if order.own:
            found = own.await_records(order, taken.copies, self._check)
            if aim is Consistency.APPLICATION:
                found = own.await_open(order, taken.copies, self._check)
            paths = tuple(found[share].path for share in shares)
        self._reach("exposed")
        if aim is Consistency.APPLICATION:
            self._recover(paths, taken)
        self._note("completes the recovery")
        self._check()
        taken.complete()
        proven = Consistency.CRASH if self._trace.pre_failed else aim
        parts: dict[str, str] = {}
        if order.own:
            self._note("waits until the shadow copies are sealed")
            found = own.await_sealed(order, taken.copies, self._check)
            own.record(order, found, proven)
            parts = {share: copy.id for share, copy in found.items()}
        self._reach("recorded")
        self._check()
        self._note("ends the shadow copies", finishing=True, consistency=proven.value)
        self._reach("finishing")
        taken.delete()
        if order.own:
            own.await_kept(order, taken.copies)
        return Outcome(
            set_id=str(taken.id),
            copies=_texts(taken),
            parts=parts,
            consistency=proven,
            problems=tuple(self._problems),
            status=self._status,
        )

    def _freeze(self, taken: CopySet, aim: Consistency) -> None:
        """Commit, between the programs for that."""
        of, order = self._of, self._order
        paths = commands.sources(order)
        env = commands.environment(order, self._trace.set_id, paths)
        self._check()
        self._note("takes the shadow copies", owed=bool(of.postexec))
        result, reason = runs.FAILED, ""
        try:
            if of.preexec:
                self._pre(env, aim)
            self._check()
            taken.commit()
            self._reach("frozen")
            result = "taken"
        except BaseException as exc:
            result, reason = _result(exc), _reason(exc)
            raise
        finally:
            wrong = ending.post(order, self._trace, result, reason)
            if wrong:
                self._wrong(wrong, Problem.TOOL)
            self._note_anyway("has taken the shadow copies", owed=False)

    def _pre(self, env: dict[str, str], aim: Consistency) -> None:
        try:
            commands.call(self._order, "preexec", self._of.preexec, env, self._cancelled.is_set)
        except Stopped:
            raise
        except RvssError as exc:
            self._trace = replace(self._trace, pre_failed=True)
            wanted = self._of.consistency is Wanted.APPLICATION and aim is Consistency.APPLICATION
            if self._of.preexec_close or wanted:
                raise RvssError(exc.problem, f"'preexec' failed: {exc.message}", exc.hint) from exc
            self._wrong(f"'preexec' failed: {exc.line()}", exc.problem)

    def _recover(self, paths: tuple[str, ...], taken: CopySet) -> None:
        self._note("runs the recovery command")
        env = commands.environment(self._order, self._trace.set_id, paths)
        words = self._of.recovery_command
        try:
            commands.call(self._order, "recovery command", words, env, self._cancelled.is_set)
            if self._order.own:
                own.require_open(self._order, taken.copies)
        except Stopped:
            raise
        except RvssError as exc:
            message = f"'recovery command' failed: {exc.message}"
            raise _NotRecovered(exc.problem, message, exc.hint) from exc

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _wrong(self, what: str, problem: Problem) -> None:
        self._problems.append(what)
        self._status = self._status or int(problem)

    def _note(self, stage: str, **changes: object) -> None:
        finishing = self._trace.finishing
        # Members of `Trace`: mypy does not look into keywords that are handed on.
        self._trace = replace(self._trace, stage=stage, **changes)  # type: ignore[arg-type]
        try:
            runs.write(self._order.config, self._of.name, self._trace)
        except RvssError:  # what was to be done next is not begun, and all before it is undone
            self._trace = replace(self._trace, finishing=finishing)
            raise

    def _note_anyway(self, stage: str, **changes: object) -> None:
        """Do as `_note`; what is to be done then is done even if nothing can be written down."""
        try:
            self._note(stage, **changes)
        except RvssError as exc:
            self._problems.append(exc.line())

    def _reach(self, point: str) -> None:
        """Come to a point at which a test may have this process end."""
        if self._order.point == point:
            os.kill(os.getpid(), signal.SIGKILL)


def _result(exc: BaseException) -> str:
    return runs.CANCELLED if isinstance(exc, Cancelled | Stopped) else runs.FAILED


def _reason(exc: BaseException) -> str:
    if _result(exc) == runs.CANCELLED:
        return Cancelled().message
    return exc.line() if isinstance(exc, RvssError) else repr(exc)


def _texts(taken: CopySet) -> dict[str, str]:
    return {share: str(name) for share, name in taken.copies.items()}


def _time() -> str:
    return now().replace(microsecond=0).isoformat()


def _notify(order: Order, trace: Trace) -> None:
    """Tell the definition's program that a run went wrong; it is no matter if that fails."""
    words = order.definition.notify_command
    if not words:
        return
    env = commands.environment(order, trace.set_id)
    env |= commands.of_result(trace.result, trace.reason, pre_failed=trace.pre_failed)
    try:
        commands.call(order, "notify command", words, {**env, "RVSS_EVENT": "failure"})
    except RvssError as exc:
        output.print_error(f"'notify command' of [{order.definition.name}] failed: {exc.line()}")
