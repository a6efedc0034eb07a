"""Holding an instance: the directories, the lock and the ledger of its one writer.

Place: below the daemon and below reconciling at boot, which both begin here. Contract: what is
opened here is closed by the caller's `ExitStack`.
"""

import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from samba_rvss.copies import advice, identity
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import living
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, mounttable, paths
from samba_rvss.ledger import Ledger
from samba_rvss.mounts import Mounts, covering, way
from samba_rvss.providers.all import providers
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import SambaProcess

_logger = logging.getLogger(__name__)


def take(
    config: Config,
    samba: SambaProcess,
    cleanup: ExitStack,
    reached: Callable[[str], None] = lambda point: None,
    *,
    hint: str = "give a second instance an 'rvss:state directory' of its own",
) -> Instance:
    """Become the one writer of an instance.

    Args:
        config: its smb.conf.
        samba: where python-samba runs.
        cleanup: closes the ledger and frees the lock.
        reached: for tests of crashes; see `Instance`.
        hint: what to do if a daemon runs already.

    Raises:
        RvssError: BUSY if another process is the writer, STATE or SYSTEM.
    """
    for warning in advice.of(config):
        _logger.warning("%s", warning)
    _make_directories(config)
    _wake(config.run_directory)
    locks = [_lock(config.state_directory, hint)]
    cleanup.callback(os.close, locks[0])
    # Sockets and mounts are the run directory's: whoever uses that is no second instance either.
    own = "give a second instance an 'rvss:run directory' of its own"
    locks.append(_lock(config.run_directory, own))
    cleanup.callback(os.close, locks[1])
    ledger = Ledger(config.ledger)
    cleanup.callback(ledger.close)
    mounts = Mounts(config.run_directory)
    mounts.prepare(cleanup)
    ours = identity.make(config)
    if not (ours.machine or ours.name):
        _logger.warning(
            "this machine has no id in /etc/machine-id, so a copy of %s on another machine would be"
            " taken for this one: set 'rvss:instance' in [global]",
            config.state_directory,
        )
    for lock in locks:
        living.announce(lock, ours)
    living.require_alone(ours)
    for sentence in mounts.take_over([copy.previous_path for copy in ledger.backups()]):
        _logger.error("%s", sentence)
    instance = Instance(
        config=config,
        ledger=ledger,
        mounts=mounts,
        providers=providers(ours, config.homes, reached),
        samba=samba,
        identity=ours,
        reached=reached,
    )
    make_previous(instance)
    return instance


def _wake(run: str) -> None:
    """Let go of who waits for a daemon that was killed, whether we can take its place or not."""
    try:
        COMMON.look(run, partial(covering.wake, run))
    except (RvssError, OSError) as exc:
        _logger.warning("%s/previous: who looks into a backup may wait: %s", run, exc)


def is_taken(config: Config) -> bool:
    """Return whether a process is the one writer of an instance, without disturbing anything.

    Connecting to a socket that systemd holds would start the daemon. Trying to take the lock could
    take it from a daemon that starts just now.
    """
    try:
        fd = os.open(_lock_file(config.state_directory), os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with files.opened(fd):
        # stat(2) on btrfs has another number for the device than the kernel's own lists.
        major, _, minor = mounttable.mount_of(fd).device.partition(":")
        wanted = f"{int(major):02x}:{int(minor):02x}:{os.fstat(fd).st_ino}"
    with open("/proc/locks", encoding="ascii") as locks:
        lines = [line.split() for line in locks]
    # proc_locks(5)
    return any(
        words[1] == "FLOCK" and words[3] == "WRITE" and words[5] == wanted for words in lines
    )


def make_previous(instance: Instance) -> None:
    """Make the Previous Versions directories, which shadow_copy2 wants to find."""
    for share in instance.config.shares:
        if share.previous_versions:
            try:
                gates = COMMON.look(share.path, partial(way.to, share.path))
                instance.mounts.make_previous(share.name, gates)
            except RvssError as exc:
                _logger.error("[%s] has no Previous Versions: %s", share.name, exc)


def _make_directories(config: Config) -> None:
    # Clients' users reach the hook's socket and the recovery mounts through the run directory.
    for path, mode in ((config.run_directory, 0o755), (config.state_directory, 0o700)):
        try:
            paths.make(path, mode)
        except paths.Replaceable as exc:
            raise RvssError(
                Problem.SYSTEM, f"{path} is refused: {exc}", "chown or chmod it"
            ) from exc
        except OSError as exc:
            raise RvssError(Problem.SYSTEM, f"cannot make {exc.filename}: {exc.strerror}") from exc


def _lock_file(directory: str) -> str:
    return f"{directory}/lock"


def _lock(directory: str, hint: str) -> int:
    """Take the lock of a directory; closing the descriptor, or dying, frees it."""
    path = _lock_file(directory)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RvssError(Problem.BUSY, f"another samba-rvss daemon uses {directory}", hint) from None
    return fd
