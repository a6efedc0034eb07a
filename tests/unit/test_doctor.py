"""``samba-rvss doctor``: for each check a system broken in just that way, and what comes out."""

import fcntl
import os
import pickle
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from samba_rvss import cli
from samba_rvss.child import Child
from samba_rvss.cli import doctor
from samba_rvss.cli.doctor import judge, probe, report
from samba_rvss.cli.doctor.check import SHARES, Severity
from samba_rvss.cli.doctor.confining import Rules
from samba_rvss.cli.doctor.finding import CHECKS, PROBE, Finding, of_line
from samba_rvss.cli.doctor.seen import Account, Hook, Machine, Program, Seen, SeenShare
from samba_rvss.cli.doctor.tools import Tool
from samba_rvss.cli.standing import standing
from samba_rvss.copies import doubt
from samba_rvss.copies.locate import Target
from samba_rvss.copies.room import Space
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Advice, Event, Foreign, Inventory, Whose
from samba_rvss.reconcile.decision import MountAgain
from samba_rvss.samba import conf
from samba_rvss.samba.conf import Config
from samba_rvss.samba.privileged import Privileged
from samba_rvss.samba.server import Server
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section
from tests.unit import test_healing_commands as looks
from tests.unit.values import VOLUME

pytestmark = pytest.mark.require("smbd")

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
SPACE = Space(free=1 << 30, size=1 << 31)
SERVER = Server(
    netbios_name="FILES",
    host_name="files",
    realm="",
    is_member=False,
    address="127.0.0.1",
    version="4.17.12",
)
MEMBER = replace(SERVER, realm="example.org", is_member=True)
ANN = Account(name="FILES\\ann")
HEALTHY = Machine(
    lock_kind="ext4",
    synchronised=True,
    addresses=("127.0.0.1",),
    is_here=True,
    smbd_version="4.17.12",
)
HOOK = "/usr/libexec/samba-rvss/hook"


class Files:
    """An smb.conf as the README has it, with real directories.

    Args:
        directory: where it is to be.
        reader: a process that has not read any other smb.conf, of which python-samba keeps shares.
    """

    def __init__(self, directory: Path, reader: Child) -> None:
        self.file = directory / "smb.conf"
        self._reader = reader
        names = ("state", "lock", "cache", "private")
        for name in names:
            (directory / name).mkdir()
        self.head = "[global]\n" + "".join(
            f"    {name} {'dir' if name == 'private' else 'directory'} = {directory}/{name}\n"
            for name in names
        )

    def load(self, old: str = "", new: str = "") -> Config:
        """Read it, with one text in the place of another."""
        text = self.head + GLOBAL_EXAMPLE + share_section("vms", "/srv/vms")
        assert old in text
        self.file.write_text(text.replace(old, new, 1) if old else text + new)
        self.file.chmod(0o644)
        return self._reader.call(60.0, in_a_fork, str(self.file))


def in_a_fork(file: str) -> Config:
    """Read smb.conf in a fork of a process that has read none, sooner than in a new process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(theirs, "wb") as answer:
                answer.write(pickle.dumps(conf.load(file)))
        finally:
            os._exit(0)  # this is no second run of the tests
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        config: Config = pickle.loads(answer.read())  # noqa: S301 - of our own child
    os.waitpid(child, 0)
    return config


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with closing(Child()) as reader:
        yield Files(tmp_path_factory.mktemp("doctor"), reader)


def healthy(config: Config) -> Seen:
    """Return what is seen where all is well, of the shares of a configuration."""
    look = looks.looked(config=config)
    return Seen(
        config=config,
        shares=tuple(
            SeenShare(
                section=section,
                share=section.share,
                target=Target(share=section.share, volume=VOLUME, space=SPACE)
                if section.share
                else None,
            )
            for section in config.sections
            if section.share or section.obstacles
        ),
        server=SERVER,
        smbds=(Program(name="smbd", pid=7, started=1000.0, sees_mounts=True),),
        workers=(Program(name="rpcd_fsrvp", pid=9, started=1000.0),),
        daemon=Program(name="samba-rvss", pid=8, started=1000.0),
        changed=900.0,
        winbind=True,
        privileged=Privileged(operators=("FILES\\ann",), administrators=None, granted=()),
        accounts=(ANN,),
        hooks=(Hook(path=HOOK),),
        machine=HEALTHY,
        look=look,
        standing=standing(look, {}),
    )


def bad(seen: Seen) -> list[Finding]:
    """Return what is not good."""
    return [finding for finding in judge.judge(seen) if finding.severity is not Severity.GOOD]


def test_nothing_is_wrong(files: Files) -> None:
    found = judge.judge(healthy(files.load()))
    assert {finding.severity for finding in found} == {Severity.GOOD}
    assert [finding.check for finding in found] == [name for name in CHECKS if name != PROBE]
    assert doctor.status(found) == 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A system that is broken in one way, and what is said of it.

    Attributes:
        old, new: what is changed in smb.conf.
        seen: what else is changed.
        severity, what, why, write: of the one finding; parts of its sentences.
        share: which share it is about.
    """

    severity: Severity
    what: str
    why: str
    write: str
    old: str = ""
    new: str = ""
    seen: Callable[[Seen], Seen] = lambda seen: seen
    share: str = ""


