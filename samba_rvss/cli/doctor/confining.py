"""Whether SELinux or AppArmor confines Samba, and whether what confines it lets samba-rvss work.

Contract: files are read, and judged purely; nothing is run.
Sources: semodule(8), where it keeps modules; apparmor.d(5), and AppArmor's own profiles of Samba;
samba.te of Fedora's policy, where smbd_t and winbind_rpcd_t are.
"""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from samba_rvss.cli.doctor.check import Severity
from samba_rvss.cli.doctor.finding import Finding, found

SHIPPED = "/usr/share/samba-rvss"
"""Where the module and the rules are installed."""

_MODULE = "samba_rvss"
_DOMAINS = ("smbd_t", "winbind_rpcd_t")
# What each of AppArmor's profiles of Samba confines, and how its file is called.
_PROFILES: Mapping[str, tuple[str, str]] = {
    "samba-rpcd": ("rpcd_fsrvp", "samba-rpcd"),
    "smbd": ("smbd", "usr.sbin.smbd"),
}
_LARGEST = 1 << 20  # characters of a file
_NO_COMMENT = re.compile(r"^[ \t]*(#[ \t]*include\b|[^#\s]).*", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What confines programs on this machine.

    Attributes:
        enforces: whether SELinux does more than to log; None if it does not tell, as where its file
            system is not mounted.
        has_module: whether our module is part of its policy.
        profiles: those of AppArmor that are loaded, and do more than to log.
        extended: those of AppArmor's profiles of Samba that have rules for samba-rvss.
    """

    enforces: bool | None = None
    has_module: bool = False
    profiles: frozenset[str] = field(default=frozenset())
    extended: frozenset[str] = field(default=frozenset())


def look(root: str = "/") -> Rules:
    """Return what confines programs, as the files below a root directory tell."""
    loaded = _text(root, "sys/kernel/security/apparmor/profiles").splitlines()
    modules = os.path.join(glob.escape(root), "var/lib/selinux/*/active/modules")
    installed = glob.glob(f"{modules}/[0-9]*/{_MODULE}")
    return Rules(
        enforces={"0": False, "1": True}.get(_text(root, "sys/fs/selinux/enforce").strip()),
        has_module=bool(installed) and not glob.glob(f"{modules}/disabled/{_MODULE}"),
        profiles=frozenset(
            line.removesuffix(" (enforce)") for line in loaded if line.endswith(" (enforce)")
        ),
        extended=frozenset(
            profile
            for profile, (_, file) in _PROFILES.items()
            if any(
                "samba-rvss" in line[0]
                for line in _NO_COMMENT.finditer(_text(root, f"etc/apparmor.d/local/{file}"))
            )
        ),
    )


def judge(rules: Rules, programs: Sequence[tuple[str, int, str]]) -> Iterator[Finding]:
    """Yield what confines Samba, and what to do about it.

    Args:
        rules: what there is.
        programs: of each process of Samba's its name, its id, and what it is confined as, which is
            empty if nothing confines it.
    """
    confined = [
        (name, pid, label)
        for name, pid, label in programs
        if label and not (rules.enforces is False and _domain(label))
    ]
    domains = sorted({domain for *_, label in confined if (domain := _domain(label)) in _DOMAINS})
    if domains and rules.has_module:
        yield _good(f"SELinux confines Samba, and its policy has the module {_MODULE}")
    elif domains:
        yield found(
            "confinement",
            f"SELinux confines Samba, in {' and '.join(domains)}, and its policy has no module"
            f" {_MODULE}",
            write=f"semodule -i {SHIPPED}/selinux/{_MODULE}.cil, and restorecon /run/samba-rvss"
            " /run/samba-rvss/*",
        )
    by_label = {_profile(label) for *_, label in confined}
    for profile, (program, file) in _PROFILES.items():
        if profile not in rules.profiles | by_label:
            continue
        if profile in rules.extended:
            yield _good(f"AppArmor's profile {profile} has rules for samba-rvss")
        else:
            yield found(
                "confinement",
                f"AppArmor confines {program} by the profile {profile}, which has no rules for"
                " samba-rvss",
                write=f"echo 'include \"{SHIPPED}/apparmor/{file}\"'"
                f" >>/etc/apparmor.d/local/{file}, and apparmor_parser -r /etc/apparmor.d/{file}",
            )
    for name, pid, label in confined:
        if _domain(label) not in _DOMAINS and _profile(label) not in _PROFILES:
            yield found(
                "confinement",
                f"{name} {pid} is confined, as '{label}', which is no policy that is known here",
                write="see the kernel's log for what is denied, and let it run the hook and use the"
                " run directory",
                severity=Severity.NOTE,
            )


def _good(what: str) -> Finding:
    return found("confinement", what, severity=Severity.GOOD)


def _domain(label: str) -> str:
    """Return SELinux' type of a process, in USER:ROLE:TYPE:RANGE; empty if it is a profile."""
    parts = label.split(":")
    return parts[2] if len(parts) > 3 and not label.endswith(")") else ""


def _profile(label: str) -> str:
    """Return AppArmor's profile of a process, as in "smbd (enforce)"; empty if it is a type."""
    return label.rpartition(" (")[0] if label.endswith(")") else ""


def _text(root: str, name: str) -> str:
    try:
        with open(os.path.join(root, name), encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST)
    except OSError:  # there is no such thing, or only root may see it
        return ""
