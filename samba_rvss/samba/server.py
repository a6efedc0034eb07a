"""What kind of server smb.conf makes of this machine, and by which names and addresses it is known.

python-samba has global state and can block: see `samba_rvss.samba.process`.
"""

import socket
from dataclasses import dataclass

from samba_rvss.kernel.addresses import is_local
from samba_rvss.samba.parser import open_context

_RANGE = "idmap config * : range"
_MEMBER = "ROLE_DOMAIN_MEMBER"  # lib/param/loadparm_server_role.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A file server.

    Attributes:
        netbios_name: by which IsPathSupported tells clients to connect (source3/rpc_server/fss/
            srv_fss_agent.c, _fss_IsPathSupported()).
        host_name: the machine's own, without its domain.
        realm: of its Active Directory domain, in lower case; empty if it has none.
        is_member: whether it is a member of a domain.
        has_range: whether winbindd may give ids to what is of no domain that has a range of its
            own (idmap_tdb(8)): to the groups in BUILTIN, first of all.
        address: an address at which its smbd can be reached from here. It is this machine's:
            ``interfaces`` may name one that another node of a failover pair has now.
        version: that of python-samba, whose libraries are Samba's.
    """

    netbios_name: str
    host_name: str
    realm: str
    is_member: bool
    address: str
    version: str
    has_range: bool = True


def look(configfile: str) -> Server:
    """Return what smb.conf says.

    Raises:
        RvssError: CONFIG if it cannot be read.
    """
    import samba

    context = open_context(configfile)
    addresses: list[str] = []
    if context.get("bind interfaces only"):
        addresses = [word.partition("/")[0] for word in context.get("interfaces") or ()]
    return Server(
        netbios_name=str(context.get("netbios name")),
        host_name=socket.gethostname().partition(".")[0],
        realm=str(context.get("realm") or "").lower(),
        is_member=context.server_role() == _MEMBER,
        address=next(filter(is_local, addresses), "127.0.0.1"),
        version=str(samba.version),
        has_range=bool(context.get(_RANGE)),
    )
