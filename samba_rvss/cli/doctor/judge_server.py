"""What is wrong with the server as a whole: pure judges.

Contract: each judge yields what its check finds; one that could not be made finds nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial

from samba_rvss import __version__
from samba_rvss.cli.doctor import confining, tools
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.cli.doctor.finding import Finding, of_advice, of_line
from samba_rvss.cli.doctor.finding import found as made
from samba_rvss.cli.doctor.seen import Seen

Judge = Callable[[Seen], Iterator[Finding]]

_LOST = ("tmpfs", "ramfs")
_LATELY = timedelta(days=7)
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "ncpfs", "virtiofs")
_WITH_REMEDY = ("permissions", "ledger", "sealed", "late", "blocked", "notify")
_SHOWN = 3
_AHEAD = 300.0  # seconds, as Kerberos allows


def settings(check: str, seen: Seen) -> Iterator[Finding]:
    """Find what smb.conf, and what runs, has to be mended of Samba's own."""
    for advice in (*seen.config.advice, *seen.serving):
        if advice.check == check:
            yield of_advice(advice)


def standing(check: str, seen: Seen) -> Iterator[Finding]:
    """Find what `status` calls wrong."""
    lines = seen.standing.found if seen.standing else ()
    for line in dict.fromkeys(line for name, line in lines if name == check):
        yield of_line(check, line) if check in _WITH_REMEDY else made(check, line)


def notify(seen: Seen) -> Iterator[Finding]:
    """Find what keeps the notify command from being run."""
    known = {advice.line() for advice in seen.config.advice}
    for line in seen.config.warnings:
        if line not in known:
            yield of_line("notify", line)
    yield from standing("notify", seen)


def orphans(seen: Seen) -> Iterator[Finding]:
    """Find what nothing accounts for, or is to be put right."""
    yield from standing("orphans", seen)
    plan = seen.look.plan if seen.look else None
    actions = [action.describe() for action in plan.actions] if plan else []
    if plan and plan.findings:
        yield made(
            "orphans",
            f"{len(plan.findings)} that nothing accounts for: {_some(sorted(plan.findings))}",
            why="that is removed when it has been so through 'rvss:grace', unless it was somebody's"
            " work of this moment",
            write="samba-rvss reconcile --dry-run",
            severity=Severity.NOTE,
        )
    if actions:
        yield made(
            "orphans",
            f"{len(actions)} to be put right: {_some(actions)}",
            why="the daemon does that when it is due, or when it is asked to",
            write="samba-rvss reconcile",
            severity=Severity.NOTE,
        )


def _some(words: Sequence[str]) -> str:
    more = f"; and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f"{'; '.join(words[:_SHOWN])}{more}"


def foreign(seen: Seen) -> Iterator[Finding]:
    """Find images that are not ours."""
    return (made("foreign", line) for line in (seen.standing.foreign if seen.standing else ()))


def contexts(seen: Seen) -> Iterator[Finding]:
    """Find that a set may have had the context of another client, of late."""
    event = seen.look.doubted if seen.look else None
    if seen.look and event and seen.look.time - event.time < _LATELY:
        yield made("contexts", f"{event.time:%Y-%m-%d %H:%M} UTC: {event.detail}")


def smbd(seen: Seen) -> Iterator[Finding]:
    """Find that no smbd runs."""
    if not seen.smbds and "smbd" not in seen.problems:
        where = seen.config.samba_lock_directory
        yield made("smbd", f"no smbd runs that has its locks in {where}")


def stale_worker(seen: Seen) -> Iterator[Finding]:
    """Find workers that have not read what smb.conf says now."""
    for worker in seen.workers:
        if worker.started and worker.started < seen.changed:
            yield made(
                "stale-worker",
                f"rpcd_fsrvp {worker.pid} runs since before {seen.config.file} was changed",
                write=f"wait until it has had no client for {seen.config.clocks.idle:g} s, or 'kill"
                f" {worker.pid}' while nobody takes a shadow copy",
            )


def versions(seen: Seen) -> Iterator[Finding]:
    """Find programs of other versions than those installed; else tell which they are."""
    found = list(_versions(seen))
    yield from found
    if not found and "versions" not in seen.problems:
        samba = seen.machine.smbd_version or "none"
        yield made(
            "versions",
            f"what runs is what is installed: samba-rvss {__version__}, Samba {samba}",
            severity=Severity.GOOD,
        )


def _versions(seen: Seen) -> Iterator[Finding]:
    for each in (*seen.smbds, *seen.workers):
        if each.replaced:
            yield made(
                "versions",
                f"{each.name} {each.pid} runs a program that has been replaced since",
                write="systemctl restart smbd.service, while nobody takes a shadow copy",
            )
    if seen.daemon and seen.daemon.replaced:
        yield made(
            "versions",
            f"the daemon (process {seen.daemon.pid}) was started before samba-rvss was installed"
            " anew",
            write="systemctl restart samba-rvss.service",
        )
    for hook in seen.hooks:
        if hook.other and not hook.reason:
            yield made(
                "versions",
                f"the hook {hook.path} is not the one of this samba-rvss",
                write="install samba-rvss anew, or have smb.conf call the hook that it installs",
            )
    library = seen.server.version if seen.server else ""
    if library and seen.machine.smbd_version not in ("", library):
        yield made(
            "versions",
            f"smbd is of version {seen.machine.smbd_version}, and python-samba of {library}",
            why="samba-rvss reads Samba's databases with the libraries of the one, and smbd writes"
            " them with the other's",
            write="install both of one version",
        )


