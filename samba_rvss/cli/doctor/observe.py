"""Looking at all that ``samba-rvss doctor`` judges: whatever runs, and whatever does not.

Contract: each source is looked at on its own and for a bounded time, and what cannot be seen says
why. Nothing is changed, and no program is started that smb.conf names.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from samba_rvss.cli.common import ledger_or_empty
from samba_rvss.cli.doctor import confining, here, tools
from samba_rvss.cli.doctor.bounded import bounded
from samba_rvss.cli.doctor.check import SHARES
from samba_rvss.cli.doctor.confining import Rules
from samba_rvss.cli.doctor.finding import CHECKS
from samba_rvss.cli.doctor.seen import Account, Machine, Program, Seen, SeenShare
from samba_rvss.cli.look import look
from samba_rvss.cli.standing import standing
from samba_rvss.copies import identity
from samba_rvss.copies.locate import locate
from samba_rvss.daemon import living
from samba_rvss.errors import RvssError
from samba_rvss.kernel import mounttable, permissions, processes
from samba_rvss.kernel.permissions import User
from samba_rvss.model import Identity
from samba_rvss.providers.all import providers
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba import control, privileged, readable, server, serving, twins
from samba_rvss.samba.conf import Config
from samba_rvss.samba.privileged import Privileged
from samba_rvss.samba.process import SambaProcess

T = TypeVar("T")

_SECONDS = 30.0
_LOOK_SECONDS = 120.0  # many file systems that do not answer, each for its time
_STANDING = (
    *("daemon", "permissions", "ledger", "reconciling", "sealed", "late", "blocked", "orphans"),
    *("foreign", "held", "backups"),
)


class _Looker:
    """Looks at one source after another, and notes why what could not be seen was not."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def look(
        self, checks: Iterable[str], function: Callable[[], T], seconds: float = _SECONDS
    ) -> T | None:
        """Return what a function returns; None if it fails or does not end in time.

        Args:
            checks: the names of those that cannot be made then.
            function: it goes on in its thread if it has not ended.
            seconds: the time.
        """
        try:
            return bounded(function, seconds)
        except (RvssError, OSError) as exc:
            reason = exc.line() if isinstance(exc, RvssError) else str(exc)
            self.problems |= dict.fromkeys(checks, reason)
            return None


def observe(config: Config, samba: SambaProcess, only: str = "") -> Seen:
    """Look at everything.

    Args:
        config: what smb.conf says.
        samba: where python-samba runs.
        only: the share that alone is looked at, by its name in smb.conf; empty for all.
    """
    looker = _Looker()
    counts = looker.look(["space"], partial(_counts, config)) or {}
    seen = looker.look(_STANDING, partial(look, config, samba), _LOOK_SECONDS)
    known = looker.look(
        ["versions", "operators", "idmap", "logons", "computers"],
        partial(samba.call, server.look, config.file),
    )
    allowed = looker.look(
        ["operators", "computers", "access", "shells"], partial(privileged.look, config.file)
    )
    accounts = allowed and looker.look(["access", "shells"], partial(_accounts, config, allowed))
    running = ("smbd", "stale-worker", "versions", "namespace", "installed", "helpers", "workers")
    pids = looker.look(running, partial(_pids, config)) or {}
    daemon = looker.look(["versions", "namespace"], partial(_daemon, config))
    smbds = looker.look(["namespace"], partial(_programs, control.SERVER, pids, daemon, config))
    workers = looker.look(["stale-worker"], partial(_programs, control.WORKER, pids, None, config))
    if not pids.get(control.SERVER):
        looker.problems.setdefault("namespace", "no smbd runs")
    elif daemon is None:
        looker.problems.setdefault("namespace", "the daemon does not run")
    rules = looker.look(["confinement"], confining.look) or Rules()
    if rules.enforces and not pids.get(control.SERVER):
        looker.problems.setdefault("confinement", "no smbd runs")
    names = looker.look(["netbios"], partial(here.addresses, known)) if known else None
    if known is None:
        looker.problems.setdefault("netbios", "what kind of server it is is not known")
    of_shares = [name for name, check in CHECKS.items() if check.group == SHARES]
    shares = looker.look(of_shares, partial(_shares, config, counts, only), _LOOK_SECONDS)
    return Seen(
        config=config,
        only=only,
        shares=shares or (),
        serving=looker.look(running[4:], lambda: tuple(serving.advise(config))) or (),
        unreadable=looker.look(["readable"], partial(_unreadable, config)) or ("", False),
        server=known,
        changed=looker.look(["stale-worker"], partial(_changed, config)) or 0.0,
        smbds=smbds or (),
        workers=workers or (),
        daemon=daemon,
        winbind=bool(pids.get(here.WINBIND)),
        privileged=allowed,
        accounts=accounts or (),
        hooks=looker.look(["hook"], partial(here.hooks, config)) or (),
        socket=looker.look(["hook"], partial(here.socket_obstacle, config)) or "",
        machine=_machine(config, looker, names),
        tools=looker.look(["tools"], tools.look) or (),
        rules=rules,
        look=seen,
        standing=standing(seen, {}) if seen else None,
        problems=looker.problems,
    )


def _counts(config: Config) -> dict[str, int]:
    with ledger_or_empty(config) as ledger:
        return dict(ledger.counts())


# shares


