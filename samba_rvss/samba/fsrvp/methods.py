"""The methods of MS-FSRVP, one each, over whatever carries a request.

Place: above `ndr`; `client` and the tests' rigs bring connections. Contract: every method can be
called in any order, so that a client can stop after any step; an HRESULT other than 0 is an
FsrvpError, a connection that fails is an RvssError.
"""

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from unicodedata import category
from uuid import UUID

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Context
from samba_rvss.samba.fsrvp import ndr
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.text import printable

VERSION = 1

# librpc/idl/fsrvp.idl, FSRVP_CTX_*. To get a copy that is writable until RecoveryComplete,
# add Context.AUTO_RECOVERY.
BACKUP = Context(0)
FILE_SHARE_BACKUP = Context.NO_WRITERS
APP_ROLLBACK = Context.PERSISTENT | Context.NO_AUTO_RELEASE
NAS_ROLLBACK = APP_ROLLBACK | Context.NO_WRITERS

_NIL = UUID(int=0)
_LONGEST = 255  # of a share's name; one of Windows has 80 characters, and a copy's 39 more
_ODD = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, surrogates, ends of lines
_SHOWN = 40  # characters of what is none


def _is_name(text: str) -> bool:
    r"""Return whether a share can be called so: in a path, and in a line of text.

    Without what MS-FSCC 2.1.6 forbids that changes where ``\\server\name`` leads, or ends a line.
    What joins or turns letters, or is blank, is a part of names; whoever shows one escapes it.
    """
    is_part = text not in (".", "..") and "/" not in text and "\\" not in text
    return 0 < len(text) <= _LONGEST and is_part and _ODD.isdisjoint(map(category, text))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMapping:
    """Where the shadow copy of a share is exposed (FSSAGENT_SHARE_MAPPING_1)."""

    set_id: UUID
    copy_id: UUID
    unc: str
    exposed_share: str
    created: datetime