def _share(**changes: object) -> Callable[[Seen], Seen]:
    def changed(seen: Seen) -> Seen:
        (share,) = seen.shares
        return replace(seen, shares=(replace(share, **changes),))  # type: ignore[arg-type]  # a case names fields

    return changed


def _refused(
    problem: Problem, message: str, hint: str = "", **more: object
) -> Callable[[Seen], Seen]:
    return _share(target=None, error=RvssError(problem, message, hint), **more)


def _machine(**changes: object) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, machine=replace(seen.machine, **changes))  # type: ignore[arg-type]  # as above


def _judged(**changes: object) -> Callable[[Seen], Seen]:
    def changed(seen: Seen) -> Seen:
        assert seen.standing is not None
        return replace(seen, standing=replace(seen.standing, **changes))  # type: ignore[arg-type]  # as above

    return changed


def _wrong(check: str, line: str) -> Callable[[Seen], Seen]:
    return _judged(found=((check, line),))


def _presence(**lines: tuple[str, ...]) -> Callable[[Seen], Seen]:
    """Have the daemon say something that is wrong."""

    def changed(seen: Seen) -> Seen:
        presence = replace(looks.PRESENCE, **lines)  # type: ignore[arg-type]  # as above
        look = looks.looked(config=seen.config, presence=presence)
        return replace(seen, look=look, standing=standing(look, {}))

    return changed


_DOUBTED = Event(
    time=looks.NOW - timedelta(days=6),
    copy="20260101T000000Z-0badcafe",
    set_id="",
    share="vms",
    what=doubt.IN_DOUBT,
    uid=-1,
    duration=None,
    detail="198.18.0.3 connected to vms@{1} before RecoveryComplete",
)


def _member(server: Server = MEMBER) -> Callable[[Seen], Seen]:
    """Make it the member of a domain, of which a computer account may take shadow copies."""
    allowed = Privileged(operators=("DOM\\HV1$",), administrators=None, granted=())
    return lambda seen: replace(seen, server=server, privileged=allowed)


def _without_daemon(seen: Seen) -> Seen:
    look = replace(
        looks.looked(config=seen.config, presence=None),
        silence="the daemon does not run: start samba-rvss.service",
    )
    return replace(seen, look=look, standing=standing(look, {}), daemon=None)


def _to_do(seen: Seen) -> Seen:
    action = MountAgain(copy=looks.COPY, reason="it is not mounted")
    look = looks.looked(config=seen.config, plan=replace(looks.EMPTY, actions=(action,)))
    return replace(seen, look=look, standing=replace(standing(look, {}), found=()))


def _foreign(seen: Seen) -> Seen:
    image = Foreign(
        id="20260101T000000Z-0badcafe",
        provider="btrfs",
        file_system="fs",
        where="/.samba-rvss/x",
        whose=Whose.INSTANCE,
        instance="f00d",
    )
    inventory = Inventory(file_systems=frozenset({"fs"}), images=(), foreign=(image,))
    look = looks.looked(replace(looks.seen(), inventory=inventory), config=seen.config)
    return replace(seen, look=look, standing=standing(look, {}))


def _tool(name: str, text: str) -> Callable[[Seen], Seen]:
    return lambda seen: replace(seen, tools=(Tool(name=name, file=f"/etc/{name}", text=text),))


