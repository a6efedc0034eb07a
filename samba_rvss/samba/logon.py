"""Logging on to a file server with python-samba: who, by which means, and what a refusal is called.

Place: below all that connects to a Samba as a client. Contract: a `Logon` is a value and holds no
connection; only `credentials` makes python-samba's credentials of it, and only `load_parm` makes a
client's configuration.
"""

import os
from dataclasses import dataclass, field

from samba import NTSTATUSError, ntstatus
from samba.credentials import (
    DONT_USE_KERBEROS,
    MUST_USE_KERBEROS,
    SPECIFIED,
    Credentials,
)
from samba.param import LoadParm

WORKSTATION = "SAMBA-RVSS"
"""The name of this machine in NTLM, which wants one."""

_STATUS_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(ntstatus).items()
    if name.startswith("NT_STATUS_") and isinstance(value, int)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logon:
    """Who logs on.

    Args:
        user: name of the user; empty to log on anonymously.
        password: in clear; not looked at where ``ccache`` has a ticket.
        domain: the user's, with Kerberos a realm; empty for a user of the server itself.
        use_kerberos: True for Kerberos alone, False for NTLM alone. With Kerberos the server must
            be called by a name that tickets are issued for, not by its address.
        ccache: name of a Kerberos credentials cache, such as "FILE:/run/user/0/krb5cc"; empty to
            ask for a ticket with the password. libsmb looks into $KRB5CCNAME instead.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    domain: str = ""
    use_kerberos: bool = False
    ccache: str = ""


def load_parm(logon: Logon) -> LoadParm:
    """Return a configuration for a client, with nothing from a file in it.

    Naming a file, /dev/null, keeps it apart from the process's global configuration
    (source4/param/pyparam.c, py_lp_ctx_new). The server's smb.conf cannot be loaded here: it
    includes the registry.
    """
    lp = LoadParm(filename_for_non_global_lp=os.devnull)
    lp.set("netbios name", WORKSTATION)
    lp.set("client use kerberos", "required" if logon.use_kerberos else "disabled")
    lp.set("name resolve order", "host")
    return lp


def credentials(logon: Logon, lp: LoadParm) -> Credentials:
    """Return a logon as python-samba's credentials.

    Args:
        logon: who.
        lp: the client's configuration, as of `load_parm`.
    """
    made = Credentials()
    if logon.user:
        made.set_username(logon.user)
        made.set_domain(logon.domain or "WORKGROUP")
        if not logon.ccache:
            made.set_password(logon.password)
    else:
        made.set_anonymous()
    made.set_workstation(WORKSTATION)
    if not logon.use_kerberos:
        made.set_kerberos_state(DONT_USE_KERBEROS)
        return made
    made.set_realm(logon.domain)
    made.set_kerberos_state(MUST_USE_KERBEROS)
    if logon.ccache:
        made.set_named_ccache(logon.ccache, SPECIFIED, lp)
    return made


def status_name(error: NTSTATUSError) -> str:
    """Return the NTSTATUS name of what python-samba raised, or its number."""
    number: int = error.args[0]
    return _STATUS_NAMES.get(number) or f"0x{number:08x}"
