"""A client's way through a shadow copy set, against a server that speaks the wire's bytes."""

import struct
from collections.abc import Callable
from uuid import UUID

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context
from samba_rvss.samba.fsrvp.copyset import Call, CopySet, Stage, take
from samba_rvss.samba.fsrvp.methods import BACKUP, Methods
from samba_rvss.samba.fsrvp.ndr import string
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult

SET = UUID("11111111-2222-3333-4444-555555555555")
# librpc/idl/fsrvp.idl
NAMES = [
    "GetSupportedVersion",
    "SetContext",
    "StartShadowCopySet",
    "AddToShadowCopySet",
    "CommitShadowCopySet",
    "ExposeShadowCopySet",
    "RecoveryCompleteShadowCopySet",
    "AbortShadowCopySet",
    "IsPathSupported",
    "IsPathShadowCopied",
    "GetShareMapping",
    "DeleteShareMapping",
    "PrepareShadowCopySet",
]
WINDOWS_WAY = [
    "GetSupportedVersion",
    "IsPathSupported vms",
    "IsPathSupported sql",
    "SetContext",
    "StartShadowCopySet",
    "AddToShadowCopySet vms",
    "AddToShadowCopySet sql",
    "PrepareShadowCopySet",
    "CommitShadowCopySet",
    "ExposeShadowCopySet",
    "GetShareMapping vms",
    "GetShareMapping sql",
]


def _copy(number: int) -> UUID:
    return UUID(int=SET.int + number)


class Server(Methods):
    """A server that grants everything, unless it is told otherwise.

    Attributes:
        called: names of the methods that were called.
        refused: what to answer to a method instead.
        versions: of the protocol, the lowest and the highest.
        longest: how many bytes of an answer are sent.
        sent: the last request of each method.
        exposed: what a copy is exposed as; empty for what Samba would call it.
        created: when a copy was made, in the wire's units.
    """

    def __init__(self) -> None:
        super().__init__("server")
        self.called: list[str] = []
        self.refused: dict[str, HResult] = {}
        self.sent: dict[str, bytes] = {}
        self.versions = (1, 1)
        self.longest = 1000
        self.exposed = ""
        self.created = 116444736000000000
        self._copies = 0

    def request(self, method: str, opnum: int, data: bytes) -> bytes:
        """Answer as librpc/idl/fsrvp.idl says."""
        assert NAMES[opnum] == method
        self.called.append(method)
        self.sent[method] = data
        if method in self.refused:
            return struct.pack("<I", self.refused[method])
        answer = b""
        match method:
            case "GetSupportedVersion":
                answer = struct.pack("<II", *self.versions)
            case "StartShadowCopySet":
                answer = SET.bytes_le
            case "AddToShadowCopySet":
                self._copies += 1
                answer = _copy(self._copies).bytes_le
            case "IsPathSupported":
                answer = struct.pack("<II", 1, 0x20000) + string("OWNER")
            case "GetShareMapping":
                copy = data[:16]
                answer = struct.pack("<II", 1, 0x20000) + SET.bytes_le + copy
                answer += struct.pack("<IIQ", 0x20000, 0x20000, self.created)
                name = self.exposed or f"x@{{{UUID(bytes_le=copy)}}}"
                answer += string("\\\\server\\x") + string(name)
        return (answer + struct.pack("<I", 0))[: self.longest]


@pytest.fixture
def server() -> Server:
    return Server()


def _assert_stands(taken: CopySet, stage: Stage) -> None:
    assert taken.stage is stage


def test_the_way_that_windows_goes(server: Server) -> None:
    told: list[Call] = []
    taken = take(server, ["vms", "sql"], Context.AUTO_RECOVERY, report=told.append)
    assert [str(call) for call in told] == WINDOWS_WAY
    assert told == taken.calls
    assert all(call.seconds >= 0 and call.failure is None for call in told)
    answers = {str(call): call.answer for call in told}
    assert answers["GetSupportedVersion"] == "versions 1 to 1"
    assert answers["IsPathSupported sql"] == "supported by OWNER"
    assert answers["StartShadowCopySet"] == f"set {SET}"
    assert answers["AddToShadowCopySet sql"] == f"copy {_copy(2)}"
    assert answers["CommitShadowCopySet"] == ""
    assert answers["GetShareMapping sql"] == f"x@{{{_copy(2)}}}"
    assert server.sent["SetContext"] == struct.pack("<I", Context.AUTO_RECOVERY)
    assert taken.id == SET
    _assert_stands(taken, Stage.EXPOSED)
    assert taken.copies == {"vms": _copy(1), "sql": _copy(2)}
    assert taken.exposed_shares == (f"x@{{{_copy(1)}}}", f"x@{{{_copy(2)}}}")
    assert [mapping.copy_id for mapping in taken.mappings] == [_copy(1), _copy(2)]
    taken.complete()
    _assert_stands(taken, Stage.RECOVERED)
    taken.delete("sql")
    _assert_stands(taken, Stage.RECOVERED)
    assert server.sent["DeleteShareMapping"][16:32] == _copy(2).bytes_le
    taken.delete()
    _assert_stands(taken, Stage.DELETED)
    assert server.called.count("DeleteShareMapping") == 2
    assert server.sent["DeleteShareMapping"][16:32] == _copy(1).bytes_le


