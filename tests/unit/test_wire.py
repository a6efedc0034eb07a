"""Both sockets: what fits is understood, what does not is refused by name."""

import json
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samba_rvss.errors import Problem, RvssError
from samba_rvss.findings import Fate, Finding
from samba_rvss.wire import (
    MAXIMUM,
    VERBS,
    AdminRequest,
    Alive,
    Busy,
    HookRequest,
    Part,
    Presence,
    Result,
    decode_admin,
    decode_answer,
    decode_hook,
    encode_admin,
    encode_part,
    encode_reply,
    encode_result,
)

T = TypeVar("T")

_text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_statuses = st.sampled_from([0, *Problem])


def _understood(decode: Callable[[bytes], T], data: bytes) -> T | None:
    """Return what bytes mean, or None if they are refused in the one way that there is."""
    refused: RvssError | None = None
    try:
        return decode(data)
    except RvssError as exc:
        refused = exc
    assert refused.problem is Problem.BAD_REQUEST
    assert refused.line().isprintable()
    return None


# hook.sock


@given(verb=st.sampled_from(sorted(VERBS)), words=st.lists(_text, min_size=1, max_size=8))
def test_hook_s_words_arrive_as_they_came(verb: str, words: list[str]) -> None:
    data = b"\0".join(word.encode() for word in (verb, *words))
    if any(words):
        assert decode_hook(data) == HookRequest(verb=verb, words=tuple(words))
    else:
        with pytest.raises(RvssError, match="names no path"):
            decode_hook(data)


@given(st.binary(max_size=200) | st.sampled_from(sorted(VERBS)).map(str.encode))
@example(b"")
@example(b"create")
@example(b"create\0")
@example(b"create\0\0\0")
@example(b"create\0/srv/\xff")
@example(b"Create\0/srv")
@example(b"\xffreate\0/srv")
@example(b"expose\0/srv")
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    request = _understood(decode_hook, data)
    if request is not None:
        assert request.verb in VERBS
        assert b"\0".join([request.verb.encode(), *(w.encode() for w in request.words)]) == data


def test_longest_request() -> None:
    fits = b"create\0/" + b"x" * (MAXIMUM - 8)
    assert len(fits) == MAXIMUM
    assert len(decode_hook(fits).words[0]) == MAXIMUM - 7
    with pytest.raises(RvssError, match=f"longer than {MAXIMUM}") as caught:
        decode_hook(fits + b"x")
    assert caught.value.problem is Problem.BAD_REQUEST


@given(status=_statuses, line=st.binary(max_size=100))
def test_reply_is_a_status_byte_and_a_line(status: int, line: bytes) -> None:
    text = line.decode("utf-8", "surrogateescape")
    assert encode_reply(status, text) == bytes([status]) + line


def test_reply_has_a_longest_size() -> None:
    assert len(encode_reply(0, "x" * 100_000)) == MAXIMUM


# admin.sock


@given(st.text(min_size=1, max_size=100))
def test_admin_request_round_trip(copy: str) -> None:
    others = [AdminRequest(verb=verb) for verb in ("reload", "reconcile", "status")]
    others += [
        AdminRequest(verb="delete", copy=copy),
        AdminRequest(verb="expose", copy=copy, account=copy, until=copy, writable=True),
        AdminRequest(verb="conceal", copy=copy, delete=True),
    ]
    for request in others:
        assert decode_admin(encode_admin(request)) == request


@given(st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"null")
@example(b"[" * MAXIMUM)
@example(b'{"a":' * 3000)
@example(b"1" * 5000)
@example(b'"\xff"')
@example(b"\xff\xfe{\0")
def test_any_bytes_are_an_admin_request_or_refused(data: bytes) -> None:
    request = _understood(decode_admin, data)
    if request is not None:
        assert decode_admin(encode_admin(request)) == request


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "not a JSON object"),
        ("delete", "not a JSON object"),
        ({}, "'verb'"),
        ({"verb": "create"}, "'verb'"),
        ({"verb": ["delete"]}, "'verb'"),
        ({"verb": True}, "'verb'"),
        ({"verb": "delete"}, "'copy'"),
        ({"verb": "delete", "copy": ""}, "'copy'"),
        ({"verb": "delete", "copy": 1}, "'copy'"),
        ({"verb": "delete", "copy": True}, "'copy'"),
        ({"verb": "delete", "copy": None}, "'copy'"),
        ({"verb": "hold", "copy": "a", "tag": "t", "account": "x"}, "'account'"),
        ({"verb": "expose", "copy": "a", "account": 1}, "'account'"),
        ({"verb": "expose", "copy": "a", "writable": 1}, "'writable'"),
        ({"verb": "expose", "copy": "a", "delete": True}, "'delete'"),
        ({"verb": "conceal", "copy": "a", "until": "x"}, "'until'"),
        ({"verb": "delete", "copy": ["a"]}, "'copy'"),
        ({"verb": "reload", "copy": "a"}, "'copy'"),
        ({"verb": "reconcile", "copy": "a"}, "'copy'"),
        ({"verb": "status", "copy": "a"}, "'copy'"),
        ({"verb": "reconcile", "dry": True}, "'dry'"),
        ({"verb": "delete", "copy": "a", "force": True}, "'force'"),
    ],
)
def test_refusal_names_the_attribute(body: object, named: str) -> None:
    with pytest.raises(RvssError, match=named) as caught:
        decode_admin(json.dumps(body).encode())
    assert caught.value.problem is Problem.BAD_REQUEST


