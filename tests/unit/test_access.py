"""Who may use the hook's socket: one callout of a worker at a time, and none that it has left."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from samba_rvss.access import Access
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.run import environment
from samba_rvss.testing.waiting import wait_until

_ROOT = Path(__file__).parents[2]
# Starts a program in a PID namespace of its own, and ends it when it is ended itself.
_APART = ["unshare", "--pid", "--fork", "--kill-child"]

pytestmark = pytest.mark.require("root")

# Each line is a callout: a shell of the client's user, and below it what connects; it ends when
# its connection is closed.
_WORKER = """
import os, socket, sys
for line in sys.stdin:
    shell = os.fork()
    if shell == 0:
        os.setgid(65534)
        os.setuid(65534)
        if os.fork() == 0:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            peer.connect("\\0" + sys.argv[1])
            peer.recv(1)
        else:
            os.wait()
        os._exit(0)
    print(shell, flush=True)
"""

# Says why it refuses whoever connects first.
_DAEMON = """
import socket, sys
from samba_rvss.access import Access
from samba_rvss.errors import RvssError
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
    listener.bind(sys.argv[1] + "/socket")
    listener.listen()
    print("listens", flush=True)
    connection = listener.accept()[0]
    with connection, Access(sys.argv[1], sys.argv[1]) as access:
        try:
            access.quickly(connection)
        except RvssError as exc:
            print(exc.line(), flush=True)
"""


def _manual() -> str:
    page = _ROOT / "packaging" / "man" / "samba-rvss-containers.7"
    return " ".join(page.read_text().split())


def _is_in_the_manual(refusal: RvssError, *, elsewhere: str = "") -> bool:
    """Return whether samba-rvss-containers(7) has a refusal, word for word.

    Args:
        refusal: as it was raised.
        elsewhere: what stands there for Samba's lock directory.
    """
    line = re.sub(r"process \d+ of user \d+", "process PID of user UID", refusal.line())
    return (line.replace(elsewhere, "/run/samba") if elsewhere else line) in _manual()


class Worker:
    """What the kernel says of it is what it says of Samba's.

    Args:
        directory: for its program, and for Samba's locks.
        undo: ends it.
        above: a program that starts it, with its arguments.
    """

    def __init__(self, directory: Path, undo: ExitStack, above: Sequence[str] = ()) -> None:
        name = secrets.token_hex(8)
        self._undo = undo
        self._listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._listener.bind(f"\0{name}")
        self._listener.listen()
        self._listener.settimeout(60)
        program = directory / "rpcd_fsrvp"
        shutil.copy(Path(sys.executable).resolve(), program)
        self._process = undo.enter_context(
            subprocess.Popen(
                [*above, program, "-ISEc", _WORKER, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
                text=True,
            )
        )
        undo.callback(self._process.kill)
        (directory / "msg.lock").mkdir()
        (directory / "msg.lock" / str(self._process.pid)).touch()

    def callout(self) -> tuple[socket.socket, int]:
        """Begin one; return its connection and the pid of its shell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("callout\n")
        self._process.stdin.flush()
        shell = int(self._process.stdout.readline())
        connection, _ = self._listener.accept()
        return self._undo.enter_context(connection), shell


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with ExitStack() as undo:
        yield Worker(tmp_path, undo)


def test_one_callout_at_a_time(worker: Worker, tmp_path: Path) -> None:
    with Access(str(tmp_path), str(tmp_path)) as access:
        first, shell = worker.callout()
        assert access.quickly(first) is None  # whose program it is can take long to tell
        peer = access.slowly(first)
        for _ in range(2):
            other, _ = worker.callout()
            with pytest.raises(RvssError, match="another callout of rpcd_fsrvp") as caught:
                access.quickly(other)
            assert caught.value.problem is Problem.REFUSED
            other.close()
        # Its user ends the shell, and the worker goes on; what is left must not stop the next.
        os.kill(shell, signal.SIGKILL)
        wait_until("it has no shell", lambda: processes.process(peer.pid).parent != shell)
        second, _ = worker.callout()
        ending = access.quickly(second)
        assert ending is not None
        assert processes.process(peer.pid).uid == peer.uid
        second.close()
        wait_until("it has ended", lambda: not os.path.exists(f"/proc/{ending.pid}"))
        assert access.quickly(worker.callout()[0]) is not None


@contextmanager
def user_namespace() -> Iterator[list[str]]:
    """Yield what runs a program in another user namespace, in which users have the same numbers."""
    with subprocess.Popen(["unshare", "--user", "sleep", "infinity"]) as process:
        try:
            pid = process.pid
            wait_until("it is there", lambda: not processes.shares_namespace(pid, "user"))
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text("0 0 65536\n")
            yield ["nsenter", f"--user=/proc/{pid}/ns/user"]
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["PID", "user"])
def test_a_samba_in_another_namespace_is_refused(kind: str, tmp_path: Path) -> None:
    """As one in a container can be, though its processes are seen here."""
    reason = f"it is in another {kind} namespace"
    with ExitStack() as undo, Access(str(tmp_path), str(tmp_path)) as access:
        above = undo.enter_context(user_namespace()) if kind == "user" else _APART
        connection, _ = Worker(tmp_path, undo, above).callout()
        assert access.quickly(connection) is None
        with pytest.raises(RvssError, match=reason) as caught:
            access.slowly(connection)
        assert caught.value.problem is Problem.REFUSED
        assert reason in " ".join(access.lacking)
        assert _is_in_the_manual(caught.value)


def test_a_samba_with_other_locks_is_refused(worker: Worker, tmp_path: Path) -> None:
    with Access(str(tmp_path), str(tmp_path / "elsewhere")) as access:
        connection, _ = worker.callout()
        with pytest.raises(RvssError, match="has its locks elsewhere than in") as caught:
            access.slowly(connection)
        assert "has its locks elsewhere" in " ".join(access.lacking)
        assert _is_in_the_manual(caught.value, elsewhere=str(tmp_path / "elsewhere"))


def test_who_is_not_seen_is_refused_even_as_root(tmp_path: Path) -> None:
    """As by a daemon in a container, whose PID namespace has no number for the process."""
    with subprocess.Popen(
        [*_APART, "--mount-proc", sys.executable, "-c", _DAEMON, tmp_path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment({"PYTHONPATH": str(_ROOT)}),
        text=True,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "listens\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(str(tmp_path / "socket"))
            said = daemon.stdout.readline().strip()
        assert said.startswith("a process of user 0 in another PID namespace may not use the hook")
        assert said.replace("user 0", "user UID") in _manual()
