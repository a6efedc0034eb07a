"""Who may use the hook's socket: only what Samba's rpcd_fsrvp started, and root.

The socket is open to all, because the hook runs as the client's user. So the kernel is asked which
process connected, and /proc which processes started it; nothing that the caller says counts. Nor
is anybody let in who would get a path that he cannot see: that of a recovery mount in a mount
namespace which does not follow ours, where Samba would find an empty directory. Nor is a Samba that
we could not look after, because its processes have other numbers here, or other databases.
"""

import errno
import os
import socket
from dataclasses import dataclass, replace
from threading import Lock

from samba_rvss.closing import Closing
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable, processes
from samba_rvss.kernel.processes import Peer, Process
from samba_rvss.samba import control

# rpcd_fsrvp, sh, and once more sh if the hook is wrapped in a script: one to spare
_PARENTS = 4
_NOT_PERMITTED = (errno.EACCES, errno.EPERM)
_PTRACE = "give samba-rvss the capability CAP_SYS_PTRACE"
_TOGETHER = "let Samba and samba-rvss share one"


@dataclass(frozen=True, slots=True)
class _Link:
    child: int
    parent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A worker of Samba's: its pid, and what tells it from all that ever have that."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class _Callout:
    peer: Peer
    pidfd: int

    def is_at_work(self, worker: int) -> bool:
        """Return whether it has not ended, and a worker has to wait for it.

        A process whose parents have ended can go on for ever, and no worker waits for it.
        """
        if processes.has_ended(self.pidfd):
            return False
        try:
            found = _worker_of(self.peer)
        except OSError:
            return False
        return found is not None and found.pid == worker


class Access(Closing):
    """Who may use the hook's socket of one instance.

    Args:
        run_directory: where its recovery mounts are.
        lock_directory: where its Samba has its locks.
    """

    def __init__(self, run_directory: str, lock_directory: str) -> None:
        self._run = run_directory
        self._locks = lock_directory
        self._namespace = processes.mount_namespace(os.getpid())
        self._lock = Lock()
        self._started: dict[int, float] = {}  # when workers were, whose programs are root's
        self._callouts: dict[int, _Callout] = {}  # the last one of each worker
        self._refusal = ""  # why Samba was refused, until it is not

    @property
    def lacking(self) -> tuple[str, ...]:
        """A sentence on what keeps everybody from being served; none if nothing is known to."""
        if not processes.is_capable(processes.CAP_SYS_PTRACE):
            line = "every request is refused, because it cannot be seen which process started which"
            how = "--cap-add=SYS_PTRACE for a container, CapabilityBoundingSet= for a service"
            return (f"{line}: {_PTRACE} ({how})",)
        return (f"Samba's requests are refused: {self._refusal}",) if self._refusal else ()

    def close(self) -> None:
        """See `Closing`."""
        with self._lock:
            while self._callouts:
                os.close(self._callouts.popitem()[1].pidfd)

    def quickly(self, connection: socket.socket) -> Peer | None:
        """Return the process that connected, if it may use the hook; it waits for nobody.

        Returns:
            None if `slowly` has to be asked.

        Raises:
            RvssError: REFUSED, with the reason.
        """
        return self._admit(connection, slowly=False)

    def slowly(self, connection: socket.socket) -> Peer:
        """Return the same, having looked at a program on whatever file system it is.

        Raises:
            RvssError: REFUSED, with the reason.
        """
        peer = self._admit(connection, slowly=True)
        if peer is None:
            raise AssertionError(connection)
        return peer

    def _admit(self, connection: socket.socket, *, slowly: bool) -> Peer | None:
        peer = processes.peer_credentials(connection)
        if peer.pid == 0:
            refusal = RvssError(
                Problem.REFUSED,
                f"a process of user {peer.uid} in another PID namespace may not use the hook",
                _TOGETHER,
            )
            self._refusal = refusal.line()
            raise refusal
        try:
            # By the pidfd it is noticed if the process ends and its pid is used again.
            pidfd = processes.peer_pidfd(connection, peer.pid)
        except ProcessLookupError as exc:
            raise _refusal(peer, "it has ended already") from exc
        except OSError as exc:
            raise _refusal(peer, f"it cannot be looked at ({exc.strerror})") from exc
        with files.opened(pidfd):
            try:
                worker = self._worker(peer, slowly=slowly) if peer.uid else _of_root(peer)
                if worker is None or not self._sees_mounts(peer, slowly=slowly):
                    return None
                if processes.has_ended(pidfd):
                    raise _refusal(peer, "it has ended already")
                if peer.uid:
                    self._begin(peer, worker.pid, pidfd)
            except OSError as exc:
                refusal = _unreadable(peer, exc)
                if exc.errno in _NOT_PERMITTED:
                    self._refusal = refusal.line()
                raise refusal from exc
        self._refusal = ""
        return replace(peer, worker=worker.name)

    def _worker(self, peer: Peer, *, slowly: bool) -> "_Worker | None":
        """Return the worker that started a process; None if that takes longer.

        Raises:
            RvssError: REFUSED if none did.
            OSError: if it cannot be told.
        """
        found = _worker_of(peer)
        if found is None:
            # root there may be somebody else here
            raise _elsewhere(peer, peer.pid) or _refusal(
                peer, f"no {control.WORKER} of root started it"
            )
        started = processes.started(found.pid)
        worker = _Worker(pid=found.pid, name=f"{found.pid}@{started}")
        if self._started.get(found.pid) == started:
            return worker
        if not slowly:
            return None
        if not control.is_worker(found):
            raise _refusal(
                peer, f"the program of the {control.WORKER} that started it is not root's"
            )
        self._look_for(found.pid, peer)
        with self._lock:
            living = {pid: at for pid, at in self._started.items() if processes.started(pid) == at}
            self._started = {**living, found.pid: started}
        return worker

    def _look_for(self, worker: int, peer: Peer) -> None:
        """Do nothing if a worker is one of our Samba's, known here by the number that it has there.

        Raises:
            RvssError: REFUSED if it is not: what Samba does would not be noticed.
            OSError: if it cannot be told.
        """
        refusal = _elsewhere(peer, worker)
        if refusal is None and not control.has_locks(worker, self._locks):
            refusal = _refusal(
                peer,
                f"the Samba that started it has its locks elsewhere than in {self._locks}, and what"
                " it records would not be seen",
                "let Samba and samba-rvss have one smb.conf, and its directories in common",
            )
        if refusal is not None:
            self._refusal = refusal.line()
            raise refusal

    def _sees_mounts(self, peer: Peer, *, slowly: bool) -> bool:
        """Return whether a process sees our recovery mounts; False if that takes longer to tell.

        Raises:
            RvssError: REFUSED if it does not.
            OSError: if it cannot be told.
        """
        if processes.mount_namespace(peer.pid) == self._namespace:
            return True
        theirs = mounttable.read_mountinfo(peer.pid) if slowly else b""
        if slowly and not mounttable.follows(self._run, "exposed", theirs):
            refusal = RvssError(
                Problem.REFUSED,
                f"process {peer.pid} of user {peer.uid} is in another mount namespace, and what is"
                f" mounted below {self._run} does not appear there: a backup would be empty",
                f"let Samba have {self._run} from samba-rvss's mount namespace, as a slave mount",
            )
            self._refusal = refusal.line()
            raise refusal
        return slowly

    def _begin(self, peer: Peer, worker: int, pidfd: int) -> None:
        """Note a callout of a worker, which has one at a time.

        Raises:
            RvssError: REFUSED if another one is not at its end.
            OSError: there is no descriptor left for it.
        """
        with self._lock:
            for other, last in list(self._callouts.items()):
                if not last.is_at_work(other):
                    os.close(self._callouts.pop(other).pidfd)
            if worker in self._callouts:
                raise _refusal(peer, f"another callout of {control.WORKER} {worker} is at work")
            self._callouts[worker] = _Callout(peer, os.dup(pidfd))