def daemon(seen: Seen) -> Iterator[Finding]:
    """Find that the daemon does not answer."""
    if seen.look is not None and seen.look.presence is None:
        what, _, write = seen.look.silence.rpartition(": ")
        yield made("daemon", what or write, write="" if "hang" in write else write)


def namespace(seen: Seen) -> Iterator[Finding]:
    """Find Sambas that do not see our mounts."""
    for each in seen.smbds:
        if each.sees_mounts is False:
            yield made(
                "namespace",
                f"{each.name} {each.pid} is in another mount namespace than the daemon, whose"
                f" mounts below {seen.config.run_directory} do not appear there",
            )


def confinement(seen: Seen) -> Iterator[Finding]:
    """Find that Samba is confined by rules that do not know samba-rvss."""
    programs = [(each.name, each.pid, each.confined) for each in (*seen.smbds, *seen.workers)]
    yield from confining.judge(seen.rules, programs)


def instance(seen: Seen) -> Iterator[Finding]:
    """Find that this machine cannot be told from another."""
    if not seen.machine.identified and not seen.config.instance:
        yield made("instance", "this machine has no id in /etc/machine-id")


def netbios(seen: Seen) -> Iterator[Finding]:
    """Find that the name that clients are sent to does not lead here."""
    server, machine = seen.server, seen.machine
    if server is None or "netbios" in seen.problems:
        return
    name = server.netbios_name
    same = name.lower() == server.host_name.lower()
    if machine.is_here:
        if not same:
            what = f"clients are told to connect to {name}; the host is called {server.host_name}"
            yield made("netbios", what, severity=Severity.NOTE)
        return
    if machine.addresses is None:
        where = "nobody here knows its address"
    else:
        where = f"it leads to {', '.join(machine.addresses)}, which is another machine"
    what = f"clients are told to connect to {name}, and {where}"
    if not same:
        what += f"; the host is called {server.host_name}"
    severity = Severity.NOTE if same and machine.addresses is None else None
    yield made("netbios", what, severity=severity)


def lock_directory(seen: Seen) -> Iterator[Finding]:
    """Find a lock directory on a file server."""
    kind = seen.machine.lock_kind
    if kind in _REMOTE or kind.startswith("fuse"):
        yield made(
            "lock-directory", f"Samba's lock directory {seen.config.samba_lock_directory} is {kind}"
        )


def volatile(seen: Seen) -> Iterator[Finding]:
    """Find a lock directory that a reboot empties."""
    if seen.machine.lock_kind in _LOST:
        yield made(
            "volatile",
            f"Samba's lock directory {seen.config.samba_lock_directory} is a"
            f" {seen.machine.lock_kind}, which a reboot empties",
        )


def clock(seen: Seen) -> Iterator[Finding]:
    """Find a clock that cannot be right, or that nobody keeps."""
    if seen.machine.newest > _AHEAD:
        yield made(
            "clock",
            f"the clock is behind: the newest record in the ledger is {seen.machine.newest:.0f} s"
            " ahead of it",
        )
    if seen.machine.synchronised is False:
        member = seen.server is not None and seen.server.is_member
        yield made(
            "clock",
            "nothing keeps the clock right",
            severity=None if member else Severity.NOTE,
        )


def kernel(seen: Seen) -> Iterator[Finding]:
    """Find that the kernel lacks what is needed."""
    if not seen.machine.closes_mounts:
        yield made("kernel", "the kernel has no mount_setattr(2)")


def others(seen: Seen) -> Iterator[Finding]:
    """Find other snapshot tools that touch our images."""
    places = [
        tools.Place(share=each.section.name, path=each.section.path, pool=each.pool)
        for each in seen.shares
        if each.share is not None
    ]
    found = list(map(of_advice, tools.judge(seen.tools, places)))
    if seen.tools and not found:
        files = ", ".join(tool.file for tool in seen.tools)
        yield made(
            "tools",
            f"nothing that is configured in {files} touches our images",
            severity=Severity.GOOD,
        )
    yield from found


def nothing(seen: Seen) -> Iterator[Finding]:
    """Find nothing: that it could be looked at is enough."""
    return iter(())


_SETTINGS = (
    *("registry", "include", "workers", "idle", "sequence", "prune-stale", "domain-controller"),
    *("installed", "helpers", "modules", "writers"),
)
_STANDING = ("permissions", "ledger", "reconciling", "sealed", "late", "blocked", "held", "backups")

JUDGES: Mapping[str, Judge] = {
    "configuration": nothing,
    **{name: partial(settings, name) for name in _SETTINGS},
    **{name: partial(standing, name) for name in _STANDING},
    "netbios": netbios,
    "lock-directory": lock_directory,
    "smbd": smbd,
    "stale-worker": stale_worker,
    "versions": versions,
    "daemon": daemon,
    "namespace": namespace,
    "confinement": confinement,
    "instance": instance,
    "orphans": orphans,
    "foreign": foreign,
    "contexts": contexts,
    "notify": notify,
    "clock": clock,
    "volatile": volatile,
    "kernel": kernel,
    "tools": others,
}
"""Who judges each check of the server."""
