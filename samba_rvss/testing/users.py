"""Users for a private Samba: a Backup Operator of Unix, and root.

Place: a rig for tests and for the demonstration. Contract: entering makes the Unix user, its
password in the private Samba and its membership; leaving removes the Unix user and group again,
whatever else failed. The private Samba's own databases vanish with its directory.
"""

import grp
import pwd
import secrets

from samba_rvss.run import run
from samba_rvss.samba.logon import Logon
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.undoing import Undoing

_SECONDS = 120.0  # an emulated machine may need as long
BACKUP_OPERATORS = "S-1-5-32-551"


def set_password(samba: PrivateSmbd, name: str, password: str) -> None:
    """Make a Unix user a user of a private Samba, or give it another password.

    Raises:
        RvssError: TOOL if smbpasswd refused, as for a user that Unix does not know.
    """
    # smbpasswd takes it from standard input only, and its status is the pipeline's.
    script = 'printf "%s\\n%s\\n" "$RVSS_PW" "$RVSS_PW" | smbpasswd -c "$0" -s -a "$1"'
    run(
        ["sh", "-c", script, str(samba.configuration), name],
        timeout=_SECONDS,
        env={"RVSS_PW": password},
    )


class User(Undoing):
    """A context manager: a Unix user that is known to a private Samba and has no privilege.

    Attributes:
        name: its name, and that of its group.
        password: its password in Samba; it has none in Unix, and cannot log on there.
        uid: its number, while it exists.
    """

    def __init__(self, samba: PrivateSmbd, prefix: str = "rvssusr") -> None:
        super().__init__()
        self.name = prefix + secrets.token_hex(4)
        self.password = secrets.token_hex(8)
        self.uid = -1
        self._samba = samba

    def _set_up(self) -> None:
        self._undo.callback(_remove_group, self.name)
        run(["groupadd", self.name], timeout=_SECONDS)
        self._undo.callback(_remove_user, self.name)
        run(
            ["useradd", "-M", "-s", "/usr/sbin/nologin", "-g", self.name, self.name],
            timeout=_SECONDS,
        )
        self.uid = pwd.getpwnam(self.name).pw_uid
        set_password(self._samba, self.name, self.password)
        self.grant()

    @property
    def logon(self) -> Logon:
        """How it logs on."""
        return Logon(user=self.name, password=self.password)

    @property
    def words(self) -> list[str]:
        """How it logs on, as Samba's own clients are told."""
        return ["-U", f"{self.name}%{self.password}"]

    def grant(self) -> None:
        """Give the user its rights in Samba: here, none."""


class BackupOperator(User):
    """A context manager: a User that is a Backup Operator of the private Samba.

    Several can live at once on one Samba: the membership is in Samba's own group database.
    """

    def __init__(self, samba: PrivateSmbd) -> None:
        super().__init__(samba, "rvssop")

    def grant(self) -> None:
        """Add the user to BUILTIN\\Backup Operators, which works without winbindd.

        The group exists once it is mapped to some Unix group; its members are then Samba's own
        (`net sam createbuiltingroup` would ask winbindd for a gid).
        """
        if f"({BACKUP_OPERATORS})" not in self._samba.net("groupmap", "list"):
            self._samba.net(
                "groupmap",
                "add",
                f"sid={BACKUP_OPERATORS}",
                "ntgroup=Backup Operators",
                f"unixgroup={grp.getgrgid(0).gr_name}",
                "type=builtin",
            )
        self._samba.net("sam", "addmem", "BUILTIN\\Backup Operators", self.name)


class Root:
    """root with a password of its own in a private Samba; Unix is not touched.

    FSRVP serves root because it started smbd (srv_fss_agent.c, fss_permitted).
    """

    def __init__(self, samba: PrivateSmbd) -> None:
        self.name = "root"
        self._domain = samba.netbios_name
        self.password = secrets.token_hex(8)
        self.uid = 0
        set_password(samba, self.name, self.password)

    @property
    def logon(self) -> Logon:
        """How it logs on."""
        return Logon(user=self.name, password=self.password, domain=self._domain)

    @property
    def words(self) -> list[str]:
        """How it logs on, as Samba's own clients are told."""
        return ["-U", f"{self._domain}\\{self.name}%{self.password}"]


def _remove_user(name: str) -> None:
    if name in {entry.pw_name for entry in pwd.getpwall()}:
        # By force: an smbd that serves one of its connections may still run as it.
        run(["userdel", "--force", name], timeout=_SECONDS)


def _remove_group(name: str) -> None:
    if name in {entry.gr_name for entry in grp.getgrall()}:
        run(["groupdel", name], timeout=_SECONDS)
