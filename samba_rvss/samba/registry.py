"""Shadow copy shares in Samba's registry, and their security descriptors.

Samba clones all parameters of the base share into the exposed one and never removes its security
descriptor (source3/rpc_server/fss/srv_fss_agent.c, fss_sc_expose() and sc_smap_unexpose()). The
functions here run in `samba_rvss.samba.process` for the daemon.
"""

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Writers
from samba_rvss.samba import modules, tdb_file
from samba_rvss.samba.parser import (
    EXPOSED,
    exposed_copy,
    open_context,
    samba_speaks,
    smbconf_error,
)
from samba_rvss.samba.values import Parameters, has_name, listed, plain, with_name

_logger = logging.getLogger(__name__)

# SBC_ERR_NO_SUCH_SERVICE, lib/smbconf/smbconf.h
NO_SUCH_SERVICE = 7


# source3/lib/sharesec.c, SHARE_SECURITY_DB_KEY
DESCRIPTOR = b"SECDESC/"
# source3/registry/reg_db.h, REG_VALUE_PREFIX; lib/smbconf/smbconf_reg.c, KEY_SMBCONF. Names of
# keys are in upper case (reg_util_internal.c, normalize_reg_path()).
_VALUES = b"SAMBA_REGVAL\\HKLM\\SOFTWARE\\SAMBA\\SMBCONF\\"
_REG_SZ = 1

