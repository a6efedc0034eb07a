"""A domain of its own: a domain controller, a file server that is its member, and a Hyper-V host.

Place: a rig for tests; it stands on `host` and on the configuration of `example`. Contract: all
three are hosts in namespaces, in a network of theirs; the member has a btrfs, and on it a share
that samba-rvss makes shadow copies of. Samba has its default paths, samba-rvss is installed as its
package lays it out, and both run. Accounts are those of `Account`.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samba_rvss.run import ToolError
from samba_rvss.samba.logon import Logon
from samba_rvss.testing.example import GLOBAL_EXAMPLE, share_section
from samba_rvss.testing.host import Host, await_port, connect, make_volume
from samba_rvss.testing.supervisor import ROOT
from samba_rvss.testing.undoing import Undoing
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samba_rvss.testing.remote import Remote

REALM = "RVSS.TEST"
DOMAIN = "RVSSDOM"
PASSWORD = "Pass-word-1"
"""Of everybody."""

HOSTS_GROUP = "Hyper-V Hosts"
SHARE = "vms"
SHARE_PATH = Path("/srv/vms")
DATA = "data"
"""A file in the share, to which everybody may write."""

SMB_CONF = "/etc/samba/smb.conf"
SERVER = f"files.{REALM.lower()}"
"""The file server's name, for which tickets are issued."""

# 198.18.0.0/15 is for tests of networks (RFC 2544).
_ADDRESSES = {"files": "198.18.0.2", "dc": "198.18.0.1", "hv1": "198.18.0.3"}
_SECONDS = 120.0  # an emulated machine may need as long
_PROVISION_SECONDS = 600.0  # one needs a tenth of it
_DC = ("samba", "smbd", "winbindd")
_SMB = 445
_DC_PORTS = (53, 88, 389, _SMB)

_HOSTS = "127.0.0.1 localhost\n" + "".join(
    f"{address} {name}.{REALM.lower()} {name}\n" for name, address in _ADDRESSES.items()
)
_RESOLV_CONF = f"search {REALM.lower()}\nnameserver {_ADDRESSES['dc']}\noptions timeout:1\n"

_KRB5_CONF = f"""\
[libdefaults]
    default_realm = {REALM}
    dns_lookup_realm = false
    dns_lookup_kdc = true
    dns_canonicalize_hostname = false
    rdns = false
"""

MEMBER = {
    "workgroup": DOMAIN,
    "realm": REALM,
    "security": "ads",
    "idmap config * : backend": "tdb",
    "idmap config * : range": "100000-199999",
    f"idmap config {DOMAIN} : backend": "rid",
    f"idmap config {DOMAIN} : range": "200000-299999",
}
"""The options of [global] that make a Samba a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of the domain.

    Attributes:
        name: without the domain; a computer's ends in a dollar sign.
    """

    name: str

    @property
    def full(self) -> str:
        """Its name as winbindd has it."""
        return f"{DOMAIN}\\{self.name}"

    @property
    def keytab(self) -> str:
        """Where each host has its keytab."""
        return f"/etc/{self.name.rstrip('$').lower()}.keytab"

    def logon(self, *, kerberos: bool = True) -> Logon:
        """Return how it logs on, with its password."""
        domain = REALM if kerberos else DOMAIN
        return Logon(user=self.name, password=PASSWORD, domain=domain, use_kerberos=kerberos)


HV1 = Account(name="HV1$")
"""The computer account of the Hyper-V host, which is in HOSTS_GROUP."""
SERVICE = Account(name="svc-backup")
"""A service account, which is in HOSTS_GROUP."""
ANN = Account(name="ann")
"""A user like any other."""
ADMINISTRATOR = Account(name="Administrator")


