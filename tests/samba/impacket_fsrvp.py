"""A client that is not Samba's: MS-FSRVP over impacket's DCE/RPC and SMB, in Python alone.

Place: called on a host of a domain, for `test_impacket`. The methods are written from MS-FSRVP 2.2
and 3.1.4 (opnums, order and kinds of arguments), apart from our own client, so that the two do not
share a mistake.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from impacket import smb3, smb3structs
from impacket.dcerpc.v5 import rpcrt, transport
from impacket.dcerpc.v5.dtypes import DWORD, GUID, LONGLONG, LPWSTR, WSTR
from impacket.dcerpc.v5.ndr import NDRCALL, NDRPOINTER, NDRSTRUCT, NDRUNION
from impacket.nt_errors import (
    STATUS_NETWORK_NAME_DELETED,
    STATUS_OBJECT_NAME_NOT_FOUND,
    STATUS_OBJECT_PATH_NOT_FOUND,
)
from impacket.smbconnection import SessionError, SMBConnection
from impacket.uuid import uuidtup_to_bin

from samba_rvss.testing.domain import DOMAIN, PASSWORD, REALM, SERVER
from samba_rvss.testing.waiting import wait_until

LEVELS = {
    "none": rpcrt.RPC_C_AUTHN_LEVEL_NONE,  # the SMB session's authentication counts
    "connect": rpcrt.RPC_C_AUTHN_LEVEL_CONNECT,
    "sign": rpcrt.RPC_C_AUTHN_LEVEL_PKT_INTEGRITY,
    "seal": rpcrt.RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
}
_INTERFACE = uuidtup_to_bin(("A8E0653C-2744-4389-A61D-7373DF8B2292", "1.0"))
_DC = f"dc.{REALM.lower()}"
_AUTO_RECOVERY = 0x00400000  # MS-FSRVP 2.2.2.1, ATTR_AUTO_RECOVERY
_NIL = bytes(16)
_SECONDS = 60


class Mapping(NDRSTRUCT):  # type: ignore[misc]
    """FSSAGENT_SHARE_MAPPING_1 (2.2.3.1)."""

    structure = (
        ("ShadowCopySetId", GUID),
        ("ShadowCopyId", GUID),
        ("ShareNameUNC", LPWSTR),
        ("ShadowCopyShareName", LPWSTR),
        ("tstamp", LONGLONG),
    )


class MappingPointer(NDRPOINTER):  # type: ignore[misc]
    """What GetShareMapping answers at level 1."""

    referent = (("Data", Mapping),)


class MappingUnion(NDRUNION):  # type: ignore[misc]
    """FSSAGENT_SHARE_MAPPING (2.2.3.2)."""

    commonHdr = (("tag", DWORD),)
    union = {1: ("ShareMapping1", MappingPointer)}  # noqa: RUF012 - as impacket has them


def _method(name: str, opnum: int, given: Any, answered: Any) -> Any:
    """Return a method's request, beside its response, where impacket looks for that."""
    response = type(f"{name}Response", (NDRCALL,), {"structure": (*answered, ("ErrorCode", DWORD))})
    globals()[response.__name__] = response
    made = type(name, (NDRCALL,), {"opnum": opnum, "structure": tuple(given)})
    made.__module__ = response.__module__ = __name__
    return made


_SET = (("ShadowCopySetId", GUID),)
_TIMED = (*_SET, ("TimeOutInMilliseconds", DWORD))
_SHARE = (("ShareName", WSTR),)
GetSupportedVersion = _method(
    "GetSupportedVersion", 0, (), (("MinVersion", DWORD), ("MaxVersion", DWORD))
)
SetContext = _method("SetContext", 1, (("Context", DWORD),), ())
StartShadowCopySet = _method(
    "StartShadowCopySet", 2, (("ClientShadowCopySetId", GUID),), (("pShadowCopySetId", GUID),)
)
AddToShadowCopySet = _method(
    "AddToShadowCopySet",
    3,
    (("ClientShadowCopyId", GUID), *_SET, *_SHARE),
    (("pShadowCopyId", GUID),),
)
CommitShadowCopySet = _method("CommitShadowCopySet", 4, _TIMED, ())
ExposeShadowCopySet = _method("ExposeShadowCopySet", 5, _TIMED, ())
RecoveryCompleteShadowCopySet = _method("RecoveryCompleteShadowCopySet", 6, _SET, ())
IsPathSupported = _method(
    "IsPathSupported",
    8,
    _SHARE,
    (("SupportedByThisProvider", DWORD), ("OwnerMachineName", LPWSTR)),
)
GetShareMapping = _method(
    "GetShareMapping",
    10,
    (("ShadowCopyId", GUID), *_SET, *_SHARE, ("Level", DWORD)),
    (("ShareMapping", MappingUnion),),
)
DeleteShareMapping = _method("DeleteShareMapping", 11, (*_SET, ("ShadowCopyId", GUID), *_SHARE), ())
PrepareShadowCopySet = _method("PrepareShadowCopySet", 12, _TIMED, ())


