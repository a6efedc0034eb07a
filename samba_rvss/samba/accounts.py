"""Accounts: who a name is, and whether a list of users has him, as far as this machine can tell.

By the name service switch, which knows the domain's accounts where winbind serves it. It can wait
for a domain controller.
"""

import grp
import os
import pwd
from collections.abc import Iterable

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.registry import UNIX_USER


def uid_of(account: str) -> int:
    """Return the uid of an account.

    Raises:
        RvssError: NOT_FOUND.
    """
    try:
        return pwd.getpwnam(account).pw_uid
    except (KeyError, ValueError):
        raise RvssError(
            Problem.NOT_FOUND,
            f"there is no account {account} on this machine",
            "name it as 'getent passwd' or 'wbinfo --user-info' has it",
        ) from None


def has(users: Iterable[str], account: str, uid: int) -> bool | None:
    """Return whether a list such as ``valid users`` has an account; None if that cannot be told.

    A name with ``@``, ``+`` or ``&`` before it is a group's or a netgroup's (source3/smbd/
    share_access.c, do_group_checks()); netgroups are not looked into.

    Args:
        users: the list's entries.
        account: its name.
        uid: its number.
    """
    certain = True
    try:
        groups = set(os.getgrouplist(account, pwd.getpwnam(account).pw_gid))
    except (KeyError, ValueError, OSError):
        groups, certain = set(), False
    for user in users:
        name = user.lstrip("@+&")
        marks = {*user[: len(user) - len(name)]}
        try:
            if user.startswith("S-1-"):
                found = user == UNIX_USER.format(uid)
                certain = certain and user.startswith(UNIX_USER.format(""))
            elif marks:
                found = marks != {"&"} and grp.getgrnam(name).gr_gid in groups
                certain = certain and "&" not in marks
            else:
                found = pwd.getpwnam(name).pw_uid == uid
        except (KeyError, ValueError):
            found = certain = False
        if found:
            return True
    return False if certain else None
