"""FSRVP clients in a process of their own, which may be in another network namespace.

Place: a rig for tests, over `samba_rvss.samba.fsrvp` and `smbclient`. Contract: a client here has
its connection in the other process; `close` ends that process and all connections with it, of which
the server hears nothing if the link to it has been cut. A call that fails raises here what it
raised there.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from samba_rvss.child import Child
from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.fsrvp.methods import Methods
from samba_rvss.testing.netns import enter

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.samba.logon import Logon
    from samba_rvss.testing.smbclient import File, Session

P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = 60.0


class Remote(Methods, Closing):
    """An FSRVP client in a process of its own; it connects when a method is first called.

    Args:
        host: the server's address.
        logon: who connects.
        namespace: the network namespace of the process; empty for ours.
        options: of the DCE/RPC binding, as the Client has them.
        above: what runs the process; see Child.
    """

    def __init__(
        self,
        host: str,
        logon: "Logon",
        namespace: str = "",
        *,
        options: Sequence[str] = (),
        above: Sequence[str] = (),
    ) -> None:
        super().__init__(host)
        self._child: Child | None = Child(above=above)
        try:
            self._ask("the start", _begin, host, logon, namespace, options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process with SIGKILL; the kernel closes its connections."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def request(self, method: str, opnum: int, data: bytes) -> bytes:
        """Send a request over the other process's connection; see `Methods.request`.

        Raises:
            RvssError: SAMBA if the connection failed; BUSY if there is no answer within 60 s.
        """
        return self._ask(method, _request, method, opnum, data)

    def hold(self, share: str, name: str) -> None:
        """Connect to a share, open a file there for writing, and keep it open.

        Raises:
            RvssError: SAMBA if the server refused.
        """
        self._ask("hold", _hold, share, name)

    def _ask(self, what: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._child is None:
            raise RvssError(Problem.USAGE, f"{what} needs a process, and it has been closed")
        try:
            return self._child.call(_SECONDS, function, *args, **kwargs)
        except (OSError, EOFError) as exc:
            reason = str(exc) or "its process died"
            raise RvssError(Problem.BUSY, f"{what} in another process: {reason}") from exc


class _There:
    """What the other process has."""

    def __init__(self, host: str, logon: "Logon", options: Sequence[str]) -> None:
        self.host = host
        self.logon = logon
        self.options = options
        self.held: list[tuple[Session, File]] = []
        self._client: Client | None = None

    @property
    def client(self) -> "Client":
        """The connection for FSRVP."""
        from samba_rvss.samba.fsrvp.client import Client

        if self._client is None:
            self._client = Client(self.host, self.logon, options=self.options)
        return self._client


# Called in the other process, `_begin` first.

_there: _There


def _begin(host: str, logon: "Logon", namespace: str, options: Sequence[str]) -> None:
    global _there
    if namespace:
        enter(namespace)
    _there = _There(host, logon, options)


def _request(method: str, opnum: int, data: bytes) -> bytes:
    return _there.client.request(method, opnum, data)


def _hold(share: str, name: str) -> None:
    from samba_rvss.testing.smbclient import Session

    session = Session(_there.host, share, _there.logon)
    _there.held.append((session, session.open(name, write=True)))
