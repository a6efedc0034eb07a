"""What Samba knows of shadow copies, as srv_fss.tdb and its workers have it."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, IntFlag


class SetState(IntEnum):
    """State of a shadow copy set in srv_fss.tdb.

    Source: Samba, source3/rpc_server/fss/srv_fss_private.h, enum fss_sc_state.
    """

    STARTED = 0
    ADDED = 1
    CREATING = 2
    COMMITTED = 3
    EXPOSED = 4
    RECOVERED = 5


class Context(IntFlag):
    """Attributes of a shadow copy set's context (MS-FSRVP 2.2.2.2)."""

    PERSISTENT = 0x00000001
    NO_AUTO_RECOVERY = 0x00000002
    NO_AUTO_RELEASE = 0x00000008
    NO_WRITERS = 0x00000010
    AUTO_RECOVERY = 0x00400000
    FILE_SHARE = 0x04000000

    @property
    def words(self) -> str:
        """Its attributes' names; ``BACKUP`` is what a context without any is called there."""
        return self.name or (f"{int(self):#x}" if self else "BACKUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaCopy:
    """A shadow copy in srv_fss.tdb, with the state of its set, and how many that has."""

    set_id: str
    copy_id: str
    share: str
    share_path: str
    path: str
    exposed_share: str
    is_exposed: bool
    state: SetState
    context: int
    created: datetime
    set_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaSet:
    """A shadow copy set in srv_fss.tdb."""

    id: str
    state: SetState
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SambaState:
    """All of srv_fss.tdb as one consistent reading."""

    sets: tuple[SambaSet, ...]
    copies: tuple[SambaCopy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A living rpcd_fsrvp of this Samba.

    Attributes:
        clients: how many connections it serves, or None if Samba did not say.
        started: when it was started, in seconds since this boot.
        holds: ids of the sets that it is known to have in memory.
    """

    pid: int
    clients: int | None
    started: float = 0.0
    holds: frozenset[str] = frozenset()
