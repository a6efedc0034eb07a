"""A Samba that runs: messages to its smbds, who is connected, and its rpcd_fsrvp workers.

By smbcontrol(1), smbstatus(1) and /proc.
"""

import json
import os
import re
import signal
import time
from contextlib import suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, processes
from samba_rvss.model import Worker
from samba_rvss.run import ToolError, run

WORKER, HOST, SERVER = "rpcd_fsrvp", "samba-dcerpcd", "smbd"
_PIPE = "/np/fssagentrpc"

SECONDS = 10.0
"""How long smbcontrol and smbstatus may take, and a worker to end, in seconds."""


def reload_config(configfile: str) -> bool:
    """Tell every smbd to read its configuration again.

    Returns:
        False if no smbd runs.

    Raises:
        RvssError: SAMBA if the message cannot be sent.
    """
    return _smbcontrol(configfile, "smbd", "reload-config") is not None


def close_share(configfile: str, share: str) -> bool:
    """Tell every smbd to drop its connections to a share, with all files open through them.

    Returns:
        False if no smbd runs.

    Raises:
        RvssError: SAMBA if the message cannot be sent.
    """
    return _smbcontrol(configfile, "smbd", "close-share", share) is not None


def worker_pids(lock_directory: str) -> list[int]:
    """Return the process ids of the rpcd_fsrvp workers of one Samba.

    Raises:
        RvssError: SAMBA, as `pids_of`.
    """
    return pids_of(WORKER, lock_directory)


def pids_of(program: str, lock_directory: str) -> list[int]:
    """Return the process ids of a program of one Samba's, run by root and belonging to root.

    Raises:
        RvssError: SAMBA if one may be it, and cannot be looked at.
    """
    found = []
    for pid in processes.pids():
        try:
            if (
                processes.command(pid) == program
                and has_locks(pid, lock_directory)
                and _is_called(processes.process(pid), program)
                and processes.executable_uid(pid) == 0
            ):
                found.append(pid)
        except PermissionError as exc:
            raise RvssError(
                Problem.SAMBA,
                f"whether process {pid} is {program} of this Samba cannot be told ({exc.strerror})",
                "samba-rvss needs the capability CAP_SYS_PTRACE",
            ) from exc
        except OSError:  # it has ended
            continue
    return sorted(found)


def has_locks(pid: int, lock_directory: str) -> bool:
    """Return whether a process of Samba is one of the Samba that has its locks in a directory.

    Each has a lock file named after it there (lib/messages_dgm.c, messaging_dgm_lockfile_create()).
    """
    return os.path.exists(f"{lock_directory}/msg.lock/{pid}")


def is_worker(process: processes.Process) -> bool:
    """Return whether a process is an rpcd_fsrvp of root; this can wait for a file system.

    Raises:
        OSError: if the process has ended.
    """
    return is_called_worker(process) and processes.executable_uid(process.pid) == 0


def is_called_worker(process: processes.Process) -> bool:
    """Return whether a process of root has the name of rpcd_fsrvp.

    While it acts for a client, a worker's real and effective uid are the client's; its saved uid
    stays root's (lib/util/setid.c and source3/lib/util_sec.c, set_effective_uid()), which no
    user can give to a process of his own. The file of a worker that outlived an upgrade is
    "… (deleted)".
    """
    return _is_called(process, WORKER)


def _is_called(process: processes.Process, program: str) -> bool:
    name = os.path.basename(process.executable).removesuffix(" (deleted)")
    return name == program and process.saved_uid == 0


def workers(configfile: str, lock_directory: str) -> tuple[Worker, ...]:
    """Return the living rpcd_fsrvp workers, with how many connections each serves.

    Raises:
        RvssError: SAMBA if samba-dcerpcd does not answer.
    """
    pids = worker_pids(lock_directory)
    if not pids:
        return ()
    # source3/rpc_server/rpc_host.c, rpc_host_dump_status()
    said = _smbcontrol(configfile, "samba-dcerpcd", "rpc-dump-status", preferred=False)
    counts = connections(said or "")
    return tuple(
        Worker(
            pid=pid,
            clients=counts.get(pid),
            started=processes.started(pid),
        )
        for pid in pids
    )


