"""Request and reply on both sockets: one datagram each way (SOCK_SEQPACKET).

hook.sock: the callout's words as they came, NUL between them; the reply is a status byte and one
line. admin.sock: a JSON object each way. Whatever does not fit is refused by name.
"""

import json
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError

MAXIMUM = 16384
"""Longest datagram, in bytes."""

VERBS = frozenset({"check", "create", "delete"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """What vfs_shell_snap wants: a verb, and the words of one or two paths."""

    verb: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRequest:
    """What an administrator wants: ``delete`` a copy by id, or ``reload``."""

    verb: str
    copy: str = ""


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
    unknown = given.keys() - {"verb", "copy"}
    if unknown:
        raise RvssError(Problem.BAD_REQUEST, f"the request has an unknown {min(unknown)!r}")
    verb, copy = given.get("verb"), given.get("copy", "")
    if verb not in ("delete", "reload"):
        raise RvssError(Problem.BAD_REQUEST, "the request's 'verb' is neither delete nor reload")
    if not isinstance(copy, str) or (verb == "delete") != bool(copy):
        raise RvssError(Problem.BAD_REQUEST, f"the request {verb} has a wrong 'copy'")
    return AdminRequest(verb=verb, copy=copy)


def encode_admin(request: AdminRequest) -> bytes:
    """Return a request for admin.sock."""
    body = {"verb": request.verb} | ({"copy": request.copy} if request.copy else {})
    return json.dumps(body).encode("ascii")


def encode_result(status: int, line: str) -> bytes:
    """Return a reply for admin.sock; a line that is too long for it is cut."""
    while len(data := json.dumps({"status": status, "line": line}).encode("ascii")) > MAXIMUM:
        line = line[: len(line) // 2]
    return data


def decode_result(data: bytes) -> tuple[int, str]:
    """Read a reply of admin.sock.

    Raises:
        RvssError: BAD_REQUEST if it is none.
    """
    try:
        given = json.loads(data)
        status, line = given["status"], given["line"]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise RvssError(Problem.BAD_REQUEST, "the daemon's answer cannot be read") from exc
    if not isinstance(status, int) or isinstance(status, bool) or not isinstance(line, str):
        raise RvssError(Problem.BAD_REQUEST, "the daemon's answer cannot be read")
    return status, line
