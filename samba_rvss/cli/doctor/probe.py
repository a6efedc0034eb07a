"""The self-test of ``samba-rvss doctor``: a real shadow copy, taken and removed again.

With a user it goes through Samba, as a backup program's does; without one it goes to the daemon
alone, which takes it as for Samba's callout.

Contract: bounded in time; what was taken is removed, for good, whatever the share keeps; if that
fails it is said, and reconciling removes it as that of a client that has vanished.
"""

import argparse
import getpass
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

from samba_rvss import wire
from samba_rvss.cli.common import ask, open_ledger
from samba_rvss.cli.doctor.bounded import bounded
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.cli.doctor.finding import PROBE, Finding, found, of_error
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context, Phase, ShadowCopy, Share
from samba_rvss.mounts import image_of
from samba_rvss.samba.conf import Config
from samba_rvss.samba.logon import Logon
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.server import Server

_CALLOUT_SECONDS = 58.0  # as the hook waits
_CALL_SECONDS = 60.0  # for each method, as Windows gives a Commit
_SECONDS = 240.0  # for all of them
_LOOK_SECONDS = 10.0
_PAUSE = 0.05
_HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be tried: a shadow copy of which share, and as whom; None is the daemon alone."""

    share: Share
    logon: Logon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it through Samba.

    Attributes:
        copy: Samba's id of the shadow copy; empty if none was taken.
        seconds: how long the Commit took.
        failure: why it went no further; None if it went to the end.
    """

    copy: str = ""
    seconds: float = 0.0
    failure: RvssError | None = None


def plan(config: Config, arguments: argparse.Namespace) -> Trial:
    """Return what is to be tried, and ask for a password if one is needed.

    Raises:
        RvssError: USAGE if it is not clear of which share; NOT_OURS; CONFIG.
    """
    shares = [share for share in config.shares if not share.obstacle]
    if arguments.share:
        wanted = config.share(arguments.share)
        if wanted is None:
            reasons = {section.name.lower(): section.reason for section in config.sections}
            reason = reasons.get(arguments.share.lower(), "there is none of that name")
            raise RvssError(Problem.NOT_OURS, f"[{arguments.share}] is no share of ours: {reason}")
        shares = [wanted]
    if len(shares) != 1:
        names = ", ".join(share.name for share in shares) or "none can have shadow copies"
        raise RvssError(
            Problem.USAGE, f"--probe takes a shadow copy of one share ({names})", "name it"
        )
    return Trial(share=shares[0], logon=_logon(arguments))


def _logon(arguments: argparse.Namespace) -> Logon | None:
    if arguments.authentication_file:
        return _from_file(arguments.authentication_file)
    if not arguments.user:
        return None
    domain, _, user = arguments.user.rpartition("\\")
    if not sys.stdin.isatty():
        raise RvssError(
            Problem.USAGE, "there is nobody to ask for a password", "use --authentication-file"
        )
    password = getpass.getpass(f"Password of {arguments.user}: ")
    return Logon(user=user, domain=domain, password=password)


def _from_file(path: str) -> Logon:
    """Read a user and his password as smbclient(1) does."""
    values: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file.read(1 << 16).splitlines():
                name, equals, value = line.partition("=")
                if equals:
                    values[name.strip().lower()] = value.strip()
    except OSError as exc:
        raise RvssError(Problem.CONFIG, f"cannot read {path}: {exc.strerror}") from exc
    if not values.get("username"):
        raise RvssError(Problem.CONFIG, f"{path} has no line 'username = …'", "write one")
    return Logon(
        user=values["username"],
        password=values.get("password", ""),
        domain=values.get("domain", ""),
    )


def run(config: Config, trial: Trial, server: Server | None) -> Iterator[Finding]:
    """Take a shadow copy and remove it; yield what went wrong, or that it went well.

    Args:
        config: the instance's.
        trial: what is to be tried.
        server: what kind of server it is, None if that is not known.
    """
    if trial.logon is None:
        return _by_daemon(config, trial.share)
    host = server.address if server else _HERE
    return _by_samba(config, trial.share, trial.logon, host)


# the daemon alone


def _by_daemon(config: Config, share: Share) -> Iterator[Finding]:
    # As Samba has the path, slashes and all.
    told = next(section.volume for section in config.sections if section.name == share.name)
    began = time.monotonic()
    try:
        _callout(config, "check", told)
        path = _callout(config, "create", told)
    except RvssError as exc:
        yield of_error(PROBE, exc, share.name)
        return
    spent = time.monotonic() - began
    wrong: list[Finding] = []
    try:
        if line := bounded(partial(_misplaced, path), _LOOK_SECONDS):
            wrong.append(found(PROBE, line, share=share.name))
    except (RvssError, OSError) as exc:
        wrong.append(found(PROBE, f"{path} cannot be looked at: {exc}", share=share.name))
    finally:
        wrong += _remove(config, share, [image_of(path)])
    yield from wrong
    if not wrong:
        what = f"the daemon took a shadow copy in {spent:.2f} s, and removed it again"
        yield _went_well(share, f"{what}; Samba was not asked: with --user it is")


def _misplaced(path: str) -> str:
    """Return what is wrong with a recovery mount that nobody may write to yet; or empty."""
    if not os.path.ismount(path):
        return f"nothing is mounted at {path}, where the shadow copy was taken"
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is open before anybody may write to it"
    return ""


