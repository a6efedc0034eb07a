"""Shares in Samba's registry by which clients reach backups: clones of their base shares.

They are what ExposeShadowCopySet makes of a shadow copy and `registry.amend` of that, under names
of our own: all that holds for the base share, its security descriptor included, but for the modules
and options that take shadow copies. Ours is what has a path below a directory of ours. Contract: as
`registry`; a process that calls `make` has read no other smb.conf before, or an older one: of what
it has read, something may still count.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import registry, tdb_file
from samba_rvss.samba.parser import (
    lower_case,
    open_context,
    sections_of,
    smbconf_error,
)
from samba_rvss.samba.registry import DESCRIPTOR, NO_SUCH_SERVICE, UNIX_USER, Amendment
from samba_rvss.samba.values import Parameters, plain

# Ours, or what such a share has anew. `copy` and `include` have been followed.
_DROPPED = ("rvss:", "shell_snap:", "shadow:")
# Who may connect, as whom, and who may write.
_SECURITY = (
    *("valid users", "invalid users", "admin users", "read list", "write list", "read only"),
    *("guest ok", "guest only", "force user", "force group", "hosts allow", "hosts deny"),
    *("available", "vfs objects", "smb encrypt", "server smb encrypt"),
)
_REPLACED = frozenset({"path", "comment", "copy", "include"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """What a share is to be.

    Attributes:
        name: its name.
        path: where it leads to.
        comment: what clients see beside its name.
        amendment: what it is to be besides its base share, which it names.
        uid: the user who alone may connect; -1 for all whom the base share lets.
    """

    name: str
    path: str
    comment: str
    amendment: Amendment
    uid: int = -1


def make(configfile: str, state_directory: str, clone: Clone) -> None:
    """Make a share, or make it anew, with its base share's security descriptor.

    That comes first: nobody can connect who may not.

    Args:
        configfile: the instance's smb.conf.
        state_directory: Samba's.
        clone: what it is to be.

    Raises:
        RvssError: REFUSED if another share has the name; NOT_FOUND if there is no base share; SAMBA
            if the registry or the descriptors cannot be changed.
    """
    sections = sections_of(open_context(configfile))
    with registry.changing(clone.name) as shares:
        _require_free(shares, sections, clone)
        own = _definition(shares, sections, clone.amendment.base)
        _secure(state_directory, clone)
        with registry.transaction(shares):
            _write(shares, clone, own)


def _write(shares: Any, clone: Clone, own: Parameters) -> None:
    for share in shares.share_names():
        if lower_case(share) == lower_case(clone.name):
            shares.delete_share(share)
    shares.create_set_share(clone.name, [*own.items(), ("path", clone.path)])
    # Samba has put them into the words that it uses itself.
    there = Parameters(dict(shares.get_share(clone.name)[1]))
    for key, value in _amended(there, clone).items():
        shares.set_parameter(clone.name, key, value)


def _amended(own: Parameters, clone: Clone) -> Parameters:
    """Return what is set anew in a share that has its base share's parameters."""
    wanted = dict(registry.wanted(own, clone.amendment))
    wanted["comment"] = clone.comment
    if clone.uid >= 0:
        # A guest is asked for nothing (source3/smbd/smb2_service.c,
        # create_connection_session_info()).
        wanted |= {"valid users": UNIX_USER.format(clone.uid), "guest ok": "no"}
    return Parameters(wanted)


def outdated(configfile: str, state_directory: str, wanted: tuple[Clone, ...]) -> tuple[str, ...]:
    """Return the names of shares that keep out others than their base shares do by now.

    Args:
        configfile: the instance's smb.conf.
        state_directory: Samba's.
        wanted: what the shares are to be; one that is not there is none of them.

    Raises:
        RvssError: SAMBA if the registry or the descriptors cannot be read.
    """
    sections = sections_of(open_context(configfile))
    with registry.reading() as shares:
        names = set(shares.share_names())
        return tuple(
            clone.name
            for clone in wanted
            if clone.name in names and _is_outdated(shares, sections, state_directory, clone)
        )


def _is_outdated(
    shares: Any, sections: Mapping[str, Parameters], state_directory: str, clone: Clone
) -> bool:
    try:
        own = _definition(shares, sections, clone.amendment.base)
        changes = _security(state_directory, clone)
    except RvssError as exc:
        if exc.problem is Problem.SAMBA:
            raise
        return True  # making it anew says why not
    due = Parameters(own, _amended(own, clone))
    there = Parameters(dict(shares.get_share(clone.name)[1]))
    return bool(changes) or any(due.get(name) != there.get(name) for name in _SECURITY)


def _require_free(shares: Any, sections: Mapping[str, Parameters], clone: Clone) -> None:
    name = lower_case(clone.name)
    taken = any(lower_case(section) == name for section in sections)
    for share in shares.share_names():
        if (
            lower_case(share) == name
            and _path(shares, share).rpartition("/")[2] != (clone.path.rpartition("/")[2])
        ):
            taken = True
    if taken:
        raise RvssError(
            Problem.REFUSED, f"there is a share {clone.name}", "take another name, or remove it"
        )