@pytest.mark.parametrize(
    "name",
    ["..", "a/b", "x\\..\\vms", "x\ny", "\x1b[2J", "x\u2028y", "a\0", "\ud800", "x" * 256],
    ids=ascii,
)
def test_what_no_share_can_be_called_is_refused(server: Server, name: str) -> None:
    """Another server's word is a path for the recovery command, and shown to people."""
    server.exposed, server.longest = name, 10_000
    with pytest.raises(RvssError, match="which is no name of a share") as caught:
        take(server, ["vms"])
    assert caught.value.problem is Problem.SAMBA
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200
    assert server.called[-1] == "AbortShadowCopySet"


@pytest.mark.parametrize(
    "name",
    ["Bücher 日本 & 'x'$@{1}", "共有\u3000フォルダ", "می\u200cروم", "a\u00a0b"],
    ids=ascii,
)
def test_a_name_of_any_alphabet(server: Server, name: str) -> None:
    server.exposed = name
    assert take(server, ["vms"]).exposed_shares == (server.exposed,)


def test_a_time_that_there_is_not(server: Server) -> None:
    server.created = (1 << 64) - 1
    with pytest.raises(RvssError, match="no time that there is"):
        take(server, ["vms"])


def test_steps_one_by_one(server: Server) -> None:
    taken = CopySet(server)
    _assert_stands(taken, Stage.NEW)
    taken.start()
    _assert_stands(taken, Stage.STARTED)
    taken.add("vms")
    taken.add("sql")
    _assert_stands(taken, Stage.ADDED)
    taken.prepare()
    _assert_stands(taken, Stage.PREPARED)
    taken.commit()
    _assert_stands(taken, Stage.COMMITTED)
    assert [str(call) for call in taken.calls] == WINDOWS_WAY[3:9]
    taken.abort()
    _assert_stands(taken, Stage.ABORTED)


_STEPS: dict[str, Callable[[CopySet], object]] = {
    "check": lambda taken: taken.check("vms"),
    "start": CopySet.start,
    "add": lambda taken: taken.add("vms"),
    "prepare": lambda taken: taken.prepare("vms"),
    "commit": CopySet.commit,
    "expose": CopySet.expose,
    "map": CopySet.map,
    "complete": CopySet.complete,
    "delete": CopySet.delete,
    "abort": CopySet.abort,
}
_ALLOWED = {
    Stage.NEW: {"check", "start", "prepare"},
    Stage.STARTED: {"add", "prepare", "abort"},
    Stage.ADDED: {"add", "prepare", "commit", "abort"},
    Stage.PREPARED: {"commit", "abort"},
    Stage.COMMITTED: {"expose", "abort"},
    Stage.EXPOSED: {"map", "complete", "delete"},
    Stage.RECOVERED: {"delete"},
    Stage.DELETED: set(),
    Stage.ABORTED: set(),
}


def _at(server: Server, stage: Stage) -> CopySet:
    """Return a set that stands somewhere."""
    taken = CopySet(server)
    ways: dict[Stage, list[str]] = {
        Stage.NEW: [],
        Stage.STARTED: ["start"],
        Stage.ADDED: ["start", "add"],
        Stage.PREPARED: ["prepare"],
        Stage.COMMITTED: ["prepare", "commit"],
        Stage.EXPOSED: ["prepare", "commit", "expose"],
        Stage.RECOVERED: ["prepare", "commit", "expose", "complete"],
        Stage.DELETED: ["prepare", "commit", "expose", "delete"],
        Stage.ABORTED: ["start", "abort"],
    }
    for step in ways[stage]:
        _STEPS[step](taken)
    _assert_stands(taken, stage)
    return taken


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
@pytest.mark.parametrize("step", _STEPS)
def test_a_step_that_does_not_come_next_is_refused_here(
    server: Server, stage: Stage, step: str
) -> None:
    taken = _at(server, stage)
    before = list(server.called)
    if step in _ALLOWED[stage]:
        _STEPS[step](taken)
        return
    with pytest.raises(RvssError, match=f"that is {stage.value} cannot be ") as caught:
        _STEPS[step](taken)
    assert caught.value.problem is Problem.USAGE
    assert server.called == before
    _assert_stands(taken, stage)


def test_the_id_of_what_was_not_started(server: Server) -> None:
    with pytest.raises(RvssError, match="was not started"):
        _ = CopySet(server).id


@pytest.mark.parametrize(
    "method",
    [*NAMES[3:6], "GetShareMapping", "PrepareShadowCopySet"],
)
def test_what_fails_on_the_way_is_aborted(server: Server, method: str) -> None:
    server.refused[method] = HResult.E_FAIL
    with pytest.raises(FsrvpError) as caught:
        take(server, ["vms"], BACKUP)
    assert caught.value.method == method
    # Of several shares, this is the one.
    about = method in ("AddToShadowCopySet", "GetShareMapping")
    assert ("for the share vms" in caught.value.line()) is about
    assert not hasattr(caught.value, "__notes__")
    assert server.called[-2:] == [method, "AbortShadowCopySet"]
    assert server.sent["AbortShadowCopySet"] == SET.bytes_le


