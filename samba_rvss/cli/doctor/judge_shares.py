"""What is wrong with shares, and with who may take their shadow copies: pure judges.

Contract: each judge yields what its check finds; one that could not be made finds nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from samba_rvss.cli.doctor.check import Severity
from samba_rvss.cli.doctor.finding import Finding, of_advice, of_error, of_line
from samba_rvss.cli.doctor.finding import found as made
from samba_rvss.cli.doctor.seen import Seen, SeenShare
from samba_rvss.copies import advice, room
from samba_rvss.errors import Problem, RvssError
from samba_rvss.samba import twins

Judge = Callable[[Seen], Iterator[Finding]]

_CHECKS = {
    Problem.BAD_PATH: "path",
    Problem.NESTED: "nested",
    Problem.NO_SPACE: "space",
    Problem.LIMIT: "space",
}

_MAKE_GROUP = (
    "net sam createbuiltingroup 'Backup Operators', and then net sam addmem"
    " 'BUILTIN\\Backup Operators' 'DOM\\Hyper-V Hosts'"
)


def ours(seen: Seen) -> Iterator[Finding]:
    """Find that no share is ours."""
    if "ours" not in seen.problems and not any(each.share for each in seen.shares):
        yield made("ours", f"no share in {seen.config.file} calls the hook of this instance")


def obstacles(check: str, seen: Seen) -> Iterator[Finding]:
    """Find what smb.conf has in the way of a share's shadow copies."""
    for each in seen.shares:
        for obstacle in each.section.obstacles:
            if obstacle.check == check:
                yield _named(of_advice(obstacle), each)


def located(check: str, seen: Seen) -> Iterator[Finding]:
    """Find why a share's directory cannot be snapshotted."""
    for each in seen.shares:
        if each.error is not None and check_of(each) == check:
            yield of_error(check, each.error, each.section.name)


def check_of(each: SeenShare) -> str:
    """Return the check that the reason belongs to for which a share cannot be snapshotted."""
    error = each.error
    if error is None:
        return ""
    if error.problem is Problem.NOT_SUPPORTED and each.idmapped:
        return "mounts"
    if error.problem is Problem.NESTED and any(where in error.message for where in each.mounts):
        return "mounts"
    return _CHECKS.get(error.problem, "file-system")


def top_level(seen: Seen) -> Iterator[Finding]:
    """Find shares at the top of a btrfs that users may write to."""
    for each in seen.shares:
        if each.open_top:
            yield made(
                "top-level",
                f"{each.section.path} is the top of a btrfs, and others than root may write to it",
                share=each.section.name,
            )


def space(seen: Seen) -> Iterator[Finding]:
    """Find shares that have no room for more shadow copies, or little."""
    yield from located("space", seen)
    for each in seen.shares:
        if each.share is None or each.target is None:
            continue
        try:
            room.refuse_many(each.share, each.count)
            room.refuse_full(each.share, each.target.space)
        except RvssError as exc:
            yield of_error("space", exc, each.section.name, Severity.ERROR)
        else:
            if short := room.warning(each.share, each.count, each.target.space):
                yield made("space", short, share=each.section.name)


def previous_versions(seen: Seen) -> Iterator[Finding]:
    """Find shares whose Previous Versions nobody sees."""
    return map(of_advice, advice.of_previous_versions(seen.config))


def alike(seen: Seen) -> Iterator[Finding]:
    """Find shares of one directory that differ."""
    return (made("twins", line) for line in twins.notes(seen.config.shares))


def hook(seen: Seen) -> Iterator[Finding]:
    """Find what keeps users from calling the hook."""
    for each in seen.hooks:
        if each.reason:
            yield made("hook", f"the hook {each.path} cannot be used: {each.reason}")
    if seen.socket:
        yield made("hook", seen.socket, write="systemctl restart samba-rvss.socket")