def test_longest_admin_request() -> None:
    with pytest.raises(RvssError, match=f"longer than {MAXIMUM}"):
        decode_admin(b" " * (MAXIMUM + 1))


@given(status=_statuses, line=st.text(max_size=200))
def test_result_round_trip(status: int, line: str) -> None:
    assert decode_answer(encode_result(status, line)) == Result(status=status, line=line)


@given(st.characters(), st.integers(1000, 20000))
@example("\U0010ffff", 9000)
@example("\ud800", 9000)
@example('"', 20000)
def test_result_always_fits(character: str, length: int) -> None:
    """The other side reads no more than MAXIMUM bytes."""
    line = character * length
    data = encode_result(Problem.SYSTEM, line)
    assert len(data) <= MAXIMUM
    result = decode_answer(data)
    assert isinstance(result, Result)
    assert result.status == Problem.SYSTEM
    assert line.startswith(result.line)


_texts = st.text(max_size=50)
_lines = st.lists(_texts, max_size=5).map(tuple)
_numbers = st.floats(allow_nan=False)
_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(
        Finding,
        fate=st.sampled_from(Fate),
        reason=_texts,
        target=_texts,
        action=_texts,
        evidence=_lines,
        error=_texts,
        due=st.none() | _numbers,
    ),
    st.builds(Presence, quiet=_numbers, reconciled=_texts, done=_lines, failed=_lines),
    st.builds(Busy, copies=_lines),
    st.just(Alive()),
)


@given(_parts)
def test_part_round_trip(part: Part) -> None:
    assert decode_answer(encode_part(part)) == part


@given(st.characters(), st.integers(1000, 5000), st.integers(0, 20))
@example("\U0010ffff", 5000, 20)
@example("\ud800", 20000, 0)
@example('"', 20, 5000)
def test_part_always_fits(character: str, length: int, count: int) -> None:
    """The other side reads no more than MAXIMUM bytes; what stays is each text's beginning."""
    text = character * length
    finding = Finding(
        fate=Fate.FAILED, reason=text, target=text, evidence=(text,) * count, error=text
    )
    presence = Presence(
        quiet=1.0,
        reconciled="",
        done=(text,) * count,
        failed=(text,) * count,
        unsealed=(text,),
        refused=(text,),
        late=(text,),
        lacking=(text,),
    )
    for part in (finding, presence):
        data = encode_part(part)
        assert len(data) <= MAXIMUM
        shown = decode_answer(data)
        assert type(shown) is type(part)
    shown = decode_answer(encode_part(finding))
    assert isinstance(shown, Finding)
    assert shown.fate is Fate.FAILED
    assert shown.reason
    assert text.startswith(shown.reason)


def test_batch_of_busy_copies_is_not_cut() -> None:
    copies = tuple(f"20261122T101112Z-{number:08x}" for number in range(200))
    assert decode_answer(encode_part(Busy(copies=copies))) == Busy(copies=copies)


@given(st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
@example(b"[" * MAXIMUM)
@example(b'{"status": true, "line": ""}')
@example(b'{"status": 1.5, "line": ""}')
@example(b'{"status": 0, "line": null}')
@example(b'{"status": 0}')
@example(b'{"status": 99, "line": ""}')
@example(b'{"status": 0, "line": "", "more": 1}')
@example(b'{"finding": {}, "alive": {}}')
@example(b'{"finding": {"fate": "done"}}')
@example(b'{"busy": {"copies": "abc"}}')
@example(b'{"busy": {"copies": [1]}}')
@example(b'{"busy": []}')
@example(b'{"alive": {"still": true}}')
@example(b'{"presence": {"quiet": true, "reconciled": "", "done": [], "failed": []}}')
@example(b'{"unknown": {}}')
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    answer = _understood(decode_answer, data)
    if isinstance(answer, Result):
        assert type(answer.status) is int
        assert isinstance(answer.line, str)
    elif answer is not None:
        assert decode_answer(encode_part(answer)) == answer


@pytest.mark.parametrize(
    "data",
    [
        b'{"status": true, "line": ""}',
        b'{"status": 99, "line": ""}',
        b'{"status": 0, "line": "", "more": 1}',
        b'{"finding": {}, "alive": {}}',
        b'{"finding": {"fate": "done"}}',
        b'{"busy": {"copies": "abc"}}',
        b'{"presence": {"quiet": true, "reconciled": "", "done": [], "failed": []}}',
        b'{"alive": {"still": true}}',
        b'{"unknown": {}}',
        b"",
    ],
)
def test_wrong_answers_are_refused(data: bytes) -> None:
    with pytest.raises(RvssError, match="of one version") as caught:
        decode_answer(data)
    assert caught.value.problem is Problem.BAD_REQUEST