def test_an_abort_that_fails_is_a_note(server: Server) -> None:
    server.refused = {
        "CommitShadowCopySet": HResult.E_FAIL,
        "AbortShadowCopySet": HResult.E_INVALIDARG,
    }
    taken = CopySet(server)
    taken.prepare("vms")
    with pytest.raises(FsrvpError) as caught:
        taken.commit()
    assert caught.value.name == "E_FAIL"
    (said,) = caught.value.__notes__
    assert said.startswith("and the set could not be aborted: the server answered Abort")
    assert server.called.count("AbortShadowCopySet") == 1
    failed = [(call.method, call.failure) for call in taken.calls if call.failure is not None]
    assert [method for method, _ in failed] == ["CommitShadowCopySet", "AbortShadowCopySet"]
    assert failed[0][1] is caught.value


@pytest.mark.parametrize("method", ["GetSupportedVersion", "IsPathSupported", "SetContext"])
def test_what_fails_before_it_is_started_is_not_aborted(server: Server, method: str) -> None:
    server.refused[method] = HResult.E_ACCESSDENIED
    with pytest.raises(FsrvpError, match="Backup Operators"):
        take(server, ["vms"])
    assert server.called[-1] == method


def test_what_fails_when_it_is_exposed_is_not_aborted(server: Server) -> None:
    taken = take(server, ["vms"])
    server.refused["RecoveryCompleteShadowCopySet"] = HResult.FSRVP_E_BAD_STATE
    with pytest.raises(FsrvpError):
        taken.complete()
    _assert_stands(taken, Stage.EXPOSED)
    assert "AbortShadowCopySet" not in server.called


def test_what_is_mapped_stays_so_when_another_mapping_fails(server: Server) -> None:
    taken = CopySet(server, abort_on_failure=False)
    taken.prepare("vms", "sql")
    taken.commit()
    taken.expose(mapped=False)
    _assert_stands(taken, Stage.EXPOSED)
    assert "GetShareMapping" not in server.called
    taken.map("sql")
    assert [mapping.copy_id for mapping in taken.mappings] == [_copy(2)]
    server.refused["GetShareMapping"] = HResult.E_FAIL
    with pytest.raises(FsrvpError):
        taken.map()
    assert server.sent["GetShareMapping"][:16] == _copy(1).bytes_le
    _assert_stands(taken, Stage.EXPOSED)
    server.refused.clear()
    taken.map()
    assert taken.exposed_shares == (f"x@{{{_copy(1)}}}", f"x@{{{_copy(2)}}}")
    assert server.called.count("GetShareMapping") == 3


def test_a_mapping_that_fails_aborts_also_when_it_is_a_step_of_its_own(server: Server) -> None:
    taken = CopySet(server)
    taken.prepare("vms", "sql")
    taken.commit()
    taken.expose(mapped=False)
    taken.map("vms")
    server.refused["GetShareMapping"] = HResult.E_FAIL
    with pytest.raises(FsrvpError):
        taken.map("sql")
    _assert_stands(taken, Stage.ABORTED)
    assert server.called[-2:] == ["GetShareMapping", "AbortShadowCopySet"]


def test_whoever_wants_to_go_on_is_let(server: Server) -> None:
    server.refused["CommitShadowCopySet"] = HResult.E_FAIL
    taken = CopySet(server, abort_on_failure=False)
    taken.prepare("vms")
    with pytest.raises(FsrvpError):
        taken.commit()
    _assert_stands(taken, Stage.PREPARED)
    server.refused.clear()
    taken.commit()
    _assert_stands(taken, Stage.COMMITTED)


@pytest.mark.parametrize("method", ["StartShadowCopySet", "CommitShadowCopySet"])
def test_what_a_report_raises_ends_it(server: Server, method: str) -> None:
    class EnoughError(Exception):
        pass

    def report(call: Call) -> None:
        if call.method == method:
            raise EnoughError

    with pytest.raises(EnoughError):
        take(server, ["vms"], report=report)
    assert server.called[-2:] == [method, "AbortShadowCopySet"]


def test_another_version(server: Server) -> None:
    server.versions = (2, 3)
    with pytest.raises(RvssError, match="server speaks versions 2 to 3 of FSRVP, not 1"):
        take(server, ["vms"])


def test_another_connection_takes_its_place(server: Server) -> None:
    taken = take(server, ["vms"])
    other = Server()
    taken.client = other
    taken.complete()
    taken.delete()
    assert other.called == ["RecoveryCompleteShadowCopySet", "DeleteShareMapping"]


def test_a_reply_that_is_cut_off(server: Server) -> None:
    server.longest = 3
    with pytest.raises(RvssError, match="reply to StartShadowCopySet is too short to be one"):
        server.start_shadow_copy_set()
