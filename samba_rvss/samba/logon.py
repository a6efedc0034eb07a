"""Logging on to a file server with python-samba: who, by which means, and what a refusal is called.

Place: below all that connects to a Samba as a client. Contract: a `Logon` is a value and holds no
connection; only `credentials` makes python-samba's credentials of it, and only `load_parm` makes a
client's configuration.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from samba import NTSTATUSError, ntstatus
from samba.credentials import (
    DONT_USE_KERBEROS,
    MUST_USE_KERBEROS,
    SPECIFIED,
    Credentials,
)
from samba.param import LoadParm

from samba_rvss.errors import Problem, RvssError

WORKSTATION = "SAMBA-RVSS"
"""The name of this machine in NTLM, which wants one."""

_CCACHE = "KRB5CCNAME"
_STATUS_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(ntstatus).items()
    if name.startswith("NT_STATUS_") and isinstance(value, int)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Logon:
    """Who logs on, with a password or with a ticket.

    Args:
        user: name of the user, a computer's with its dollar sign; empty to log on anonymously, or
            as whoever ``ccache`` has a ticket of.
        password: in clear.
        domain: the user's, with Kerberos a realm; empty for a user of the server itself.
        use_kerberos: True for Kerberos alone, False for NTLM alone. With Kerberos the server must
            be called by a name that tickets are issued for, not by its address.
        ccache: name of a Kerberos credentials cache, such as "FILE:/run/user/0/krb5cc", with a
            ticket. With a keytab, kinit(1) makes one: for a computer, whose password nobody knows.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    domain: str = ""
    use_kerberos: bool = False
    ccache: str = ""

    @property
    def who(self) -> str:
        """Its user, in words."""
        return self.user or (f"the owner of {self.ccache}" if self.ccache else "nobody")


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

    Raises:
        RvssError: NOT_FOUND if there is no ticket in the cache.
    """
    made = Credentials()
    made.set_workstation(WORKSTATION)
    made.set_kerberos_state(MUST_USE_KERBEROS if logon.use_kerberos else DONT_USE_KERBEROS)
    if logon.use_kerberos and logon.ccache:
        made.set_named_ccache(logon.ccache, SPECIFIED, lp)
        if made.get_principal() is None:  # what reads no ticket says nothing of it, and crashes
            raise RvssError(
                Problem.NOT_FOUND, f"there is no ticket in {logon.ccache}", "see kinit(1), klist(1)"
            )
    elif logon.user:
        made.set_username(logon.user)
        made.set_domain(logon.domain or "WORKGROUP")
        made.set_password(logon.password)
        if logon.use_kerberos:
            made.set_realm(logon.domain)
    else:
        made.set_anonymous()
    return made


@contextmanager
def ticket(logon: Logon, lp: LoadParm) -> Iterator[Credentials]:
    """Have libsmb find the ticket of a logon, and return the credentials, for connecting with it.

    It looks into the cache that $KRB5CCNAME names, whatever the credentials have (source3/librpc/
    crypto/gse.c, gse_init_client()), and would write the ticket that a password gets into one
    there. So the variable is another one for as long as this lasts, in the whole process; what has
    no cache gets one in memory.

    Args:
        logon: who.
        lp: the client's configuration, as of `load_parm`.

    Raises:
        RvssError: SAMBA if no ticket is given for the password; as `credentials`.
    """
    made = credentials(logon, lp)
    if not logon.use_kerberos:
        yield made
        return
    name = logon.ccache or f"MEMORY:{secrets.token_hex(8)}"
    kept = None if logon.ccache else _memory(made, lp, name)
    before = os.environ.get(_CCACHE)
    os.environ[_CCACHE] = name
    try:
        yield made
    finally:
        del kept
        if before is None:
            del os.environ[_CCACHE]
        else:
            os.environ[_CCACHE] = before


def _memory(made: Credentials, lp: LoadParm, name: str) -> object:
    """Get a ticket for credentials with a password, in a cache that lasts as long as the result."""
    try:
        return made.get_named_ccache(lp, name)
    except RuntimeError as exc:
        reason = " ".join(str(exc).split())
        raise RvssError(
            Problem.SAMBA, reason, "see that the password and the realm are right"
        ) from exc


def status_name(error: NTSTATUSError) -> str:
    """Return the NTSTATUS name of what python-samba raised, or its number."""
    number: int = error.args[0]
    return _STATUS_NAMES.get(number) or f"0x{number:08x}"
