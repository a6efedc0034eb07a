"""What ``samba-rvss doctor`` has seen, as values that its judges need and nothing else.

What could not be seen is None or empty, and ``problems`` says why, by the names of the checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from samba_rvss.cli.doctor.confining import Rules
from samba_rvss.cli.doctor.tools import Tool
from samba_rvss.cli.look import Look
from samba_rvss.cli.standing import Standing
from samba_rvss.copies.locate import Target
from samba_rvss.errors import RvssError
from samba_rvss.model import Advice, Share
from samba_rvss.samba.conf import Config
from samba_rvss.samba.privileged import Privileged
from samba_rvss.samba.sections import Section
from samba_rvss.samba.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenShare:
    """A section of smb.conf that is meant to have shadow copies.

    Attributes:
        share: it, with what protects the copies of its directory; None if it is not ours.
        count: how many shadow copies it has.
        target: where it sits; None if it cannot be snapshotted, or nobody looked.
        error: why it cannot be.
        idmapped: whether it is on an id-mapped mount.
        mounts: the file systems mounted inside it, as "KIND at PATH".
        open_top: whether it is the top of a btrfs, and others than root may write to it.
        pool: the pool of its dataset; empty if it is on none.
    """

    section: Section
    share: Share | None = None
    count: int = 0
    target: Target | None = None
    error: RvssError | None = None
    idmapped: bool = False
    mounts: tuple[str, ...] = ()
    open_top: bool = False
    pool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process of Samba's, or the daemon.

    Attributes:
        name: what it is called.
        replaced: whether what it runs is no longer what is installed.
        started: when, in seconds since the epoch.
        sees_mounts: whether it sees the daemon's mounts; None if that was not looked at.
        confined: what a security module confines it as; empty if none does.
    """

    name: str
    pid: int
    replaced: bool = False
    started: float = 0.0
    sees_mounts: bool | None = None
    confined: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of this machine, or of its domain, that may take shadow copies.

    Attributes:
        name: as Samba has it.
        logs_on: whether it has a shell to log on with.
        unread: why it cannot read smb.conf; empty if it can.
        kept_out: shares that do not let it connect, or whose directory it cannot walk to.
    """

    name: str
    logs_on: bool = False
    unread: str = ""
    kept_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program that shares have as their hook.

    Attributes:
        path: where it is.
        reason: why not every user can run it, or others than root can change it; empty if not so.
        other: whether it is not the hook of this version.
    """

    path: str
    reason: str = ""
    other: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is so on this machine, whatever Samba does.

    Attributes:
        lock_kind: the file system of Samba's lock directory, as the mount table calls it.
        synchronised: whether the kernel's clock is kept by somebody; None if it does not tell.
        newest: how far the newest record in the ledger is ahead of the clock, in seconds.
        identified: whether the machine has an id.
        traceable: whether users may trace their own processes.
        asks_domain: whether it asks winbindd, or sssd, for users.
        closes_mounts: whether the kernel has mount_setattr(2).
        addresses: what Samba's NetBIOS name leads to, None if it is not known to anybody.
        is_here: whether one of them is this machine's.
        smbd_version: what smbd says of itself; empty if it is not there.
    """

    lock_kind: str = ""
    synchronised: bool | None = None
    newest: float = 0.0
    identified: bool = True
    traceable: bool = False
    asks_domain: bool = True
    closes_mounts: bool = True
    addresses: tuple[str, ...] | None = None
    is_here: bool = False
    smbd_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that the judges need.

    Attributes:
        config: what smb.conf says.
        only: the share that alone is to be judged, besides the server; empty for all.
        shares: its sections that are meant to have shadow copies.
        serving: what keeps Samba from serving.
        unreadable: why nobody can read smb.conf, or not everybody; and whether it is nobody.
        server: what kind of server it is.
        changed: when smb.conf, or a file that it includes, was changed last (seconds since the
            epoch).
        smbds, workers: Samba's processes.
        daemon: the daemon, None if it does not run.
        winbind: whether winbindd runs.
        socket: why not everybody reaches the hook's socket; empty if everybody does.
        look: what `status` sees; None if the ledger cannot be read.
        rules: what SELinux and AppArmor have.
        problems: why checks could not be made, by their names.
    """

    config: Config
    only: str = ""
    shares: tuple[SeenShare, ...] = ()
    serving: tuple[Advice, ...] = ()
    unreadable: tuple[str, bool] = ("", False)
    server: Server | None = None
    changed: float = 0.0
    smbds: tuple[Program, ...] = ()
    workers: tuple[Program, ...] = ()
    daemon: Program | None = None
    winbind: bool = False
    privileged: Privileged | None = None
    accounts: tuple[Account, ...] = ()
    hooks: tuple[Hook, ...] = ()
    socket: str = ""
    machine: Machine = field(default=Machine())
    tools: tuple[Tool, ...] = ()
    rules: Rules = field(default=Rules())
    look: Look | None = None
    standing: Standing | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
