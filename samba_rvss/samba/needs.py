"""What Remote VSS needs of smb.conf: settings that break it, or limit what a share can have of it.

Contract: pure functions of what was read; what each says is `samba_rvss.model.Advice`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from samba_rvss.model import Advice, Share, Writers
from samba_rvss.samba import modules
from samba_rvss.samba.clocks import IDLE, SEQUENCE, SHORT_IDLE, clocks, number
from samba_rvss.samba.values import is_true, joined, plain
from samba_rvss.samba.written import Parameter

WORKERS, PRUNE_STALE = "rpcd_fsrvp:num_workers", "fss:prune stale"
"""Parameters of [global] that make Remote VSS work, or break it; the third is `clocks.IDLE`."""

# lib/param/loadparm_server_role.c
_DOMAIN_CONTROLLER = "ROLE_ACTIVE_DIRECTORY_DC"
# Where the registry is, and what is opened with it (source3/registry/reg_init_smbconf.c).
_DIRECTORIES = frozenset(
    map(plain, ("state directory", "lock directory", "cache directory", "private dir"))
)


def serves_registry(globals_: Mapping[str, str]) -> bool:
    """Return whether Samba serves the shares of its registry."""
    return is_true(globals_.get("registry shares", "no"))


def has_one_worker(globals_: Mapping[str, str]) -> bool:
    """Return whether one worker has all shadow copy sets."""
    return number(globals_.get(WORKERS)) == 1


def forgets_soon(globals_: Mapping[str, str]) -> bool:
    """Return whether the set of a client that has vanished is forgotten soon."""
    return clocks(globals_).idle <= SHORT_IDLE


def prunes_stale(globals_: Mapping[str, str]) -> bool:
    """Return whether Samba is told to do what crashes rpcd_fsrvp."""
    return is_true(globals_.get(PRUNE_STALE, "no"))


def breaking(globals_: Mapping[str, str], role: str) -> Iterator[Advice]:
    """Yield each setting of [global] that breaks Remote VSS.

    Args:
        globals_: the options of [global].
        role: what Samba makes of 'server role' and what belongs to it, in its library's words.
    """
    if role == _DOMAIN_CONTROLLER:
        # source3/rpc_server/rpcd_fsrvp.c, fsrvp_interfaces()
        yield Advice(
            check="domain-controller",
            what="'server role' in [global] makes this an Active Directory domain controller, and"
            " there Samba offers no Remote VSS",
            write="have a member server serve the shares",
        )
    if not serves_registry(globals_):
        yield Advice(
            check="registry",
            what="'registry shares' is off in [global]",
            why="Samba cannot expose shadow copies",
            write="set 'registry shares = yes' and 'include = registry'",
        )
    if not has_one_worker(globals_):
        yield Advice(
            check="workers",
            what="'rpcd_fsrvp:num_workers = 1' is missing in [global]",
            why="with more workers, clients erase each other's shadow copy sets",
            write="write 'rpcd_fsrvp:num_workers = 1' into [global]",
        )
    if not forgets_soon(globals_):
        yield Advice(
            check="idle",
            what=f"'{IDLE} = {SHORT_IDLE}' is missing in [global]",
            why="when a client vanishes in the middle of its work, Samba refuses all others for"
            " longer than it must",
            write=f"write '{IDLE} = {SHORT_IDLE}' into [global]",
        )
    if prunes_stale(globals_):
        yield Advice(
            check="prune-stale",
            what="'fss:prune stale' is on in [global]",
            why="it crashes rpcd_fsrvp",
            write="take 'fss:prune stale' out of [global]",
        )


def order(parameters: Sequence[Parameter]) -> Iterator[Advice]:
    """Yield the directories of [global] that Samba does not look for its registry in.

    Source: source3/param/loadparm.c, handle_include(), process_registry_globals(): the registry is
    opened where the line stands.

    Args:
        parameters: those of [global], in the order in which they stand in the file.
    """
    names = [(plain(name), value) for name, value in parameters]
    opened = next((n for n, pair in enumerate(names) if _opens_registry(*pair)), len(names))
    below = [
        f"'{spelt} = {value}'"
        for (name, value), (spelt, _) in list(zip(names, parameters, strict=True))[opened + 1 :]
        if name in _DIRECTORIES
    ]
    if below:
        found = " and ".join(below)
        yield Advice(
            check="registry",
            what=f"{found} {'stand' if len(below) > 1 else 'stands'} below 'include = registry' in"
            " [global]",
            why="Samba opens the registry where that line stands, and so that of another"
            " directory: exposed shares are another Samba's",
            write=f"move {found} above 'include = registry'",
        )


def limiting(globals_: Mapping[str, str], parameters: Sequence[Parameter]) -> Iterator[Advice]:
    """Yield each setting of [global] that lets Remote VSS work, and not well.

    Args:
        globals_: the options of [global].
        parameters: the same in the order in which they stand in the file.
    """
    whole = any((plain(n), plain(v)) == ("configbackend", "registry") for n, v in parameters)
    includes = whole or any(_opens_registry(plain(name), value) for name, value in parameters)
    if serves_registry(globals_) and not includes:
        # source3/param/loadparm.c, lp_file_list_changed()
        yield Advice(
            check="include",
            what="'include = registry' is missing in [global]",
            why="smbd does not look whether its registry has changed, where exposed shares are",
            write="write 'include = registry' into [global], below the directories that are set",
        )
    short = clocks(globals_).short
    if short == math.inf:
        yield Advice(
            check="sequence",
            what=f"'{SEQUENCE} = {globals_.get(SEQUENCE)}' in [global] never lets a client's time"
            " run out",
            why="the set of a client that has vanished is in the way of all others for ever",
            write=f"take '{SEQUENCE}' out of [global], for the 180 seconds of MS-FSRVP",
        )
    elif short < clocks({}).short:
        yield Advice(
            check="sequence",
            what=f"'{SEQUENCE} = {globals_.get(SEQUENCE)}' in [global] gives clients less than the"
            " 180 seconds of MS-FSRVP",
            why="Samba forgets the set of a client that is slow and not gone",
            write=f"take '{SEQUENCE}' out of [global]",
        )


def of_shares(shares: Iterable[Share], default: Sequence[str]) -> Iterator[Advice]:
    """Yield each setting of a share that limits it or what clients do with a copy.

    Args:
        shares: those that are ours.
        default: the ``vfs objects`` of [global].
    """
    for share in shares:
        if lacking := modules.missing(share.vfs_objects, default):
            missing = " ".join(lacking)
            whole = joined((*lacking, *share.vfs_objects))
            yield Advice(
                check="modules",
                share=share.name,
                what="has 'vfs objects' of its own, which replaces that of [global], and lacks"
                f" {missing}",
                why="nothing that it did is done for this share, such as refusing people",
                write=f"add {missing}, unless that is meant: 'vfs objects = {whole}'",
            )
        if share.writers is Writers.UNKNOWN:
            yield Advice(
                check="writers",
                share=share.name,
                what="has 'read only = yes' and 'force user' or 'guest only', so that nobody knows"
                " which client may recover its shadow copies",
                why="they stay read-only",
                write="name those who may in 'write list'",
            )


def _opens_registry(name: str, value: str) -> bool:
    return name == "include" and value.lower() == "registry"
