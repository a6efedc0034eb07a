"""An image's mark as text, the same on every file system.

An image whose mark is of another version is left alone. The version changes only where an older
daemon must not touch the image. A new fact in a mark is a field that may be missing; the fields
that an older daemon reads stay. Such a daemon compares ``instance`` with its run directory, and so
leaves alone whatever bears an instance's id.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from samba_rvss.clock import now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import (
    Branch,
    Consistency,
    Exposed,
    Hold,
    Identity,
    Keep,
    Kept,
    Mark,
    Nested,
    Run,
    Sealed,
    SetState,
    Volume,
)

_logger = logging.getLogger(__name__)

_FIRST = 1
BARE = 2
"""The version of the mark of an image on ZFS without clones: without those, older daemons would
take it for one whose creation was cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A mark as it was found.

    Attributes:
        instance: whose it is: an instance's id or name, in the first form a run directory.
        machine: the hash of the machine's id; empty in the first form and with a name.
        more: fields that are the provider's own.
    """

    mark: Mark
    instance: str
    machine: str
    more: Mapping[str, Any]


def encode(
    mark: Mark, identity: Identity, more: Mapping[str, Any] | None = None, *, version: int = _FIRST
) -> str:
    """Return a mark as ASCII text without line breaks and tabs.

    Args:
        mark: what is to be known of the image.
        identity: whose it is.
        more: fields that are the provider's own.
        version: the oldest form of which a daemon has to know to be let at the image.
    """
    volume, sealed, kept = mark.volume, mark.sealed, mark.kept
    instance, machine = identity.signature
    return json.dumps(
        {
            "version": version,
            "instance": instance,
            "machine": machine,
            "id": mark.id,
            "share": mark.share,
            "share_path": mark.share_path,
            "key": volume.key,  # all that older daemons read of the volume's identity
            "provider": volume.provider,
            "file_system": volume.file_system,
            "volume_id": volume.id,
            "name": volume.name,
            "directory": volume.directory,
            "inode": volume.inode,
            "created": mark.created.isoformat(),
            "nested": mark.nested.value,
            "sealed": _of_sealed(sealed) if sealed else None,
            **({"kept": _of_kept(kept)} if kept else {}),
            **({"branch": _of_branch(mark.branch)} if mark.branch else {}),
            **({"more": more} if more else {}),
        }
    )


def unheld(mark: Mark) -> set[str]:
    """Refuse to destroy an image that is held; return the tags of its holds that are over.

    Raises:
        RvssError: HELD.
    """
    holds = mark.kept.holding(now()) if mark.kept else ()
    if holds:
        names = ", ".join(repr(hold.tag) for hold in holds)
        raise RvssError(Problem.HELD, f"the image {mark.id} is held as {names}")
    return {hold.tag for hold in mark.kept.holds} if mark.kept else set()


def decode(raw: str | bytes, provider: str) -> Marked | None:
    """Return a mark, or None if it is in a form that we do not know."""
    try:
        data = json.loads(raw)
        if data["version"] not in (_FIRST, BARE):
            return None
        kind, file_system, own = _identity(data, provider)
        if kind != provider:
            raise ValueError(kind)
        mark = Mark(
            id=_text(data["id"]),
            share=_text(data["share"]),
            share_path=_text(data["share_path"]),
            volume=Volume(
                provider=provider,
                file_system=file_system,
                id=own,
                name=_text(data["name"]),
                directory=_text(data["directory"]),
                inode=_number(data["inode"]),
            ),
            created=_time(data["created"]),
            nested=Nested(data["nested"]),
            sealed=_sealed(data.get("sealed")),
            kept=_kept(data.get("kept")),
            branch=_branch(data.get("branch")),
        )
        return Marked(
            mark=mark,
            instance=_text(data["instance"]),
            machine=_text(data.get("machine", "")),
            more=_fields(data.get("more", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _logger.warning("an image's mark cannot be read and is left alone: %r", raw[:200])
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


def _time(value: object) -> datetime:
    found = datetime.fromisoformat(_text(value))
    if found.tzinfo is None:
        raise ValueError(value)
    return found


def _context(value: object) -> int:
    number = _number(value)
    if not 0 <= number < 1 << 32:  # MS-FSRVP 2.2.2.2
        raise ValueError(value)
    return number


def _fields(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _of_sealed(sealed: Sealed) -> dict[str, Any]:
    return {
        "set_id": sealed.set_id,
        "copy_id": sealed.copy_id,
        "context": sealed.context,
        "exposed_share": sealed.exposed_share,
        "state": None if sealed.state is None else int(sealed.state),
        "uid": sealed.uid,
        "shares": sealed.shares,
        "keep": sealed.keep.value,
        **({"transid": sealed.transid, "taken": sealed.taken.isoformat()} if sealed.taken else {}),
    }


def _sealed(data: Any) -> Sealed | None:
    if data is None:
        return None
    state, taken = data["state"], data.get("taken")
    return Sealed(
        set_id=_text(data["set_id"]),
        copy_id=_text(data["copy_id"]),
        context=_context(data["context"]),
        exposed_share=_text(data["exposed_share"]),
        state=None if state is None else SetState(state),
        uid=_number(data.get("uid", -1)),
        shares=_number(data.get("shares", 0)),
        keep=Keep(data.get("keep", "no")),
        transid=_number(data.get("transid", 0)),
        taken=None if taken is None else _time(taken),
    )


def _of_kept(kept: Kept) -> dict[str, Any]:
    return {
        "since": kept.since and kept.since.isoformat(),
        "tags": list(kept.tags),
        "holds": [[hold.tag, hold.until and hold.until.isoformat()] for hold in kept.holds],
        **({"exposed": _of_exposed(kept.exposed)} if kept.exposed else {}),
        **({"run": _of_run(kept.run)} if kept.run else {}),
    }


def _kept(data: Any) -> Kept | None:
    if data is None:
        return None
    since = data["since"]
    return Kept(
        since=None if since is None else _time(since),
        tags=tuple(_text(tag) for tag in data["tags"]),
        holds=tuple(
            Hold(tag=_text(tag), until=None if until is None else _time(until))
            for tag, until in data["holds"]
        ),
        exposed=_exposed(data.get("exposed")),
        run=_run(data.get("run")),
    )


def _of_run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "consistency": run.consistency.value,
        **({"files": run.files} if run.files else {}),
        **({"veto": run.veto} if run.veto else {}),
    }


def _run(data: Any) -> Run | None:
    if data is None:
        return None
    return Run(
        name=_text(data["name"]),
        consistency=Consistency(data["consistency"]),
        files=tuple(_text(each) for each in data.get("files", ())),
        veto=tuple(_text(each) for each in data.get("veto", ())),
    )


def _of_branch(branch: Branch) -> dict[str, Any]:
    exposed = branch.exposed
    return {
        "of": branch.of,
        "ready": branch.ready,
        **({"exposed": _of_exposed(exposed)} if exposed else {}),
    }


def _branch(data: Any) -> Branch | None:
    if data is None:
        return None
    return Branch(
        of=_text(data["of"]), ready=bool(data["ready"]), exposed=_exposed(data.get("exposed"))
    )


def _of_exposed(exposed: Exposed) -> dict[str, Any]:
    return {
        "share": exposed.share,
        "account": exposed.account,
        "uid": exposed.uid,
        "until": exposed.until and exposed.until.isoformat(),
        "ending": exposed.ending,
    }


def _exposed(data: Any) -> Exposed | None:
    if data is None:
        return None
    until = data["until"]
    return Exposed(
        share=_text(data["share"]),
        account=_text(data["account"]),
        uid=_number(data["uid"]),
        until=None if until is None else _time(until),
        ending=bool(data["ending"]),
    )


def _identity(data: dict[str, Any], provider: str) -> tuple[str, str, str]:
    """Return the provider, the file system and the own id of the volume that a mark names."""
    if "volume_id" not in data:
        return _identity_of_old_form(data, provider)
    return _text(data["provider"]), _text(data["file_system"]), _text(data["volume_id"])


def _identity_of_old_form(data: dict[str, Any], provider: str) -> tuple[str, str, str]:
    """Return the same for a mark of the older form: one key, ``provider:file system:id``.

    A pool's name may have colons in it; the provider and the id have none. The first marks on ZFS
    have no key either: their dataset is known by its name alone.
    """
    name = data["name"]
    key = data.get("key") or f"{provider}:{name.partition('/')[0]}:"
    kind, _, rest = key.partition(":")
    file_system, _, own = rest.rpartition(":")
    return kind, file_system, own