class Methods(ABC):
    """The protocol's methods; a subclass says how a request gets to the server.

    Args:
        host: name or address of the server, which share paths begin with.
    """

    def __init__(self, host: str) -> None:
        self.host = host

    @abstractmethod
    def request(self, method: str, opnum: int, data: bytes) -> bytes:
        """Send a request and return the reply to it.

        Args:
            method: the method's name, for the sentence of an error.
            opnum: its number.
            data: its arguments as NDR.

        Raises:
            RvssError: SAMBA if the connection failed, was closed or the time is up.
        """

    def unc(self, share: str) -> str:
        """Return a share's UNC path; a UNC path is returned as it is."""
        return share if share.startswith("\\\\") else f"\\\\{self.host}\\{share}"

    def _call(self, method: str, opnum: int, data: bytes) -> ndr.Reply:
        """Send a request, check the result in the reply, and return the reply.

        Raises:
            FsrvpError: the server's result is not 0.
            RvssError: as `request`.
        """
        reply = ndr.Reply(method, self.request(method, opnum, data))
        result = reply.result()
        if result:
            raise FsrvpError(method, result)
        return reply

    def get_supported_version(self) -> tuple[int, int]:
        """Return the lowest and the highest version of the protocol that the server speaks."""
        reply = self._call("GetSupportedVersion", 0, b"")
        return reply.uint32(), reply.uint32()

    def set_context(self, context: Context) -> None:
        """Say what the next shadow copy set is for."""
        self._call("SetContext", 1, struct.pack("<I", context))

    def start_shadow_copy_set(self) -> UUID:
        """Begin a shadow copy set; return its id, which the server chooses."""
        return self._call("StartShadowCopySet", 2, _NIL.bytes_le).guid()

    def add_to_shadow_copy_set(self, set_id: UUID, share: str) -> UUID:
        """Add a share, by name or UNC path, to a set; return the id of its shadow copy."""
        request = _NIL.bytes_le + set_id.bytes_le + ndr.string(self.unc(share))
        return self._call("AddToShadowCopySet", 3, request).guid()

    def commit_shadow_copy_set(self, set_id: UUID, timeout: float = 60.0) -> None:
        """Create the shadow copies of a set; Samba ignores the time-out (seconds)."""
        self._timed("CommitShadowCopySet", 4, set_id, timeout)

    def expose_shadow_copy_set(self, set_id: UUID, timeout: float = 120.0) -> None:
        """Expose the shadow copies of a set as shares; Samba ignores the time-out (seconds)."""
        self._timed("ExposeShadowCopySet", 5, set_id, timeout)

    def recovery_complete_shadow_copy_set(self, set_id: UUID) -> None:
        """Complete the recovery: the copies are consistent, and must not change any more."""
        self._call("RecoveryCompleteShadowCopySet", 6, set_id.bytes_le)

    def abort_shadow_copy_set(self, set_id: UUID) -> None:
        """Abort a set."""
        self._call("AbortShadowCopySet", 7, set_id.bytes_le)

    def is_path_supported(self, share: str) -> tuple[bool, str]:
        """Return whether a share can be copied, and the name of the machine that owns it.

        Samba never answers "no": it fails with FSRVP_E_NOT_SUPPORTED (_fss_IsPathSupported).
        """
        reply = self._call("IsPathSupported", 8, ndr.string(self.unc(share)))
        supported = bool(reply.uint32())
        return supported, reply.string() if reply.uint32() else ""

    def is_path_shadow_copied(self, share: str) -> tuple[bool, int]:
        """Return whether a share has shadow copies and their compatibility flags.

        Samba always fails with FSRVP_E_NOT_SUPPORTED (_fss_IsPathShadowCopied).
        """
        reply = self._call("IsPathShadowCopied", 9, ndr.string(self.unc(share)))
        return bool(reply.uint32()), reply.uint32()

    def get_share_mapping(self, set_id: UUID, copy_id: UUID, share: str) -> ShareMapping:
        """Return where the copy of a base share is exposed.

        What the server calls it becomes a part of a path and a line of a program's environment: a
        name that no share can have is refused.
        """
        # The request names the copy before the set; DeleteShareMapping does it the other way.
        request = copy_id.bytes_le + set_id.bytes_le + ndr.string(self.unc(share))
        reply = self._call("GetShareMapping", 10, request + struct.pack("<I", 1))
        level, pointer = reply.uint32(), reply.uint32()
        if level != 1 or not pointer:
            raise RvssError(Problem.SAMBA, "the server's reply to GetShareMapping has no mapping")
        got_set, got_copy = reply.guid(), reply.guid()
        has_unc, has_name, created = reply.uint32(), reply.uint32(), reply.nttime()
        unc = reply.string() if has_unc else ""
        name = reply.string() if has_name else ""
        if not _is_name(name):
            raise RvssError(
                Problem.SAMBA,
                f"{self.host} says that the shadow copy of {share} is exposed as"
                f" '{printable(name[:_SHOWN])}', which is no name of a share",
            )
        return ShareMapping(
            set_id=got_set, copy_id=got_copy, unc=unc, exposed_share=name, created=created
        )

    def delete_share_mapping(self, set_id: UUID, copy_id: UUID, share: str) -> None:
        """Delete the shadow copy of a base share, named or by UNC path, and its exposed share."""
        request = set_id.bytes_le + copy_id.bytes_le + ndr.string(self.unc(share))
        self._call("DeleteShareMapping", 11, request)

    def prepare_shadow_copy_set(self, set_id: UUID, timeout: float = 240.0) -> None:
        """Prepare a set for its commit; Samba only restarts its timer and ignores the time-out."""
        self._timed("PrepareShadowCopySet", 12, set_id, timeout)

    def _timed(self, method: str, opnum: int, set_id: UUID, timeout: float) -> None:
        self._call(method, opnum, set_id.bytes_le + struct.pack("<I", round(timeout * 1000)))
