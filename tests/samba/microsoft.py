"""The FSRVP cases of Microsoft's test suite for file servers, by their steps.

Place: below `test_microsoft`; needs no python-samba. Contract: the cases are those of the suite's
design (WindowsProtocolTestSuites, "File Server Protocol Family Test Design Specification", 3.5),
in its order and under its names; a `Gap` is an answer of Samba's that is not the one that the suite
wants, with the function that gives it (source3/rpc_server/fss/srv_fss_agent.c), and the text that
samba-rvss-limits(7) has for it. What a case has no gap for, Samba answers as Windows does.

The suite runs six of its cases in a cluster. Its names of a cluster, and of another node, are names
here that no server has: Samba does not look at the server in a share's path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar
from uuid import UUID

from samba_rvss.model import Context
from samba_rvss.samba.fsrvp.methods import (
    APP_ROLLBACK,
    BACKUP,
    FILE_SHARE_BACKUP,
    NAS_ROLLBACK,
    VERSION,
    Methods,
)
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult

P = ParamSpec("P")
T = TypeVar("T")

_WRITABLE = BACKUP | Context.AUTO_RECOVERY
_CLUSTER, _SCALE_OUT, _NODE, _OTHER = "\\\\GENERALFS", "\\\\SCALEOUTFS", "\\\\NODE01", "\\\\NODE02"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An answer of Samba's that is not the one that the suite wants.

    Attributes:
        method: whose answer.
        wanted: by the suite, or where no case of it comes there, by MS-FSRVP.
        got: from Samba.
        function: Samba's, which gives it.
    """

    method: str
    wanted: HResult
    got: HResult
    function: str

    def __str__(self) -> str:
        return (
            f"{self.method} answers {self.got.name}, not {self.wanted.name}"
            f" (srv_fss_agent.c, {self.function})"
        )


NO_QUESTION = Gap(
    method="IsPathShadowCopied",
    wanted=HResult.S_OK,
    got=HResult.FSRVP_E_NOT_SUPPORTED,
    function="_fss_IsPathShadowCopied",
)
NO_SUCH_CONTEXT = Gap(
    method="SetContext",
    wanted=HResult.S_OK,
    got=HResult.E_INVALIDARG,
    function="_fss_SetContext",
)
OTHER_ERROR = Gap(
    method="SetContext",
    wanted=HResult.FSRVP_E_UNSUPPORTED_CONTEXT,
    got=HResult.E_INVALIDARG,
    function="_fss_SetContext",
)
OTHER_NODE = Gap(
    method="AddToShadowCopySet",
    wanted=HResult.E_INVALIDARG,
    got=HResult.S_OK,
    function="fss_unc_parse",
)
SAME_SHARE_OF_OTHER_NODE = Gap(
    method="AddToShadowCopySet",
    wanted=HResult.E_INVALIDARG,
    got=HResult.FSRVP_E_OBJECT_ALREADY_EXISTS,
    function="fss_unc_parse",
)
LATE_ABORT = Gap(
    method="AbortShadowCopySet",
    wanted=HResult.FSRVP_E_BAD_STATE,
    got=HResult.S_OK,
    function="_fss_AbortShadowCopySet",
)
ABORT_IN_VAIN = Gap(
    method="StartShadowCopySet",
    wanted=HResult.S_OK,
    got=HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS,
    function="_fss_AbortShadowCopySet",
)
UNKNOWN_SET = Gap(
    method="DeleteShareMapping",
    wanted=HResult.E_INVALIDARG,
    got=HResult.FSRVP_E_OBJECT_NOT_FOUND,
    function="_fss_DeleteShareMapping",
)
GAPS = (
    NO_QUESTION,
    NO_SUCH_CONTEXT,
    OTHER_ERROR,
    OTHER_NODE,
    SAME_SHARE_OF_OTHER_NODE,
    LATE_ABORT,
    ABORT_IN_VAIN,
    UNKNOWN_SET,
)
"""In the order in which the manual has them."""


