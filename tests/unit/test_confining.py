"""What confines Samba, by the files that SELinux and AppArmor have, and what doctor says of it."""

import re
import subprocess
from pathlib import Path

import pytest

from samba_rvss.cli.doctor import confining
from samba_rvss.cli.doctor.check import Severity
from samba_rvss.samba.options import RUN_DIRECTORY
from samba_rvss.testing.example import HOOK

PACKAGING = Path(__file__).parents[2] / "packaging"
SMBD = ("smbd", 7, "system_u:system_r:smbd_t:s0")
WORKER = ("rpcd_fsrvp", 9, "system_u:system_r:winbind_rpcd_t:s0")
PROFILED = ("smbd", 7, "smbd (enforce)")
FREE = ("smbd", 7, "")


def _tree(root: Path, **files: str) -> confining.Rules:
    """Look at a tree that has these files, by their names here."""
    places = {
        "enforce": "sys/fs/selinux/enforce",
        "module": "var/lib/selinux/targeted/active/modules/400/samba_rvss/cil",
        "disabled": "var/lib/selinux/targeted/active/modules/disabled/samba_rvss",
        "profiles": "sys/kernel/security/apparmor/profiles",
        "rpcd": "etc/apparmor.d/local/samba-rpcd",
        "smbd": "etc/apparmor.d/local/usr.sbin.smbd",
    }
    for name, text in files.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return confining.look(str(root))


def _told(rules: confining.Rules, *programs: tuple[str, int, str]) -> list[tuple[Severity, str]]:
    return [(found.severity, found.what) for found in confining.judge(rules, programs)]


def test_nothing_confines(tmp_path: Path) -> None:
    rules = _tree(tmp_path)
    assert rules == confining.Rules()
    assert _told(rules, FREE) == []


def test_selinux_without_our_module(tmp_path: Path) -> None:
    rules = _tree(tmp_path, enforce="1")
    (found,) = confining.judge(rules, (SMBD, WORKER))
    assert found.severity is Severity.WARNING
    assert found.what == (
        "SELinux confines Samba, in smbd_t and winbind_rpcd_t, and its policy has no module"
        " samba_rvss"
    )
    assert found.write.startswith("semodule -i /usr/share/samba-rvss/selinux/samba_rvss.cil")
    assert _told(rules, FREE) == []


def test_selinux_with_our_module(tmp_path: Path) -> None:
    rules = _tree(tmp_path, enforce="1", module="")
    ((severity, what),) = _told(rules, SMBD)
    assert severity is Severity.GOOD
    assert "has the module samba_rvss" in what
    ((severity, _),) = _told(_tree(tmp_path, disabled=""), SMBD)
    assert severity is Severity.WARNING


def test_selinux_that_merely_logs(tmp_path: Path) -> None:
    assert _told(_tree(tmp_path, enforce="0"), SMBD, WORKER) == []


def test_apparmor_without_our_rules(tmp_path: Path) -> None:
    """The profile of the worker counts whether one runs or not; one that complains does not."""
    rules = _tree(tmp_path, profiles="samba-rpcd (enforce)\nsmbd (complain)\nfirefox (enforce)\n")
    assert rules.profiles == {"samba-rpcd", "firefox"}
    (found,) = confining.judge(rules, (FREE,))
    assert (found.check, found.severity) == ("confinement", Severity.WARNING)
    assert "confines rpcd_fsrvp by the profile samba-rpcd" in found.what
    assert found.write.endswith("apparmor_parser -r /etc/apparmor.d/samba-rpcd")
    first, second = _told(rules, PROFILED)
    assert "confines rpcd_fsrvp" in first[1]
    assert "confines smbd by the profile smbd" in second[1]


