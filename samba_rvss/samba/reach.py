"""Whether a client reaches a share, as a client sees it. python-samba can block: see `process`."""

import os

from samba import NTSTATUSError
from samba.samba3 import libsmb_samba_internal as libsmb
from samba.samba3 import param

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.credentials import load_parm, status_name, ticket
from samba_rvss.samba.logon import Logon


def names(host: str, share: str, logon: Logon) -> tuple[str, ...]:
    """Return the names in the root of a share.

    Raises:
        RvssError: SAMBA if the server refuses.
    """
    context = param.get_context()
    if context.get("client max protocol") is None:  # libsmb fails where no configuration was loaded
        context.load(os.devnull)
    lp = load_parm(logon)
    try:
        with ticket(logon, lp) as who:
            # Without a name: whoever keeps an error would keep the connection alive with it.
            listed = libsmb.Conn(host, share, lp=lp, creds=who).list("")
        return tuple(str(entry["name"]) for entry in listed)
    except NTSTATUSError as exc:
        raise RvssError(
            Problem.SAMBA,
            f"{logon.who} cannot read the share {share} of {host} ({status_name(exc)})",
            "see log.smbd, and 'valid users' and the permissions of the share's directory",
        ) from exc
