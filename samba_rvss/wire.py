"""Request and reply on both sockets, as datagrams (SOCK_SEQPACKET).

hook.sock: the request is the callout's words as they came, NUL between them; the reply is a status
byte and one line. admin.sock: the request is a JSON object; the answer is any number of JSON
objects, its parts, and at the end one with the result. A request or an answer that does not fit is
refused, and the error says what is wrong with it.
"""

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate, Finding

MAXIMUM = 16384
"""Longest datagram, in bytes."""

VERBS = frozenset({"check", "create", "delete"})
OF_A_COPY = frozenset(
    {
        *("delete", "lost", "keep", "unkeep", "hold", "release", "tag", "deferred"),
        *("expose", "conceal", "record", "guard", "restored"),
    }
)
"""What an administrator wants done with one copy."""

_EXPLAINED = frozenset({"pruned", "unpruned", "deferred", "restored"})
ADMIN_VERBS = OF_A_COPY | _EXPLAINED | {"reload", "reconcile", "status", "adopt", "notify"}
_KNOWN = frozenset(
    {
        *("verb", "copy", "source", "on", "tag", "until", "reason"),
        *("account", "writable", "delete"),
        *("run", "consistency", "files", "veto"),
    }
)
_TAGGING = frozenset({"hold", "release", "tag"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """What vfs_shell_snap wants: a verb, and the words of one or two paths."""

    verb: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRequest:
    """What an administrator wants: one of `ADMIN_VERBS`.

    Attributes:
        copy: its id, for those of `OF_A_COPY`.
        source: the instance whose images are to be adopted, for ``adopt``.
        on: a directory on their file system, for ``adopt``; may be empty.
        tag: for ``hold``, ``release`` and ``tag``.
        until: when a hold, or what is exposed, is over (ISO 8601, with a zone); may be empty.
        reason: what of ``pruned`` failed, why ``unpruned`` or ``deferred``, or what of it was
            ``restored``; may be empty.
        account: who alone may connect, for ``expose``; may be empty.
        writable: whether a writable copy is meant, for ``expose``.
        delete: whether that is deleted, for ``conceal``.
        run: the name of the managed backup whose run took the copy, for ``record``.
        consistency: what was proven of it, for ``record``.
        files, veto: which files it is about, between slashes, for ``record``; may be empty.
    """

    verb: str
    copy: str = ""
    source: str = ""
    on: str = ""
    tag: str = ""
    until: str = ""
    reason: str = ""
    account: str = ""
    writable: bool = False
    delete: bool = False
    run: str = ""
    consistency: str = ""
    files: str = ""
    veto: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What only the running daemon knows.

    Attributes:
        quiet: for how long it has not heard of a client, in seconds.
        reconciled: when it has last reconciled (ISO 8601), or empty.
        done: what it did then, each in a line.
        failed: what it failed to do or to see then.
        unsealed: a sentence on each copy that is closed, and whose sealing has failed.
        refused: a sentence on each worker of Samba that waits for a client and refuses all others.
        late: a sentence on all that takes longer than it should, and has not ended.
        lacking: a sentence on all that the daemon may not do, or cannot see, from where it runs.
        unnotified: a sentence on what keeps the notify command from being told.
    """

    quiet: float
    reconciled: str
    done: tuple[str, ...]
    failed: tuple[str, ...]
    unsealed: tuple[str, ...]
    refused: tuple[str, ...]
    late: tuple[str, ...]
    lacking: tuple[str, ...]
    unnotified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Ids of some copies that the daemon is sealing."""

    copies: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Says only that the daemon is still at work."""


Part: TypeAlias = Finding | Presence | Busy | Alive
_PARTS: dict[str, type[Part]] = {
    "finding": Finding,
    "presence": Presence,
    "busy": Busy,
    "alive": Alive,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How an answer ends: ``status`` is 0 or a `Problem`."""

    status: int
    line: str


def decode_hook(data: bytes) -> HookRequest:
    """Read a request of the hook.

    Raises:
        RvssError: BAD_REQUEST.
    """
    if len(data) > MAXIMUM:
        raise RvssError(Problem.BAD_REQUEST, f"the request is longer than {MAXIMUM} bytes")
    verb, *words = data.split(b"\0")
    if verb.decode("ascii", "replace") not in VERBS:
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb[:20]!r} is not known")
    try:
        texts = tuple(word.decode("utf-8") for word in words)
    except UnicodeDecodeError as exc:
        raise RvssError(Problem.BAD_REQUEST, "the request's path is not UTF-8") from exc
    if not any(texts):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb.decode()} names no path")
    return HookRequest(verb=verb.decode("ascii"), words=texts)


def encode_reply(status: int, line: str) -> bytes:
    """Return a reply to the hook; ``status`` is 0 or a `Problem`."""
    return bytes([status]) + line.encode("utf-8", "surrogateescape")[: MAXIMUM - 1]


