"""What the `driver` does with shadow copies: takes, recovers and deletes them, and notes that.

Place: in the machine, above `record` and `survey`.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba.fsrvp import copyset
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.smbclient import Session
from samba_rvss.testing.waiting import wait_until
from tests.vm import invariants, record
from tests.vm.record import doing, note
from tests.vm.survey import DATA, HOST, LOGON, NAME, digest, ledger

# Nothing that is under way takes longer on a busy emulated processor.
SETTLE_SECONDS = 120.0
_RECOVERED = "recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A copy of an exposed set, and the name of the content that it shows."""

    name: str
    share: str
    made: CopySet

    @property
    def system(self) -> str:
        """The file system of its share."""
        return self.share.partition("-")[0]

    @property
    def copy_id(self) -> str:
        """Samba's id of it."""
        return str(self.made.copies[self.share])

    @property
    def exposed_share(self) -> str:
        """The share that it is exposed as."""
        (mapping,) = (m for m in self.made.mappings if str(m.copy_id) == self.copy_id)
        return mapping.exposed_share


def fill(share: str) -> tuple[str, str]:
    """Give a share a content of its own, on disk; return its name and the data's digest."""
    system, _, volume = share.partition("-")
    path = Path(f"/srv/{system}/{volume or 'volume'}/share")
    name, data = f"{share}-{secrets.token_hex(6)}", secrets.token_bytes(200_000)
    for file, content in ((NAME, name.encode()), (DATA, data)):
        with (path / file).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    return name, digest(data)


def connect() -> Client:
    """Return a connection to the server."""
    return Client(HOST, LOGON)


def take(client: Client, share: str, context: Context) -> Taken:
    """Take and expose a shadow copy of a share that has a new content."""
    (taken,) = take_set(client, [share], context)
    return taken


def take_set(client: Client, shares: Sequence[str], context: Context) -> list[Taken]:
    """Take and expose a set of shadow copies of shares, each of which has a new content."""
    persistent = bool(context & Context.PERSISTENT)
    names = {}
    for share in shares:
        names[share], data = fill(share)
        note(
            "creating",
            names[share],
            system=share.partition("-")[0],
            persistent=persistent,
            files={NAME: digest(names[share].encode()), DATA: data},
        )
    made = copyset.take(client, shares, context)
    taken = [Taken(name=names[share], share=share, made=made) for share in shares]
    for each in taken:
        note("exposed", each.name, set=str(made.id), copy=each.copy_id, share=each.exposed_share)
    return taken


def write(taken: Taken) -> dict[str, str]:
    """Write to a copy as its recovery does; return the digests of all files that are in it then."""
    content = secrets.token_bytes(50_000)
    wait_for(taken, Phase.OPEN)
    with Session(HOST, taken.exposed_share, LOGON) as session:
        session.write(_RECOVERED, content)
    before: dict[str, str] = invariants.promised(record.read())[taken.name]["files"]
    return {**before, _RECOVERED: digest(content)}


def recover(*copies: Taken) -> None:
    """Write to the copies of a set, complete its recovery, and wait until they are sealed."""
    files = [write(taken) for taken in copies]
    with doing("seal", copies[0].system):
        for taken, there in zip(copies, files, strict=True):
            note("completing", taken.name, files=there)
        copies[0].made.complete()
        for taken in copies:
            wait_for(taken, Phase.SEALED)
            note("sealed", taken.name)


def copy_of(taken: Taken) -> ShadowCopy:
    """Return what the ledger says of a copy; it learns of it after Samba answers."""
    (copy,) = wait_until(
        f"{taken.name} is learned",
        lambda: [copy for copy in ledger() if copy.copy_id == taken.copy_id],
        SETTLE_SECONDS,
        pause=0.2,
    )
    return copy


def wait_for(taken: Taken, phase: Phase) -> None:
    """Wait until a copy has come to a phase; the ledger learns of it after Samba answers."""
    wait_until(
        f"{taken.name} is {phase.value}",
        lambda: phase in (copy.phase for copy in ledger() if copy.copy_id == taken.copy_id),
        SETTLE_SECONDS,
        pause=0.2,
    )


def delete(client: Client, *copies: Taken) -> None:
    """Delete the copies of a set as its client does."""
    for taken in copies:
        note("deleting", taken.name)
    made = copies[0].made
    made.client = client  # it may have been another that took it
    made.delete()
    for taken in copies:
        note("deleted", taken.name)