def _shares(config: Config, counts: dict[str, int], only: str) -> tuple[SeenShare, ...]:
    """Look at the shares that are meant to have shadow copies; each within its time."""
    table = tuple(mounttable.mountinfo())
    lies_on, whole = mounttable.finder(table), twins.whole(config.shares)
    found = []
    for section in config.sections:
        if only not in ("", section.name) or not (section.share or section.obstacles):
            continue
        count = counts.get(section.name.lower(), 0)
        mount = lies_on(section.path) if section.path else None
        each = SeenShare(
            section=section,
            share=whole[section.share.name] if section.share else None,
            count=count,
            idmapped=mount is not None and "idmapped" in mount.options,
            mounts=tuple(_inside(section.path, table)),
            pool=mount.source.partition("/")[0] if mount and mount.kind == "zfs" else "",
        )
        located = _located(config, each)
        # One that only inherits the hook from [global], as print$ may, is not meant.
        if not section.inherits or count or not (located.error or section.obstacles):
            found.append(located)
    return tuple(found)


def _inside(path: str, table: Iterable[mounttable.MountInfo]) -> Iterator[str]:
    below = f"{path.rstrip('/')}/"
    return (f"mounted at {m.target} lies" for m in table if path and m.target.startswith(below))


def _located(config: Config, each: SeenShare) -> SeenShare:
    if each.share is None:
        return each
    # What smb.conf has in the way is told apart from the directory.
    share = replace(each.share, obstacle="")
    find = partial(
        locate, share, providers(Identity(id=""), config.homes), config.run_directory, thorough=True
    )
    try:
        target = COMMON.look(share.path, find)
        is_open = COMMON.look(share.path, partial(here.is_open_top, share.path, target))
    except RvssError as exc:
        return replace(each, error=exc)
    return replace(each, target=target, open_top=is_open)


# Samba


def _pids(config: Config) -> dict[str, list[int]]:
    programs = (control.SERVER, control.WORKER, here.WINBIND)
    return {name: control.pids_of(name, config.samba_lock_directory) for name in programs}


def _programs(
    name: str, pids: dict[str, list[int]], daemon: Program | None, config: Config
) -> tuple[Program, ...]:
    found = []
    namespaces: dict[str, bool] = {}
    for pid in pids.get(name, ()):
        with suppress(OSError):  # it has ended
            sees: bool | None = None
            if daemon is not None:
                namespace = processes.mount_namespace(pid)
                if namespace not in namespaces:
                    namespaces[namespace] = here.sees_mounts(pid, daemon.pid, config.run_directory)
                sees = namespaces[namespace]
            executable = processes.process(pid).executable
            found.append(
                Program(
                    name=name,
                    pid=pid,
                    replaced=executable.endswith(" (deleted)"),
                    started=_since_epoch(processes.started(pid)),
                    sees_mounts=sees,
                    confined=here.confinement(pid),
                )
            )
    return tuple(found)


def _daemon(config: Config) -> Program | None:
    pid = living.served_by(identity.read(config))
    if not pid:
        return None
    started = _since_epoch(processes.started(pid))
    replaced = started < os.stat(here.PACKAGE).st_ctime
    return Program(name="samba-rvss", pid=pid, replaced=replaced, started=started)


def _since_epoch(seconds: float) -> float:
    """Return a time since the boot as one since the epoch; 0 if it is not known."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + seconds if seconds else 0.0


def _changed(config: Config) -> float:
    """Return when smb.conf, or a file that it includes, was changed last."""
    times = [0.0]
    for file in config.files:
        with suppress(OSError):
            times.append(os.stat(file).st_mtime)
    return max(times)


def _unreadable(config: Config) -> tuple[str, bool]:
    return readable.some(config.file), bool(readable.nobody(config.file))


# users


def _accounts(config: Config, allowed: Privileged) -> tuple[Account, ...]:
    return tuple(
        account for name in allowed.named if (account := _account(config, name)) is not None
    )


def _account(config: Config, name: str) -> Account | None:
    """Return an account by Samba's name of it; None if this machine knows no user of that name."""
    user = here.user_of(name)
    if user is None:
        return None
    as_whom = User(uid=user.uid, gid=user.gid, groups=user.groups)
    unread = ""
    try:
        readable.require(config.file, as_whom)
    except RvssError as exc:
        unread = exc.line()
    return Account(
        name=name,
        logs_on=user.logs_on,
        unread=unread,
        kept_out=frozenset(
            share.name
            for share in config.shares
            if here.is_kept_out(share.valid_users, user)
            or not all(place.lets(as_whom) for place in permissions.way(share.path))
        ),
    )


# this machine


def _machine(
    config: Config, looker: _Looker, names: tuple[tuple[str, ...] | None, bool] | None
) -> Machine:
    addresses, is_here = names or (None, False)
    return Machine(
        lock_kind=looker.look(
            ["lock-directory", "volatile"], partial(here.kind_of, config.samba_lock_directory)
        )
        or "",
        synchronised=here.is_clock_kept(),
        newest=looker.look(["clock"], partial(_ahead, config)) or 0.0,
        identified=bool(identity.machine()),
        traceable=here.is_traceable(),
        asks_domain=looker.look(["logons"], here.asks_domain) is not False,
        closes_mounts=here.closes_mounts(),
        addresses=addresses,
        is_here=is_here,
        smbd_version=looker.look(["versions"], here.smbd_version) or "",
    )


def _ahead(config: Config) -> float:
    """Return how far the newest record is ahead of the clock, in seconds; 0 if it is not."""
    with ledger_or_empty(config) as ledger:
        times = [copy.created for copy in (*ledger.copies(), *ledger.backups())]
        last = ledger.last_event()
        times += [last.time] if last else []
    return max((when.timestamp() - time.time() for when in times), default=0.0)
