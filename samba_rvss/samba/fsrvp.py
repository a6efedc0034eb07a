"""A client for MS-FSRVP, the File Server Remote VSS Protocol.

Place: the requestor's side of the wire, for the backup command, the demonstration and the tests.
Contract: one method for each of the protocol's, callable in any order, so that a client can stop
after any step; requests and replies are NDR by hand, as python-samba has no bindings for this
interface. An HRESULT other than 0 is an FsrvpError; a connection that fails is an RvssError.
The Client owns one SMB connection, and `close` frees it.

Source of the layouts and the numbers: Samba, librpc/idl/fsrvp.idl; MS-FSRVP 3.1.4.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from types import TracebackType
from typing import Self
from uuid import UUID

from samba import NTSTATUSError, ntstatus
from samba.credentials import DONT_USE_KERBEROS, Credentials
from samba.dcerpc.base import ClientConnection
from samba.param import LoadParm

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context

INTERFACE = ("a8e0653c-2744-4389-a61d-7373df8b2292", 1)
VERSION = 1

# librpc/idl/fsrvp.idl, FSRVP_CTX_*. To get a copy that is writable until RecoveryComplete,
# add Context.AUTO_RECOVERY.
BACKUP = Context(0)
FILE_SHARE_BACKUP = Context.NO_WRITERS
APP_ROLLBACK = Context.PERSISTENT | Context.NO_AUTO_RELEASE
NAS_ROLLBACK = APP_ROLLBACK | Context.NO_WRITERS

_STATUS_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(ntstatus).items()
    if name.startswith("NT_STATUS_") and isinstance(value, int)
}
_NIL = UUID(int=0)
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class HResult(IntEnum):
    """The results that Samba's server gives (fsrvp.idl; srv_fss_agent.c, fss_ntstatus_map)."""

    S_OK = 0x00000000
    FSRVP_E_WAIT_TIMEOUT = 0x00000102
    E_NOTIMPL = 0x80004001
    E_FAIL = 0x80004005
    FSRVP_E_BAD_STATE = 0x80042301
    FSRVP_E_BAD_ID = 0x80042302
    FSRVP_E_OBJECT_NOT_FOUND = 0x80042308
    FSRVP_E_NOT_SUPPORTED = 0x8004230C
    FSRVP_E_OBJECT_ALREADY_EXISTS = 0x8004230D
    # GetShareMapping before Expose: MS-FSRVP, appendix B, note 9 gives the number but no name.
    FSRVP_E_NOT_EXPOSED = 0x80042311
    FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS = 0x80042316
    FSRVP_E_UNSUPPORTED_CONTEXT = 0x8004231B
    FSRVP_E_SHADOWCOPYSET_ID_MISMATCH = 0x80042501
    E_ACCESSDENIED = 0x80070005
    E_OUTOFMEMORY = 0x8007000E
    E_INVALIDARG = 0x80070057
    FSRVP_E_WAIT_FAILED = 0xFFFFFFFF


_HINTS = {
    HResult.E_FAIL: "see log.rpcd_fsrvp on the server",
    HResult.E_ACCESSDENIED: (
        "make the user a member of the server's Backup Operators or grant it SeBackupPrivilege"
    ),
    HResult.FSRVP_E_NOT_SUPPORTED: "see the reason in log.rpcd_fsrvp on the server",
    HResult.FSRVP_E_SHADOW_COPY_SET_IN_PROGRESS: (
        "another shadow copy set is being created: try again when it is exposed or aborted"
    ),
}


def status_name(error: NTSTATUSError) -> str:
    """Return the NTSTATUS name of what python-samba raised, or its number."""
    number: int = error.args[0]
    return _STATUS_NAMES.get(number) or f"0x{number:08x}"


