"""The client of the self-test: it takes a shadow copy through Samba as a backup program does.

Place: in a child of `probe`, which outlives whatever ends that. Contract: bounded in time; what it
took it deletes as a client does, whatever went wrong, and never leaves it as a backup.
"""

import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass

from samba_rvss import wire
from samba_rvss.cli.common import ask, open_ledger
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context, Keep, Phase, ShadowCopy
from samba_rvss.samba.conf import Config
from samba_rvss.samba.logon import Logon

CALL_SECONDS = 60.0
"""For each method, as Windows gives a Commit."""

_PAUSE = 0.05
# What ends a shadow copy has time left, if all else has used up its own.
_LAST_CALLS = 2
_ENDING = ("AbortShadowCopySet", "DeleteShareMapping")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it.

    Attributes:
        copy: Samba's id of the shadow copy; empty if none was taken.
        seconds: how long the Commit took.
        failure: why it went no further; None if it went to the end.
    """

    copy: str = ""
    seconds: float = 0.0
    failure: RvssError | None = None


def sequence(config: Config, host: str, logon: Logon, share: str, seconds: float) -> Taken:
    """Take a shadow copy as a backup program does, and delete it; it runs in a child.

    Args:
        config: the instance's.
        host: where Samba serves.
        logon: who takes it.
        share: of which share.
        seconds: how long it may take; some is left for deleting.
    """
    from samba_rvss.samba import reach
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.samba.fsrvp.copyset import Call, CopySet

    until = time.monotonic() + seconds - _LAST_CALLS * CALL_SECONDS

    def in_time(call: Call) -> None:
        if call.method not in _ENDING:
            require_time(until)

    taken: CopySet | None = None
    failure: RvssError | None = None
    try:
        with closing(Client(host, logon, timeout=CALL_SECONDS)) as client:
            taken = CopySet(client, Context.AUTO_RECOVERY, report=in_time)
            taken.check(share)
            taken.prepare(share)
            taken.commit()
            try:
                (exposed,) = taken.expose()
                reach.names(host, exposed, logon)
                require_time(until)
                copy = str(taken.copies[share])
                _have_it_not_kept(config, copy, until)
                taken.complete()
                _await_seal(config, copy, until)
            finally:
                with suppress(RvssError):  # what is left is removed by the caller
                    taken.delete()
    except RvssError as exc:
        failure = RvssError(exc.problem, exc.message, exc.hint)
    except OSError as exc:
        failure = RvssError(Problem.SYSTEM, f"the shadow copy cannot be looked at: {exc}")
    calls = taken.calls if taken else []
    return Taken(
        copy=next((str(copy) for copy in taken.copies.values()), "") if taken else "",
        seconds=sum(call.seconds for call in calls if call.method == "CommitShadowCopySet"),
        failure=failure,
    )


def require_time(until: float) -> None:
    """See that there is time left, by `time.monotonic`.

    Raises:
        RvssError: BUSY.
    """
    if time.monotonic() > until:
        raise RvssError(
            Problem.BUSY,
            "the self-test has taken so long that it was given up, and its shadow copy deleted",
            "see the journal of samba-rvss.service, and log.rpcd_fsrvp",
        )


def _record(config: Config, copy_id: str) -> ShadowCopy | None:
    """Return what the ledger says of a copy by Samba's id; None if it has not heard of it yet.

    Raises:
        RvssError: STATE.
    """
    with open_ledger(config) as ledger:
        return next(iter(ledger.find(copy_id)), None)


def _have_it_not_kept(config: Config, copy_id: str, until: float) -> None:
    """See that a shadow copy is deleted when it ends, also if its share's become backups.

    As a backup it would be the newest, if only for a moment, in which pruning could delete a real
    one for it.

    Raises:
        RvssError: BUSY; STATE; as the daemon refuses.
    """
    while (copy := _record(config, copy_id)) is None:
        require_time(until)
        time.sleep(_PAUSE)
    if copy.keep is not Keep.NO:
        request = wire.AdminRequest(verb="unkeep", copy=copy.id)
        ask(config, request, seconds=CALL_SECONDS, quiet=True)
        require_time(until)


def _await_seal(config: Config, copy_id: str, until: float) -> None:
    """Wait until a recovered shadow copy is sealed.

    Raises:
        RvssError: NOT_SEALED if it is not within `rvss:seal deadline`, or until then; STATE.
    """
    began = time.monotonic()
    deadline = min(began + config.seal_deadline, until)
    while True:
        copy = _record(config, copy_id)
        if copy is not None and copy.phase is Phase.SEALED:
            if os.statvfs(copy.path).f_flag & os.ST_RDONLY:
                return
            raise RvssError(Problem.NOT_SEALED, f"{copy.id} is sealed, and its mount is open")
        if time.monotonic() > deadline:
            phase = copy.phase.value if copy else "in no record"
            raise RvssError(
                Problem.NOT_SEALED,
                f"{time.monotonic() - began:.0f} s after RecoveryComplete the shadow copy is"
                f" {phase}",
                "see the journal of samba-rvss.service",
            )
        time.sleep(_PAUSE)