def decode_admin(data: bytes) -> AdminRequest:
    """Read a request of the administrator's command.

    Raises:
        RvssError: BAD_REQUEST naming the attribute.
    """
    if len(data) > MAXIMUM:
        raise RvssError(Problem.BAD_REQUEST, f"the request is longer than {MAXIMUM} bytes")
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise RvssError(Problem.BAD_REQUEST, "the request is not JSON") from exc
    if not isinstance(given, dict):
        raise RvssError(Problem.BAD_REQUEST, "the request is not a JSON object")
    unknown = given.keys() - _KNOWN
    if unknown:
        raise RvssError(Problem.BAD_REQUEST, f"the request has an unknown {min(unknown)!r}")
    verb, copy = given.get("verb"), given.get("copy", "")
    if not isinstance(verb, str) or verb not in ADMIN_VERBS:
        known = ", ".join(sorted(ADMIN_VERBS))
        raise RvssError(Problem.BAD_REQUEST, f"the request's 'verb' is none of {known}")
    if not isinstance(copy, str) or (verb in OF_A_COPY) != bool(copy):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'copy'")
    source, on = given.get("source", ""), given.get("on", "")
    if not isinstance(source, str) or (verb == "adopt") != bool(source):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'source'")
    if not isinstance(on, str) or (on and verb != "adopt"):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'on'")
    tag, until = given.get("tag", ""), given.get("until", "")
    if not isinstance(tag, str) or (verb in _TAGGING) != bool(tag):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'tag'")
    if not isinstance(until, str) or (until and verb not in ("hold", "expose")):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'until'")
    reason = given.get("reason", "")
    if not isinstance(reason, str) or (reason and verb not in _EXPLAINED):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'reason'")
    account = given.get("account", "")
    if not isinstance(account, str) or (account and verb != "expose"):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'account'")
    of_run = {name: given.get(name, "") for name in ("run", "consistency", "files", "veto")}
    for name, value in of_run.items():
        needed = verb == "record" and name in ("run", "consistency")
        if not isinstance(value, str) or (value and verb != "record") or (needed and not value):
            raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong '{name}'")
    flags = {"writable": "expose", "delete": "conceal"}
    for flag, of in flags.items():
        value = given.get(flag, False)
        if not isinstance(value, bool) or (value and verb != of):
            raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong '{flag}'")
    return AdminRequest(
        verb=verb,
        copy=copy,
        source=source,
        on=on,
        tag=tag,
        until=until,
        reason=reason,
        account=account,
        **of_run,
        **{flag: given.get(flag, False) for flag in flags},
    )


def encode_admin(request: AdminRequest) -> bytes:
    """Return a request for admin.sock."""
    body = {
        field.name: value
        for field in dataclasses.fields(request)
        if (value := getattr(request, field.name))
    }
    return json.dumps(body).encode("ascii")


def encode_result(status: int, line: str) -> bytes:
    """Return a reply for admin.sock; a line that is too long for it is cut."""
    while len(data := json.dumps({"status": status, "line": line}).encode("ascii")) > MAXIMUM:
        line = line[: len(line) // 2]
    return data


def encode_part(part: Part) -> bytes:
    """Return a part of an answer for admin.sock; if it is too long, its texts are cut."""
    name = next(name for name, kind in _PARTS.items() if isinstance(part, kind))
    body = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    limit = MAXIMUM
    while len(data := json.dumps({name: body}, default=_plain).encode("ascii")) > MAXIMUM:
        limit //= 2
        body = {key: _cut(value, limit) for key, value in body.items()}
    return data


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value))


def _cut(value: object, limit: int) -> object:
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, tuple):
        return tuple(text[: limit // 8] for text in value[: limit // 32])
    return value


def decode_answer(data: bytes) -> Part | Result:
    """Read one datagram of an answer of admin.sock.

    Raises:
        RvssError: BAD_REQUEST if it is not one.
    """
    unreadable = RvssError(
        Problem.BAD_REQUEST,
        "the daemon's answer cannot be read",
        "see that the daemon and this command are of one version",
    )
    try:
        given = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise unreadable from exc
    if not isinstance(given, dict):
        raise unreadable
    try:
        if given.keys() == {"status", "line"}:
            result: Result = _typed(Result, given)
            if result.status:
                Problem(result.status)
            return result
        ((name, body),) = given.items()
        part: Part = _typed(_PARTS[name], body)
        return part
    except (ValueError, TypeError, KeyError) as exc:
        raise unreadable from exc


def _typed(kind: type[Any], body: object) -> Any:
    """Make a value of a dataclass from a JSON object with exactly its attributes.

    Raises:
        TypeError: if an attribute is missing, unknown or of another type.
        ValueError: if a value is not in its enumeration.
    """
    fields = dataclasses.fields(kind)
    if not isinstance(body, dict) or body.keys() != {field.name for field in fields}:
        raise TypeError(kind)
    return kind(**{field.name: _value(field.type, body[field.name]) for field in fields})


def _value(kind: object, value: object) -> object:
    if kind is Fate:
        return Fate(value)
    if kind == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return tuple(value)
    elif kind == float | None and value is None:
        return None
    elif kind is float or kind == float | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is kind:
        return value
    raise TypeError(kind)