class Domain(Undoing):
    """A context manager: the domain, in which all runs.

    Attributes:
        dc: the domain controller.
        files: the file server, a member.
        hv1: a host for clients, on which nothing runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dc = Host("dc")
        self.files = Host("files", installed=True)
        self.hv1 = Host("hv1")
        self._daemon = 0

    def _set_up(self) -> None:
        with ThreadPoolExecutor(1) as beside:
            self._enter(self.dc)
            made = beside.submit(self._provision)
            self._enter(self.files, self.hv1)
            connect({host: _ADDRESSES[host.name] for host in (self.files, self.dc, self.hv1)})
            self.files.call(make_volume, str(SHARE_PATH))
            self.files.write(str(SHARE_PATH / DATA), "from the source", 0o666)
            made.result()
        for account in (HV1, SERVICE, ANN):
            keytab = self.dc.path(account.keytab).read_bytes()
            for host in (self.files, self.hv1):
                host.path(account.keytab).write_bytes(keytab)
        self.start_dc()
        self._join()

    def _enter(self, *hosts: Host) -> None:
        """Make hosts, each of which knows the others' names and the domain."""
        for host in hosts:
            self._undo.enter_context(host)
            host.write("/etc/hosts", _HOSTS)
            host.path("/etc/resolv.conf").unlink(missing_ok=True)  # a link, perhaps
            host.write("/etc/resolv.conf", _RESOLV_CONF)
            host.write("/etc/krb5.conf", _KRB5_CONF)
            host.path(SMB_CONF).unlink(missing_ok=True)

    def _provision(self) -> None:
        self.dc.run(
            "samba-tool",
            "domain",
            "provision",
            f"--realm={REALM}",
            f"--domain={DOMAIN}",
            f"--adminpass={PASSWORD}",
            f"--host-ip={_ADDRESSES['dc']}",
            "--host-name=dc",
            "--server-role=dc",
            "--dns-backend=SAMBA_INTERNAL",
            "--option=server services = s3fs, rpc, nbt, ldap, cldap, kdc, winbindd, dns",
            timeout=_PROVISION_SECONDS,
        )
        # A program, so that what Samba's libraries say is heard if it fails, and not otherwise.
        self.dc.run(sys.executable, "-Ic", _POPULATE, timeout=_PROVISION_SECONDS)

    def start_dc(self) -> None:
        """Start the domain controller, and return when it answers."""
        self.dc.start("samba", "--foreground", "--no-process-group")
        # What is asked too early is not answered at all.
        for port in _DC_PORTS:
            self.hv1.call(await_port, _ADDRESSES["dc"], port)
        words = ["-k", "-t", ANN.keytab, "-c", "MEMORY:", f"{ANN.name}@{REALM}"]
        self._await("the domain controller answers", self.hv1, "kinit", *words)

    def end_dc(self) -> None:
        """End the domain controller: nobody answers any more."""
        self.dc.end(*_DC)

    def _await(self, what: str, host: Host, *words: str) -> None:
        """Run a program until it succeeds."""

        def succeeds() -> bool:
            try:
                host.run(*words)
            except ToolError:
                return False
            return True

        wait_until(what, succeeds, _SECONDS)

    def _join(self) -> None:
        """Make the file server a member, and start what runs on it."""
        self.configure()
        who = f"--user={ADMINISTRATOR.name}%{PASSWORD}"
        self.files.run("net", "ads", "join", who, "--no-dns-updates")
        # As libnss-winbind's postinst does.
        names = self.files.path("/etc/nsswitch.conf").read_text("utf-8")
        with_winbind = re.sub(r"^(passwd|group):.*", r"\g<0> winbind", names, flags=re.MULTILINE)
        self.files.write("/etc/nsswitch.conf", with_winbind)
        self.start_winbindd()
        self.files.run("net", "sam", "createbuiltingroup", "Backup Operators")
        group = f"{DOMAIN}\\{HOSTS_GROUP}"
        self.files.run("net", "sam", "addmem", "BUILTIN\\Backup Operators", group)
        self.start_smbd()
        self.start_daemon()

    def configure(self, global_: str = GLOBAL_EXAMPLE, share: str = "") -> None:
        """Write the member's smb.conf.

        Args:
            global_: what stands in [global] after what makes it a member.
            share: the share's whole section, and what follows it; the README's if empty.
        """
        share = share or share_section(SHARE, str(SHARE_PATH))
        options = {**MEMBER, "log file": "/var/log/samba/log.%m"}
        member = "".join(f"    {name} = {text}\n" for name, text in options.items())
        self.files.write(SMB_CONF, f"[global]\n{member}{global_}\n{share}")

    # each starts a program on the file server, and returns when it serves

    def start_winbindd(self) -> None:
        """Start winbindd."""
        self.files.start("winbindd", "--foreground", "--no-process-group")
        self._await("winbindd answers", self.files, "wbinfo", "--ping-dc")

    def start_smbd(self) -> None:
        """Start smbd."""
        self.files.start("smbd", "--foreground", "--no-process-group")
        self._await("smbd answers", self.files, "smbcontrol", "smbd", "ping")
        self.hv1.call(await_port, _ADDRESSES["files"], _SMB)

    def end_smbd(self) -> None:
        """End smbd, and all that it has started."""
        self.files.end("smbd", "samba-dcerpcd", "rpcd_fsrvp", "rpcd_classic", "rpcd_winreg")

    def end_daemon(self) -> None:
        """End samba-rvss; its mounts stay."""
        self.files.stop(self._daemon)

    def start_daemon(self) -> None:
        """Start samba-rvss."""
        self._daemon = self.files.start("samba-rvss", "daemon")
        there = self.files.path("/run/samba-rvss/admin.sock")
        wait_until("the daemon is there", there.exists, _SECONDS)

    def ticket(self, account: Account) -> Logon:
        """Return how an account logs on from the Hyper-V host with a ticket, got by its keytab."""
        ccache = f"FILE:/tmp/{account.name}.ccache"
        words = ["-k", "-t", account.keytab, "-c", ccache, f"{account.name}@{REALM}"]
        self.hv1.run("kinit", *words)
        return Logon(use_kerberos=True, ccache=ccache)

    def client(
        self,
        who: Account | Logon = HV1,
        *,
        options: "Sequence[str]" = (),
        kerberos: bool = True,
    ) -> "Remote":
        """Return an FSRVP client on the Hyper-V host; the caller closes it.

        Args:
            who: who connects; an account does with its password.
            options: of the DCE/RPC binding, as the Client has them.
            kerberos: False for an account to use NTLM.
        """
        from samba_rvss.testing.remote import Remote

        logon = who if isinstance(who, Logon) else who.logon(kerberos=kerberos)
        return Remote(SERVER, logon, options=options, above=self.hv1.entering)


# What follows is called in a process of a host.

_POPULATE = (
    f"import sys; sys.path.insert(0, {ROOT!r});"
    " from samba_rvss.testing.domain import populate; populate()"
)


def populate() -> None:
    """Make the accounts and their keytabs, on a domain controller that does not run yet."""
    from samba import dckeytab, param  # noqa: F401 - the first adds Net.export_keytab
    from samba.auth import system_session
    from samba.credentials import Credentials
    from samba.net import Net
    from samba.samdb import SamDB

    lp = param.LoadParm()
    lp.load(SMB_CONF)
    database = SamDB(session_info=system_session(), lp=lp)
    database.newcomputer(HV1.name.rstrip("$"))
    database.setpassword(f"(samAccountName={HV1.name})", PASSWORD)
    for user in (SERVICE, ANN):
        database.newuser(user.name, PASSWORD)
    database.newgroup(HOSTS_GROUP)
    database.add_remove_group_members(HOSTS_GROUP, [HV1.name, SERVICE.name])
    credentials = Credentials()
    credentials.guess(lp)
    for account in (HV1, SERVICE, ANN):
        Net(credentials, lp).export_keytab(
            keytab=account.keytab, principal=f"{account.name}@{REALM}"
        )
