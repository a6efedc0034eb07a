"""What a run asks of our own server beside FSRVP: records of its copies, and what becomes of them.

Contract: every wait has a limit. The ledger is read; the daemon does the rest.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from uuid import UUID

from samba_rvss import wire
from samba_rvss.cli.common import ask, open_ledger
from samba_rvss.cli.running.order import CALL_SECONDS, Order
from samba_rvss.copies import identity, restoring
from samba_rvss.copies.locate import find
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Consistency, Keep, Phase, SetState, ShadowCopy
from samba_rvss.providers.all import providers

_SECONDS = 30.0  # that the daemon needs at most to hear of what Samba has done
_PAUSE = 0.05


@contextmanager
def undisturbed(order: Order) -> Iterator[None]:
    """Have nobody restore into the run's volumes, for the time of a block.

    Raises:
        RvssError: BUSY if somebody does; as `copies.locate.find`.
    """
    config = order.config
    with ExitStack() as held:
        if order.own:
            known = providers(identity.read(config), config.homes)
            found = [share for name in order.definition.shares if (share := config.share(name))]
            for volume in {find(share, known) for share in found}:
                held.enter_context(restoring.undisturbed(config, volume))
        yield


Records = Mapping[str, ShadowCopy]
"""The records of a set's copies, by share."""


def await_records(order: Order, copies: Mapping[str, UUID], check: Callable[[], None]) -> Records:
    """Wait until the ledger knows Samba's ids of some copies; see that none is kept by itself.

    A backup that is made is asked for at its end; what fails before is to be none.

    Args:
        order: the run.
        copies: Samba's ids, by share.
        check: called now and then; it raises to end the wait.

    Raises:
        RvssError: BUSY if it does not in time; as ``check`` and the daemon.
    """
    found = _await(order, copies, check, _SECONDS, lambda copy: copy.phase is not Phase.CREATING)
    for copy in found.values():
        if copy.keep is not Keep.NO:
            try:
                ask(order.config, wire.AdminRequest(verb="unkeep", copy=copy.id), quiet=True)
            except RvssError as exc:
                if exc.problem is not Problem.STATE:  # sealed: if it is to be none, it is deleted
                    raise
    return found


def await_open(order: Order, copies: Mapping[str, UUID], check: Callable[[], None]) -> Records:
    """Wait until copies can be written to; as `await_records`."""
    return _await(order, copies, check, _SECONDS, lambda copy: copy.phase is Phase.OPEN)


def require_open(order: Order, copies: Mapping[str, UUID]) -> None:
    """See that copies can still be written to: what was done in them was done in time.

    Raises:
        RvssError: STATE if one was sealed meanwhile; NOT_FOUND.
    """
    with open_ledger(order.config) as ledger:
        for share, name in copies.items():
            for copy in ledger.find(str(name)):
                if copy.phase is not Phase.OPEN:
                    raise RvssError(
                        Problem.STATE,
                        f"the shadow copy of {share} is {copy.phase.value} before it was done",
                        "give 'rvss:recovery timeout' more time than 'command timeout'",
                    )


def await_sealed(order: Order, copies: Mapping[str, UUID], check: Callable[[], None]) -> Records:
    """Wait until copies are sealed, and RecoveryComplete is recorded; as `await_records`."""
    seconds = order.config.seal_deadline + _SECONDS

    def ready(copy: ShadowCopy) -> bool:
        return copy.phase is Phase.SEALED and copy.state is SetState.RECOVERED

    return _await(order, copies, check, seconds, ready)


def await_kept(order: Order, copies: Mapping[str, UUID]) -> Records:
    """Wait until copies are backups; as `await_records`."""
    return _await(order, copies, lambda: None, _SECONDS, lambda copy: copy.phase is Phase.KEPT)


def _await(
    order: Order,
    copies: Mapping[str, UUID],
    check: Callable[[], None],
    seconds: float,
    ready: Callable[[ShadowCopy], bool],
) -> Records:
    until = time.monotonic() + seconds
    while True:
        found: dict[str, ShadowCopy] = {}
        with open_ledger(order.config) as ledger:
            for share, name in copies.items():
                if known := ledger.find(str(name)):
                    found[share] = known[0]
        if len(found) == len(copies) and all(map(ready, found.values())):
            return found
        check()
        if time.monotonic() > until:
            told = ", ".join(f"{copy.id} is {copy.phase.value}" for copy in found.values())
            raise RvssError(
                Problem.BUSY,
                f"the shadow copies did not come so far within {seconds:.0f} s:"
                f" {told or 'none is recorded'}",
                "see the journal of samba-rvss.service",
            )
        time.sleep(_PAUSE)


def record(order: Order, found: Records, consistency: Consistency) -> None:
    """Have sealed copies become backups of the definition when their client deletes them.

    Raises:
        RvssError: as the daemon.
    """
    chosen = order.definition.selection
    for copy in found.values():
        request = wire.AdminRequest(
            verb="record",
            copy=copy.id,
            run=order.definition.name,
            consistency=consistency.value,
            files="/".join(chosen.files),
            veto="/".join(chosen.veto),
        )
        ask(order.config, request, seconds=CALL_SECONDS, quiet=True)


def backups(order: Order, set_id: str) -> frozenset[str]:
    """Return the ids of those copies of a set that are backups already.

    Raises:
        RvssError: NOT_FOUND or STATE.
    """
    with open_ledger(order.config) as ledger:
        return frozenset(copy.id for copy in ledger.backups() if copy.set_id == set_id)


def discard(order: Order, set_id: str, spared: Collection[str] = ()) -> None:
    """Delete what is left of a set, for good.

    Args:
        order: the run.
        set_id: Samba's id of it.
        spared: the ids of copies that stay.

    Raises:
        RvssError: as the daemon; of several, the first.
    """
    failure: RvssError | None = None
    with open_ledger(order.config) as ledger:
        copies = ledger.of_set(set_id)
    for copy in copies:
        if copy.phase is Phase.GONE or copy.id in spared:
            continue
        try:
            ask(order.config, wire.AdminRequest(verb="delete", copy=copy.id), quiet=True)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                failure = failure or exc
    if failure is not None:
        raise failure