def _path(shares: Any, share: str) -> str:
    values = Parameters(dict(shares.get_share(share)[1]))
    return values.get("path", "")


def _definition(shares: Any, sections: Mapping[str, Parameters], base: str) -> Parameters:
    """Return the parameters of a base share in which it differs from others, as Samba has them."""
    own = next((s for name, s in sections.items() if lower_case(name) == lower_case(base)), None)
    if own is None:
        try:
            own = Parameters(dict(shares.get_share(base)[1]))
        except smbconf_error() as exc:
            if exc.args[0] != NO_SUCH_SERVICE:
                raise
            raise RvssError(Problem.NOT_FOUND, f"there is no share {base} any more") from None
        if "include" in own:
            raise RvssError(
                Problem.NOT_SUPPORTED,
                f"[{base}] in the registry includes {own['include']}, and what that sets would"
                " count for a backup's share too, last of all",
                "put it into the share",
            )
        template = lower_case(own.get("copy", ""))
        found = [s for name, s in sections.items() if lower_case(name) == template]
        own = Parameters(*found, own)
    return Parameters(
        {
            key: text
            for key, text in own.items()
            if plain(key) not in _REPLACED and not plain(key).startswith(_DROPPED)
        }
    )


def present(configfile: str, state_directory: str, directory: str) -> dict[str, str]:
    """Return the registry shares that lead to somewhere below a directory, with their paths.

    Raises:
        RvssError: SAMBA if the registry cannot be read.
    """
    return registry.our_shares(configfile, state_directory, directory)[1]


def remove(
    configfile: str, state_directory: str, directory: str, names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove shares that lead to somewhere below a directory, then their descriptors.

    A share of such a name that is somebody else's stays, with its descriptor.

    Returns:
        The shares that there were, and the names that are nobody's now.

    Raises:
        RvssError: SAMBA if the registry or the descriptors cannot be changed.
    """
    ours = present(configfile, state_directory, directory)
    wanted = set(map(lower_case, names))
    found = tuple(name for name in ours if lower_case(name) in wanted)
    registry.remove_shares(configfile, found)
    context = open_context(configfile)
    with registry.reading() as shares:
        others = {*map(lower_case, shares.share_names())}
    others |= set(map(lower_case, sections_of(context)))
    nobodys = tuple(name for name in names if lower_case(name) not in others)
    _forget(state_directory, nobodys)
    return found, nobodys


# security descriptors: source3/lib/sharesec.c, get_share_security(), set_share_security()


def _secure(state_directory: str, clone: Clone) -> None:
    """Give a share the descriptor of its base share; if that has none, neither has the share."""
    changes = _security(state_directory, clone)
    if changes:
        with tdb_file.changing(os.path.join(state_directory, "share_info.tdb")) as database:
            for key, value in changes.items():
                if value is None:
                    database.delete(key)
                else:
                    database.store(key, value)


def _security(state_directory: str, clone: Clone) -> dict[bytes, bytes | None]:
    """Return the records of descriptors to be changed, so that a share has its base share's.

    Raises:
        RvssError: NOT_SUPPORTED if it cannot be told which these are; SAMBA.
    """
    path = os.path.join(state_directory, "share_info.tdb")
    if not os.path.exists(path):
        return {}
    base, records = clone.amendment.base, tdb_file.settled(path, DESCRIPTOR)
    found = [key for key in records if _loosely(_name(key)) == _loosely(base)]
    if len(found) > 1:
        raise RvssError(
            Problem.NOT_SUPPORTED,
            f"which security descriptor is that of [{base}] cannot be told: {path} has"
            f" {len(found)} that may be",
            "remove the others with sharesec(1)",
        )
    changes: dict[bytes, bytes | None] = {
        key: None for key in records if _loosely(_name(key)) == _loosely(clone.name)
    }
    if found:
        # Samba's lower case of the base share's name is in the key, and the rest is ASCII.
        stem = base.removesuffix("$")
        if not clone.name.startswith(stem):
            raise RvssError(Problem.NOT_SUPPORTED, f"{clone.name} does not begin as {stem} does")
        lowered = _name(found[0])[: len(stem)]
        name = lowered + lower_case(clone.name[len(stem) :])
        key, value = DESCRIPTOR + os.fsencode(name) + b"\0", records[found[0]]
        changes.pop(key, None)
        if records.get(key) != value:
            changes[key] = value
    return changes


def _name(key: bytes) -> str:
    """Return the share, in Samba's lower case, whose descriptor has a key."""
    return os.fsdecode(key.removeprefix(DESCRIPTOR).rstrip(b"\0"))


def _forget(state_directory: str, names: tuple[str, ...]) -> None:
    path = os.path.join(state_directory, "share_info.tdb")
    if not names or not os.path.exists(path):
        return
    loosely = set(map(_loosely, names))
    records = tdb_file.settled(path, DESCRIPTOR)
    gone = [key for key in records if _loosely(_name(key)) in loosely]
    if gone:
        with tdb_file.changing(path) as database:
            for key in gone:
                database.delete(key)


def _loosely(name: str) -> str:
    """Return a name without what may differ where Samba has put it into lower case."""
    return name.replace("\u0130", "i").replace("\u0131", "i").casefold().replace("\u0307", "")