# source3/lib/util_unixsids.c: every token has its user's SID in it (auth/auth_util.c,
# create_local_token()), whatever domain the user is from and whatever his name looks like.
UNIX_USER = "S-1-22-1-{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """What an exposed share is to be.

    Attributes:
        closed: whether smbd must refuse all writes.
        modules: the ``vfs objects`` in effect for its base share.
        writers: who may write while it is not closed.
        write_list: its base share's, for writers who are listed.
        base: its base share's name.
        named: its base share's parameters in which Samba puts a share's name, with that name.
        uid: the client's, for a client as the only writer.
    """

    closed: bool
    modules: tuple[str, ...] = ()
    writers: Writers = Writers.UNKNOWN
    write_list: str = ""
    base: str = ""
    named: tuple[tuple[str, str], ...] = ()
    uid: int = -1


def amend(configfile: str, shares: dict[str, Amendment]) -> tuple[str, ...]:
    """Set parameters of exposed shares, in one transaction.

    A shadow copy must not itself be snapshotted, nobody must write to it who may not, and no handle
    must come back to life through it once it is sealed.

    Args:
        configfile: the instance's smb.conf.
        shares: what each is to be. The clone has only what stands in the base share's own section
            (lib/smbconf/smbconf_txt.c), and nothing that the base share has from [global] or by
            ``copy =``.

    Returns:
        The shares that needed a change; a share that does not exist (any more) is left out.

    Raises:
        RvssError: SAMBA if the registry refuses.
    """

    open_context(configfile)
    changed = []
    with changing(f"to change {', '.join(shares)}") as registry, transaction(registry):
        for share, amendment in shares.items():
            if _amend_one(registry, share, amendment):
                changed.append(share)
    return tuple(changed)


@contextmanager
def changing(what: str) -> Iterator[Any]:
    """Open the registry for a block that changes it; a configuration has been read before.

    Args:
        what: what it refuses if it does, for the message.

    Raises:
        RvssError: SAMBA if the registry refuses, with what Samba says.
    """
    from samba.samba3 import smbconf

    error: Exception | None = None
    with samba_speaks() as said:
        try:
            yield smbconf.init_reg(None)
        except smbconf_error() as exc:
            error = exc
    if error is not None:
        raise RvssError(
            Problem.SAMBA, f"Samba's registry refuses {what}: {error} {' '.join(said)}"
        ) from error


@contextmanager
def transaction(registry: Any) -> Iterator[None]:
    """Change all that a block changes in the registry, or nothing of it."""
    registry.transaction_start()
    try:
        yield
    except BaseException:
        registry.transaction_cancel()
        raise
    registry.transaction_commit()


@contextmanager
def reading() -> Iterator[Any]:
    """Open the registry for a block that reads it; a configuration has been read before.

    Raises:
        RvssError: SAMBA if it cannot be read.
    """
    from samba.samba3 import smbconf

    with samba_speaks():
        try:
            yield smbconf.init_reg(None)
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"cannot read Samba's registry: {exc}", "try 'net conf list'"
            ) from exc


def _amend_one(registry: Any, share: str, amendment: Amendment) -> bool:
    try:
        present = dict(registry.get_share(share)[1])
    except smbconf_error() as exc:
        if exc.args[0] == NO_SUCH_SERVICE:
            return False
        raise
    changed = False
    # What is wanted later counts.
    for key, value in Parameters(dict(wanted(Parameters(present), amendment))).items():
        # Of several spellings Samba takes the last.
        for name in [name for name in present if plain(name) == plain(key)] or [key]:
            if present.get(name) != value:
                registry.set_parameter(share, name, value)
                changed = True
    return changed


def wanted(present: Parameters, amendment: Amendment) -> Iterator[tuple[str, str]]:
    """Yield the parameters that a share is to have, given those that it has."""
    # For Samba the share's name is now that of the copy.
    for key, text in present.items():
        if has_name(text) and plain(key) != "path":
            yield key, with_name(text, amendment.base)
    yield from ((key, text) for key, text in amendment.named if key not in present)
    own = present.get("vfs objects")
    objects = amendment.modules if own is None else listed(own)
    yield "vfs objects", modules.amended(objects)
    if modules.has_btrfs(objects):
        yield modules.MANIPULATE, "no"
    # Without them, Samba neither grants a handle that outlives its connection nor lets one come
    # back (source3/smbd/durable.c, vfs_default_durable_cookie() and _reconnect()); the option with
    # a colon wins over all else since it is there (smb2_tcon.c), the other is new in 4.25.
    yield "durable handles", "no"
    yield "smb3 share cap:CONTINUOUS AVAILABILITY", "no"
    if "continuous availability" in present:
        yield "continuous availability", "no"
    if amendment.closed:
        yield "read only", "yes"
        yield "write list", ""
        return
    match amendment.writers:
        case Writers.ANYBODY:
            yield "read only", "no"
        case Writers.LISTED:
            yield "read only", "yes"
            if "write list" not in present:
                yield "write list", amendment.write_list
        case Writers.CLIENT:
            yield "read only", "yes"
            yield "write list", UNIX_USER.format(amendment.uid) if amendment.uid >= 0 else ""


def exposed_shares(configfile: str, state_directory: str) -> dict[str, str]:
    """Return the registry shares that are named like exposed shadow copies, with their paths.

    Args:
        configfile: the instance's smb.conf.
        state_directory: Samba's, where the registry is.

    Raises:
        RvssError: SAMBA if the registry cannot be read.
    """
    open_context(configfile)
    with reading() as registry:
        names = [share for share in registry.share_names() if EXPOSED.fullmatch(share)]
        return _with_paths(registry, names, state_directory)


def our_shares(
    configfile: str, state_directory: str, directory: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return `exposed_shares`, and those that lead to somewhere below a directory, at one look.

    Args:
        configfile: the instance's smb.conf.
        state_directory: Samba's, where the registry is.
        directory: its path.

    Raises:
        RvssError: SAMBA if the registry cannot be read.
    """
    open_context(configfile)
    with reading() as registry:
        found = _with_paths(registry, registry.share_names(), state_directory)
    return (
        {name: path for name, path in found.items() if EXPOSED.fullmatch(name)},
        {name: path for name, path in found.items() if path.startswith(f"{directory}/")},
    )


def _with_paths(registry: Any, names: Sequence[str], state_directory: str) -> dict[str, str]:
    """Return registry shares with their paths.

    For each share, Samba's library reads the names of all (source3/registry/reg_api.c,
    reg_openkey()): three seconds for a thousand shares, minutes for ten thousand.
    """
    paths = _paths(state_directory) if names else {}
    return {name: paths.get(name.lower()) or _path(registry, name) for name in names}


def _path(registry: Any, share: str) -> str:
    """Return a share's path; empty if it has none or is being removed."""
    try:
        values = registry.get_share(share)[1]
    except smbconf_error() as exc:
        if exc.args[0] == NO_SUCH_SERVICE:
            return ""
        raise
    return next((value for key, value in values if key.lower() == "path"), "")


