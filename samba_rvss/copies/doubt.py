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
from collections.abc import Sequence
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


def note(instance: Instance, copies: Sequence[ShadowCopy], uid: int = -1) -> None:
    """Note it where somebody was connected to a copy before its recovery was complete.

    Args:
        instance: the copies'.
        copies: such as `is_due`. Of those whose set is recovered that has just been read.
        uid: who deletes them; -1 if nobody does.
    """
    try:
        present, recovered = datetime.now(UTC), _recovered(instance)
        found = connections.look(instance.config.file)
        for copy in copies:
            end = recovered if copy.state is SetState.RECOVERED else present
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


def _recovered(instance: Instance) -> datetime:
    """Return when srv_fss.tdb was written last, at the latest; its client hears of it afterwards.

    tdb sets the time of the file with each transaction (lib/tdb/common/transaction.c,
    _tdb_transaction_commit()).
    """
    return datetime.fromtimestamp(os.stat(instance.config.fss_state).st_mtime, UTC)