def connections(said: str) -> dict[int, int]:
    """Return how many connections each rpcd_fsrvp serves, by its pid.

    Args:
        said: samba-dcerpcd's answer to rpc-dump-status. Samba 4.17 calls the connections clients;
            later versions count associations as well.
    """
    section = re.search(rf"/{WORKER}: .*\n((?: .*\n?)*)", said)
    lines = section[1] if section else ""
    found = re.findall(r"pid=(\d+),.* num_(?:clients|connections)=(\d+)", lines)
    return {int(pid): int(count) for pid, count in found}


def pipes(pid: int) -> frozenset[int] | None:
    """Return the connections that an rpcd_fsrvp serves, by numbers that no other has meanwhile.

    It is None if they cannot be told.

    A client has one for each time that it has opened the named pipe: it comes from the smbd that
    serves the client (source3/rpc_server/rpc_host.c, rpc_server_get_endpoints(), "np/…").
    """
    try:
        found = processes.unix_connections(pid)
    except OSError:  # it has ended
        return None
    return frozenset(number for number, path in found.items() if path.lower().endswith(_PIPE))


def end_worker(pid: int, lock_directory: str, *, idle: bool = False) -> None:
    """End an rpcd_fsrvp; the next client gets a new one, which reads srv_fss.tdb anew.

    Args:
        pid: its process id; it may have ended.
        lock_directory: of the Samba that it belongs to.
        idle: whether it is to end only if no client is connected to it.

    Raises:
        RvssError: BUSY if it has a client, or may have one, or has not ended within `SECONDS`.
    """
    with suppress(ProcessLookupError), files.opened(os.pidfd_open(pid)) as pidfd:
        if pid not in worker_pids(lock_directory):
            return
        # samba-dcerpcd was asked who is connected: much has happened since its answer.
        if idle and pipes(pid) != frozenset() and not processes.has_ended(pidfd):
            raise RvssError(Problem.BUSY, "a client has connected to rpcd_fsrvp just now")
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while not processes.has_ended(pidfd):
            if time.monotonic() > deadline:
                raise RvssError(Problem.BUSY, f"rpcd_fsrvp {pid} does not end on SIGTERM")
            time.sleep(0.01)


def connected_shares(configfile: str) -> frozenset[str]:
    """Return the shares that somebody is connected to, as Samba spells them.

    Raises:
        RvssError: SAMBA if smbstatus(1) does not tell.
    """
    return frozenset(clients(configfile))


def clients(configfile: str) -> dict[str, tuple[str, ...]]:
    """Return the machines that are connected to shares, by the shares as Samba spells them.

    Raises:
        RvssError: SAMBA if smbstatus(1) does not tell.
    """
    try:
        said = run(
            ["smbstatus", f"--configfile={configfile}", "--shares", "--json"], timeout=SECONDS
        )
        found: dict[str, set[str]] = {}
        for connection in json.loads(said).get("tcons", {}).values():
            machine = str(connection.get("machine", ""))
            found.setdefault(str(connection["service"]), set()).add(machine)
    except (RvssError, ValueError, KeyError, AttributeError) as exc:
        raise RvssError(
            Problem.SAMBA, "smbstatus does not tell who is connected", str(exc)
        ) from exc
    return {share: tuple(sorted(machines)) for share, machines in found.items()}


def _smbcontrol(
    configfile: str, destination: str, *message: str, preferred: bool = True
) -> str | None:
    """Send a message and return what came back, or None if the destination does not run."""
    try:
        # A share's name may begin with a hyphen.
        return run(
            ["smbcontrol", f"--configfile={configfile}", "--", destination, *message],
            timeout=SECONDS,
            preferred=preferred,
        )
    except RvssError as exc:
        # source3/utils/smbcontrol.c, parse_dest()
        if isinstance(exc, ToolError) and "Can't find pid" in exc.said:
            return None
        raise RvssError(
            Problem.SAMBA, f"{destination} does not take '{' '.join(message)}'", str(exc)
        ) from exc
