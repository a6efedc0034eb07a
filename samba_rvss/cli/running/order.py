"""What is to be done in a run, and what came of it: values that go from process to process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samba_rvss.model import Consistency
from samba_rvss.samba import authentication, server
from samba_rvss.samba.conf import Config
from samba_rvss.samba.definitions import Definition
from samba_rvss.samba.logon import Logon

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client

CALL_SECONDS = 90.0
"""For each method: longer than `rvss:commit deadline`, and than Windows gives a Commit."""

SILENCE_SECONDS = 15
"""For which the server's machine may not answer at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A run that is to be done.

    Attributes:
        config: the instance's.
        definition: what is to be done.
        parent: pid of the process that waits for it.
        host: how the server is called.
        own: whether it is our own Samba.
        point: for tests: where the process that does it kills itself; empty for nowhere.
    """

    config: Config
    definition: Definition
    parent: int
    host: str
    own: bool
    point: str = ""

    @property
    def where(self) -> str:
        """The server, in words."""
        return "our own Samba" if self.own else self.host

    def logon(self) -> Logon:
        """Return who logs on.

        Raises:
            RvssError: as `authentication.require_private`, `from_file` and `of_machine`.
        """
        of = self.definition
        if of.machine_account:
            return authentication.of_machine(self.config.file, use_kerberos=of.use_kerberos)
        path = authentication.require_private(of.authentication_file)
        return authentication.from_file(path, use_kerberos=of.use_kerberos)

    def connect(self) -> "Client":
        """Connect to the server's FSRVP service; the connection is the caller's to close.

        Raises:
            RvssError: SAMBA; as `logon`.
        """
        from samba_rvss.samba.fsrvp.client import Client

        return Client(self.host, self.logon(), timeout=CALL_SECONDS, silence=SILENCE_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes:
        set_id: Samba's id of its set.
        copies: Samba's id of each share's shadow copy.
        parts: our ids of the backup's parts, by share; empty for another server's.
        consistency: what was proven.
        problems: what went wrong besides.
        status: the exit status: 0, or a `Problem` of one of these.
    """

    set_id: str
    copies: Mapping[str, str]
    parts: Mapping[str, str]
    consistency: Consistency
    problems: tuple[str, ...]
    status: int

    @property
    def id(self) -> str:
        """That of the backup, as `copies.backup.Backup` has it; empty if it is not here."""
        return self.parts[min(self.parts)] if self.parts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What came of seeing to what a run has left that was killed.

    Attributes:
        told: what is left of it, or may be, in words.
        failed: whether something could not be done.
    """

    told: str
    failed: bool = False


def make(config: Config, definition: Definition, parent: int) -> Order:
    """Return a run that is to be done; it asks Samba's library how our own server is called.

    Raises:
        RvssError: CONFIG.
    """
    ours = server.look(config.file)
    wanted = definition.server.lower()
    names = {ours.netbios_name.lower(), ours.host_name.lower(), ours.address, "localhost"}
    if wanted and wanted not in names:
        return Order(config=config, definition=definition, parent=parent, host=wanted, own=False)
    # A ticket is for a name.
    host = ours.netbios_name if definition.use_kerberos else ours.address
    return Order(config=config, definition=definition, parent=parent, host=host, own=True)
