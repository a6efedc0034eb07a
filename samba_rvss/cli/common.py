"""What several verbs need: reading the configuration and the ledger, and asking the daemon."""

import argparse
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from samba_rvss import output, wire
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba import conf

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs: TypeAlias = object

BACKUP_ID = "our id or its end, Samba's id of the copy or the set, or the path"
"""What names a backup, for the help of a command."""

_SECONDS = 120.0
_START = "start samba-rvss.service"


def configuration(arguments: argparse.Namespace) -> conf.Config:
    """Read the instance's smb.conf.

    Raises:
        RvssError: CONFIG or SAMBA.
    """
    return conf.load(arguments.configfile)


def open_ledger(config: conf.Config) -> closing[Ledger]:
    """Open the ledger for reading; the daemon need not run.

    Raises:
        RvssError: NOT_FOUND or STATE.
    """
    return closing(Ledger(config.ledger, read_only=True))


def the_copy(ledger: Ledger, word: str, *, gone: bool) -> ShadowCopy:
    """Return the copy that a word on the command line means.

    Raises:
        RvssError: NOT_FOUND if it means none, USAGE if it means several.
    """
    found = [copy for copy in ledger.find(word) if gone or copy.phase is not Phase.GONE]
    if not found:
        raise RvssError(
            Problem.NOT_FOUND, f"there is no shadow copy {word}", "see 'samba-rvss list'"
        )
    if len(found) > 1:
        names = " ".join(copy.id for copy in found)
        raise RvssError(
            Problem.USAGE, f"{word} is {len(found)} shadow copies", f"name one of {names}"
        )
    return found[0]


def whole_set(ledger: Ledger, word: str) -> list[ShadowCopy]:
    """Return the copies of the set, or the backup, that a word on the command line means.

    Raises:
        RvssError: NOT_FOUND if it means none, USAGE if it means several.
    """
    gone = (Phase.DELETING, Phase.GONE)
    found = [copy for copy in ledger.find(word) if copy.phase not in gone]
    if not found:
        raise RvssError(
            Problem.NOT_FOUND,
            f"there is no shadow copy or backup {word}",
            "see 'samba-rvss list' and 'samba-rvss backup list'",
        )
    sets = {copy.set_id or copy.id for copy in found}
    if len(sets) > 1:
        names = " ".join(copy.id for copy in found)
        raise RvssError(Problem.USAGE, f"{word} is {len(sets)} backups", f"name one of {names}")
    members = [copy for copy in ledger.of_set(found[0].set_id) if copy.phase not in gone]
    return members or found


@contextmanager
def ledger_or_empty(config: conf.Config) -> Iterator[Ledger]:
    """Open the ledger for reading; if there is none, an empty one for the time of the block.

    Raises:
        RvssError: STATE.
    """
    with ExitStack() as stack:
        try:
            ledger = Ledger(config.ledger, read_only=True)
        except RvssError as exc:
            if exc.problem is not Problem.NOT_FOUND:
                raise
            directory = stack.enter_context(TemporaryDirectory(prefix="samba-rvss-"))
            ledger = Ledger(f"{directory}/ledger.db")
        stack.callback(ledger.close)
        yield ledger


def ask(
    config: conf.Config,
    request: wire.AdminRequest,
    part: Callable[[wire.Part], None] = lambda part: None,
    seconds: float = _SECONDS,
    *,
    quiet: bool = False,
) -> str:
    """Send the daemon a request, and return the line of its result.

    Args:
        config: the instance's.
        request: what to ask for.
        part: called with each part of the answer as it comes.
        seconds: how long to wait for each part, and for the result.
        quiet: not to tell on a terminal that it is being waited for.

    Raises:
        RvssError: NO_DAEMON if the daemon does not answer; what it refuses the request with.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(seconds)
        with _reported(config):
            peer.connect(config.admin_socket)
            peer.send(wire.encode_admin(request))
        while True:
            with (
                _reported(config),
                nullcontext() if quiet else output.progress("waiting for the daemon"),
            ):
                data = peer.recv(wire.MAXIMUM)
            if not data:
                raise RvssError(Problem.NO_DAEMON, "the daemon ended before it answered", _START)
            answer = wire.decode_answer(data)
            if isinstance(answer, wire.Result):
                break
            part(answer)
    if answer.status:
        raise RvssError(Problem(answer.status), answer.line)
    return answer.line


def ask_each(config: conf.Config, requests: Iterable[wire.AdminRequest]) -> list[RvssError]:
    """Ask the daemon for each of several things; print what it answers, and return the errors."""
    failures = []
    for request in requests:
        try:
            output.print_line(ask(config, request))
        except RvssError as exc:
            failures.append(exc)
    return failures


def agreed(question: str, hint: str) -> bool:
    """Return whether who sits at the terminal agrees to something.

    Args:
        question: what is asked, with a question mark.
        hint: what to do where nobody sits there.

    Raises:
        RvssError: USAGE if there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise RvssError(Problem.USAGE, "there is nobody to ask", hint)
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def _reported(config: conf.Config) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RvssError(
            Problem.NO_DAEMON,
            f"the daemon does not answer at {config.admin_socket} ({exc.strerror or exc})",
            _START,
        ) from exc