SECTION = "    read only = no\n"
CASES = {
    "registry": Case(
        old="registry shares = yes\n    include = registry",
        new="registry shares = no",
        severity=ERROR,
        what="'registry shares' is off in [global]",
        why="cannot expose",
        write="'registry shares = yes' and 'include = registry'",
    ),
    "include": Case(
        old="    include = registry\n",
        new="",
        severity=WARNING,
        what="'include = registry' is missing",
        why="does not look whether its registry has changed",
        write="write 'include = registry' into [global]",
    ),
    "workers": Case(
        old="num_workers = 1",
        new="num_workers = 5",
        severity=ERROR,
        what="'rpcd_fsrvp:num_workers = 1' is missing in [global]",
        why="erase each other's shadow copy sets",
        write="write 'rpcd_fsrvp:num_workers = 1' into [global]",
    ),
    "idle": Case(
        old="idle_seconds = 10",
        new="idle_seconds = 60",
        severity=WARNING,
        what="'rpcd_fsrvp:idle_seconds = 10' is missing",
        why="refuses all others",
        write="write 'rpcd_fsrvp:idle_seconds = 10' into [global]",
    ),
    "sequence": Case(
        old="idle_seconds = 10\n",
        new="idle_seconds = 10\n    fss:sequence timeout = 20\n",
        severity=WARNING,
        what="'fss:sequence timeout = 20' in [global] gives clients less",
        why="slow and not gone",
        write="take 'fss:sequence timeout' out of [global]",
    ),
    "prune-stale": Case(
        old="idle_seconds = 10\n",
        new="idle_seconds = 10\n    fss:prune stale = yes\n",
        severity=ERROR,
        what="'fss:prune stale' is on",
        why="crashes rpcd_fsrvp",
        write="take 'fss:prune stale' out of [global]",
    ),
    "domain-controller": Case(
        seen=lambda seen: replace(
            seen,
            config=replace(
                seen.config,
                advice=(
                    Advice(check="domain-controller", what="it is an AD DC", write="have a member"),
                ),
            ),
        ),
        severity=ERROR,
        what="it is an AD DC",
        why="offers no Remote VSS",
        write="have a member",
    ),
    "readable": Case(
        seen=lambda seen: replace(
            seen, unreadable=("only root can read it (mode 0600): let everybody read it", True)
        ),
        severity=ERROR,
        what="only root can read it (mode 0600)",
        why="as the client's user",
        write="let everybody read it",
    ),
    "netbios": Case(
        seen=lambda seen: replace(
            _machine(is_here=False, addresses=("192.0.2.7",))(seen),
            server=replace(SERVER, netbios_name="OTHER"),
        ),
        severity=WARNING,
        what="connect to OTHER, and it leads to 192.0.2.7, which is another machine; the host is"
        " called files",
        why="IsPathSupported answers",
        write="set 'netbios name'",
    ),
    "lock-directory": Case(
        seen=_machine(lock_kind="nfs4"),
        severity=WARNING,
        what="/lock is nfs4",
        why="inotify",
        write="set 'lock directory'",
    ),
    "installed": Case(
        seen=lambda seen: replace(
            seen, serving=(Advice(check="installed", what="shell_snap is not installed (x)"),)
        ),
        severity=ERROR,
        what="shell_snap is not installed (x)",
        why="nobody serves",
        write="install",
    ),
    "smbd": Case(
        seen=lambda seen: replace(seen, smbds=()),
        severity=WARNING,
        what="no smbd runs that has its locks in",
        why="clients get nothing",
        write="systemctl start smbd",
    ),
    "helpers": Case(
        seen=lambda seen: replace(
            seen, serving=(Advice(check="helpers", what="nobody starts samba-dcerpcd"),)
        ),
        severity=ERROR,
        what="nobody starts",
        why="nobody serves Remote VSS",
        write="take 'rpc start on demand helpers' out",
    ),
    "stale-worker": Case(
        seen=lambda seen: replace(seen, changed=1001.0),
        severity=WARNING,
        what="rpcd_fsrvp 9 runs since before",
        why="0x80070057",
        write="no client for 10 s, or 'kill 9'",
    ),
    "versions": Case(
        seen=lambda seen: replace(seen, daemon=replace(seen.daemon, replaced=True)),  # type: ignore[type-var]  # it is not None there
        severity=WARNING,
        what="the daemon (process 8) was started before samba-rvss was installed anew",
        why="two versions",
        write="systemctl restart samba-rvss.service",
    ),
    "ours": Case(
        old=share_section("vms", "/srv/vms"),
        new="",
        seen=lambda seen: _judged(found=())(seen),  # of the copy of a share that is no more
        severity=ERROR,
        what="no share in",
        why="no share has shadow copies",
        write="samba-rvss setup SHARE",
    ),
    "callouts": Case(
        old=f"{HOOK} create",
        new="/usr/local/bin/snap create",
        severity=ERROR,
        what="'shell_snap:create command' does not call the hook of this instance",
        why="somebody else",
        write=f"'shell_snap:create command = {HOOK} create'",
        share="vms",
    ),
    "hook": Case(
        seen=lambda seen: replace(seen, hooks=(Hook(path=HOOK, reason="No such file"),)),
        severity=ERROR,
        what=f"the hook {HOOK} cannot be used: No such file",
        why="as the client's user",
        write="install samba-rvss",
    ),
    "shadowed": Case(
        old="acl_xattr shell_snap",
        new="snapper acl_xattr shell_snap",
        severity=ERROR,
        what="the module snapper stands before shell_snap",
        why="nobody seals",
        write="take out snapper, or put shell_snap first",
        share="vms",
    ),
    "modules": Case(
        old="idle_seconds = 10\n",
        new="idle_seconds = 10\n    vfs objects = full_audit\n",
        severity=WARNING,
        what="lacks full_audit",
        why="nothing that it did is done",
        write="'vfs objects = full_audit acl_xattr shell_snap'",
        share="vms",
    ),
    "options": Case(
        old=SECTION,
        new=SECTION + "    rvss:nested = maybe\n",
        severity=ERROR,
        what="'rvss:nested = maybe': refuse or include is wanted",
        why="no shadow copies",
        write="correct it",
        share="vms",
    ),
    "expose": Case(
        old=SECTION,
        new=SECTION + "    log level = 3\n",
        severity=ERROR,
        what="its section has 'log level', which Samba does not know, or in [global] only",
        why="in the way of all others",
        write="take it out",
        share="vms",
    ),
    "names": Case(
        old="path = /srv/vms",
        new="path = /srv/%U/vms",
        severity=ERROR,
        what="its path has the macro %U",
        why="no way to say",
        write="write the directory itself",
        share="vms",
    ),
    "path": Case(
        seen=_refused(Problem.BAD_PATH, "the path has a symbolic link in it", "write /srv/x"),
        severity=ERROR,
        what="a symbolic link",
        why="the directory itself",
        write="write /srv/x",
        share="vms",
    ),
    "file-system": Case(
        seen=_refused(Problem.NOT_SUPPORTED, "the file system cannot take shadow copies"),
        severity=ERROR,
        what="cannot take shadow copies",
        why="at once",
        write="move the share to a btrfs or ZFS",
        share="vms",
    ),
    "nested": Case(
        seen=_refused(Problem.NESTED, "the subvolume x lies inside", "set 'rvss:nested = include'"),
        severity=ERROR,
        what="the subvolume x lies inside",
        why="would be empty",
        write="'rvss:nested = include'",
        share="vms",
    ),
    "mounts": Case(
        seen=_refused(
            Problem.NESTED,
            "the ext4 file system mounted at /srv/vms/a lies inside /srv/vms",
            mounts=("mounted at /srv/vms/a lies",),
        ),
        severity=ERROR,
        what="the ext4 file system mounted at /srv/vms/a",
        why="missing in a shadow copy",
        write="mount it elsewhere",
        share="vms",
    ),
    "top-level": Case(
        seen=_share(open_top=True),
        severity=WARNING,
        what="/srv/vms is the top of a btrfs, and others than root may write to it",
        why="keeps all shares of the file system from having shadow copies",
        write="share a subvolume",
        share="vms",
    ),
    "writers": Case(
        old=SECTION,
        new="    force user = ann\n",
        severity=WARNING,
        what="nobody knows which client may recover",
        why="they stay read-only",
        write="'write list'",
        share="vms",
    ),
    "previous-versions": Case(
        old=SECTION,
        new=SECTION + "    rvss:previous versions = yes\n",
        severity=WARNING,
        what="'vfs objects' has no shadow_copy2",
        why="nobody sees its Previous Versions",
        write="write 'vfs objects = shadow_copy2 acl_xattr shell_snap'",
        share="vms",
    ),
    "twins": Case(
        new=share_section("more", "/srv/vms") + "    rvss:keep = yes\n",
        severity=NOTE,
        what="[vms] and [more] are one directory, and 'rvss:keep = yes' of [more] is taken for all",
        why="a copy of one is a copy of all",
        write="the same",
    ),
    "space": Case(
        seen=_share(count=80),
        severity=WARNING,
        what="has 80 of at most 100 shadow copies",
        why="clients are refused",
        write="delete",
        share="vms",
    ),
    "operators": Case(
        seen=lambda seen: replace(
            seen,
            privileged=Privileged(operators=None, administrators=None, granted=()),
            accounts=(),
        ),
        severity=ERROR,
        what="nobody but root may take shadow copies",
        why="0x80070005",
        write="net sam rights grant USER SeBackupPrivilege",
    ),
    "idmap": Case(
        seen=_member(replace(MEMBER, has_range=False)),
        severity=ERROR,
        what="'idmap config * : range' is missing in [global]",
        why="cannot be made without one",
        write="net cache flush",
    ),
    "logons": Case(
        seen=lambda seen: _member()(_machine(asks_domain=False)(seen)),
        severity=ERROR,
        what="the system does not ask for the users of the domain",
        why="NT_STATUS_LOGON_FAILURE",
        write="libnss-winbind",
    ),
    "computers": Case(
        seen=lambda seen: replace(seen, server=MEMBER),
        severity=NOTE,
        what="no computer account may take shadow copies, unless a group has it: FILES\\ann",
        why="DOM\\HOST$",
        write="net sam addmem 'BUILTIN\\Backup Operators' 'DOM\\Hyper-V Hosts'",
    ),
    "access": Case(
        seen=lambda seen: replace(seen, accounts=(replace(ANN, kept_out=frozenset({"vms"})),)),
        severity=WARNING,
        what="keeps out all who may take shadow copies and are known here: FILES\\ann",
        why="0x80070005",
        write="'valid users'",
        share="vms",
    ),
    "shells": Case(
        seen=lambda seen: replace(
            _machine(traceable=True)(seen), accounts=(Account(name=ANN.name, logs_on=True),)
        ),
        severity=NOTE,
        what="FILES\\ann may take shadow copies, and log on here",
        why="ask for another share",
        write="kernel.yama.ptrace_scope=1",
    ),
    "daemon": Case(
        seen=_without_daemon,
        severity=ERROR,
        what="the daemon does not run",
        why="callouts fail",
        write="start samba-rvss.service",
    ),
    "namespace": Case(
        seen=lambda seen: replace(seen, smbds=(Program(name="smbd", pid=7, sees_mounts=False),)),
        severity=ERROR,
        what="smbd 7 is in another mount namespace than the daemon, whose mounts below",
        why="the backup is empty",
        write="as a slave mount",
    ),
    "confinement": Case(
        seen=lambda seen: replace(seen, rules=Rules(profiles=frozenset({"samba-rpcd"}))),
        severity=WARNING,
        what="AppArmor confines rpcd_fsrvp by the profile samba-rpcd, which has no rules for",
        why="keeps it from running the hook",
        write="""echo 'include "/usr/share/samba-rvss/apparmor/samba-rpcd"' >>/etc/apparmor.d/""",
    ),
    "permissions": Case(
        seen=_presence(lacking=("every request is refused: give samba-rvss CAP_SYS_PTRACE",)),
        severity=ERROR,
        what="every request is refused",
        why="clients are refused",
        write="give samba-rvss CAP_SYS_PTRACE",
    ),
    "instance": Case(
        seen=_machine(identified=False),
        severity=WARNING,
        what="no id in /etc/machine-id",
        why="taken for this one",
        write="'rvss:instance'",
    ),
    "ledger": Case(
        seen=_wrong("ledger", "the ledger was damaged and set aside as x: remove that file"),
        severity=WARNING,
        what="set aside as x",
        why="is lost",
        write="remove that file",
    ),
    "reconciling": Case(
        seen=_presence(failed=("delete x: it is busy",)),
        severity=ERROR,
        what="the last reconciling failed: delete x: it is busy",
        why="stays that should not",
        write="run 'samba-rvss reconcile'",
    ),
    "sealed": Case(
        seen=_presence(unsealed=("x is not sealed, for want of room: free some space",)),
        severity=ERROR,
        what="x is not sealed, for want of room",
        why="may still change",
        write="free some space",
    ),
    "late": Case(
        seen=_presence(late=("the file system of /srv has not answered: see what its disks do",)),
        severity=ERROR,
        what="has not answered",
        why="60 seconds",
        write="see what its disks do",
    ),
    "blocked": Case(
        seen=_presence(refused=("a worker waits for a client that is silent",)),
        severity=ERROR,
        what="waits for a client that is silent",
        why="0x80042316",
        write="samba-rvss reconcile",
    ),
    "orphans": Case(
        seen=_to_do,
        severity=NOTE,
        what="1 to be put right: mount",
        why="when it is due",
        write="samba-rvss reconcile",
    ),
    "foreign": Case(
        seen=_foreign,
        severity=NOTE,
        what="20260101T000000Z-0badcafe: it is another instance's, f00d",
        why="never touched",
        write="samba-rvss adopt",
    ),
    "contexts": Case(
        seen=lambda seen: replace(seen, look=replace(looks.looked(), doubted=_DOUBTED)),
        severity=NOTE,
        what="2026-11-16 12:00 UTC: 198.18.0.3 connected",
        why="one context for all its clients",
        write="one after the other",
    ),
    "held": Case(
        seen=_wrong("held", "the file system of /dev/x is held by recovery mounts of y"),
        severity=WARNING,
        what="is held by recovery mounts",
        why="cannot be mounted anew",
        write="delete the copies",
    ),
    "notify": Case(
        old="idle_seconds = 10\n",
        new="idle_seconds = 10\n    rvss:notify command = tell me\n",
        severity=WARNING,
        what="'rvss:notify command = tell me' is not run",
        why="nobody is told",
        write="the absolute path of a program is wanted",
    ),
    "backups": Case(
        seen=_wrong("backups", "[vms]: its newest backup is 3 d 0 h old"),
        severity=ERROR,
        what="[vms]: its newest backup is 3 d 0 h old",
        why="quietly stopped",
        write="samba-rvss backup list",
    ),
    "clock": Case(
        seen=_machine(newest=7200.0),
        severity=WARNING,
        what="the newest record in the ledger is 7200 s ahead",
        why="Kerberos",
        write="set the clock",
    ),
    "volatile": Case(
        seen=_machine(lock_kind="tmpfs"),
        severity=NOTE,
        what="is a tmpfs, which a reboot empties",
        why="its client can no longer delete it",
        write="samba-rvss delete",
    ),
    "kernel": Case(
        seen=_machine(closes_mounts=False),
        severity=ERROR,
        what="no mount_setattr(2)",
        why="no closed mount",
        write="Linux 5.12",
    ),
    "tools": Case(
        seen=_tool("snapper", 'SUBVOLUME="/srv/vms"\n'),
        severity=WARNING,
        what="snapper keeps its snapshots in /srv/vms/.snapshots, inside the share (/etc/snapper)",
        why="the share is refused",
        write="snapper -c snapper delete-config",
        share="vms",
    ),
}


