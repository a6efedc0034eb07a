"""One instance while something runs it: directories, lock, sockets, and the verbs on its copies.

Place: below the daemon and below reconciling at boot, which begin alike. Contract: what is opened
here goes onto the caller's `ExitStack`.
"""

import fcntl
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.lifecycle import Lifecycle
from samba_rvss.mounts import Mounts
from samba_rvss.providers.all import providers
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import SambaProcess
from systemd import daemon as systemd

_logger = logging.getLogger(__name__)

_BACKLOG = 256


def take(
    config: Config,
    samba: SambaProcess,
    cleanup: ExitStack,
    reached: Callable[[str], None] = lambda point: None,
    *,
    hint: str = "give a second instance an 'rvss:state directory' of its own",
) -> Lifecycle:
    """Become the one writer of an instance, and return the verbs on its shadow copies.

    Args:
        config: its smb.conf.
        samba: where python-samba runs.
        cleanup: gives the instance back.
        reached: for tests of crashes; see `Lifecycle`.
        hint: what to do if a daemon runs already.

    Raises:
        RvssError: BUSY if somebody else is, STATE or SYSTEM.
    """
    for warning in config.warnings:
        _logger.warning("%s", warning)
    _make_directories(config)
    cleanup.callback(os.close, _lock(config, hint))
    ledger = Ledger(config.ledger)
    cleanup.callback(ledger.close)
    lifecycle = Lifecycle(
        config,
        ledger,
        providers(config.run_directory),
        Mounts(config.run_directory),
        samba,
        reached,
    )
    make_previous(lifecycle)
    return lifecycle


def is_taken(config: Config) -> bool:
    """Return whether somebody is an instance's one writer, without disturbing him.

    A connection to a socket that systemd holds would start the daemon; trying the lock could keep
    one that starts just now from getting it.
    """
    try:
        inode = os.stat(_lock_file(config)).st_ino
        with open("/proc/locks", encoding="ascii") as locks:
            lines = [line.split() for line in locks]
    except FileNotFoundError:
        return False
    # proc_locks(5); the device is not compared, because stat(2) tells another one on btrfs
    return any(
        words[1] == "FLOCK" and words[3] == "WRITE" and words[5].endswith(f":{inode}")
        for words in lines
    )


def make_previous(lifecycle: Lifecycle) -> None:
    """Make the directories that shadow_copy2 wants to find."""
    for share in lifecycle.config.shares:
        if share.previous_versions:
            try:
                lifecycle.mounts.make_previous(share.name)
            except RvssError as exc:
                _logger.error("[%s] has no Previous Versions: %s", share.name, exc)


def _make_directories(config: Config) -> None:
    try:
        os.makedirs(config.run_directory, exist_ok=True)
        # Clients' users reach the hook's socket and the recovery mounts through it.
        os.chmod(config.run_directory, 0o755)  # noqa: S103
        os.makedirs(config.state_directory, exist_ok=True)
        os.chmod(config.state_directory, 0o700)
        for path in (config.run_directory, config.state_directory):
            if os.stat(path).st_uid != 0:
                raise RvssError(Problem.SYSTEM, f"{path} does not belong to root", "chown it")
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot make {exc.filename}: {exc.strerror}") from exc


def _lock_file(config: Config) -> str:
    return f"{config.state_directory}/lock"


def _lock(config: Config, hint: str) -> int:
    """Make sure that one daemon runs for a state directory; the lock ends with it."""
    path = _lock_file(config)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RvssError(
            Problem.BUSY,
            f"another samba-rvss daemon uses {config.state_directory}",
            hint,
        ) from None
    return fd


def listen(config: Config, cleanup: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return both listening sockets, the hook's first: systemd's if it gave them, else made here.

    Raises:
        RvssError: SYSTEM.
    """
    given = systemd.listen_fds_with_names() if os.environ.get("LISTEN_FDS") else {}
    listeners = []
    for path, mode in ((config.hook_socket, 0o666), (config.admin_socket, 0o600)):
        fd = next((fd for fd in given if _bound_to(fd, path)), None)
        if fd is not None:
            listener = socket.socket(fileno=fd)
        else:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with suppress(FileNotFoundError):
                os.unlink(path)
            try:
                listener.bind(path)
                os.chmod(path, mode)
            except OSError as exc:
                listener.close()
                raise RvssError(
                    Problem.SYSTEM, f"cannot listen at {path}: {exc.strerror or exc}"
                ) from exc
            cleanup.callback(_unlink, path)
            listener.listen(_BACKLOG)
        listener.settimeout(0)
        cleanup.callback(listener.close)
        listeners.append(listener)
    return listeners[0], listeners[1]


def _bound_to(fd: int, path: str) -> bool:
    with socket.socket(fileno=os.dup(fd)) as candidate:
        return candidate.family == socket.AF_UNIX and candidate.getsockname() == path


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