class Steps:
    """The calls of a case, and where they differ from what the case wants.

    Args:
        client: the connection.
        writes: creates a file in an exposed share; returns whether it was allowed to.

    Attributes:
        found: each difference: a method, what was wanted of it, what it answered.
    """

    def __init__(self, client: Methods, writes: Callable[[str], bool]) -> None:
        self.client = client
        self.writes = writes
        self.found: list[tuple[str, HResult, HResult]] = []

    def call(
        self,
        method: str,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Call a method that has to succeed; return its value, or None if it failed."""
        return self.expect(HResult.S_OK, method, function, *args, **kwargs)

    def expect(
        self,
        wanted: HResult,
        method: str,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Call a method that has to give some answer; return its value, or None if it failed."""
        value, got = None, HResult.S_OK
        try:
            value = function(*args, **kwargs)
        except FsrvpError as exc:
            got = HResult(exc.hresult)
        if got is not wanted:
            self.found.append((method, wanted, got))
        return value


def _begin(steps: Steps, share: str) -> None:
    """Ask about the share, and which version of the protocol is spoken."""
    told = steps.call("IsPathSupported", steps.client.is_path_supported, share)
    assert told is not None
    supported, owner = told
    assert supported
    assert owner
    versions = steps.call("GetSupportedVersion", steps.client.get_supported_version)
    assert versions == (VERSION, VERSION)


def _start(steps: Steps, context: Context) -> UUID | None:
    """Start a set; without a context there is none."""
    steps.call("SetContext", steps.client.set_context, context)
    if any(method == "SetContext" for method, *_ in steps.found):
        return None
    found = steps.call("StartShadowCopySet", steps.client.start_shadow_copy_set)
    assert found
    return found


def _add(steps: Steps, set_id: UUID, share: str, wanted: HResult = HResult.S_OK) -> UUID | None:
    add = steps.client.add_to_shadow_copy_set
    return steps.expect(wanted, "AddToShadowCopySet", add, set_id, share)


def _abort(steps: Steps, set_id: UUID, wanted: HResult = HResult.S_OK) -> None:
    steps.expect(wanted, "AbortShadowCopySet", steps.client.abort_shadow_copy_set, set_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case of the suite.

    Attributes:
        name: in the suite.
        context: of its set.
        shares: their paths.
        abort: in which state of the set it is aborted; empty for never. That has to succeed but for
            "recovered".
        foreign: whether the second share is another node's, and to be refused.
        gaps: what Samba answers otherwise, in this order.
    """

    name: str
    context: Context = _WRITABLE
    shares: tuple[str, ...] = (f"{_NODE}\\vms",)
    abort: str = ""
    foreign: bool = False
    gaps: tuple[Gap, ...] = (NO_QUESTION,)

    def run(self, steps: Steps) -> None:
        """Do what the case says, and clean up."""
        client = steps.client
        _begin(steps, self.shares[0])
        set_id = _start(steps, self.context)
        if set_id is None:
            return
        if self.abort == "started":
            _abort(steps, set_id)
            return
        copies: dict[str, UUID] = {}
        for share in self.shares:
            foreign = self.foreign and share != self.shares[0]
            added = _add(steps, set_id, share, HResult.E_INVALIDARG if foreign else HResult.S_OK)
            if added is not None:
                copies[share] = added
        if self.foreign or self.abort == "added":
            _abort(steps, set_id)
            return
        steps.call("PrepareShadowCopySet", client.prepare_shadow_copy_set, set_id)
        steps.call("CommitShadowCopySet", client.commit_shadow_copy_set, set_id)
        steps.call("ExposeShadowCopySet", client.expose_shadow_copy_set, set_id)
        self._look(steps, set_id, copies)
        complete = client.recovery_complete_shadow_copy_set
        steps.call("RecoveryCompleteShadowCopySet", complete, set_id)
        if self.abort == "recovered":
            _abort(steps, set_id, HResult.FSRVP_E_BAD_STATE)
        for share in copies:
            steps.call("IsPathShadowCopied", client.is_path_shadow_copied, share)
        for share, copy in copies.items():
            steps.call("DeleteShareMapping", client.delete_share_mapping, set_id, copy, share)

    def _look(self, steps: Steps, set_id: UUID, copies: dict[str, UUID]) -> None:
        """See where the copies are exposed, and whether they can be written to."""
        get = steps.client.get_share_mapping
        exposed = []
        for share, copy in copies.items():
            mapping = steps.call("GetShareMapping", get, set_id, copy, share)
            assert mapping is not None
            name = share.rpartition("\\")[2]
            assert mapping.exposed_share.lower() == f"{name}@{{{copy}}}".lower()
            assert mapping.created.year > 1601
            exposed.append(mapping.exposed_share)
        for name in exposed:
            assert steps.writes(name) == bool(self.context & Context.AUTO_RECOVERY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid(Case):
    """The case in which there is no context like that."""

    def run(self, steps: Steps) -> None:
        """Do what the case says."""
        _begin(steps, self.shares[0])
        wanted = HResult.FSRVP_E_UNSUPPORTED_CONTEXT
        steps.expect(wanted, "SetContext", steps.client.set_context, self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortCommitted(Case):
    """No case of the suite: a set that is committed is aborted, and the next one begins."""

    def run(self, steps: Steps) -> None:
        """Do what MS-FSRVP 3.1.4.8 says, and end the set in the way that there is."""
        client, (share,) = steps.client, self.shares
        _begin(steps, share)
        set_id = _start(steps, self.context)
        assert set_id
        copy = _add(steps, set_id, share)
        assert copy
        steps.call("CommitShadowCopySet", client.commit_shadow_copy_set, set_id)
        _abort(steps, set_id)
        steps.call("StartShadowCopySet", client.start_shadow_copy_set)
        steps.call("ExposeShadowCopySet", client.expose_shadow_copy_set, set_id)
        steps.call("DeleteShareMapping", client.delete_share_mapping, set_id, copy, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteUnknown(Case):
    """No case of the suite: a copy of a set that is not there is deleted (MS-FSRVP 3.1.4.12)."""

    def run(self, steps: Steps) -> None:
        """Do what the case says."""
        delete, nobody = steps.client.delete_share_mapping, UUID(int=1)
        wanted = HResult.E_INVALIDARG
        steps.expect(wanted, "DeleteShareMapping", delete, nobody, nobody, self.shares[0])


CASES = (
    Case(
        name="BVT_VSSOperateShadowCopySet_WritableSnapshot_GeneralFileServer",
        shares=(f"{_CLUSTER}\\vms",),
    ),
    Case(
        name="BVT_VSSOperateShadowCopySet_WritableSnapshot_ScaleoutFileServer",
        shares=(f"{_SCALE_OUT}\\vms",),
    ),
    Case(name="BVT_VSSOperateShadowCopySet_WritableSnapshot_SingleNode"),
    Case(
        name="VSSOperateShadowCopySet_DifferentNodeSharePath",
        shares=(f"{_NODE}\\vms", f"{_OTHER}\\vms"),
        foreign=True,
        gaps=(SAME_SHARE_OF_OTHER_NODE,),
    ),
    Case(
        name="BVT_VSSOperateShadowCopySet_ClusterSharePath_OwnerNode",
        shares=(f"{_CLUSTER}\\sql", f"{_NODE}\\vms"),
        gaps=(NO_QUESTION, NO_QUESTION),
    ),
    Case(
        name="BVT_VSSOperateShadowCopySet_ClusterSharePath_NonOwnerNode",
        shares=(f"{_CLUSTER}\\sql", f"{_OTHER}\\vms"),
        foreign=True,
        gaps=(OTHER_NODE,),
    ),
    Case(
        name="BVT_VSSSetContext_ReadonlySnapshot_BACKUP",
        context=BACKUP | Context.NO_AUTO_RECOVERY,
        gaps=(NO_SUCH_CONTEXT,),
    ),
    Case(
        name="VSSSetContext_ReadonlySnapshot_APP_ROLLBACK",
        context=APP_ROLLBACK | Context.NO_AUTO_RECOVERY,
        gaps=(NO_SUCH_CONTEXT,),
    ),
    Case(name="VSSSetContext_ReadonlySnapshot_NAS_ROLLBACK", context=FILE_SHARE_BACKUP),
    Case(name="VSSSetContext_ReadonlySnapshot_FILE_SHARE_BACKUP", context=NAS_ROLLBACK),
    Invalid(
        name="VSSSetContext_Invalid",
        context=_WRITABLE | Context.NO_AUTO_RECOVERY,
        gaps=(OTHER_ERROR,),
    ),
    Case(name="VSSAbortShadowCopySet_Started", abort="started", gaps=()),
    Case(name="VSSAbortShadowCopySet_Added", abort="added", gaps=()),
    Case(
        name="VSSAbortShadowCopySet_Recovered",
        abort="recovered",
        gaps=(LATE_ABORT, NO_QUESTION),
    ),
    AbortCommitted(name="AbortShadowCopySet of a committed set", gaps=(ABORT_IN_VAIN,)),
    DeleteUnknown(name="DeleteShareMapping of an unknown set", gaps=(UNKNOWN_SET,)),
)
