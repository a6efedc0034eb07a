"""A logon as python-samba has it: its credentials, a client's configuration, a refusal's name.

Place: below all that connects to a Samba as a client. Contract: only `credentials` makes
python-samba's credentials of a `Logon`, and only `load_parm` makes a client's configuration.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from samba import NTSTATUSError, ntstatus
from samba.credentials import (
    DONT_USE_KERBEROS,
    MUST_USE_KERBEROS,
    SPECIFIED,
    Credentials,
)
from samba.param import LoadParm

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.logon import Logon

WORKSTATION = "SAMBA-RVSS"
"""The name of this machine in NTLM, which wants one."""

_CCACHE = "KRB5CCNAME"
_STATUS_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(ntstatus).items()
    if name.startswith("NT_STATUS_") and isinstance(value, int)
}


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