def test_every_check_has_a_broken_system() -> None:
    others = {"configuration", PROBE}  # of which nothing is seen: see below, and tests/samba
    assert CASES.keys() == CHECKS.keys() - others


@pytest.mark.parametrize("check", CASES)
def test_broken_in_one_way(files: Files, check: str) -> None:
    case = CASES[check]
    seen = case.seen(healthy(files.load(case.old, case.new)))
    found = [finding for finding in bad(seen) if finding.severity is not Severity.UNKNOWN]
    if check in ("callouts", "names"):  # it was the only share of ours, and had copies
        assert {finding.check for finding in found} == {check, "ours", "orphans"}
        found = [finding for finding in found if finding.check == check]
    (finding,) = found
    assert (finding.check, finding.severity, finding.share) == (check, case.severity, case.share)
    for part, text in ((case.what, finding.what), (case.why, finding.why)):
        assert part in text
    assert case.write in finding.write
    status = {ERROR: doctor.ERRORS, WARNING: doctor.WARNINGS, NOTE: 0}
    assert doctor.status(judge.judge(seen)) == status[case.severity]


def test_a_check_that_could_not_be_made_is_neither_good_nor_bad(files: Files) -> None:
    seen = replace(healthy(files.load()), smbds=(), problems={"smbd": "it cannot be looked at"})
    (finding,) = bad(seen)
    assert (finding.check, finding.severity) == ("smbd", Severity.UNKNOWN)
    assert finding.what == "it cannot be looked at"
    assert doctor.status([finding]) == 0


