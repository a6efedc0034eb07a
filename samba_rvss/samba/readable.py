"""Whether Samba will be able to read smb.conf when it exposes a copy: it does so as the client.

Source: source3/rpc_server/fss/srv_fss_agent.c, _fss_ExposeShadowCopySet(), which becomes root only
after smbconf_init(). By then the copy has been taken, and its set is in the way of all others.

Place: on the file and the directories above it. Contract: it looks, and changes nothing.
"""

import os
import stat

from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import permissions
from samba_rvss.kernel.permissions import ANYBODY, Place, User

_HINT = "let everybody read it, or at least Samba's Backup Operators"


def require(file: str, user: User | None) -> None:
    """See that a client's user can read smb.conf, and Samba's library too.

    Args:
        file: smb.conf.
        user: the client's; None if it is not known, since the share forces another one.

    Raises:
        RvssError: CONFIG if not.
    """
    reason = _broken(file) if user else nobody(file)
    if reason:
        raise RvssError(Problem.CONFIG, reason)
    place = _closed(file, user) if user else None
    if user and place:
        raise RvssError(
            Problem.CONFIG,
            f"uid {user.uid} cannot read {file}{_because(file, place)}, and Samba opens it as the"
            " client's user when it exposes a copy",
            _HINT,
        )


def nobody(file: str) -> str:
    """Return a sentence on what keeps copies from being exposed for everybody but root; or ""."""
    if reason := _broken(file):
        return reason
    for place in permissions.way(file):
        if not place.lets_some():
            return (
                f"only root can read {file}{_because(file, place)}, and Samba opens it as the"
                f" client's user when it exposes a copy: {_HINT}"
            )
    return ""


def some(file: str) -> str:
    """Return a sentence on what keeps copies from being exposed for some at least; or ""."""
    if reason := nobody(file):
        return reason
    place = _closed(file, ANYBODY)
    if place is None:
        return ""
    return (
        f"not everybody can read {file}{_because(file, place)}: clients whose user cannot are"
        " refused, because Samba opens it as that user when it exposes a copy"
    )


def _broken(file: str) -> str:
    """Return why Samba's library cannot have a file at all (smbconf_txt.c, ..._load_file())."""
    try:
        if int(os.stat(file).st_mtime):
            return ""
    except OSError:
        return ""
    return (
        f"{file} was last changed on 1 January 1970, and with that Samba crashes when it exposes a"
        " copy: touch it"
    )


def _closed(file: str, user: User) -> Place | None:
    """Return the first thing on the way to a file that does not let a user read it."""
    return next((place for place in permissions.way(file) if not place.lets(user)), None)


def _because(file: str, place: Place) -> str:
    what = "" if place.path == file else f" below {place.path}"
    return f"{what} (mode {stat.S_IMODE(place.status.st_mode):04o})"