def operators(seen: Seen) -> Iterator[Finding]:
    """Find that nobody may take shadow copies."""
    member = seen.server is not None and seen.server.is_member
    if member and not seen.winbind:
        yield made(
            "operators",
            "the server is a member of a domain, and winbindd does not run",
            why="without it Samba knows neither the domain's users nor groups such as Backup"
            " Operators",
            write="systemctl enable --now winbind.service",
        )
    if seen.privileged is None:
        return
    if seen.privileged.named:
        if member and seen.privileged.operators is None and not seen.privileged.granted:
            yield made(
                "operators",
                "there is no group BUILTIN\\Backup Operators: only administrators may take shadow"
                " copies",
                severity=Severity.WARNING,
                write=_MAKE_GROUP,
            )
        elif not member or seen.winbind:
            who = ", ".join(seen.privileged.named)
            yield made("operators", f"may take shadow copies: {who}", severity=Severity.GOOD)
        return
    write = _MAKE_GROUP if member else ""
    yield made("operators", "nobody but root may take shadow copies", write=write)


def idmap(seen: Seen) -> Iterator[Finding]:
    """Find that groups in BUILTIN get no id."""
    if seen.server is not None and seen.server.is_member and not seen.server.has_range:
        yield made("idmap", "'idmap config * : range' is missing in [global]")


def logons(seen: Seen) -> Iterator[Finding]:
    """Find that the system does not ask winbindd, or sssd, for users."""
    if seen.server is not None and seen.server.is_member and not seen.machine.asks_domain:
        yield made("logons", "the system does not ask for the users of the domain")


def computers(seen: Seen) -> Iterator[Finding]:
    """Find that no computer account may take shadow copies of a domain's server."""
    if seen.server is None or not seen.server.is_member or seen.privileged is None:
        return
    named = seen.privileged.named
    if named and not any(name.endswith("$") for name in named):
        yield made(
            "computers",
            "no computer account may take shadow copies, unless a group has it:"
            f" {', '.join(named)}",
        )


def access(seen: Seen) -> Iterator[Finding]:
    """Find shares that keep out all who may take shadow copies, as far as those are known here."""
    known = {account.name for account in seen.accounts}
    # A group, or who is known to the domain alone, may be let in.
    more = seen.privileged is None or not known.issuperset(seen.privileged.named)
    for each in seen.shares:
        name = each.section.name
        if seen.accounts and all(name in account.kept_out for account in seen.accounts):
            yield made(
                "access",
                "'valid users', or the way to its directory, keeps out all who may take shadow"
                f" copies and are known here: {', '.join(sorted(known))}",
                share=name,
                severity=Severity.NOTE if more else None,
            )


def shells(seen: Seen) -> Iterator[Finding]:
    """Find users who may trace callouts."""
    if seen.machine.traceable:
        names = [account.name for account in seen.accounts if account.logs_on]
        if names:
            yield made(
                "shells",
                f"{', '.join(names)} may take shadow copies, and log on here and trace processes",
            )


def readable(seen: Seen) -> Iterator[Finding]:
    """Find clients whose user cannot read smb.conf."""
    reason, nobody = seen.unreadable
    if nobody:
        yield of_line("readable", reason, Severity.ERROR)
    elif reason:
        yield made("readable", reason.partition(": ")[0])
    for account in seen.accounts:
        if account.unread and not nobody:
            yield of_line("readable", account.unread, Severity.ERROR)


def _named(finding: Finding, each: SeenShare) -> Finding:
    return made(
        finding.check,
        finding.what,
        why=finding.why,
        write=finding.write,
        share=each.section.name,
    )


JUDGES: Mapping[str, Judge] = {
    "ours": ours,
    "callouts": partial(obstacles, "callouts"),
    "hook": hook,
    "shadowed": partial(obstacles, "shadowed"),
    "options": partial(obstacles, "options"),
    "expose": partial(obstacles, "expose"),
    "names": partial(obstacles, "names"),
    "path": lambda seen: (*obstacles("path", seen), *located("path", seen)).__iter__(),
    "file-system": partial(located, "file-system"),
    "nested": partial(located, "nested"),
    "mounts": partial(located, "mounts"),
    "top-level": top_level,
    "previous-versions": previous_versions,
    "twins": alike,
    "space": space,
    "operators": operators,
    "idmap": idmap,
    "logons": logons,
    "computers": computers,
    "access": access,
    "shells": shells,
    "readable": readable,
}
"""Who judges each check of shares and users."""