@pytest.mark.parametrize("text", ["include %s\n", "#include %s\n", "@{run}/samba-rvss/x r,\n"])
def test_apparmor_with_our_rules(tmp_path: Path, text: str) -> None:
    line = text.replace("%s", '"/usr/share/samba-rvss/apparmor/samba-rpcd"')
    rules = _tree(tmp_path, profiles="samba-rpcd (enforce)\n", rpcd=f"# Ours:\n{line}")
    assert _told(rules) == [
        (Severity.GOOD, "AppArmor's profile samba-rpcd has rules for samba-rvss")
    ]


def test_a_comment_is_no_rule(tmp_path: Path) -> None:
    rules = _tree(tmp_path, profiles="smbd (enforce)\n", smbd="# samba-rvss needs nothing\n")
    ((severity, _),) = _told(rules, PROFILED)
    assert severity is Severity.WARNING


@pytest.mark.parametrize("label", ["containers-default (enforce)", "u:r:container_t:s0:c1,c2"])
def test_a_policy_that_nobody_knows_here(label: str) -> None:
    ((severity, what),) = _told(confining.Rules(), ("smbd", 7, label))
    assert severity is Severity.NOTE
    assert what.startswith(f"smbd 7 is confined, as '{label}'")


# what is shipped


def test_what_apparmor_s_rules_allow() -> None:
    of_worker = (PACKAGING / "apparmor" / "samba-rpcd").read_text()
    assert f"\n{HOOK} mrix,\n" in of_worker
    run = RUN_DIRECTORY.default.replace("/run/", "@{run}/")
    assert f"\n{run}/hook.sock rw,\n" in of_worker
    of_smbd = (PACKAGING / "apparmor" / "usr.sbin.smbd").read_text()
    assert set(re.findall(rf"^{re.escape(run)}/(\S+) ", of_smbd, re.MULTILINE)) == {
        "{exposed,shared}/",
        "{exposed,shared}/**",
        "previous/{,**}",
    }


# The least of a policy that our module can be part of: what Fedora's has under these names.
_POLICY = """
(handleunknown deny) (mls true) (policycap open_perms)
(class file (getattr open read map execute execute_no_trans))
(class dir (getattr open read search))
(class sock_file (getattr write))
(class unix_stream_socket (connectto))
(class unix_dgram_socket (sendto))
(classorder (file dir sock_file unix_stream_socket unix_dgram_socket))
(sid kernel) (sidorder (kernel)) (sidcontext kernel (system_u object_r kernel_t ((s0) (s0))))
(sensitivity s0) (sensitivityorder (s0)) (category c0) (categoryorder (c0))
(sensitivitycategory s0 (c0))
(user system_u) (role object_r) (userrole system_u object_r) (userlevel system_u (s0))
(userrange system_u ((s0) (s0)))
(type kernel_t) (type shell_exec_t) (type bin_t) (type autofs_t) (type smbd_t)
(type winbind_rpcd_t) (type unconfined_service_t) (typeattribute file_type)
(typeattribute pidfile) (roletype object_r kernel_t)
"""


@pytest.mark.require("secilc")
def test_selinux_s_module_compiles(tmp_path: Path) -> None:
    """And labels the run directory, and nothing of what is mounted below it."""
    (tmp_path / "policy.cil").write_text(_POLICY)
    module = PACKAGING / "selinux" / "samba_rvss.cil"
    contexts = tmp_path / "contexts"
    done = subprocess.run(
        ["secilc", "-o", tmp_path / "out", "-f", contexts, tmp_path / "policy.cil", module],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("\t") for line in contexts.read_text().splitlines()]
    found = [(row[0], row[-1]) for row in rows]
    ours = "system_u:object_r:samba_rvss_run_t:s0"

    def label(path: str) -> str:
        return [what for pattern, what in found if re.fullmatch(pattern, path)][-1]

    run = RUN_DIRECTORY.default
    assert label(run).startswith(ours)
    assert label(f"/var{run}/hook.sock").startswith(ours)
    assert label(f"{run}/exposed").startswith(ours)
    assert label(f"{run}/exposed/vms/copy/file") == "<<none>>"