def test_shares_that_could_not_be_looked_at(files: Files) -> None:
    names = [name for name, check in CHECKS.items() if check.group == SHARES]
    seen = replace(healthy(files.load()), shares=(), problems=dict.fromkeys(names, "why"))
    assert {(each.check, each.severity, each.what) for each in bad(seen)} == {
        (name, Severity.UNKNOWN, "why") for name in names
    }


def test_one_share_alone(files: Files) -> None:
    """What concerns the others is not told, what concerns the server is."""
    config = files.load(new=share_section("other", "/srv/o") + "    log level = 3\n")
    (finding,) = bad(healthy(config))
    assert (finding.check, finding.share) == ("expose", "other")
    assert bad(replace(healthy(config), only="vms")) == []
    assert bad(replace(healthy(config), only="other")) == [finding]


def test_more_of_a_check_than_one_thing(files: Files) -> None:
    """What else makes a check find something."""
    seen = healthy(files.load())
    administrators = Privileged(operators=None, administrators=("DOM\\HV1$",), granted=())
    (finding,) = bad(replace(_member()(seen), privileged=administrators))
    assert (finding.check, finding.severity) == ("operators", WARNING)
    assert "there is no group BUILTIN\\Backup Operators" in finding.what
    assert "net sam createbuiltingroup" in finding.write
    granted = replace(administrators, granted=("DOM\\svc",))
    assert not bad(replace(_member()(seen), privileged=granted))
    (finding,) = bad(replace(seen, server=replace(SERVER, netbios_name="NAS")))
    assert (finding.check, finding.severity) == ("netbios", NOTE)
    assert finding.what == "clients are told to connect to NAS; the host is called files"
    before = replace(_DOUBTED, time=_DOUBTED.time - timedelta(days=2))
    assert not bad(replace(seen, look=replace(looks.looked(), doubted=before)))
    member = replace(seen, server=MEMBER, winbind=False)
    told = {finding.check: finding for finding in bad(member)}
    assert told["operators"].write == "systemctl enable --now winbind.service"
    named = replace(seen.accounts[0], unread="uid 5 cannot read it (mode 0600): let everybody")
    (finding,) = bad(replace(seen, accounts=(named,)))
    assert (finding.check, finding.severity) == ("readable", ERROR)
    (finding,) = bad(_machine(synchronised=False)(seen))
    assert (finding.check, finding.severity) == ("clock", NOTE)
    (finding,) = bad(_machine(smbd_version="4.22.1")(seen))
    assert finding.what == "smbd is of version 4.22.1, and python-samba of 4.17.12"
    (finding,) = bad(replace(seen, hooks=(Hook(path=HOOK, other=True),)))
    assert finding.what == f"the hook {HOOK} is not the one of this samba-rvss"
    smbd = replace(seen.smbds[0], replaced=True)
    (finding,) = bad(replace(seen, smbds=(smbd,)))
    assert finding.what == "smbd 7 runs a program that has been replaced since"
    group = Privileged(operators=("DOM\\Hosts", "FILES\\ann"), administrators=None, granted=())
    kept_out = replace(seen.accounts[0], kept_out=frozenset({"vms"}))
    (finding,) = bad(replace(seen, accounts=(kept_out,), privileged=group))
    assert (finding.check, finding.severity) == ("access", NOTE)  # the group's may connect
    plan = replace(looks.EMPTY, findings={"mount /run/x": looks.COPY.since})
    (finding,) = bad(replace(seen, look=looks.looked(config=seen.config, plan=plan)))
    assert (finding.check, finding.severity) == ("orphans", NOTE)
    assert finding.what == "1 that nothing accounts for: mount /run/x"
    (finding,) = bad(_share(count=100)(seen))
    assert (finding.check, finding.severity) == ("space", ERROR)
    (finding,) = bad(_refused(Problem.NOT_SUPPORTED, "it is on one", idmapped=True)(seen))
    assert finding.check == "mounts"
    (finding,) = bad(_refused(Problem.BUSY, "it has not answered for 10 s")(seen))
    assert finding.check == "file-system"
    (finding,) = bad(replace(seen, socket="not everybody may connect to x (mode 0600)"))
    assert (finding.check, finding.write) == ("hook", "systemctl restart samba-rvss.socket")


