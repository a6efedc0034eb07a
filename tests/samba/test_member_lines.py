"""Each line of samba-rvss-domain(7), taken away: what an administrator sees then.

The domain is the session's. Each test changes one thing of its member, and puts it back.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from samba_rvss.errors import RvssError
from samba_rvss.model import Context
from samba_rvss.run import ToolError
from samba_rvss.samba.fsrvp.copyset import take
from samba_rvss.samba.fsrvp.results import FsrvpError, HResult
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section

if TYPE_CHECKING:
    from samba_rvss.testing.domain import Account, Domain

Test = TypeVar("Test", bound=Callable[..., None])

LINES: list[str] = []
"""The lines of the manual that are tried here, in its order, without its markup."""

_OPERATORS = "BUILTIN\\Backup Operators"
_RANGE = "    idmap config * : range = 100000-199999\n"
_SHARE = share_section("vms", "/srv/vms")


def line(title: str) -> Callable[[Test], Test]:
    """Say which line of the manual a test takes away."""
    LINES.append(title)
    return lambda test: test


def _take(domain: "Domain", account: "Account | None" = None, host: str = "") -> None:
    """Take a shadow copy set as the Hyper-V host, or somebody else, to its end."""
    from samba_rvss.testing.domain import HV1
    from samba_rvss.testing.remote import Remote

    with (
        Remote(host, HV1.logon(), above=domain.hv1.entering)
        if host
        else domain.client(account or HV1)
    ) as client:
        taken = take(client, ["vms"], Context.AUTO_RECOVERY)
        taken.complete()
        taken.delete()


def _assert_refused(domain: "Domain", method: str, result: HResult, **who: Any) -> None:
    with pytest.raises(FsrvpError) as caught:
        _take(domain, **who)
    assert (caught.value.method, caught.value.hresult) == (method, result)


def _assert_no_logon(domain: "Domain", status: str, **who: Any) -> None:
    with pytest.raises(RvssError, match=rf"cannot connect .*\({status}\)"):
        _take(domain, **who)


def _doctor(domain: "Domain") -> Mapping[str, str]:
    """Return what `doctor` finds, by check."""
    said = domain.files.run("samba-rvss", "doctor", "--json", allow=frozenset(range(4)))
    return {
        found["check"]: found["what"]
        for found in json.loads(said)["findings"]
        if found["severity"] in ("error", "warning", "note")
    }


def _read_again(domain: "Domain") -> None:
    domain.files.run("smbcontrol", "smbd", "reload-config")
    domain.files.end("rpcd_fsrvp")


@contextmanager
def _configured(domain: "Domain", global_: str = "", share: str = _SHARE) -> Iterator[None]:
    """Have other lines in smb.conf for a while; [global] gets more."""
    domain.configure(GLOBAL_EXAMPLE + global_, share)
    _read_again(domain)
    try:
        yield
    finally:
        domain.configure()
        _read_again(domain)


@contextmanager
def _text(domain: "Domain", name: str, old: str, new: str) -> Iterator[None]:
    """Have another text in the place of one in a file of the member for a while."""
    path = domain.files.path(name)
    text = path.read_text("utf-8")
    assert old in text
    domain.files.write(name, text.replace(old, new))
    try:
        yield
    finally:
        domain.files.write(name, text)


@line("idmap config * : range = 100000-199999")
def test_range(domain: "Domain") -> None:
    from samba_rvss.testing.domain import SMB_CONF

    def restart() -> None:
        domain.files.end("winbindd")
        domain.files.run("net", "cache", "flush")
        domain.start_winbindd()

    try:
        with _text(domain, SMB_CONF, _RANGE, ""):
            restart()
            with pytest.raises(ToolError, match="NT_STATUS_ACCESS_DENIED"):
                domain.files.run("net", "sam", "createbuiltingroup", "Server Operators")
            _assert_no_logon(domain, "NT_STATUS_LOGON_FAILURE")
            assert "idmap config * : range" in _doctor(domain)["idmap"]
    finally:
        restart()
    _take(domain)


@line("systemctl enable --now winbind.service")
def test_winbindd(domain: "Domain") -> None:
    domain.files.end("winbindd")
    try:
        _assert_no_logon(domain, "NT_STATUS_NO_LOGON_SERVERS")
        assert "winbindd does not run" in _doctor(domain)["operators"]
    finally:
        domain.start_winbindd()
    _take(domain)


@line("apt install libnss-winbind")
def test_names(domain: "Domain") -> None:
    with _text(domain, "/etc/nsswitch.conf", " winbind", ""):
        _assert_no_logon(domain, "NT_STATUS_LOGON_FAILURE")
        logs = domain.files.path("/var/log/samba").glob("log.*")
        said = "".join(path.read_text("utf-8", "replace") for path in logs)
        assert "check_account: Failed to find local account with UID" in said
        assert "logons" in _doctor(domain)
    _take(domain)


@line("min domain uid = 1000")
def test_lowest_uid(domain: "Domain") -> None:
    with _configured(domain, "    min domain uid = 300000\n"):
        _assert_no_logon(domain, "NT_STATUS_INVALID_TOKEN")


@line("net sam createbuiltingroup 'Backup Operators'")
def test_group(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN

    with pytest.raises(ToolError, match="NT_STATUS_NO_SUCH_ALIAS"):
        domain.files.run("net", "sam", "addmem", "BUILTIN\\Print Operators", ANN.full)
    domain.files.run("net", "sam", "createbuiltingroup", "Print Operators")
    domain.files.run("net", "sam", "addmem", "BUILTIN\\Print Operators", ANN.full)


@line("net sam addmem 'BUILTIN\\Backup Operators' 'DOM\\Hyper-V Hosts'")
def test_members(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN, DOMAIN, HOSTS_GROUP

    group = f"{DOMAIN}\\{HOSTS_GROUP}"
    domain.files.run("net", "sam", "delmem", _OPERATORS, group)
    try:
        _assert_refused(domain, "GetSupportedVersion", HResult.E_ACCESSDENIED)
    finally:
        domain.files.run("net", "sam", "addmem", _OPERATORS, group)
    _take(domain)  # HV1$ is a member of a member
    words = ["samba-tool", "group"]
    domain.dc.run(*words, "addmembers", "Backup Operators", ANN.name)
    try:
        _assert_refused(domain, "GetSupportedVersion", HResult.E_ACCESSDENIED, account=ANN)
    finally:
        domain.dc.run(*words, "removemembers", "Backup Operators", ANN.name)


@line("net sam rights grant 'DOM\\svc-backup' SeBackupPrivilege")
def test_privilege(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN

    domain.files.run("net", "sam", "rights", "grant", ANN.full, "SeBackupPrivilege")
    try:
        _take(domain, ANN)
    finally:
        domain.files.run("net", "sam", "rights", "revoke", ANN.full, "SeBackupPrivilege")
    _assert_refused(domain, "GetSupportedVersion", HResult.E_ACCESSDENIED, account=ANN)


@line("rpcd_fsrvp:idle_seconds = 10")
def test_idle_seconds(domain: "Domain") -> None:
    option = "    rpcd_fsrvp:idle_seconds = 10\n"
    domain.configure(GLOBAL_EXAMPLE.replace(option, ""))
    try:
        assert option.strip() in _doctor(domain)["idle"]
    finally:
        domain.configure()


@line("vfs objects = acl_xattr shell_snap")
def test_nt_acls(domain: "Domain") -> None:
    """Everybody may do everything in the directory, but one may not delete a file."""
    from samba_rvss.testing.domain import SERVICE

    def delete() -> str:
        return _smbclient(domain, "svc-backup", "del kept")

    kept = domain.files.path("/srv/vms/kept")
    kept.write_text("kept")
    kept.chmod(0o666)
    denied = f"ACL:{SERVICE.full}:DENIED/0x0/"
    all_else = "ACL:Everyone:ALLOWED/0x0/FULL"
    try:
        _set_acl(domain, "kept", f"{denied}D,{all_else}")
        _set_acl(domain, "/", f"{denied}0x00000040,{all_else}")  # FILE_DELETE_CHILD
        assert "NT_STATUS_ACCESS_DENIED" in delete()
        assert kept.exists()
        with _configured(domain, share=_SHARE.replace("acl_xattr shell_snap", "shell_snap")):
            assert delete() == ""
        assert not kept.exists()
    finally:
        kept.unlink(missing_ok=True)
        _open_directory(domain)


def _set_acl(domain: "Domain", name: str, acl: str) -> None:
    from samba_rvss.testing.domain import ADMINISTRATOR, PASSWORD, SERVER

    who = f"--user={ADMINISTRATOR.name}%{PASSWORD}"
    domain.files.run("smbcacls", f"//{SERVER}/vms", name, who, "-S", acl)


def _open_directory(domain: "Domain") -> None:
    """Give the share's directory the ACL that it has had."""
    for name in ("user.SAMBA_PAI", "security.NTACL"):
        domain.files.run("setfattr", "-x", name, "/srv/vms", allow=frozenset({0, 1}))
    domain.files.run("setfacl", "-b", "/srv/vms")
    domain.files.run("chmod", "0777", "/srv/vms")


