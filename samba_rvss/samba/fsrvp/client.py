"""A client for MS-FSRVP: the methods over a connection of python-samba's.

Place: above `methods`. A Client owns one SMB connection, and `close` frees it.
"""

import socket
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from samba import NTSTATUSError
from samba.dcerpc import mgmt
from samba.dcerpc.base import ClientConnection

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.credentials import credentials, load_parm, status_name
from samba_rvss.samba.fsrvp.methods import Methods
from samba_rvss.samba.logon import Logon

# tcp(7); the kernel asks after a third of the time, and gives up at its end.
_PROBED = "SO_KEEPALIVE=1 TCP_KEEPIDLE={0} TCP_KEEPINTVL={0} TCP_KEEPCNT=3 TCP_USER_TIMEOUT={1}"
_PIPE = "\\pipe\\FssagentRpc"
# Who ends an idle rpcd_fsrvp, as reconciling does, cuts off the client that has just been given to
# it; and with the last worker goes samba-dcerpcd, with whoever has not said yet what he wants
# (source3/rpc_server/rpc_host.c, rpc_worker_exited()). The next try gets a new worker.
_CUT_OFF = frozenset(
    {
        "NT_STATUS_CONNECTION_DISCONNECTED",
        "NT_STATUS_CONNECTION_RESET",
        "NT_STATUS_PIPE_BROKEN",
        "NT_STATUS_PIPE_DISCONNECTED",
    }
)
_PAUSES = (0.1, 0.4, 1.5)  # seconds before each further try
_SECONDS = 10.0  # after which there is none
_PORT = 445
_ASKING = frozenset({"GetSupportedVersion", "IsPathSupported", "IsPathShadowCopied"})
INTERFACE = ("a8e0653c-2744-4389-a61d-7373df8b2292", 1)


T = TypeVar("T")


class Client(Methods, Closing):
    """A connection to a file server's FSRVP service.

    Until something is begun over it, one that the server cuts off is made anew.

    Args:
        host: name or address of the server; also the host in share paths.
        logon: a member of Backup Operators or Administrators, or the server's own root.
        options: of the DCE/RPC binding, such as "sign" or "seal".
        timeout: seconds that one call may take; Windows gives them 180.
        silence: seconds for which the server's machine may not answer, however long a call takes;
            0 for as long as the kernel waits.

    Raises:
        RvssError: SAMBA if the server cannot be reached or the user is refused.
    """

    def __init__(
        self,
        host: str,
        logon: Logon,
        *,
        options: Sequence[str] = (),
        timeout: float = 180.0,
        silence: int = 0,
    ) -> None:
        super().__init__(host)
        self._logon, self._options, self._silence = logon, options, silence
        self._timeout = max(1, round(timeout))
        self._connection: ClientConnection | None = None
        self._closed = self._begun = self._is_cut = False
        self._insist(self._anew)

    def close(self) -> None:
        """Drop the connection without a word to the server, as a client does that vanishes."""
        self._connection, self._closed = None, True

    def request(self, method: str, opnum: int, data: bytes) -> bytes:
        """Send a request over the connection; see `Methods.request`."""
        if self._closed:
            raise RvssError(Problem.SAMBA, f"{method} needs a connection, and it has been closed")

        def send() -> bytes:
            link = self._connection
            if link is None or (self._is_cut and not self._begun):
                link = self._anew()
            reply: bytes = link.request(opnum, data)
            return reply

        self._begun = self._begun or method not in _ASKING
        return self._insist(send, method)

    def _anew(self) -> ClientConnection:
        """Connect; a machine that is silent is not waited for as long as Samba's library would."""
        self._connection = None
        if self._silence:
            _knock(self.host, self._silence)
        made = _connect(self.host, self._logon, self._options, self._silence)
        made.request_timeout = self._timeout
        self._connection, self._is_cut = made, False
        return made

    def _insist(self, call: Callable[[], T], method: str = "") -> T:
        """Call something, again and again if the server cuts it off before anything is begun.

        Raises:
            RvssError: SAMBA.
        """
        until = time.monotonic() + _SECONDS
        pauses = iter(_PAUSES)
        while True:
            try:
                return call()
            except NTSTATUSError as exc:
                # Whoever keeps the error keeps these frames, and would keep the connection in them.
                traceback.clear_frames(exc.__traceback__)
                self._is_cut = status_name(exc) in _CUT_OFF
                again = self._is_cut and not self._begun and time.monotonic() < until
                pause = next(pauses, None)
                if pause is None or not again:
                    raise self._failure(method, exc) from exc
            time.sleep(pause)

    def _failure(self, method: str, exc: NTSTATUSError) -> RvssError:
        if self._connection is None:
            return RvssError(
                Problem.SAMBA,
                f"cannot connect to the FSRVP service of {self.host} as {self._logon.who}"
                f" ({status_name(exc)})",
                "see that smbd serves there, that the password or the ticket is right, and that"
                " rpcd_fsrvp starts",
            )
        return RvssError(
            Problem.SAMBA,
            f"the FSRVP service of {self.host} did not answer {method} ({status_name(exc)})",
            "see log.rpcd_fsrvp on the server",
        )


def _knock(host: str, seconds: int) -> None:
    """See that a server's machine answers.

    Raises:
        RvssError: SAMBA.
    """
    try:
        socket.create_connection((host, _PORT), seconds).close()
    except OSError as exc:
        raise RvssError(
            Problem.SAMBA,
            f"{host} does not answer at port {_PORT} ({exc.strerror or exc})",
            "see whether it runs, and the network and firewalls on the way",
        ) from exc


def _connect(host: str, logon: Logon, options: Sequence[str], silence: int) -> ClientConnection:
    lp = load_parm(logon)
    if silence:
        lp.set("socket options", _PROBED.format(max(1, silence // 3), silence * 1000))
    who = credentials(logon, lp)
    endpoint = f"ncacn_np:{host}[{','.join((_PIPE, *options))}]"
    if not options:
        return ClientConnection(endpoint, INTERFACE, lp, who)
    # With signing or sealing, a ClientConnection made without a basis crashes the process: its
    # interface table is all zeros (source4/librpc/rpc/pyrpc.c, py_dcerpc_interface_init_helper()).
    # The connection of an interface that python-samba has bindings for has a table, and can be the
    # basis of ours, which then has its security. Credentials must not be given once more: since
    # Samba 4.22 ours would log on for itself with them, by its zeros.
    basis = mgmt.mgmt(endpoint, lp, who)
    return ClientConnection(endpoint, INTERFACE, basis_connection=basis)