def test_smb_conf_that_cannot_be_read() -> None:
    """Then nothing else can be told, and that alone is wrong."""
    found = judge.unreadable(RvssError(Problem.CONFIG, "cannot read x", "name another file"))
    assert {finding.check for finding in found} == CHECKS.keys() - {PROBE}
    (finding,) = [each for each in found if each.severity is not Severity.UNKNOWN]
    assert (finding.check, finding.severity) == ("configuration", ERROR)
    assert (finding.what, finding.write) == ("cannot read x", "name another file")
    assert finding.why


# what is printed


def _shown(found: list[Finding], capsys: pytest.CaptureFixture[str], **how: bool) -> list[str]:
    report.show(found, **{"everything": False, **how})
    return capsys.readouterr().out.splitlines()


def test_what_people_see(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    seen = _share(count=80)(healthy(files.load("idle_seconds = 10", "idle_seconds = 60")))
    found = judge.judge(replace(seen, problems={"clock": "why not"}))
    lines = _shown(found, capsys)
    count = len(found) - 3
    assert lines[0] == f"2 warnings; {count} checks are good, 1 could not be made"
    assert lines[1:3] == ["", "smb.conf"]
    assert lines[3].startswith("  warning  idle: 'rpcd_fsrvp:idle_seconds = 10' is missing")
    assert lines[4].startswith("           why: when a client vanishes")
    assert lines[5] == "           do:  write 'rpcd_fsrvp:idle_seconds = 10' into [global]"
    assert "  warning  space: [vms] has 80 of at most 100 shadow copies" in "\n".join(lines)
    assert lines[-2:] == [
        "Could not be checked, and is neither good nor bad",
        "  clock: why not",
    ]
    everything = _shown(found, capsys, everything=True)
    assert sum(line.startswith("  good ") for line in everything) == count
    probed = Finding(check=PROBE, severity=Severity.GOOD, what="it was taken", share="vms")
    assert "  good     probe: [vms] it was taken" in _shown([probed], capsys)


def test_on_a_terminal_lines_are_folded(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    found = judge.judge(healthy(files.load("idle_seconds = 10", "idle_seconds = 60")))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        report.show(found, everything=False)
        monkeypatch.undo()
        terminal.flush()
        text = b""
        while not text.endswith(b"[global]\r\n"):  # the last line
            text += os.read(ours, 1 << 16)
    os.close(ours)
    lines = text.decode().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[3] == "  warning  idle: 'rpcd_fsrvp:idle_seconds = 10' is missing"
    assert lines[4] == "           in [global]"
    assert lines[5].startswith("           why: when a client")
    assert lines[6].startswith("                ")


def test_what_programs_read(files: Files) -> None:
    seen = healthy(files.load("num_workers = 1", "num_workers = 2"))
    data = report.as_data(judge.judge(seen))
    assert data.keys() == {"version", "worst", "counts", "findings"}
    assert (data["version"], data["worst"]) == (1, "error")
    assert data["counts"]["error"] == 1
    (finding,) = [each for each in data["findings"] if each["severity"] == "error"]
    assert finding == {
        "check": "workers",
        "group": "smb.conf",
        "severity": "error",
        "share": None,
        "what": "'rpcd_fsrvp:num_workers = 1' is missing in [global]",
        "why": "with more workers, clients erase each other's shadow copy sets",
        "write": "write 'rpcd_fsrvp:num_workers = 1' into [global]",
    }


def test_a_sentence_and_its_remedy() -> None:
    finding = of_line("late", "the disk of: x has not answered: see what it does")
    assert (finding.what, finding.write) == ("the disk of: x has not answered", "see what it does")
    finding = of_line("late", "[vms]: it is late")
    assert finding.what == "[vms]: it is late"


# what is to be probed


def _plan(config: Config, *words: str) -> probe.Trial:
    return probe.plan(config, cli.parser().parse_args(["doctor", "--probe", *words]))


def test_which_share_is_probed_and_as_whom(files: Files, tmp_path: Path) -> None:
    config = files.load()
    assert _plan(config) == _plan(config, "VMS")
    assert (_plan(config).share.name, _plan(config).logon) == ("vms", None)
    who = tmp_path / "who"
    who.write_text("# ours\nusername = ann\npassword = a = b\nDomain = DOM\n")
    logon = _plan(config, "--authentication-file", str(who)).logon
    assert logon is not None
    assert (logon.user, logon.password, logon.domain) == ("ann", "a = b", "DOM")
    who.write_text("password = x\n")
    with pytest.raises(RvssError, match="has no line 'username"):
        _plan(config, "--authentication-file", str(who))
    with pytest.raises(RvssError, match="cannot read"):
        _plan(config, "--authentication-file", str(tmp_path / "none"))
    logon = _plan(config, "--use-krb5-ccache", "FILE:/tmp/cc").logon
    assert logon is not None
    assert (logon.use_kerberos, logon.ccache) == (True, "FILE:/tmp/cc")
    more = files.load(new=share_section("more", "/srv/more"))
    with pytest.raises(RvssError, match=r"of one share \(vms, more\): name it") as caught:
        _plan(more)
    assert caught.value.problem is Problem.USAGE
    other = files.load(f"{HOOK} create", "/bin/other create")
    with pytest.raises(RvssError, match="does not call the hook") as caught:
        _plan(other, "vms")
    assert caught.value.problem is Problem.NOT_OURS