def _paths(state_directory: str) -> dict[str, str]:
    """Return the paths of registry shares, by their names in lower case, as registry.tdb has them.

    A share whose values are not in the form that we know is left out. Source: source3/registry/
    reg_backend_db.c, regdb_store_values_internal() and regdb_pack_values(); reg_parse_prs.h.
    """
    try:
        records = tdb_file.settled(os.path.join(state_directory, "registry.tdb"), _VALUES)
    except (RvssError, FileNotFoundError) as exc:
        _logger.warning("reading each share by itself: %s", exc)
        return {}
    found = {}
    for key, value in records.items():
        with suppress(ValueError, struct.error):
            if path := _path_value(value):
                name = key.removeprefix(_VALUES).rstrip(b"\0").decode("utf-8")
                found[name.lower()] = path
    return found


def _path_value(data: bytes) -> str:
    """Return the value "path" among the packed values of a share; empty if it is not there.

    Raises:
        ValueError, struct.error: the values are not in the form that we know.
    """
    (count,) = struct.unpack_from("<I", data)
    offset = 4
    for _ in range(count):
        end = data.index(b"\0", offset)
        name, offset = data[offset:end], end + 1
        kind, size = struct.unpack_from("<II", data, offset)
        offset += 8
        if name.lower() == b"path" and kind == _REG_SZ:
            return data[offset : offset + size].decode("utf-16-le").rstrip("\0")
        offset += size
    return ""


def exposed_descriptors(state_directory: str) -> tuple[str, ...]:
    """Return the exposed shares, in Samba's lower case, that have a security descriptor.

    Raises:
        RvssError: SAMBA if the database cannot be read.
    """
    try:
        keys = tdb_file.settled(os.path.join(state_directory, "share_info.tdb"), DESCRIPTOR)
    except FileNotFoundError:
        return ()
    return tuple(name for name in map(_described, keys) if EXPOSED.fullmatch(name))


def remove_shares(configfile: str, shares: Sequence[str]) -> tuple[str, ...]:
    """Remove registry shares; return those that existed.

    Raises:
        RvssError: SAMBA if the registry refuses.
    """
    from samba.samba3 import smbconf

    open_context(configfile)
    removed = []
    with samba_speaks():
        try:
            registry = smbconf.init_reg(None)
            for share in shares:
                try:
                    registry.delete_share(share)
                except smbconf_error() as exc:
                    if exc.args[0] != NO_SUCH_SERVICE:
                        raise
                else:
                    removed.append(share)
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"Samba's registry refuses to remove {', '.join(shares)}: {exc}"
            ) from exc
    return tuple(removed)


def remove_security(state_directory: str, shares: Sequence[str]) -> tuple[str, ...]:
    """Remove the security descriptors of exposed shares, all or none; return those that had one.

    Source: source3/lib/sharesec.c, share_info.tdb, keys ``SECDESC/<name in lower case>``. As
    Samba does, this takes a transaction: the descriptors of all other shares are in the same file,
    and nothing else protects it from a power loss.

    Raises:
        RvssError: SAMBA if the database cannot be changed.
    """
    path = os.path.join(state_directory, "share_info.tdb")
    if not shares or not os.path.exists(path):
        return ()
    keys = _descriptors_of(path, shares)
    removed: dict[str, None] = {}
    with tdb_file.changing(path) as database:
        for key, share in keys.items():
            if database.get(key) is not None:
                database.delete(key)
                removed[share] = None
    return tuple(removed)


def _descriptors_of(path: str, shares: Sequence[str]) -> dict[bytes, str]:
    """Return the keys that the descriptors of exposed shares may have, and the share of each.

    What Samba's lower case of a name is can be told if the name is ASCII. Of another one, the file
    is searched for the id of its copy.

    Raises:
        RvssError: SAMBA if the file cannot be read.
    """
    keys = {DESCRIPTOR + os.fsencode(share.lower()) + b"\0": share for share in shares}
    odd = {exposed_copy(share): share for share in shares if not share.isascii()}
    if odd:
        for key in tdb_file.settled(path, DESCRIPTOR):
            share = odd.get(exposed_copy(_described(key)))
            if share is not None:
                keys[key] = share
    return keys


def _described(key: bytes) -> str:
    """Return the share whose security descriptor has a key."""
    return os.fsdecode(key.removeprefix(DESCRIPTOR).rstrip(b"\0"))
