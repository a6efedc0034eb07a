"""Whether a set has the context of another client.

Samba has one context for all clients (source3/rpc_server/fss/srv_fss_agent.c, _fss_SetContext(),
which writes fss_global.cur_ctx): of two that begin a set at once, one may get the other's. What
shows it here is a client that connects to a copy before it says that recovery is complete, as for
recovery, of a set without AUTO_RECOVERY: that copy is read-only, and the client's recovery fails.
The other way round nothing shows it: an application may have nothing to recover.

Contract: it notes what it sees, in the ledger and the log, and changes nothing else.
"""

import logging
import os
from datetime import UTC, datetime

from samba_rvss.copies.instance import Instance
from samba_rvss.errors import RvssError
from samba_rvss.model import SetState, ShadowCopy
from samba_rvss.samba import connections

_logger = logging.getLogger(__name__)

IN_DOUBT = "context in doubt"
"""The event of a copy whose set may have another client's context."""


def is_due(copy: ShadowCopy) -> bool:
    """Return whether nobody has a reason to connect to a copy before its recovery is complete."""
    return bool(copy.exposed_share) and not copy.auto_recovery


def note(instance: Instance, copy: ShadowCopy, uid: int = -1) -> None:
    """Note it if somebody was connected to a copy before its recovery was complete.

    Args:
        instance: the copy's.
        copy: one that `is_due`. If its set is recovered, that has just been read.
        uid: who deletes it; -1 if nobody does.
    """
    try:
        end = _recovered(instance) if copy.state is SetState.RECOVERED else datetime.now(UTC)
        found = connections.to_share(instance.config.file, copy.exposed_share)
        early = [each for each in found if each.since < end]
        if early:
            said = (
                f"{early[0].machine} connected to {copy.exposed_share} before RecoveryComplete, as"
                " for recovery, and the set has no AUTO_RECOVERY: Samba may have given it another"
                " client's context (samba-rvss-limits(7), 'Two clients at once')"
            )
            _logger.warning("%s: %s", copy.title, said)
            instance.ledger.note(copy, IN_DOUBT, uid=uid, detail=said)
    except (OSError, RvssError) as exc:
        _logger.info("%s: whether its context fits cannot be told: %s", copy.title, exc)


def _recovered(instance: Instance) -> datetime:
    """Return when srv_fss.tdb was written last, at the latest; its client hears of it afterwards.

    tdb sets the time of the file with each transaction (lib/tdb/common/transaction.c,
    _tdb_transaction_commit()).
    """
    return datetime.fromtimestamp(os.stat(instance.config.fss_state).st_mtime, UTC)
