"""FSRVP clients in a process of their own, which may stand in another network namespace.

Place: a rig for tests, over `samba_rvss.samba.fsrvp` and `smbclient`. Contract: a client here has
its connection in the other process; `close` ends that process and all connections with it, without
a word to the server if the link to it has been cut. A call that fails raises here what it raised
there.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment

_SECONDS = 60.0
_ROOT = Path(__file__).resolve().parents[2]


class Remote:
    """A context manager: a process with FSRVP clients and SMB sessions.

    Args:
        host: the server's address.
        user: who connects.
        password: in clear.
        namespace: the network namespace to stand in; empty for ours.
    """

    def __init__(self, host: str, user: str, password: str, namespace: str = "") -> None:
        self._words = (host, user, password, namespace)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r});"
            f" from samba_rvss.testing.remote import serve; serve({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
        self._pipe = Connection(ours.detach())
        with ExitStack() as guard:
            guard.callback(self.close)
            self._ask("", *self._words)
            guard.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process with SIGKILL; its kernel closes the connections, if it can be heard."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._pipe = self._process = None

    def call(self, method: str, *args: object) -> Any:
        """Call a method of the process's `samba_rvss.samba.fsrvp.Client` by name.

        It connects when it is first called.

        Raises:
            FsrvpError: the server refused.
            RvssError: SAMBA if the connection failed; BUSY if there is no answer within 60 s.
        """
        return self._ask(method, *args)

    def hold(self, share: str, name: str) -> None:
        """Connect to a share, open a file there for writing, and keep it open.

        Raises:
            SmbError: the server refused.
        """
        self._ask("hold", share, name)

    def _ask(self, method: str, *args: object) -> Any:
        if self._pipe is None:
            raise RvssError(Problem.USAGE, f"{method} needs a process, and it has been closed")
        self._pipe.send((method, args))
        if not self._pipe.poll(_SECONDS):
            raise RvssError(Problem.BUSY, f"no answer to {method} within {_SECONDS:g} s")
        good, value = self._pipe.recv()
        if good:
            return value
        kind, values = value
        raise _error(kind, values)


def _error(kind: str, values: tuple[Any, ...]) -> Exception:
    from samba_rvss.samba.fsrvp import FsrvpError

    if kind == "fsrvp":
        return FsrvpError(*values)
    return RvssError(Problem.SAMBA, *values) if kind == "known" else RuntimeError(*values)


def serve(fd: int) -> None:
    """Answer calls until the owner closes its end (the process's main function)."""
    from samba_rvss.samba.fsrvp import Client, FsrvpError
    from samba_rvss.testing.netns import enter
    from samba_rvss.testing.smbclient import Session

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    _, (host, user, password, namespace) = pipe.recv()
    client: Client | None = None
    held = []
    try:
        if namespace:
            enter(namespace)
    except RvssError as exc:
        pipe.send((False, ("known", (exc.message,))))
        return
    pipe.send((True, os.getpid()))
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        answer: tuple[bool, object]
        try:
            if method == "hold":
                session = Session(host, args[0], user, password)
                held.append((session, session.open(args[1], write=True)))
                answer = (True, None)
            else:
                client = client or Client(host, user, password)
                answer = (True, getattr(client, method)(*args))
        except FsrvpError as exc:
            answer = (False, ("fsrvp", (exc.method, exc.hresult)))
        except RvssError as exc:
            answer = (False, ("known", (exc.message, exc.hint)))
        except Exception as exc:  # noqa: BLE001 - an unknown failure is the caller's to report
            answer = (False, ("unknown", (f"{method}: {type(exc).__name__}: {exc}",)))
        pipe.send(answer)
