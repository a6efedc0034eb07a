"""What runs of managed backups write down of themselves, each definition's in two files.

    <state>/runs/<name>.json    how far its run has come; or how the last one ended
    <state>/runs/<name>.lock    locked by the process that does it

Contract: what has to be undone, or done in any case, is on the disk before it is begun; so whoever
finds a run cut off can see to the rest. One process at a time writes it: who has the lock.
"""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files, paths
from samba_rvss.samba.conf import Config

_SECONDS = 0.5  # longer than anybody looks whether there is a run

KEPT, FAILED, CANCELLED = "kept", "failed", "cancelled"
"""How a run ends; a run against another server is kept if that keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A run, as it is written down. Times are as `datetime.isoformat` has them.

    Attributes:
        began: when it began.
        stage: what it was doing last, for people.
        server: where; empty for our own Samba.
        set_id: Samba's id of its set; empty before there is one.
        copies: Samba's id of each share's shadow copy.
        owed: whether the `postexec` is still to be run.
        pre_failed: whether the `preexec` failed.
        finishing: whether the client deletes its copies, so that they become the backup.
        ended: when it ended; empty while it goes on, or if it was cut off.
        result: KEPT, FAILED or CANCELLED once it has ended.
        reason: why it was not kept; or what went wrong though it was.
        consistency: what was proven; empty if nothing was kept.
        succeeded: when the last run ended that was kept; empty if none was.
    """

    began: str
    stage: str = ""
    server: str = ""
    set_id: str = ""
    copies: Mapping[str, str] = field(default_factory=dict)
    owed: bool = False
    pre_failed: bool = False
    finishing: bool = False
    ended: str = ""
    result: str = ""
    reason: str = ""
    consistency: str = ""
    succeeded: str = ""


def directory(config: Config) -> str:
    """Return where the files are."""
    return f"{config.state_directory}/runs"


def read(config: Config, name: str) -> Trace | None:
    """Return what is written down of a definition's run; None if there was none.

    Raises:
        RvssError: STATE if it cannot be read.
    """
    path = f"{directory(config)}/{name}.json"
    try:
        with open(path, "rb") as file:
            given = json.loads(file.read())
        return _typed(given)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise RvssError(
            Problem.STATE,
            f"{path} cannot be read ({exc})",
            "see whether a shadow copy of that run is left, and remove it",
        ) from exc


def _typed(given: Any) -> Trace:
    trace = Trace(**given)
    empty = Trace(began="")
    for each in dataclasses.fields(Trace):
        if type(getattr(trace, each.name)) is not type(getattr(empty, each.name)):
            raise TypeError(each.name)
    for moment in filter(None, (trace.began, trace.ended, trace.succeeded)):
        datetime.fromisoformat(moment)
    return trace


def write(config: Config, name: str, trace: Trace) -> None:
    """Write it down, durably.

    Raises:
        RvssError: SYSTEM.
    """
    path = f"{directory(config)}/{name}.json"
    try:
        files.replace(path, json.dumps(dataclasses.asdict(trace)).encode())
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot write {path}: {exc.strerror}") from exc


def is_running(config: Config, name: str) -> bool:
    """Return whether a run of a definition goes on."""
    return files.is_locked(_lock_file(config, name))


@contextmanager
def alone(config: Config, name: str) -> Iterator[None]:
    """Be the only run of a definition for the time of a block.

    Raises:
        RvssError: BUSY if another one goes on; SYSTEM.
    """
    where = directory(config)
    try:
        paths.make(config.state_directory, 0o700)
        paths.make(where, 0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(_lock_file(config, name), flags, 0o600)
    except paths.Replaceable as exc:
        raise RvssError(Problem.SYSTEM, f"{where} is refused: {exc}", "chown or chmod it") from exc
    except OSError as exc:
        raise RvssError(Problem.SYSTEM, f"cannot make {exc.filename}: {exc.strerror}") from exc
    with files.opened(fd):
        if not files.lock(fd, fcntl.LOCK_EX, _SECONDS):
            raise RvssError(
                Problem.BUSY, f"a run of the backup {name} goes on already", "wait until it ends"
            )
        yield


def _lock_file(config: Config, name: str) -> str:
    return f"{directory(config)}/{name}.lock"