def _worker_of(peer: Peer) -> Process | None:
    """Return the process that is called a worker, and root's, among those that started another."""
    links: list[_Link] = []
    child = processes.process(peer.pid)
    if child.uid != peer.uid:
        return None
    for _ in range(_PARENTS):
        if child.parent <= 1:
            return None
        parent = processes.process(child.parent)
        links.append(_Link(child.pid, parent.pid))
        if control.is_called_worker(parent):
            # If a parent ended meanwhile and its pid was used again, its child has another parent
            # now: so the chain must still be the same.
            if all(processes.process(link.child).parent == link.parent for link in links):
                return parent
            return None
        child = parent
    return None


def _of_root(peer: Peer) -> _Worker:
    """Return the worker that started a process of root, which need not have one."""
    try:
        found = _worker_of(peer)
        if found is not None:
            return _Worker(pid=found.pid, name=f"{found.pid}@{processes.started(found.pid)}")
    except OSError:
        pass
    return _Worker(pid=0, name="")


def _refusal(peer: Peer, reason: str, hint: str = "") -> RvssError:
    return RvssError(
        Problem.REFUSED,
        f"process {peer.pid} of user {peer.uid} may not use the hook: {reason}",
        hint,
    )


def _elsewhere(peer: Peer, pid: int) -> RvssError | None:
    """Return the refusal of who is in a namespace in which users or processes have other numbers.

    Raises:
        OSError: if it cannot be told.
    """
    for kind, name in (("pid", "PID"), ("user", "user")):
        if not processes.shares_namespace(pid, kind):
            return _refusal(peer, f"it is in another {name} namespace", _TOGETHER)
    return None


def _unreadable(peer: Peer, exc: OSError) -> RvssError:
    hint = ""
    if exc.errno in _NOT_PERMITTED:
        hint = _PTRACE
    return _refusal(peer, f"its parents cannot be read ({exc.strerror})", hint)