class Fsrvp:
    """A connection to the file server's FSRVP.

    Args:
        user: an account's name.
        level: one of LEVELS.
        kerberos: with the ticket for SMB in $KRB5CCNAME; or NTLM. impacket comes to no end with
            Samba where RPC itself is to have Kerberos: it sends no MIC of the mechanisms
            (RFC 4178, 5), which Samba wants (auth/gensec/spnego.c).
    """

    def __init__(self, user: str, level: str, *, kerberos: bool) -> None:
        password = "" if kerberos else PASSWORD
        pipe = transport.DCERPCTransportFactory(f"ncacn_np:{SERVER}[\\pipe\\FssagentRpc]")
        pipe.set_credentials(user, password, REALM if kerberos else DOMAIN)
        pipe.set_kerberos(kerberos, _DC)
        pipe.set_connect_timeout(_SECONDS)
        self._rpc = pipe.get_dce_rpc()
        self._rpc.set_auth_level(LEVELS[level])
        self._rpc.connect()
        self._rpc.bind(_INTERFACE)

    def close(self) -> None:
        """Say goodbye."""
        self._rpc.disconnect()

    def call(self, method: Any, **given: Any) -> Any:
        """Call a method and return its response; a result that is not 0 is an exception."""
        request = method()
        for name, value in given.items():
            request[name] = value
        return self._rpc.request(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A shadow copy that is exposed."""

    set_id: bytes
    copy_id: bytes
    exposed: str


def _unc(share: str) -> str:
    return f"\\\\{SERVER}\\{share}\0"


def take(client: Fsrvp, share: str) -> Taken:
    """Take a shadow copy with auto-recovery, and expose it (MS-FSRVP 1.3.1)."""
    unc = _unc(share)
    versions = client.call(GetSupportedVersion)
    assert versions["MinVersion"] <= 1 <= versions["MaxVersion"]
    assert client.call(IsPathSupported, ShareName=unc)["SupportedByThisProvider"] == 1
    client.call(SetContext, Context=_AUTO_RECOVERY)
    started = client.call(StartShadowCopySet, ClientShadowCopySetId=_NIL)
    set_id = started["pShadowCopySetId"]
    added = client.call(
        AddToShadowCopySet, ClientShadowCopyId=_NIL, ShadowCopySetId=set_id, ShareName=unc
    )
    copy_id = added["pShadowCopyId"]
    for method in (PrepareShadowCopySet, CommitShadowCopySet, ExposeShadowCopySet):
        client.call(method, ShadowCopySetId=set_id, TimeOutInMilliseconds=1000 * _SECONDS)
    got = client.call(
        GetShareMapping, ShadowCopyId=copy_id, ShadowCopySetId=set_id, ShareName=unc, Level=1
    )
    mapping = got["ShareMapping"]["ShareMapping1"]
    assert (mapping["ShadowCopySetId"], mapping["ShadowCopyId"]) == (set_id, copy_id)
    exposed = mapping["ShadowCopyShareName"].rstrip("\0")
    return Taken(set_id=set_id, copy_id=copy_id, exposed=exposed)


def complete(client: Fsrvp, taken: Taken) -> None:
    """Complete the recovery."""
    client.call(RecoveryCompleteShadowCopySet, ShadowCopySetId=taken.set_id)


def delete(client: Fsrvp, taken: Taken, share: str) -> None:
    """Delete the shadow copy."""
    client.call(
        DeleteShareMapping,
        ShadowCopySetId=taken.set_id,
        ShadowCopyId=taken.copy_id,
        ShareName=_unc(share),
    )


def _smb(user: str, *, kerberos: bool) -> SMBConnection:
    connection = SMBConnection(SERVER, SERVER, timeout=_SECONDS)
    if kerberos:
        connection.kerberosLogin(user, "", REALM, kdcHost=_DC)
    else:
        connection.login(user, PASSWORD, DOMAIN)
    return connection


def sequence(user: str, level: str, share: str, file: str, ccache: str) -> None:
    """Take a shadow copy, write to it, complete it, read it, and delete it.

    Args:
        user: an account's name.
        level: one of LEVELS.
        share: of which share.
        file: one that is in it.
        ccache: where the ticket for SMB is; empty to use NTLM.
    """
    os.environ["KRB5CCNAME"] = ccache
    client = Fsrvp(user, level, kerberos=bool(ccache))
    taken = take(client, share)
    smb = _smb(user, kerberos=bool(ccache))
    tree = smb.connectTree(taken.exposed)
    handle = smb.openFile(tree, file)
    smb.writeFile(tree, handle, b"recovered")
    smb.closeFile(tree, handle)
    smb.close()
    complete(client, taken)
    assert _read(user, taken.exposed, file, kerberos=bool(ccache)) == b"recovered"
    delete(client, taken, share)
    client.close()


def _read(user: str, share: str, file: str, *, kerberos: bool) -> bytes:
    """Read a file's beginning; who connects before a copy is sealed loses that connection then."""
    return wait_until("it can be read", partial(_try_to_read, user, share, file, kerberos=kerberos))


def _try_to_read(user: str, share: str, file: str, *, kerberos: bool) -> bytes:
    smb = _smb(user, kerberos=kerberos)
    try:
        tree = smb.connectTree(share)
        handle = smb.openFile(tree, file, desiredAccess=smb3structs.FILE_READ_DATA)
        data: bytes = smb.readFile(tree, handle, 0, len(b"recovered"))
    except SessionError as exc:
        if exc.getErrorCode() not in (STATUS_NETWORK_NAME_DELETED, STATUS_OBJECT_PATH_NOT_FOUND):
            raise
        return b""
    finally:
        smb.close()
    return data


class _Durable:
    """A file that is open with a durable handle (MS-SMB2 3.2.4.4), if the share grants any.

    It is made if it is not there: of the birth time of one that no client of Samba's has made,
    Samba keeps fewer digits than it compares (source3/smbd/durable.c,
    vfs_default_durable_reconnect_check_stat()), and lets nobody reconnect.
    """

    def __init__(self, user: str, share: str, file: str) -> None:
        self._where = (user, share, file)
        self._open("DHnQ", bytes(16))

    def _open(self, context: str, data: bytes) -> None:
        user, share, file = self._where
        self._smb = _smb(user, kerberos=False)
        server = self._smb.getSMBServer()
        self._tree = self._smb.connectTree(share)
        request = smb3structs.SMB2CreateContext()
        request["Next"] = 0
        request["NameOffset"] = 16
        request["NameLength"] = 4
        request["DataOffset"] = 24
        request["DataLength"] = len(data)
        request["Buffer"] = context.encode().ljust(8, b"\0") + data
        self._handle = server.create(
            self._tree,
            file,
            smb3structs.FILE_READ_DATA | smb3structs.FILE_WRITE_DATA,
            smb3structs.FILE_SHARE_READ,
            0,
            smb3structs.FILE_OPEN_IF,
            0,
            oplockLevel=smb3structs.SMB2_OPLOCK_LEVEL_BATCH,
            createContexts=[request],
        )

    def write(self, data: bytes) -> None:
        """Write at the beginning."""
        self._smb.writeFile(self._tree, self._handle, data)

    def drop(self) -> None:
        """Lose the connection."""
        self._smb.getSMBServer().get_socket().close()

    def reconnect(self) -> bool:
        """Claim the handle in a new connection; return whether it is there."""
        try:
            self._open("DHnC", self._handle)
        except smb3.SessionError as exc:
            if exc.get_error_code() != STATUS_OBJECT_NAME_NOT_FOUND:
                raise
            return False
        return True

    def close(self) -> None:
        """Close the file and the connection."""
        self._smb.closeFile(self._tree, self._handle)
        self._smb.close()


def durable(user: str, share: str, file: str) -> None:
    """Have a durable handle across a shadow copy, and ask for one in the shadow copy.

    Args:
        user: an account's name.
        share: of which share.
        file: one that is not in it.
    """
    source = _Durable(user, share, file)
    source.write(b"captured!")
    client = Fsrvp(user, "seal", kerberos=False)
    taken = take(client, share)
    source.drop()
    wait_until("the handle is there again", source.reconnect)
    source.write(b"and later")
    source.close()
    recovery = _Durable(user, taken.exposed, file)
    recovery.drop()
    smb = _smb(user, kerberos=False)
    # Its server process has ended, and with it the handle, when nobody has the file open.
    wait_until("the file is closed", partial(_may_have_alone, smb, taken.exposed, file))
    assert not recovery.reconnect()
    smb.deleteFile(share, file)
    smb.close()
    complete(client, taken)
    assert _read(user, taken.exposed, file, kerberos=False) == b"captured!"
    delete(client, taken, share)
    client.close()


def _may_have_alone(smb: SMBConnection, share: str, file: str) -> bool:
    tree = smb.connectTree(share)
    try:
        handle = smb.openFile(tree, file, shareMode=0)
    except SessionError:
        return False
    smb.closeFile(tree, handle)
    return True
