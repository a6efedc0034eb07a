"""Who may use the hook's socket: only what Samba's rpcd_fsrvp started, and root.

The socket is open to all, because the hook runs as the client's user. So the kernel is asked which
process connected, and /proc which processes started it; nothing that the caller says counts.
"""

import os
import socket
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.kernel.processes import Peer
from samba_rvss.samba import control

# rpcd_fsrvp, sh, and once more sh if the hook is wrapped in a script: one to spare
_PARENTS = 4


@dataclass(frozen=True, slots=True)
class _Link:
    child: int
    parent: int


def authorise(connection: socket.socket) -> Peer:
    """Return the process that connected, if it may use the hook.

    Raises:
        RvssError: REFUSED, with the reason.
    """
    peer = processes.peer_credentials(connection)
    if peer.uid == 0:
        return peer
    if peer.pid == 0:
        raise RvssError(
            Problem.REFUSED,
            f"a process of user {peer.uid} in another PID namespace may not use the hook",
            "let Samba and samba-rvss share one",
        )
    try:
        # By the pidfd it is noticed if the process ends and its pid is used again.
        pidfd = processes.peer_pidfd(connection, peer.pid)
    except OSError as exc:
        raise _refusal(peer, "it has ended already") from exc
    try:
        if not _started_by_worker(peer.pid) or processes.has_ended(pidfd):
            raise _refusal(peer, f"no {control.WORKER} of root started it")
    except OSError as exc:
        raise _refusal(peer, f"its parents cannot be read ({exc.strerror})") from exc
    finally:
        os.close(pidfd)
    return peer


def _started_by_worker(pid: int) -> bool:
    links: list[_Link] = []
    child = processes.process(pid)
    for _ in range(_PARENTS):
        if child.parent <= 1:
            return False
        parent = processes.process(child.parent)
        links.append(_Link(child.pid, parent.pid))
        if control.is_worker(parent):
            # If a parent ended meanwhile and its pid was used again, its child has another parent
            # now: so the chain must still be the same.
            return all(processes.process(link.child).parent == link.parent for link in links)
        child = parent
    return False


def _refusal(peer: Peer, reason: str) -> RvssError:
    return RvssError(
        Problem.REFUSED,
        f"process {peer.pid} of user {peer.uid} may not use the hook: {reason}",
    )
