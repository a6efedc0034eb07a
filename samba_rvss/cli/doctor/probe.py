"""The self-test of ``samba-rvss doctor``: a real shadow copy, taken and removed again.

With a user it goes through Samba, as a backup program's does; without one it goes to the daemon
alone, which takes it as for Samba's callout.

Contract: bounded in time, which Ctrl-C does not shorten; what was taken is removed, for good,
whatever the share keeps. If that fails, or what may be left is not known, it is said. The client is
a process that a terminal's end does not end: it deletes what it took in any case.
"""

import argparse
import getpass
import os
import signal
import socket
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from samba_rvss import wire
from samba_rvss.cli.common import ask, open_ledger
from samba_rvss.cli.doctor.bounded import bounded
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.cli.doctor.client import CALL_SECONDS, sequence
from samba_rvss.cli.doctor.finding import PROBE, Finding, found, of_error
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Phase, ShadowCopy, Share
from samba_rvss.mounts import image_of
from samba_rvss.samba import authentication
from samba_rvss.samba.conf import Config
from samba_rvss.samba.logon import Logon
from samba_rvss.samba.process import SambaProcess
from samba_rvss.samba.server import Server
from samba_rvss.samba.values import directory

_CALLOUT_SECONDS = 58.0  # as the hook waits
_SECONDS = 600.0  # for a client's whole way, whatever `rvss:seal deadline` says
_LOOK_SECONDS = 10.0
_HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be tried: a shadow copy of which share, and as whom; None is the daemon alone."""

    share: Share
    logon: Logon | None = None


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
        return authentication.from_file(arguments.authentication_file)
    if arguments.use_krb5_ccache:
        return Logon(use_kerberos=True, ccache=arguments.use_krb5_ccache)
    if not arguments.user:
        return None
    domain, _, user = arguments.user.rpartition("\\")
    if not sys.stdin.isatty():
        raise RvssError(
            Problem.USAGE, "there is nobody to ask for a password", "use --authentication-file"
        )
    password = getpass.getpass(f"Password of {arguments.user}: ")
    return Logon(user=user, domain=domain, password=password)


def _host(server: Server | None, logon: Logon) -> str:
    """Return by what to call this machine's Samba.

    A ticket is for a name: that to which IsPathSupported sends clients, whatever their UNC says.
    """
    if server is None:
        return _HERE
    return server.netbios_name if logon.use_kerberos else server.address


def run(config: Config, trial: Trial, server: Server | None) -> Iterator[Finding]:
    """Take a shadow copy and remove it; yield what went wrong, or that it went well.

    It belongs to the main thread.

    Args:
        config: the instance's.
        trial: what is to be tried.
        server: what kind of server it is, None if that is not known.
    """
    with to_the_end():
        if trial.logon is None:
            yield from _by_daemon(config, trial.share)
        else:
            host = _host(server, trial.logon)
            yield from _by_samba(config, trial.share, trial.logon, host)


@contextmanager
def to_the_end() -> Iterator[None]:
    """Have Ctrl-C end nothing, and say so."""

    def say(_number: int, _frame: object) -> None:
        with suppress(OSError):  # who prints just now cannot print this as well
            os.write(2, b"samba-rvss: the self-test removes its shadow copy first, and ends then\n")

    before = signal.signal(signal.SIGINT, say)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
        wrong += _remove(config, share, [image_of(path)], {})
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
    before = _of_share(config, share)
    try:
        with closing(SambaProcess(_SECONDS + CALL_SECONDS, apart=True)) as samba:
            taken = samba.call(sequence, config, host, logon, share.name, _SECONDS)
    except (RvssError, RuntimeError) as exc:
        error = exc if isinstance(exc, RvssError) else RvssError(Problem.INTERNAL, str(exc))
        yield of_error(PROBE, error, share.name)
        yield perhaps_left(config, share, before)
        return
    wrong = [*_remove(config, share, _ids(config, taken.copy), before)]
    if taken.failure is not None:
        severity = _severity(taken.failure)
        wrong.insert(0, of_error(PROBE, taken.failure, share.name, severity))
    yield from wrong
    if not wrong:
        yield _went_well(
            share,
            f"{logon.who} took a shadow copy through Samba, whose Commit took"
            f" {taken.seconds:.2f} s: it was read, recovered, sealed and removed",
        )


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


def _of_share(config: Config, share: Share) -> dict[str, ShadowCopy] | None:
    """Return what there is of a share's directory by id, backups too; None if that is not known."""
    with suppress(RvssError), open_ledger(config) as ledger:
        known = (*ledger.copies(), *ledger.backups())
        return {copy.id: copy for copy in known if directory(copy.share_path) == share.path}
    return None


def perhaps_left(config: Config, share: Share, before: Container[str] | None) -> Finding:
    """Return what is to be said where nobody knows what the self-test has left.

    Args:
        config: the instance's.
        share: that was tried.
        before: the ids of what it had before; None if that is not known. What came since may be
            another client's as well.
    """
    after = _of_share(config, share)
    names = "which one is not known"
    if before is not None and after is not None:
        came = [name for name in after if name not in before]
        names = f"{' or '.join(came)}, which came meanwhile" if came else "none is recorded yet"
    return found(
        PROBE,
        f"a shadow copy of the self-test may be left: {names}",
        write="see 'samba-rvss list', and delete it if it is no other client's",
        share=share.name,
    )


def _remove(
    config: Config, share: Share, ids: Sequence[str], before: Mapping[str, ShadowCopy] | None
) -> Iterator[Finding]:
    """Remove what is left of the shadow copy, for good; it may have become a backup."""
    for copy in ids:
        if is_last(copy, before or {}, _of_share(config, share) or {}):
            yield found(
                PROBE,
                f"the shadow copy {copy} of the self-test has become a backup, and those of before"
                " are gone: it is left",
                write=f"samba-rvss delete {copy}",
                share=share.name,
            )
            continue
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


def is_last(copy: str, before: Mapping[str, ShadowCopy], after: Mapping[str, ShadowCopy]) -> bool:
    """Return whether a copy is the only backup left of a share that had others.

    Args:
        copy: its id.
        before: what the share had before, by id.
        after: what it has now.
    """

    def backups(of: Mapping[str, ShadowCopy]) -> bool:
        return any(each.phase is Phase.KEPT for name, each in of.items() if name != copy)

    mine = after.get(copy)
    is_backup = mine is not None and (mine.phase is Phase.KEPT or mine.ended)
    return is_backup and backups(before) and not backups(after)


def _went_well(share: Share, what: str) -> Finding:
    return Finding(check=PROBE, severity=Severity.GOOD, what=what, share=share.name)
