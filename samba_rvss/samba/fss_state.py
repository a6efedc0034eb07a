"""srv_fss.tdb, Samba's file of shadow copy sets: reading it, and removing sets from it.

Keys and values: Samba, source3/rpc_server/fss/srv_fss_state.c and librpc/idl/fsrvp_state.idl.
Samba first wipes the file, and then stores everything in one transaction (fss_state_store()). So a
reading is accepted only if it was made under a read lock and the counts in it agree; otherwise it
is None, "cannot tell now". A reading never waits for a lock.
"""

import logging
import os
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import tdb

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import SambaCopy, SambaSet, SambaState, SetState
from samba_rvss.samba import control, tdb_file

_logger = logging.getLogger(__name__)

# Samba writes for milliseconds.
_SETTLE_SECONDS = 5.0
_SETTLE_PAUSE = 0.05


class _Reader:
    """The few NDR types of fsrvp_state.idl: UTF-8 strings with a NUL, and aligned 32-bit words."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def string(self) -> str:
        end = self._data.index(b"\0", self._offset)
        text = self._data[self._offset : end].decode("utf-8", "backslashreplace")
        self._offset = end + 1
        return text

    def word(self) -> int:
        self._offset = (self._offset + 3) & ~3
        (value,) = struct.unpack_from("<I", self._data, self._offset)
        self._offset += 4
        return int(value)


def parse(records: dict[bytes, bytes]) -> SambaState | None:
    """Turn the records of the file into a state, or None if they do not agree."""
    if b"sc_set_count\0" not in records:
        return None
    sets: dict[str, tuple[SetState, int, int]] = {}
    # By the key of the set or copy that each belongs to: a file may hold thousands.
    copies: dict[str, list[tuple[str, str, str, str, int, int]]] = {}
    maps: dict[str, list[tuple[str, str, bool]]] = {}
    try:
        (expected,) = struct.unpack_from("<I", records[b"sc_set_count\0"])
        for raw, value in records.items():
            key = raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
            parts = key.split("/", 5)
            reader = _Reader(value)
            if parts[0] != "sc_set":
                continue
            if len(parts) == 2:
                reader.string()
                state = SetState(reader.word())
                sets[key] = (state, reader.word(), reader.word())
            elif len(parts) == 4 and parts[2] == "sc":
                reader.string()
                volume, path = reader.string(), reader.string()
                copy = (key, parts[3], volume, path, reader.word(), reader.word())
                copies.setdefault("/".join(parts[:2]), []).append(copy)
            elif len(parts) == 6 and parts[4] == "smap":
                share, exposed = reader.string(), reader.string()
                reader.string()
                mapping = (share, exposed, bool(reader.word()))
                maps.setdefault("/".join(parts[:4]), []).append(mapping)
    except (ValueError, struct.error):
        return None
    if len(sets) != expected:
        return None
    found = []
    for set_key, (state, context, count) in sets.items():
        members = copies.get(set_key, [])
        if len(members) != count:
            return None
        for key, copy_id, volume, path, stamp, map_count in members:
            mapped = maps.get(key, [])
            if len(mapped) != map_count:
                return None
            share, exposed, is_exposed = mapped[0] if mapped else ("", "", False)
            found.append(
                SambaCopy(
                    set_id=set_key.removeprefix("sc_set/"),
                    copy_id=copy_id,
                    share=share,
                    share_path=volume,
                    path=path,
                    exposed_share=exposed,
                    is_exposed=is_exposed,
                    state=state,
                    context=context,
                    created=datetime.fromtimestamp(stamp, UTC),
                    set_size=count,
                )
            )
    return SambaState(
        sets=tuple(
            SambaSet(id=key.removeprefix("sc_set/"), state=state, context=context)
            for key, (state, context, _) in sets.items()
        ),
        copies=tuple(found),
    )


def read(path: str) -> SambaState | None:
    """Read srv_fss.tdb.

    Returns:
        The state; an empty one if there is no such file; None if Samba is writing it just now.
        An empty state proves something only when it was read twice, seconds apart.

    Raises:
        RvssError: SAMBA if the file is there but cannot be read.
    """
    return _judged(path, partial(tdb_file.read, path))[0]


class HeldFile:
    """srv_fss.tdb, held open: for who must be able to read it when there is no descriptor left.

    Whoever makes it closes it.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = tdb_file.HeldFile(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> SambaState | None:
        """Return what `read` returns.

        Raises:
            RvssError: as `read`.
        """
        return _judged(self._path, self._file.read)[0]

    def written(self) -> datetime | None:
        """Return when it was written last, maybe some milliseconds earlier; None if that fails.

        tdb sets the time of the file with each transaction (lib/tdb/common/transaction.c,
        _tdb_transaction_commit()); its writer's client hears of it afterwards.
        """
        try:
            return datetime.fromtimestamp(os.stat(self._path).st_mtime, UTC)
        except OSError:
            return None


def _judged(
    path: str, read_records: Callable[[], dict[bytes, bytes] | None]
) -> tuple[SambaState | None, bool]:
    """Return what `read` returns, and whether no set is to be seen in the file.

    No set is to be seen while the file is empty, locked, or in the commit of a transaction.
    """
    try:
        records = read_records()
    except FileNotFoundError:
        return SambaState(sets=(), copies=()), False
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise RvssError(Problem.SAMBA, f"cannot read {path}: {reason}") from exc
    if records is None:
        return None, True
    return parse(records), not any(key.startswith(b"sc_set") for key in records)


def copy_at(path: str, mount: str) -> SambaCopy | None:
    """Return what srv_fss.tdb says of the copy with a path; None if it has none.

    Raises:
        RvssError: SAMBA, as `settled`.
    """
    return next((copy for copy in settled(path).copies if copy.path == mount), None)


def settled(path: str, seconds: float = _SETTLE_SECONDS) -> SambaState:
    """Read srv_fss.tdb, waiting for a moment in which Samba is not writing it.

    A worker that is killed while it writes leaves the file wiped, or its transaction cut off.
    Samba's next worker then begins without sets (source3/rpc_server/fss/srv_fss_agent.c,
    srv_fssa_start()), and its next write makes the file whole. So if the file stays like that for
    the whole time, unchanged and unlocked, the answer is a state without sets. A file that is
    inconsistent in any other way is an error.

    Args:
        path: the file.
        seconds: how long to wait.

    Raises:
        RvssError: SAMBA if the file cannot be read, or is never complete.
    """
    deadline = time.monotonic() + seconds
    versions = set()
    while True:
        state, wiped = _judged(path, partial(tdb_file.read, path))
        if state is not None:
            return state
        versions.add(tdb_file.version(path) if wiped else None)
        if time.monotonic() > deadline:
            if None in versions or len(versions) > 1:
                raise RvssError(Problem.SAMBA, f"{path} is never complete", "is it damaged?")
            _logger.warning("%s was left incomplete by a worker that was killed", path)
            return SambaState(sets=(), copies=())
        time.sleep(_SETTLE_PAUSE)


def delete_sets(path: str, lock_directory: str, wanted: dict[str, SetState]) -> tuple[str, ...]:
    """Remove sets from srv_fss.tdb, in one transaction, while no rpcd_fsrvp lives.

    A living worker has all sets in memory and would write them back. A worker that starts
    meanwhile may have read the file before the change or after it.

    Args:
        path: the file.
        lock_directory: Samba's, by which its workers are known.
        wanted: the sets, with the state that each was seen in; a set that is in another state now
            stays.

    Returns:
        The sets that were removed.

    Raises:
        RvssError: BUSY if a worker lives, or one was started meanwhile: the sets may be removed
            or not, so read the file again. SAMBA if the file cannot be changed.
    """
    if not os.path.exists(path):
        return ()
    try:
        database = tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDWR)
        try:
            database.transaction_start()
            try:
                removed = _delete(database, wanted)
                _require_no_worker(lock_directory)
                if removed:
                    database.transaction_prepare_commit()
            except BaseException:
                database.transaction_cancel()
                raise
            if removed:
                database.transaction_commit()
            else:
                database.transaction_cancel()
        finally:
            database.close()
    except (OSError, RuntimeError, TypeError) as exc:
        raise RvssError(Problem.SAMBA, f"cannot change {path}: {exc}") from exc
    _require_no_worker(lock_directory)
    return removed


def _delete(database: tdb.Tdb, wanted: dict[str, SetState]) -> tuple[str, ...]:
    records = {bytes(key): bytes(database.get(key)) for key in database}
    state = parse(records)
    if state is None:
        raise RvssError(Problem.SAMBA, "srv_fss.tdb is incomplete", "look again in a moment")
    removed = tuple(found.id for found in state.sets if wanted.get(found.id) is found.state)
    for set_id in removed:
        top = f"sc_set/{set_id}"
        for key in records:
            name = key.rstrip(b"\0").decode("utf-8", "backslashreplace")
            if name == top or name.startswith(f"{top}/"):
                database.delete(key)
    database.store(b"sc_set_count\0", struct.pack("<I", len(state.sets) - len(removed)))
    return removed


def _require_no_worker(lock_directory: str) -> None:
    found = control.worker_pids(lock_directory)
    if found:
        raise RvssError(Problem.BUSY, f"rpcd_fsrvp lives (pid {found[0]}) and holds Samba's sets")
