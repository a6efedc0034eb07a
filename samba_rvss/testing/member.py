"""The Samba and the samba-rvss of a domain's file server, as rigs of tests that run on it.

Place: a rig for tests, over `smbd`, `daemon` and `domain`. Contract: it is used on the host `files`
of a Domain, where winbindd runs, and smbd and samba-rvss do not. Both have their default paths; the
machine's account and its groups stay as they are. Leaving takes away what came of shares.
"""

import shutil
from pathlib import Path

from samba_rvss.run import run
from samba_rvss.samba.logon import Logon
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.domain import MEMBER, PASSWORD, REALM, SERVER, SMB_CONF, Account
from samba_rvss.testing.example import HOOK
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator

_SECONDS = 120.0  # an emulated machine may need as long


class MemberSmbd(PrivateSmbd):
    """A context manager: the file server's Samba; see PrivateSmbd, whose arguments it takes.

    Attributes:
        directory: its logs are there.
        address: its name.
    """

    netbios_name = "FILES"
    configuration = Path(SMB_CONF)
    lock_directory = Path("/run/samba")
    state_directory = Path("/var/lib/samba")
    private_directory = Path("/var/lib/samba/private")

    def _choose_address(self) -> str:
        return SERVER

    def _own_options(self) -> dict[str, str]:
        return MEMBER

    def _set_up(self) -> None:
        # Tests may leave sets in it.
        sets = self.lock_directory / "srv_fss.tdb"
        sets.unlink(missing_ok=True)
        self._undo.callback(sets.unlink, missing_ok=True)
        super()._set_up()


class MemberDaemon(RvssDaemon):
    """A context manager: the file server's samba-rvss; see RvssDaemon."""

    def __init__(self, samba: PrivateSmbd) -> None:
        super().__init__(samba)
        self.run_directory = Path("/run/samba-rvss")
        self.state_directory = Path("/var/lib/samba-rvss")
        self.hook = HOOK

    def _set_up(self) -> None:
        self._clear()
        self._undo.callback(self._clear)
        super()._set_up()

    def _clear(self) -> None:
        """Take away what a daemon has left, this one or one that ran before."""
        self.unmount()
        for directory in (self.run_directory, self.state_directory):
            if directory.exists():
                shutil.rmtree(directory)


class DomainOperator(BackupOperator):
    """A context manager: an account of the domain that is a Backup Operator already.

    It logs on with Kerberos alone. Nothing is made.
    """

    def __init__(self, samba: PrivateSmbd, account: Account) -> None:
        super().__init__(samba)
        self.name = account.full
        self.password = PASSWORD
        self._account = account

    def _set_up(self) -> None:
        # By a program: a process that has asked winbindd keeps its connection.
        self.uid = int(run(["id", "--user", self.name], timeout=_SECONDS))

    @property
    def logon(self) -> Logon:
        """How it logs on."""
        return self._account.logon()

    @property
    def words(self) -> list[str]:
        """How it logs on, as Samba's own clients are told."""
        user = f"{self._account.name}@{REALM}%{PASSWORD}"
        return ["-U", user, "--use-kerberos=required"]