class FsrvpError(RvssError):
    """The server refused a method of the protocol.

    Args:
        method: the method's name in MS-FSRVP, such as ``CommitShadowCopySet``.
        hresult: what it returned; ``name`` is its name, or the number where it has none.
    """

    def __init__(self, method: str, hresult: int) -> None:
        self.method = method
        self.hresult = hresult
        try:
            known = HResult(hresult)
        except ValueError:
            self.name, hint = f"0x{hresult:08x}", ""
            shown = self.name
        else:
            self.name, hint = known.name, _HINTS.get(known, "")
            shown = f"{self.name} (0x{hresult:08x})"
        super().__init__(Problem.SAMBA, f"the server answered {method} with {shown}", hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMapping:
    """Where the shadow copy of a share is to be found (FSSAGENT_SHARE_MAPPING_1)."""

    set_id: UUID
    copy_id: UUID
    unc: str
    exposed_share: str
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One call of a sequence, and how many seconds it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySet:
    """An exposed shadow copy set: one mapping for each share, in the order asked for."""

    id: UUID
    context: Context
    mappings: tuple[ShareMapping, ...]
    stages: tuple[Stage, ...]


class _Reply:
    """A cursor over NDR, little-endian; every reply ends with a uint32 result."""

    def __init__(self, method: str, data: bytes) -> None:
        self._method = method
        self._data = data
        self._at = 0

    def _take(self, length: int) -> bytes:
        piece = self._data[self._at : self._at + length]
        if len(piece) != length:
            raise RvssError(
                Problem.SAMBA, f"the server's reply to {self._method} is too short to be one"
            )
        self._at += length
        return piece

    def uint32(self) -> int:
        self._at += -self._at % 4
        return int.from_bytes(self._take(4), "little")

    def guid(self) -> UUID:
        self._at += -self._at % 4
        return UUID(bytes_le=self._take(16))

    def nttime(self) -> datetime:
        self._at += -self._at % 4
        ticks = int.from_bytes(self._take(8), "little")
        return _EPOCH + timedelta(microseconds=ticks // 10)

    def string(self) -> str:
        _maximum, _offset, count = self.uint32(), self.uint32(), self.uint32()
        text = self._take(2 * count).decode("utf-16-le", "surrogatepass")
        return text.removesuffix("\0")


def _string(text: str) -> bytes:
    """Encode a conformant varying string, padded to the next uint32."""
    raw = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
    count = len(raw) // 2
    return struct.pack("<III", count, 0, count) + raw + bytes(-len(raw) % 4)


def _load_parm() -> LoadParm:
    """Return a client configuration of its own, read from no file.

    A named file keeps it apart from the process's global one (source4/param/pyparam.c,
    py_lp_ctx_new), and the server's smb.conf cannot be loaded here: it includes the registry.
    """
    lp = LoadParm(filename_for_non_global_lp=os.devnull)
    lp.set("netbios name", "SAMBA-RVSS")
    lp.set("client use kerberos", "disabled")
    lp.set("name resolve order", "host")
    return lp


class Client:
    """A connection to a file server's FSRVP service.

    Args:
        host: name or address of the server; also the host in share paths.
        user: a member of Backup Operators or Administrators, or the server's own root.
        password: in clear; NTLM is used.
        domain: of the user; empty for a user of the server itself.
        options: of the DCE/RPC binding, such as "sign" or "seal".
        timeout: seconds that one call may take; Windows gives them 180.

    Raises:
        RvssError: SAMBA if the server cannot be reached or the user is refused.
    """

    def __init__(
        self,
        host: str,
        user: str,
        password: str,
        *,
        domain: str = "",
        options: Sequence[str] = (),
        timeout: float = 180.0,
    ) -> None:
        self.host = host
        credentials = Credentials()
        credentials.set_username(user)
        credentials.set_password(password)
        credentials.set_domain(domain or "WORKGROUP")
        credentials.set_workstation("SAMBA-RVSS")
        credentials.set_kerberos_state(DONT_USE_KERBEROS)
        endpoint = ",".join(("\\pipe\\FssagentRpc", *options))
        try:
            self._connection: ClientConnection | None = ClientConnection(
                f"ncacn_np:{host}[{endpoint}]", INTERFACE, _load_parm(), credentials
            )
        except NTSTATUSError as exc:
            raise RvssError(
                Problem.SAMBA,
                f"cannot connect to the FSRVP service of {host} as {user} ({status_name(exc)})",
                "see that smbd serves there, that the password is right and that rpcd_fsrvp starts",
            ) from exc
        self._connection.request_timeout = max(1, round(timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; nothing is asked of the server, as when a client vanishes."""
        self._connection = None

    def unc(self, share: str) -> str:
        """Return a share's UNC path; what begins like one is returned as it is."""
        return share if share.startswith("\\\\") else f"\\\\{self.host}\\{share}"

    def call(self, method: str, opnum: int, request: bytes) -> _Reply:
        """Send one request and return what follows, its result having been checked.

        Raises:
            FsrvpError: the server's result is not 0.
            RvssError: SAMBA if the connection failed, was closed or the time is up.
        """
        if self._connection is None:
            raise RvssError(Problem.SAMBA, f"{method} needs a connection, and it has been closed")
        try:
            data: bytes = self._connection.request(opnum, request)
        except NTSTATUSError as exc:
            raise RvssError(
                Problem.SAMBA,
                f"the FSRVP service of {self.host} did not answer {method} ({status_name(exc)})",
                "see log.rpcd_fsrvp on the server",
            ) from exc
        result = _Reply(method, data[-4:]).uint32()
        if result:
            raise FsrvpError(method, result)
        return _Reply(method, data)

    def get_supported_version(self) -> tuple[int, int]:
        """Return the lowest and the highest version of the protocol that the server speaks."""
        reply = self.call("GetSupportedVersion", 0, b"")
        return reply.uint32(), reply.uint32()

    def set_context(self, context: Context) -> None:
        """Say what the next shadow copy set is for."""
        self.call("SetContext", 1, struct.pack("<I", context))

    def start_shadow_copy_set(self) -> UUID:
        """Begin a shadow copy set; return its id, which the server chooses."""
        return self.call("StartShadowCopySet", 2, _NIL.bytes_le).guid()

    def add_to_shadow_copy_set(self, set_id: UUID, share: str) -> UUID:
        """Add a share, by name or UNC path, to a set; return the id of its shadow copy."""
        request = _NIL.bytes_le + set_id.bytes_le + _string(self.unc(share))
        return self.call("AddToShadowCopySet", 3, request).guid()

    def commit_shadow_copy_set(self, set_id: UUID, timeout: float = 60.0) -> None:
        """Create the shadow copies of a set; Samba ignores the time-out (seconds)."""
        self._timed("CommitShadowCopySet", 4, set_id, timeout)

    def expose_shadow_copy_set(self, set_id: UUID, timeout: float = 120.0) -> None:
        """Make the shadow copies of a set shares; Samba ignores the time-out (seconds)."""
        self._timed("ExposeShadowCopySet", 5, set_id, timeout)

    def recovery_complete_shadow_copy_set(self, set_id: UUID) -> None:
        """Say that the copies are consistent now: from here on they must not change."""
        self.call("RecoveryCompleteShadowCopySet", 6, set_id.bytes_le)

    def abort_shadow_copy_set(self, set_id: UUID) -> None:
        """Give a set up."""
        self.call("AbortShadowCopySet", 7, set_id.bytes_le)

    def is_path_supported(self, share: str) -> tuple[bool, str]:
        """Return whether a share can be copied, and the name of the machine that owns it.

        Samba never answers "no": it fails with FSRVP_E_NOT_SUPPORTED (_fss_IsPathSupported).
        """
        reply = self.call("IsPathSupported", 8, _string(self.unc(share)))
        supported = bool(reply.uint32())
        return supported, reply.string() if reply.uint32() else ""

    def is_path_shadow_copied(self, share: str) -> tuple[bool, int]:
        """Return whether a share has shadow copies and their compatibility flags.

        Samba always fails with FSRVP_E_NOT_SUPPORTED (_fss_IsPathShadowCopied).
        """
        reply = self.call("IsPathShadowCopied", 9, _string(self.unc(share)))
        return bool(reply.uint32()), reply.uint32()

    def get_share_mapping(self, set_id: UUID, copy_id: UUID, share: str) -> ShareMapping:
        """Return where the copy of a base share is exposed."""
        # The request names the copy before the set; DeleteShareMapping does it the other way.
        request = copy_id.bytes_le + set_id.bytes_le + _string(self.unc(share))
        reply = self.call("GetShareMapping", 10, request + struct.pack("<I", 1))
        level, pointer = reply.uint32(), reply.uint32()
        if level != 1 or not pointer:
            raise RvssError(Problem.SAMBA, "the server's reply to GetShareMapping has no mapping")
        got_set, got_copy = reply.guid(), reply.guid()
        has_unc, has_name, created = reply.uint32(), reply.uint32(), reply.nttime()
        return ShareMapping(
            set_id=got_set,
            copy_id=got_copy,
            unc=reply.string() if has_unc else "",
            exposed_share=reply.string() if has_name else "",
            created=created,
        )

    def delete_share_mapping(self, set_id: UUID, copy_id: UUID, share: str) -> None:
        """Delete the shadow copy of a base share, named or by UNC path, and its exposed share."""
        request = set_id.bytes_le + copy_id.bytes_le + _string(self.unc(share))
        self.call("DeleteShareMapping", 11, request)

    def prepare_shadow_copy_set(self, set_id: UUID, timeout: float = 240.0) -> None:
        """Get ready for the commit; Samba only restarts its timer (seconds are ignored)."""
        self._timed("PrepareShadowCopySet", 12, set_id, timeout)

    def _timed(self, method: str, opnum: int, set_id: UUID, timeout: float) -> None:
        self.call(method, opnum, set_id.bytes_le + struct.pack("<I", round(timeout * 1000)))


def shadow_copy_set(
    client: Client,
    shares: Sequence[str],
    context: Context = BACKUP,
    *,
    report: Callable[[Stage], None] | None = None,
) -> CopySet:
    """Create and expose a shadow copy set the way that Windows does.

    The calls are GetSupportedVersion, IsPathSupported for each share, SetContext,
    StartShadowCopySet, AddToShadowCopySet for each share, Prepare, Commit, Expose, and
    GetShareMapping for each share. A set that fails on the way is aborted.

    Args:
        client: the connection.
        shares: names or UNC paths of the shares that belong together.
        context: see MS-FSRVP 2.2.2.2; add AUTO_RECOVERY for a copy that can be written to.
        report: called with each stage as soon as it is over.

    Raises:
        FsrvpError: with the method that the server refused; a failed abort is added as a note.
        RvssError: SAMBA if the connection failed.
    """
    stages: list[Stage] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        stages.append(Stage(name=name, seconds=time.monotonic() - start))
        if report is not None:
            report(stages[-1])

    with stage("GetSupportedVersion"):
        lowest, highest = client.get_supported_version()
    if not lowest <= VERSION <= highest:
        raise RvssError(
            Problem.SAMBA,
            f"{client.host} speaks versions {lowest} to {highest} of FSRVP, not {VERSION}",
        )
    for share in shares:
        with stage(f"IsPathSupported {share}"):
            client.is_path_supported(share)
    with stage("SetContext"):
        client.set_context(context)
    with stage("StartShadowCopySet"):
        set_id = client.start_shadow_copy_set()
    try:
        copies = []
        for share in shares:
            with stage(f"AddToShadowCopySet {share}"):
                copies.append(client.add_to_shadow_copy_set(set_id, share))
        with stage("PrepareShadowCopySet"):
            client.prepare_shadow_copy_set(set_id)
        with stage("CommitShadowCopySet"):
            client.commit_shadow_copy_set(set_id)
        with stage("ExposeShadowCopySet"):
            client.expose_shadow_copy_set(set_id)
        mappings = []
        for share, copy_id in zip(shares, copies, strict=True):
            with stage(f"GetShareMapping {share}"):
                mappings.append(client.get_share_mapping(set_id, copy_id, share))
    except BaseException as exc:
        try:
            client.abort_shadow_copy_set(set_id)
        except RvssError as failure:
            exc.add_note(f"and the set could not be aborted: {failure}")
        raise
    return CopySet(id=set_id, context=context, mappings=tuple(mappings), stages=tuple(stages))
