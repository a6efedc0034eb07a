"""What accounts are called, by their numbers.

Place: for what is printed. Contract: bounded in time, whatever winbindd does: where that stands
still, or waits for a domain controller, an account of the domain has its number alone.
"""

import pwd
import re
import time
from collections.abc import Iterable
from contextlib import closing, suppress

from samba_rvss.child import Child
from samba_rvss.errors import RvssError
from samba_rvss.run import run

_SECONDS = 3.0
_OF_DOMAIN = re.compile(r"S-1-5-21(-[0-9]{1,10}){4}")  # MS-DTYP 2.4.2.4
_PASSWD = "/etc/passwd"  # noqa: S105 - a file's name


def names(uids: Iterable[int], seconds: float = _SECONDS) -> dict[int, str]:
    """Return the names of accounts; those of a domain as the name service switch has them.

    With winbind that is ``DOM\\name`` (winbindd(8)). What only has a SID is called by that; what
    nobody knows is left out.

    Args:
        uids: the accounts' numbers.
        seconds: for how long others than this machine's own files are asked.
    """
    wanted = set(uids)
    found = {uid: name for uid, name in _local().items() if uid in wanted}
    if not wanted - found.keys():
        return found
    deadline = time.monotonic() + seconds
    with suppress(OSError, EOFError, RvssError), closing(Child()) as child:
        for uid in sorted(wanted - found.keys()):
            name = child.call(max(0.0, deadline - time.monotonic()), of, uid)
            name = name or _sid(uid, deadline - time.monotonic())
            if name:
                found[uid] = name
    return found


def _local() -> dict[int, str]:
    """Return what the machine's own file has, of which nobody need be asked (passwd(5))."""
    found: dict[int, str] = {}
    with suppress(OSError), open(_PASSWD, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, rest = line.partition(":")
            uid = rest.split(":")[1:2]
            if uid and uid[0].isdecimal():
                found.setdefault(int(uid[0]), name)
    return found


def of(uid: int) -> str:
    """Return an account's name by the name service switch; empty if it has none. It may block."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


def _sid(uid: int, seconds: float) -> str:
    """Return an account's SID, which winbindd may know without a domain controller; or empty."""
    if seconds <= 0:
        return ""
    try:
        said = run(["wbinfo", f"--uid-to-sid={uid}"], timeout=seconds).strip()
    except RvssError:  # there is no winbindd, or it does not know
        return ""
    # What is no account of a domain gets S-1-22-1-UID, which says no more than the number.
    return said if _OF_DOMAIN.fullmatch(said) else ""
