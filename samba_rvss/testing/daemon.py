"""A samba-rvss daemon of its own beside a private Samba.

Place: a rig for tests and for the demonstration. Contract: entering makes its directories below
the private Samba's, puts the hook where every user can run it, and points smb.conf's ``rvss:``
options there; leaving ends the daemon and takes its recovery mounts away. What it made on file
systems stays for the test to look at.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import mounting, mounttable
from samba_rvss.run import environment
from samba_rvss.testing.example import share_section
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.undoing import Undoing

_SECONDS = 120.0  # an emulated machine may need as long
_PACKAGE = Path(__file__).resolve().parent.parent

# The daemon as it is, but for what it does where a test wants it to end (copies.instance.POINTS).
_CRASHING = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
from samba_rvss.cli.daemon import log_to_journal_or_stderr
from samba_rvss.daemon.service import Daemon
wanted, _, count = sys.argv[3].partition("*")
left = int(count or 1)
def reached(point):
    global left
    left -= point == wanted
    if not left:
        print("reached", sys.argv[3], file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
log_to_journal_or_stderr(debug=False)
asyncio.run(Daemon(sys.argv[2], reached).run())
"""

# The daemon as it is, but that it tells what its event loop does that can wait for a disk, from the
# first shadow copy on: Python's audit events say that a file, a directory or a program is opened or
# changed, and its profiler that SQLite, stat(2) and their like are called. What reads /proc, which
# waits for no disk, is let off; system calls by ctypes are not heard.
_WATCHED = """
import asyncio, os, sqlite3, sys, threading, time, traceback
sys.path.insert(0, sys.argv[1])
from samba_rvss.cli.daemon import log_to_journal_or_stderr
from samba_rvss.daemon.service import Daemon
kinds = ("open", "os.", "shutil.", "sqlite3.", "subprocess.", "fcntl.")
calls = {os.stat, os.lstat, os.statvfs, os.fsync, os.readlink, time.sleep}
loop, armed, busy = threading.get_ident(), False, False
def reached(point):
    global armed
    armed = True
def tell(what, frame):
    global busy
    busy = True
    stack = traceback.extract_stack(frame)
    files = [entry.filename for entry in stack]
    if not any(name.startswith("<frozen importlib") for name in files[-8:]):
        where = " < ".join(f"{entry.name}:{entry.lineno}" for entry in reversed(stack[-4:]))
        print("in the event loop:", what, where, file=sys.stderr, flush=True)
    busy = False
def hear(event, given):
    if armed and not busy and threading.get_ident() == loop and event.startswith(kinds):
        if not str(given[0]).startswith("/proc/"):
            tell((event, given), sys._getframe(1))
def watch(frame, event, function):
    if event != "c_call" or not armed or busy:
        return
    owner = getattr(function, "__self__", None)
    ours = isinstance(owner, (sqlite3.Connection, sqlite3.Cursor))
    if ours or (owner is os.stat.__self__ or owner is time.sleep.__self__) and function in calls:
        if not frame.f_code.co_filename.endswith("kernel/processes.py"):
            tell(function, frame)
log_to_journal_or_stderr(debug=False)
sys.addaudithook(hear)
sys.setprofile(watch)
asyncio.run(Daemon(sys.argv[2], reached).run())
"""


