"""The results with which an FSRVP server refuses a method, and the error that is made of them.

Place: below `methods`; needs no python-samba.
"""

from enum import IntEnum

from samba_rvss.errors import Problem, RvssError


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


class FsrvpError(RvssError):
    """The server refused a method of the protocol.

    Args:
        method: the method's name in MS-FSRVP, such as ``CommitShadowCopySet``.
        hresult: what it returned; the attribute ``name`` is its name, or the number if it has none.
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
