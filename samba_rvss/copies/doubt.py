"""Whether a set has the context of another client.

Samba has one context for all clients (source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext(),
which writes fss_global.cur_ctx): of two that begin a set at once, one may get the other's. What
shows it here is a client that connects to a copy before it says that recovery is complete, as for
recovery, of a set without AUTO_RECOVERY: that copy is read-only, and the client's recovery fails.
The other way round nothing shows it: an application may have nothing to recover.

Contract: it notes what it sees, in the ledger and the log, and changes nothing else.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.model import SetState, ShadowCopy
from samba_rvss.samba import connections, fss_state

_logger = logging.getLogger(__name__)

IN_DOUBT = "context in doubt"
"""The event of a copy whose set may have another client's context."""


def is_due(copy: ShadowCopy) -> bool:
    """Return whether nobody has a reason to connect to a copy before its recovery is complete."""
    return bool(copy.exposed_share) and not copy.auto_recovery


def note(instance: Instance, copies: Sequence[ShadowCopy], end: datetime, uid: int = -1) -> None:
    """Note it where somebody was connected to a copy before its recovery was complete.

    Args:
        instance: the copies'.
        copies: such as `is_due`.
        end: no later than their clients heard that recovery is complete.
        uid: who deletes them; -1 if nobody does.
    """
    try:
        found = connections.look(instance.config.file)
        for copy in copies:
            early = found.get(copy.exposed_share.lower())
            if early and early.since < end:
                said = (
                    f"{early.machine} connected to {copy.exposed_share} before RecoveryComplete, as"
                    " for recovery, and the set has no AUTO_RECOVERY: Samba may have given it"
                    " another client's context (samba-rvss-limits(7), 'Two clients at once')"
                )
                _logger.warning("%s: %s", copy.title, said)
                instance.ledger.note(copy, IN_DOUBT, uid=uid, detail=said)
    except (OSError, RvssError) as exc:
        titles = ", ".join(copy.title for copy in copies)
        _logger.info("%s: whether the context fits cannot be told: %s", titles, exc)


def note_deleted(instance: Instance, copy: ShadowCopy, uid: int) -> None:
    """Do as `note`, of a copy that its client deletes, unless its recovery is complete by now.

    Samba has it in its file until the callout has ended (srv_fss_agent.c,
    _fss_DeleteShareMapping()).
    """
    end = datetime.now(UTC)
    try:
        state = fss_state.read(instance.config.fss_state)
    except RvssError as exc:
        _logger.info("%s: whether the context fits cannot be told: %s", copy.title, exc)
        return
    known = state.copies if state else ()
    if any(each.path == copy.path and each.state is SetState.EXPOSED for each in known):
        note(instance, [copy], end, uid)