def _callout(config: Config, verb: str, *paths: str) -> str:
    """Ask the daemon as the hook does; return its line.

    Raises:
        RvssError: what it refuses with; NO_DAEMON.
    """
    request = b"\0".join([verb.encode(), *map(os.fsencode, paths)])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(_CALLOUT_SECONDS)
            peer.connect(config.hook_socket)
            peer.send(request)
            reply = peer.recv(wire.MAXIMUM)
    except OSError as exc:
        raise RvssError(
            Problem.NO_DAEMON,
            f"the daemon does not answer at {config.hook_socket} ({exc.strerror or exc})",
            "start samba-rvss.service",
        ) from exc
    line = reply[1:].decode("utf-8", "surrogateescape")
    if not reply or reply[0]:
        problem = Problem(reply[0]) if reply else Problem.NO_DAEMON
        message, colon, hint = line.rpartition(": ")
        if not colon:
            message, hint = line or "the daemon closed the connection", ""
        raise RvssError(problem, message, hint)
    return line


# through Samba


def _by_samba(config: Config, share: Share, logon: Logon, host: str) -> Iterator[Finding]:
    try:
        with closing(SambaProcess(_SECONDS)) as samba:
            taken = samba.call(sequence, config, host, logon, share.name)
    except RvssError as exc:
        yield of_error(PROBE, exc, share.name)
        return
    wrong = [*_remove(config, share, _ids(config, taken.copy))]
    if taken.failure is not None:
        severity = _severity(taken.failure)
        wrong.insert(0, of_error(PROBE, taken.failure, share.name, severity))
    yield from wrong
    if not wrong:
        yield _went_well(
            share,
            f"{logon.user} took a shadow copy through Samba, whose Commit took"
            f" {taken.seconds:.2f} s: it was read, recovered, sealed and removed",
        )


def sequence(config: Config, host: str, logon: Logon, share: str) -> Taken:
    """Take a shadow copy as a backup program does, and delete it; it runs in a child.

    Args:
        config: the instance's.
        host: where Samba serves.
        logon: who takes it.
        share: of which share.
    """
    from samba_rvss.samba import reach
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.samba.fsrvp.copyset import CopySet

    taken: CopySet | None = None
    failure: RvssError | None = None
    try:
        with closing(Client(host, logon, timeout=_CALL_SECONDS)) as client:
            taken = CopySet(client, Context.AUTO_RECOVERY)
            taken.check(share)
            taken.prepare(share)
            taken.commit()
            try:
                (exposed,) = taken.expose()
                reach.names(host, exposed, logon)
                taken.complete()
                _await_seal(config, str(taken.copies[share]))
            finally:
                with suppress(RvssError):  # what is left is removed by the caller
                    taken.delete()
    except RvssError as exc:
        failure = RvssError(exc.problem, exc.message, exc.hint)
    calls = taken.calls if taken else []
    return Taken(
        copy=next((str(copy) for copy in taken.copies.values()), "") if taken else "",
        seconds=sum(call.seconds for call in calls if call.method == "CommitShadowCopySet"),
        failure=failure,
    )


def _await_seal(config: Config, copy_id: str) -> None:
    """Wait until a recovered shadow copy is sealed.

    Raises:
        RvssError: NOT_SEALED if it is not within `rvss:seal deadline`; STATE, NOT_FOUND.
    """
    deadline = time.monotonic() + config.seal_deadline
    while True:
        with open_ledger(config) as ledger:
            copy = next(iter(ledger.find(copy_id)), None)
        if copy is not None and copy.phase is Phase.SEALED:
            if os.statvfs(copy.path).f_flag & os.ST_RDONLY:
                return
            raise RvssError(Problem.NOT_SEALED, f"{copy.id} is sealed, and its mount is open")
        if time.monotonic() > deadline:
            phase = copy.phase.value if copy else "in no record"
            raise RvssError(
                Problem.NOT_SEALED,
                f"{config.seal_deadline:g} s after RecoveryComplete the shadow copy is {phase}",
                "see the journal of samba-rvss.service",
            )
        time.sleep(_PAUSE)


def _severity(failure: RvssError) -> Severity | None:
    """Return how bad a failure is: that others are at work says nothing of the server."""
    busy = "FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS" in failure.message
    return Severity.UNKNOWN if busy else None


# afterwards


def _ids(config: Config, copy_id: str) -> Sequence[str]:
    if not copy_id:
        return ()
    with suppress(RvssError), open_ledger(config) as ledger:
        return [copy.id for copy in ledger.find(copy_id) if _is_left(copy, copy_id)]
    return ()


def _is_left(copy: ShadowCopy, copy_id: str) -> bool:
    return copy.copy_id == copy_id and copy.phase is not Phase.GONE


def _remove(config: Config, share: Share, ids: Sequence[str]) -> Iterator[Finding]:
    """Remove what is left of the shadow copy, for good; it may have become a backup."""
    for copy in ids:
        try:
            ask(config, wire.AdminRequest(verb="delete", copy=copy))
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                yield found(
                    PROBE,
                    f"the shadow copy {copy} of the self-test could not be removed: {exc.line()}",
                    write=f"samba-rvss delete {copy}",
                    share=share.name,
                )


def _went_well(share: Share, what: str) -> Finding:
    return Finding(check=PROBE, severity=Severity.GOOD, what=what, share=share.name)
