"""Whether Samba can serve Remote VSS: what has to be installed, and what has to run.

Place: for commands, on `control`. Contract: it looks, and starts a program only where something
seems to be missing. Where smbd has a root directory of its own, as in a container, it looks there.
"""

import ctypes
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from samba_rvss.errors import RvssError
from samba_rvss.kernel import files, processes
from samba_rvss.model import Advice
from samba_rvss.run import run
from samba_rvss.samba import control, modules
from samba_rvss.samba.conf import Config

_LIBRARY = "libsamba-util.so.0"
_SECONDS = 10.0
_TWICE_SECONDS = 0.5
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Directories in which Samba was built to look.

    Attributes:
        modules: the one that has that of the VFS modules in it.
        programs: that of samba-dcerpcd and of what it starts; empty if it is not known.
    """

    modules: str
    programs: str


def places() -> Places:
    """Return the directories of the Samba that python-samba belongs to.

    ``smbd -b`` names the one, and only Samba's library the other (dynconfig/dynconfig.c).
    """
    from samba import param

    programs = ""
    with suppress(OSError, AttributeError):
        told = ctypes.CDLL(_LIBRARY).get_dyn_SAMBA_LIBEXECDIR
        told.restype = ctypes.c_char_p
        programs = os.fsdecode(told())
    return Places(modules=param.modules_dir(), programs=programs)


def obstacles(config: Config) -> Iterator[str]:
    """Yield a sentence on each thing that keeps Samba from serving Remote VSS as it must."""
    try:
        yield from (advice.line() for advice in advise(config))
    except RvssError as exc:
        yield exc.line()


def advise(config: Config) -> Iterator[Advice]:
    """Yield each thing that keeps Samba from serving Remote VSS as it must.

    Raises:
        RvssError: SAMBA if its processes cannot be looked at.
    """
    lock_directory = config.samba_lock_directory
    smbds = control.pids_of(control.SERVER, lock_directory)
    fd, elsewhere = _root(smbds[0]) if smbds else (_open("/"), False)
    with files.opened(fd) as root:
        yield from missing(config, places(), root, elsewhere=elsewhere)
    if not config.helpers_on_demand and not control.pids_of(control.HOST, lock_directory):
        yield Advice(
            check="helpers",
            what=f"'rpc start on demand helpers' is off in [global], and {control.HOST} does not"
            " run",
            why="nobody serves Remote VSS",
            write=f"start {control.HOST}, or take that option out",
        )
    yield from _several(lock_directory)


def missing(config: Config, where: Places, root: int, *, elsewhere: bool) -> Iterator[Advice]:
    """Yield each program and VFS module that is not installed.

    Args:
        config: whose shares have the modules.
        where: where Samba looks.
        root: a descriptor of the root directory that it has.
        elsewhere: whether that is another one than ours, so that it may have another build.
    """
    if where.programs and (_is_there(root, where.programs) or not elsewhere):
        for program in (control.HOST, control.WORKER):
            path = f"{where.programs}/{program}"
            if not _is_there(root, path):
                yield Advice(
                    check="installed",
                    what=f"Samba's {program} is not installed ({path}), so that nobody serves"
                    " Remote VSS",
                    write="install it (on Debian, samba-common-bin)",
                )
    if elsewhere and not _is_there(root, where.modules):
        return
    users: dict[str, list[str]] = defaultdict(list)
    for share in config.shares:
        for entry in share.vfs_objects:
            users[_file(entry, where)].append(f"[{share.name}]")
    absent = {path: shares for path, shares in users.items() if not _is_there(root, path)}
    builtin = _builtin() if absent else frozenset()
    for path, shares in absent.items():
        module = modules.name(path)
        if module not in builtin:
            more = [f"{len(shares) - _SHOWN} more"] if len(shares) > _SHOWN else []
            yield Advice(
                check="installed",
                what=f"the VFS module {module} is not installed ({path})",
                why=f"Samba serves no share that has it: {', '.join(shares[:_SHOWN] + more)}",
                write="install it (on Debian, samba, or samba-vfs-modules before Debian 13)",
            )


def _file(entry: str, where: Places) -> str:
    """Return the file of the module that an entry of ``vfs objects`` means."""
    path = entry.partition(":")[0].strip(" ")
    return path if path.startswith("/") else f"{where.modules}/vfs/{path}.so"


def _root(pid: int) -> tuple[int, bool]:
    """Open the root directory of a process; tell whether it is another one than ours."""
    try:
        inside = processes.mount_namespace(pid) == processes.mount_namespace(os.getpid())
        fd = _open(f"/proc/{pid}/root")
    except OSError:  # it has ended
        return _open("/"), False
    return fd, not (inside and os.path.samestat(os.fstat(fd), os.stat("/")))


def _open(directory: str) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_there(root: int, path: str) -> bool:
    """Return whether there is something at a path, as it is to whoever has that root directory."""
    try:
        os.close(files.openat2(root, path, os.O_PATH, files.RESOLVE_IN_ROOT))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be told
        return True
    return True


def _builtin() -> frozenset[str]:
    """Return the VFS modules that are part of Samba's programs; none if there is no smbd."""
    try:
        said = run([control.SERVER, "-b"], timeout=_SECONDS)
    except RvssError:
        return frozenset()
    return frozenset(re.findall(r"\bvfs_(\w+)", said))


def _several(lock_directory: str) -> Iterator[Advice]:
    """Yield it if several workers live, and not just while one replaces another."""
    pids = control.pids_of(control.WORKER, lock_directory)
    if len(pids) > 1:
        time.sleep(_TWICE_SECONDS)
        pids = sorted({*pids} & {*control.pids_of(control.WORKER, lock_directory)})
    if len(pids) > 1:
        yield Advice(
            check="workers",
            what=f"{len(pids)} {control.WORKER} of this Samba run ({', '.join(map(str, pids))})",
            why="each knows its own clients' shadow copy sets only, and erases those of the others"
            " from srv_fss.tdb",
            write=f"set '{control.WORKER}:num_workers = 1' in [global], and start Samba anew while"
            " nobody takes a shadow copy",
        )