class RvssDaemon(Undoing):
    """A context manager: one instance of samba-rvss for a private Samba.

    Args:
        samba: the Samba that it serves.
        options: more ``rvss:`` options of [global], without the prefix.

    Attributes:
        run_directory: its sockets and recovery mounts.
        state_directory: its ledger.
        hook: the command that smb.conf is to call, without the verb.
    """

    def __init__(self, samba: PrivateSmbd, *, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._samba = samba
        self._options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None
        home = samba.directory / "samba-rvss"
        self.run_directory = home / "run"
        self.state_directory = home / "state"
        self._log = home / "log"
        self.hook = f"{home / 'hook'} -S {self.run_directory / 'hook.sock'}"

    def _set_up(self) -> None:
        home = self._log.parent
        home.mkdir(mode=0o755)
        shutil.copy(_PACKAGE / "hook.py", home / "hook")
        (home / "hook").chmod(0o755)
        options = {
            "run directory": str(self.run_directory),
            "state directory": str(self.state_directory),
            **self._options,
        }
        self._samba.set_options({f"rvss:{name}": text for name, text in options.items()})
        self._undo.callback(self.unmount)
        self._undo.callback(self.stop)

    @property
    def pid(self) -> int:
        """The daemon's process id, 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the daemon lives."""
        return self._process is not None and self._process.poll() is None

    def share(self, name: str, path: str | Path, options: Mapping[str, str] | None = None) -> str:
        """Return the section of a share whose hook talks to this daemon.

        Args:
            name: the share's name.
            path: its directory.
            options: more options of the share; they win.
        """
        more = "".join(f"    {key} = {text}\n" for key, text in (options or {}).items())
        return share_section(name, str(path), self.hook) + more

    def start(
        self, crash_at: str = "", *, watched: bool = False, above: Sequence[str] = ()
    ) -> None:
        """Start the daemon, and return when it serves.

        Args:
            crash_at: one of `copies.instance.POINTS`, at which it kills itself; with "*2", when
                it gets there for the second time. It logs "reached" and the point.
            watched: whether it logs "in the event loop" for whatever could block there.
            above: a program that becomes the daemon, with its arguments: setpriv(1), for example.

        Raises:
            RvssError: NO_DAEMON, with the end of its log, if it does not serve in time.
        """
        root = str(_PACKAGE.parent)
        if crash_at:
            argv = ["-c", _CRASHING, root, str(self._samba.configuration), crash_at]
        elif watched:
            argv = ["-c", _WATCHED, root, str(self._samba.configuration)]
        else:
            argv = ["-m", "samba_rvss", "-s", str(self._samba.configuration), "daemon"]
        before = self._socket()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*above, sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment({"PYTHONPATH": root}),
            )
        deadline = time.monotonic() + _SECONDS
        # A program that the daemon before was just starting when it was killed may have its socket.
        while self._socket() == before or not self._serves():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise RvssError(
                    Problem.NO_DAEMON, f"the daemon does not serve: {self.log()[-1000:]}"
                )
            time.sleep(0.01)

    def _socket(self) -> tuple[int, int] | None:
        """Return what tells the hook's socket from an earlier one; None if there is none."""
        try:
            status = os.lstat(self.run_directory / "hook.sock")
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_ctime_ns

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(str(self.run_directory / "hook.sock"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def stop(self) -> None:
        """End the daemon with SIGTERM and wait for it; nothing to do if it does not run.

        Raises:
            RvssError: BUSY if it had to be killed, INTERNAL if it ended with an error.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            status = process.wait(_SECONDS)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            process.wait()
            raise RvssError(Problem.BUSY, f"the daemon did not end in {_SECONDS:g} s") from exc
        if status not in (0, -signal.SIGKILL):
            raise RvssError(
                Problem.INTERNAL, f"the daemon ended with {status}: {self.log()[-1000:]}"
            )

    def kill(self) -> None:
        """End the daemon with SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def wait_until_dead(self) -> None:
        """Wait for a daemon that kills itself.

        Raises:
            subprocess.TimeoutExpired: if it does not in time.
        """
        if self._process is not None:
            self._process.wait(_SECONDS)
            self._process = None

    def unmount(self) -> None:
        """Take away every mount below the run directory, and the run directory's own."""
        prefix = f"{self.run_directory}/"
        below = {target for target in mounttable.mount_targets() if target.startswith(prefix)}
        # What is mounted inside another goes first: it would vanish with it.
        for target in (*sorted(below, reverse=True), str(self.run_directory)):
            with suppress(OSError):  # nothing is left there
                while True:
                    mounting.umount(target)

    def log(self) -> str:
        """Return what the daemon has logged."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def memory(self) -> int:
        """Return the resident memory of the daemon and its children, in bytes.

        What they share counts once (smaps_rollup's Pss, proc(5)).
        """
        total = 0
        for pid in (self.pid, *_children(self.pid)):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def descriptors(self) -> int:
        """Return how many descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def _children(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [int(word) for word in words]