def _smbclient(domain: "Domain", user: str, commands: str, share: str = "vms") -> str:
    """Let a user do something in a share; return what smbclient says."""
    from samba_rvss.testing.domain import DOMAIN, PASSWORD, SERVER

    who = f"--user={DOMAIN}\\{user}%{PASSWORD}"
    words = [f"//{SERVER}/{share}", who, "--command", commands]
    return domain.files.run("smbclient", *words, allow=frozenset({0, 1}))


@line('valid users = @"DOM\\Hyper-V Hosts"')
def test_valid_users(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ANN, DOMAIN, HOSTS_GROUP

    with _configured(domain, share=f"{_SHARE}    valid users = {ANN.full}\n"):
        _assert_refused(domain, "IsPathSupported", HResult.E_ACCESSDENIED)
        assert "'valid users'" in _doctor(domain)["access"]
    hosts = f'@"{DOMAIN}\\{HOSTS_GROUP}"'
    with _configured(domain, share=f"{_SHARE}    valid users = {hosts}\n"):
        _take(domain)


@line("sharesec vms --view")
def test_descriptor(domain: "Domain") -> None:
    domain.files.run("sharesec", "vms", "--replace", "S-1-5-32-544:ALLOWED/0/FULL")
    try:
        _assert_refused(domain, "IsPathSupported", HResult.E_ACCESSDENIED)
    finally:
        domain.files.run("sharesec", "vms", "--delete")
    _take(domain)


@line("smbcacls //files/vms /")
def test_nt_acl_of_the_directory(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ADMINISTRATOR, HV1

    data = domain.files.path("/srv/vms/data")
    data.write_text("from the source")
    data.chmod(0o666)
    try:
        with domain.client() as client:
            _set_acl(domain, "/", f"ACL:{ADMINISTRATOR.full}:ALLOWED/OI|CI/FULL")
            taken = take(client, ["vms"], Context.AUTO_RECOVERY)
            (exposed,) = taken.exposed_shares
            said = _smbclient(domain, HV1.name, "get data /dev/null", exposed)
            assert "NT_STATUS_ACCESS_DENIED" in said
            taken.delete()
            _open_directory(domain)
            taken = take(client, ["vms"], Context.AUTO_RECOVERY)
            (exposed,) = taken.exposed_shares
            assert "NT_STATUS" not in _smbclient(domain, HV1.name, "get data /dev/null", exposed)
            taken.delete()
    finally:
        data.unlink()
        _open_directory(domain)


@line("chmod 644 /etc/samba/smb.conf")
def test_readable_configuration(domain: "Domain") -> None:
    from samba_rvss.testing.domain import SMB_CONF

    domain.files.path(SMB_CONF).chmod(0o600)
    _read_again(domain)
    try:
        _assert_refused(domain, "IsPathSupported", HResult.FSRVP_E_NOT_SUPPORTED)
        log = domain.files.path("/var/log/samba/log.rpcd_fsrvp")
        assert f"cannot read {SMB_CONF} (mode 0600)" in log.read_text("utf-8", "replace")
        assert "only root can read" in _doctor(domain)["readable"]
        status = domain.files.run("samba-rvss", "status", allow=frozenset({0, 1}))
        assert f"cannot read {SMB_CONF}" in " ".join(status.split())
    finally:
        domain.files.path(SMB_CONF).chmod(0o644)
    _read_again(domain)
    _take(domain)


@line("netbios name = FILES")
def test_netbios_name(domain: "Domain") -> None:
    with domain.client() as client:
        assert client.is_path_supported("vms") == (True, "FILES")
    with _configured(domain, "    netbios name = ELSEWHERE\n"):
        with domain.client() as client:
            assert client.is_path_supported("vms") == (True, "ELSEWHERE")
        found = _doctor(domain)["netbios"]
        assert "clients are told to connect to ELSEWHERE, and nobody here knows" in found
        assert "the host is called files" in found


@line("net ads setspn add cifs/nas.example.org -U Administrator")
def test_other_names(domain: "Domain") -> None:
    from samba_rvss.testing.domain import ADMINISTRATOR, PASSWORD, REALM, SERVER

    alias = f"nas.{REALM.lower()}"
    hosts = domain.hv1.path("/etc/hosts").read_text("utf-8")
    (address,) = [text.split()[0] for text in hosts.splitlines() if SERVER in text.split()]
    who = f"--user={ADMINISTRATOR.name}%{PASSWORD}"

    def setspn(verb: str) -> None:
        domain.files.run("net", "ads", "setspn", verb, f"cifs/{alias}", who)

    domain.hv1.write("/etc/hosts", f"{hosts}{address} {alias}\n")
    try:
        for host in (alias, address):
            with pytest.raises(RvssError, match="cannot connect"):
                _take(domain, host=host)
        setspn("add")
        try:
            _take(domain, host=alias)
        finally:
            setspn("delete")
    finally:
        domain.hv1.write("/etc/hosts", hosts)


def test_all_lines_together(domain: "Domain") -> None:
    """Nothing is wrong, and a member of the group takes a shadow copy through Samba."""
    from samba_rvss.testing.domain import DOMAIN, PASSWORD, SERVICE

    who = f"username = {SERVICE.name}\npassword = {PASSWORD}\ndomain = {DOMAIN}\n"
    domain.files.write("/etc/backup.auth", who, 0o600)
    words = ["samba-rvss", "doctor", "vms", "--probe", "--json"]
    words += ["--authentication-file", "/etc/backup.auth"]
    said = domain.files.run(*words, allow=frozenset({0, 3}))
    found = {one["check"]: one["severity"] for one in json.loads(said)["findings"]}
    assert found["probe"] == "good"
    assert {check: found[check] for check in ("idmap", "logons", "operators", "netbios")} == {
        "idmap": "good",
        "logons": "good",
        "operators": "good",
        "netbios": "good",
    }
