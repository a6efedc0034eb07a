"""What is so on this machine: single facts, each looked at by itself.

Contract: it looks, and changes nothing; where nothing bounds the time that a fact takes, the caller
does.
"""

import errno
import os
import pwd
import re
import shlex
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import samba_rvss
from samba_rvss.cli.doctor.seen import Hook
from samba_rvss.copies.locate import Target
from samba_rvss.kernel import (
    files,
    mounting,
    mounttable,
    paths,
    permissions,
    processes,
    timekeeping,
)
from samba_rvss.kernel.addresses import is_local
from samba_rvss.run import run
from samba_rvss.samba import accounts, control
from samba_rvss.samba.conf import Config
from samba_rvss.samba.server import Server

WINBIND = "winbindd"
PACKAGE = os.path.abspath(samba_rvss.__file__)

_SECONDS = 10.0
_NO_SHELL = ("", "false", "nologin")
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUser:
    """A user as the name service switch has him; root, who may do it all, does not ``logs_on``."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    logs_on: bool


def user_of(name: str) -> LocalUser | None:
    """Return the user that Samba has as ``DOM\\user``; None if this machine knows none."""
    for spelt in dict.fromkeys((name, name.rpartition("\\")[2])):
        with suppress(KeyError, ValueError, OSError):
            entry = pwd.getpwnam(spelt)
            return LocalUser(
                name=spelt,
                uid=entry.pw_uid,
                gid=entry.pw_gid,
                groups=tuple(os.getgrouplist(spelt, entry.pw_gid)),
                logs_on=bool(entry.pw_uid) and os.path.basename(entry.pw_shell) not in _NO_SHELL,
            )
    return None


def is_kept_out(valid_users: Sequence[str], user: LocalUser) -> bool:
    """Return whether ``valid users`` does not let a user connect, as far as can be told."""
    return bool(valid_users) and accounts.has(valid_users, user.name, user.uid) is False


# the hook


def hooks(config: Config) -> tuple[Hook, ...]:
    """Return the programs that the shares of ours have as their hook."""
    found = {
        program
        for section in config.sections
        if section.share is not None
        for command in section.callouts
        if (program := _program(command))
    }
    return tuple(_hook(path) for path in sorted(found))


def _program(command: str) -> str:
    """Return the hook in a command, which an interpreter may stand before."""
    with suppress(ValueError):
        return next((w for w in shlex.split(command) if w.endswith(("/hook", "/hook.py"))), "")
    return ""


def _hook(path: str) -> Hook:
    try:
        found = paths.resolve(path, file=True)
        text = _read(found)
    except paths.Replaceable as exc:
        return Hook(path=path, reason=str(exc))
    except OSError as exc:
        return Hook(path=path, reason=exc.strerror or str(exc))
    for place in permissions.way(found):
        if not place.lets(permissions.ANYBODY):
            mode = stat.S_IMODE(place.status.st_mode)
            return Hook(path=path, reason=f"not everybody may use {place.path} (mode {mode:04o})")
    if stat.S_IMODE(os.stat(found).st_mode) & 0o111 != 0o111:
        return Hook(path=path, reason="it is not executable for everybody")
    ours = _read(os.path.join(os.path.dirname(PACKAGE), "hook.py"))
    # A package may give it another interpreter in its first line.
    return Hook(path=path, other=text.partition(b"\n")[2] != ours.partition(b"\n")[2])


def _read(path: str) -> bytes:
    with files.opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as fd:
        return os.read(fd, _LARGEST)


def socket_obstacle(config: Config) -> str:
    """Return why not every user reaches the hook's socket; empty if so, or there is none yet."""
    path = config.hook_socket
    for place in permissions.way(path):
        if place.path == path:
            if not stat.S_ISSOCK(place.status.st_mode):
                return f"{path} is no socket"
            if place.status.st_mode & 0o002 == 0:
                mode = stat.S_IMODE(place.status.st_mode)
                return f"not everybody may connect to {path} (mode {mode:04o})"
        elif not place.lets(permissions.ANYBODY):
            mode = stat.S_IMODE(place.status.st_mode)
            return f"not everybody reaches {path}: {place.path} has mode {mode:04o}"
    return ""


