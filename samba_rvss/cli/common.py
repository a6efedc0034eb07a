"""What several verbs need: the configuration, the ledger, and the daemon's ear."""

import argparse
import socket
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

from samba_rvss import wire
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba import conf

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs: TypeAlias = object

_SECONDS = 120.0


def configuration(arguments: argparse.Namespace) -> conf.Config:
    """Read the instance's smb.conf.

    Raises:
        RvssError: CONFIG or SAMBA.
    """
    return conf.load(arguments.configfile)


def ledger(config: conf.Config) -> closing[Ledger]:
    """Open the ledger for reading; the daemon need not run.

    Raises:
        RvssError: NOT_FOUND or STATE.
    """
    return closing(Ledger(config.ledger, read_only=True))


def the_copy(record: Ledger, word: str, *, gone: bool) -> ShadowCopy:
    """Return the one copy that a word on the command line means.

    Raises:
        RvssError: NOT_FOUND if none does, USAGE if several do.
    """
    found = [copy for copy in record.find(word) if gone or copy.phase is not Phase.GONE]
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


def ask(config: conf.Config, request: wire.AdminRequest) -> str:
    """Ask the daemon and return its line.

    Raises:
        RvssError: NO_DAEMON if it does not answer, or what it refuses with.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(_SECONDS)
        try:
            peer.connect(config.admin_socket)
            peer.send(wire.encode_admin(request))
            data = peer.recv(wire.MAXIMUM)
        except OSError as exc:
            raise RvssError(
                Problem.NO_DAEMON,
                f"the daemon does not answer at {config.admin_socket} ({exc.strerror or exc})",
                "start samba-rvss.service",
            ) from exc
    status, line = wire.decode_result(data)
    if status:
        raise RvssError(Problem(status), line)
    return line
