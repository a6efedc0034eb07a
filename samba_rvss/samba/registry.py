"""Shadow copy shares in Samba's registry, and their security descriptors.

Samba clones all parameters of the base share into the exposed one and never removes its security
descriptor (source3/rpc_server/fss/srv_fss_agent.c, fss_sc_expose() and sc_smap_unexpose()). The
functions here run in `samba_rvss.samba.process` for the daemon.
"""

import os
from collections.abc import Sequence
from typing import Any

import tdb

from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba.conf import EXPOSED, open_context, samba_speaks, smbconf_error

# SBC_ERR_NO_SUCH_SERVICE, lib/smbconf/smbconf.h
_NO_SUCH_SERVICE = 7


_DROPPED = {"shell_snap", "shadow_copy2"}


def amended_modules(objects: Sequence[str]) -> str:
    """Return ``vfs objects`` for an exposed share: the base share's, less ours and shadow_copy2.

    A shadow copy must not itself be snapshotted or show Previous Versions; the order of the
    other modules stays.
    """
    return " ".join(entry for entry in objects if entry.partition(":")[0] not in _DROPPED)


def amend(
    configfile: str, read_only: dict[str, bool], inherited: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Make exposed shares fit for what they are, in one transaction.

    Args:
        configfile: the instance's smb.conf.
        read_only: for each exposed share, whether smbd must refuse writes.
        inherited: for each, the ``vfs objects`` that its base share has in effect. The clone has
            only what stands in the base share's own section (lib/smbconf/smbconf_txt.c), not
            what that takes from [global] or by ``copy =``.

    Returns:
        The shares that needed a change; one that does not exist (any more) is left out.

    Raises:
        RvssError: SAMBA if the registry refuses.
    """
    from samba.samba3 import smbconf

    open_context(configfile)
    changed = []
    with samba_speaks() as said:
        try:
            registry = smbconf.init_reg(None)
            registry.transaction_start()
            try:
                for share, closed in read_only.items():
                    if _amend_one(registry, share, inherited.get(share, ()), closed=closed):
                        changed.append(share)
            except BaseException:
                registry.transaction_cancel()
                raise
            registry.transaction_commit()
        except smbconf_error() as exc:
            error: Exception | None = exc
        else:
            error = None
    if error is not None:
        raise RvssError(
            Problem.SAMBA,
            f"Samba's registry refuses to change {', '.join(read_only)}: {error} {' '.join(said)}",
        ) from error
    return tuple(changed)


def _amend_one(registry: Any, share: str, inherited: Sequence[str], *, closed: bool) -> bool:
    try:
        present = {key.lower(): value for key, value in registry.get_share(share)[1]}
    except smbconf_error() as exc:
        if exc.args[0] == _NO_SUCH_SERVICE:
            return False
        raise
    objects = present["vfs objects"].split() if "vfs objects" in present else inherited
    wanted = {"vfs objects": amended_modules(objects), "read only": "yes" if closed else "no"}
    changes = {key: value for key, value in wanted.items() if present.get(key) != value}
    for key, value in changes.items():
        registry.set_parameter(share, key, value)
    return bool(changes)


def exposed_shares(configfile: str) -> dict[str, str]:
    """Return the paths of the registry shares that have an exposed shadow copy's name.

    Raises:
        RvssError: SAMBA if the registry cannot be read.
    """
    from samba.samba3 import smbconf

    open_context(configfile)
    with samba_speaks():
        try:
            registry = smbconf.init_reg(None)
            found = {
                share: {key.lower(): value for key, value in registry.get_share(share)[1]}
                for share in registry.share_names()
                if EXPOSED.fullmatch(share)
            }
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"cannot read Samba's registry: {exc}", "try 'net conf list'"
            ) from exc
    return {share: parameters.get("path", "") for share, parameters in found.items()}


def exposed_descriptors(state_directory: str) -> tuple[str, ...]:
    """Return the exposed shares, in lower case, that have a security descriptor.

    Raises:
        RvssError: SAMBA if the database cannot be read.
    """
    path = os.path.join(state_directory, "share_info.tdb")
    if not os.path.exists(path):
        return ()
    try:
        database = tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDONLY)
        try:
            keys = [bytes(key).rstrip(b"\0") for key in database]
        finally:
            database.close()
    except (OSError, RuntimeError) as exc:
        raise RvssError(Problem.SAMBA, f"cannot read {path}: {exc}") from exc
    names = [os.fsdecode(key.removeprefix(b"SECDESC/")) for key in keys if b"SECDESC/" in key]
    return tuple(name for name in names if EXPOSED.fullmatch(name))


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
                    if exc.args[0] != _NO_SUCH_SERVICE:
                        raise
                else:
                    removed.append(share)
        except smbconf_error() as exc:
            raise RvssError(
                Problem.SAMBA, f"Samba's registry refuses to remove {', '.join(shares)}: {exc}"
            ) from exc
    return tuple(removed)


def remove_security(state_directory: str, shares: Sequence[str]) -> tuple[str, ...]:
    """Remove the security descriptors of shares, all or none; return those that had one.

    Source: source3/lib/sharesec.c, share_info.tdb, keys ``SECDESC/<name in lower case>``. As
    there, it takes a transaction: other shares' descriptors are in the same file, which nothing
    else protects from a power loss.

    Raises:
        RvssError: SAMBA if the database cannot be changed.
    """
    path = os.path.join(state_directory, "share_info.tdb")
    if not shares or not os.path.exists(path):
        return ()
    removed = []
    try:
        database = tdb.Tdb(path, 0, tdb.DEFAULT, os.O_RDWR)
        try:
            database.transaction_start()
            try:
                for share in shares:
                    key = b"SECDESC/" + os.fsencode(share.lower()) + b"\0"
                    if database.get(key) is not None:
                        database.delete(key)
                        removed.append(share)
            except BaseException:
                database.transaction_cancel()
                raise
            database.transaction_commit()
        finally:
            database.close()
    except (OSError, RuntimeError) as exc:
        raise RvssError(Problem.SAMBA, f"cannot change {path}: {exc}") from exc
    return tuple(removed)
