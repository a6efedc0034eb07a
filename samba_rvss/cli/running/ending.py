"""Undoing a run: whatever had come of it, nothing is left of it on either side.

Contract: what a client can do is done as a client; our own server is asked for the rest. What
cannot be done because the server does not answer is said, with who does it then.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from uuid import UUID

from samba_rvss.cli.running import commands, own
from samba_rvss.cli.running.order import Order, make
from samba_rvss.copies import runs
from samba_rvss.copies.runs import Trace
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.fsrvp.methods import Methods
from samba_rvss.samba.fsrvp.results import FsrvpError

CUT_OFF = "the run was cut off"


def undo(order: Order, trace: Trace, client: Methods | None = None) -> str:
    """Abort the set of a run, or delete its copies.

    What the daemon has made a backup of by now, because nobody came back, is listed and may be all
    that there is: it stays.

    Args:
        order: the run, or a later one of the same definition.
        trace: how far it has come.
        client: its connection, if that may still be there.

    Returns:
        What may be left, and who removes it, a sentence without a full stop; empty if nothing is.
    """
    if not trace.set_id:
        return ""
    set_id = UUID(trace.set_id)
    copies = {share: UUID(name) for share, name in trace.copies.items()}
    spared: frozenset[str] = frozenset()
    unknown: RvssError | None = None
    if order.own:
        try:  # before they are ended below, which may make backups of them
            spared = own.backups(order, trace.set_id)
        except RvssError as exc:
            unknown = exc
    failure = _end(client, set_id, copies) if client is not None else _UNTRIED
    if failure is not None:  # the connection may be gone, or the server have forgotten it
        try:
            with closing(order.connect()) as another:
                failure = _end(another, set_id, copies)
        except RvssError as exc:
            failure = exc
    if unknown is not None:
        return _may_be_left(trace, unknown)
    if order.own:
        try:
            own.discard(order, trace.set_id, spared)
        except RvssError as exc:
            return _may_be_left(trace, exc)
        if spared:
            return f"what had become a backup meanwhile is kept: {', '.join(sorted(spared))}"
        return ""
    if failure is None:
        return ""
    return (
        f"shadow copies of the set {trace.set_id} may be left on {order.host}, which is for its own"
        f" timers to remove: {failure.line()}"
    )


def _may_be_left(trace: Trace, exc: RvssError) -> str:
    return (
        f"shadow copies of the set {trace.set_id} may be left ({exc.line()}):"
        " reconciling removes them, or 'samba-rvss delete'"
    )


_UNTRIED = RvssError(Problem.SAMBA, "there is no connection")


def _end(client: Methods, set_id: UUID, copies: Mapping[str, UUID]) -> RvssError | None:
    """Abort a set, or delete its copies; return why that may not have been done."""
    try:
        client.abort_shadow_copy_set(set_id)
    except FsrvpError:
        pass  # it has come too far for that, or is not there any more
    except RvssError as exc:
        return exc
    return _delete(client, set_id, copies)


def _delete(client: Methods, set_id: UUID, copies: Mapping[str, UUID]) -> RvssError | None:
    for share, copy in copies.items():
        try:
            client.delete_share_mapping(set_id, copy, share)
        except FsrvpError as exc:
            if exc.name not in _GONE:
                return exc
        except RvssError as exc:
            return exc
    return None


# What a server says of a set or a copy that it has not, or that is not exposed.
_GONE = frozenset(
    {
        "FSRVP_E_BAD_ID",
        "FSRVP_E_BAD_STATE",
        "FSRVP_E_OBJECT_NOT_FOUND",
        "FSRVP_E_SHADOWCOPYSET_ID_MISMATCH",
    }
)


def heal(order: Order, trace: Trace | None, result: str = runs.FAILED) -> str:
    """See to what a run that was cut off has left.

    Args:
        order: that run, or a later one of the same definition.
        trace: what it has written down; None if there was none.
        result: how it ended.

    Returns:
        What may be left, as `undo` has it; empty if it was not cut off.
    """
    if trace is None or trace.ended:
        return ""
    if trace.server != ("" if order.own else order.host):  # the definition has been changed
        former = replace(order.definition, server=trace.server)
        order = make(order.config, former, order.parent)
    wrong = []
    if trace.owed:
        wrong.append(post(order, trace, result, CUT_OFF))
    wrong.append(_finish(order, trace) if trace.finishing else undo(order, trace))
    return "; ".join(filter(None, wrong))


def _finish(order: Order, trace: Trace) -> str:
    """Delete, as their client, the copies of a run that was doing so: they become the backup.

    Returns:
        Why they may not have.
    """
    copies = {share: UUID(name) for share, name in trace.copies.items()}
    try:
        with closing(order.connect()) as client:
            failure = _delete(client, UUID(trace.set_id), copies)
    except RvssError as exc:
        failure = exc
    if failure is None:
        return ""
    return f"the copies of the set {trace.set_id} become a backup when they end: {failure.line()}"


def post(order: Order, trace: Trace, result: str, reason: str) -> str:
    """Run the `postexec`; return why it failed, or nothing.

    Args:
        order: the run.
        trace: how far it has come.
        result: "taken", or how it ended.
        reason: why it ended so.
    """
    words = order.definition.postexec
    if not words:
        return ""
    try:
        env = commands.environment(order, trace.set_id, commands.sources(order))
        env |= commands.of_result(result, reason, pre_failed=trace.pre_failed)
        commands.call(order, "postexec", words, env)
    except RvssError as exc:
        return f"'postexec' failed: {exc.line()}"
    return ""