# Samba's processes


def sees_mounts(pid: int, daemon: int, run_directory: str) -> bool:
    """Return whether a process sees what a daemon mounts, wherever each of them is.

    Raises:
        OSError: one of them has ended.
    """
    if processes.mount_namespace(pid) == processes.mount_namespace(daemon):
        return True
    tables = (mounttable.read_mountinfo(each) for each in (daemon, pid))
    return mounttable.propagates(f"{run_directory}/exposed", *tables)


def confinement(pid: int) -> str:
    """Return what a security module confines a process as; empty if none does, or it is not told.

    AppArmor says "unconfined" of those that it lets alone, and "(complain)" of those that it only
    watches (aa_getcon(2)); SELinux has the first in a domain that is called so.
    """
    try:
        with open(f"/proc/{pid}/attr/current", encoding="utf-8", errors="replace") as file:
            said = file.read().strip("\0\n ")
    except OSError:  # there is no such module
        return ""
    return "" if "unconfined" in said or said.endswith("(complain)") else said


def smbd_version() -> str:
    """Return the version of the smbd that is installed, as it says it; empty if there is none.

    Raises:
        RvssError: TOOL if it does not tell; MISSING.
    """
    said = run([control.SERVER, "-V"], timeout=_SECONDS)
    return said.strip().removeprefix("Version ")


# shares


def is_open_top(path: str, target: Target) -> bool:
    """Return whether a share is the top of a btrfs that others than root may write to."""
    volume = target.volume
    if volume.provider != "btrfs" or volume.directory or volume.id != "5":
        return False
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    shared = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and status.st_gid != 0)
    return bool(shared or status.st_uid != 0)


# names, files, the kernel


def addresses(server: Server) -> tuple[tuple[str, ...] | None, bool]:
    """Return what a server's NetBIOS name leads to, and whether that is here; it may take long."""
    found: list[str] = []
    names = [server.netbios_name]
    names += [f"{server.netbios_name}.{server.realm}"] if server.realm else []
    for name in names:
        with suppress(OSError, UnicodeError):
            infos = socket.getaddrinfo(name.lower(), None, type=socket.SOCK_DGRAM)
            found += [str(info[4][0]) for info in infos]
    unique = tuple(dict.fromkeys(found))
    return unique or None, any(map(is_local, unique))


def kind_of(directory: str) -> str:
    """Return the kind of file system that a directory is on, by the names alone."""
    mount = mounttable.above(os.path.realpath(directory))
    return mount.kind if mount else ""


def is_clock_kept() -> bool | None:
    """Return whether somebody keeps the clock right; None if that is not known."""
    return timekeeping.is_kept()


def asks_domain(path: str = "/etc/nsswitch.conf") -> bool:
    """Return whether users are looked up elsewhere too: with winbindd, sssd, or what there may be.

    Args:
        path: nsswitch.conf(5).
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return False
    words = [re.sub(r"#.*|\[.*?\]", "", line).split() for line in lines]
    return any(set(each[1:]) - _LOCAL for each in words if each[:1] == ["passwd:"])


_LOCAL = frozenset({"files", "compat", "db", "altfiles", "extrausers", "systemd", "mymachines"})
"""The modules of nsswitch.conf(5) that know no user of a domain."""


def is_traceable() -> bool:
    """Return whether a user may trace his own processes (Documentation/.../Yama.rst)."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            return re.fullmatch(r"0\s*", file.read()) is not None
    except OSError:  # there is no Yama
        return True


def closes_mounts() -> bool:
    """Return whether the kernel has mount_setattr(2)."""
    try:
        mounting.mount_setattr(-1)
    except OSError as exc:
        return exc.errno != errno.ENOSYS
    return True
