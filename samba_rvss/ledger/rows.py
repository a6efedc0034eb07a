"""Shadow copies and events as rows of the ledger's tables."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from functools import lru_cache

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Event, Keep, Moment, Phase, SetState, ShadowCopy, Volume

VOLUME_COLUMNS = "provider, file_system, volume_id, volume_name, directory, inode"
"""The columns of a copy's volume, in the order of `volume_of`."""

COLUMNS = (
    "id, share, share_path, provider, file_system, volume_id, volume_name, directory, inode,"
    " created, phase, path, previous_path, uid, set_id, copy_id, context, exposed_share,"
    " state, boot, since, adopted, lost, keep, ended, set_size, transid, taken"
)
"""The columns of a copy, in the order of `copy_of` and `values_of`."""

CHANGEABLE = frozenset(
    {
        "share",
        "phase",
        "path",
        "previous_path",
        "set_id",
        "copy_id",
        "context",
        "exposed_share",
        "state",
        "file_system",
        "adopted",
        "lost",
        "keep",
        "ended",
        "set_size",
        "transid",
        "taken",
    }
)
"""The columns of a copy that may be changed; ``boot`` and ``since`` follow from it."""

EVENT_COLUMNS = "time, copy, share, what, uid, duration, detail, set_id"
"""The columns of an event, in the order of `event_of`."""

_NO_STATE = -1


def plain(value: object) -> object:
    """Return a value as a column holds it; None is a state that is not known."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return _NO_STATE if value is None else value


def printable(values: Iterable[object]) -> list[object]:
    """Return values with every text made UTF-8, as columns need it."""
    return [
        value.encode("utf-8", "backslashreplace").decode("utf-8")
        if isinstance(value, str)
        else value
        for value in values
    ]


def values_of(copy: ShadowCopy) -> tuple[object, ...]:
    """Return a copy as a row."""
    volume = copy.volume
    return (
        copy.id,
        copy.share,
        copy.share_path,
        volume.provider,
        volume.file_system,
        volume.id,
        volume.name,
        volume.directory,
        str(volume.inode),
        copy.created.isoformat(),
        copy.phase.value,
        copy.path,
        copy.previous_path,
        copy.uid,
        copy.set_id,
        copy.copy_id,
        copy.context,
        copy.exposed_share,
        plain(copy.state),
        copy.since.boot,
        copy.since.seconds,
        int(copy.adopted),
        int(copy.lost),
        copy.keep.value,
        int(copy.ended),
        copy.set_size,
        copy.transid,
        copy.taken.isoformat() if copy.taken else "",
    )


def copy_of(row: tuple[object, ...]) -> ShadowCopy:
    """Return a row as a copy.

    Raises:
        RvssError: STATE if a value in it is not known.
    """
    with known_values(f"of {row[0]}"):
        return _copy_of(row)


def _copy_of(row: tuple[object, ...]) -> ShadowCopy:
    text = [str(value) for value in row]
    return ShadowCopy(
        id=text[0],
        share=text[1],
        share_path=text[2],
        volume=volume_of(*text[3:9]),
        created=aware(text[9]),
        phase=Phase(text[10]),
        path=text[11],
        previous_path=text[12],
        uid=int(text[13]),
        set_id=text[14],
        copy_id=text[15],
        context=int(text[16]),
        exposed_share=text[17],
        state=None if row[18] == _NO_STATE else SetState(int(text[18])),
        since=Moment(boot=text[19], seconds=float(text[20])),
        adopted=text[21] != "0",
        lost=text[22] != "0",
        keep=Keep(text[23]),
        ended=text[24] != "0",
        set_size=int(text[25]),
        transid=int(text[26]),
        taken=aware(text[27]) if text[27] else None,
    )


@lru_cache
def volume_of(
    provider: str, file_system: str, own: str, name: str, directory: str, inode: str
) -> Volume:
    """Return a volume, the same object for the many copies of it; ValueError if it is none."""
    return Volume(
        provider=provider,
        file_system=file_system,
        id=own,
        name=name,
        directory=directory,
        inode=int(inode),
    )


def event_of(row: tuple[object, ...]) -> Event:
    """Return a row as an event.

    Raises:
        RvssError: STATE if a value in it is not known.
    """
    time, copy, share, what, uid, duration, detail, set_id = row
    with known_values(f"of an event ({what}) of {copy or set_id or 'the instance'}"):
        return Event(
            time=aware(str(time)),
            copy=str(copy),
            share=str(share),
            what=str(what),
            uid=int(str(uid)),
            duration=None if duration is None else float(str(duration)),
            detail=str(detail),
            set_id=str(set_id),
        )


def aware(text: str) -> datetime:
    """Return a time that says its zone; ValueError if it does not, or is none."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time


@contextmanager
def known_values(what: str) -> Iterator[None]:
    """Report a value that is not known, with whose it is, as a known error.

    Raises:
        RvssError: STATE.
    """
    try:
        yield
    except ValueError as exc:
        raise RvssError(
            Problem.STATE,
            f"the ledger's record {what} cannot be read: {exc}",
            "restart samba-rvss.service: it sets such a record aside when it starts",
        ) from exc
