"""What the `driver` does with shadow copies: takes, recovers and deletes them, and notes that.

Place: in the machine, above `record` and `survey`.
"""

import os
import secrets
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
    """An exposed set with one copy, and the name of the content that it shows."""

    name: str
    system: str
    made: CopySet


def fill(system: str) -> tuple[str, str]:
    """Give a share a content of its own, on disk; return its name and the data's digest."""
    share = Path(f"/srv/{system}/volume/share")
    name, data = f"{system}-{secrets.token_hex(6)}", secrets.token_bytes(200_000)
    for file, content in ((NAME, name.encode()), (DATA, data)):
        with (share / file).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    return name, digest(data)


def connect() -> Client:
    """Return a connection to the server."""
    return Client(HOST, LOGON)


def take(client: Client, system: str, context: Context) -> Taken:
    """Take and expose a shadow copy of a share that has a new content."""
    name, data = fill(system)
    persistent = bool(context & Context.PERSISTENT)
    files = {NAME: digest(name.encode()), DATA: data}
    note("creating", name, system=system, persistent=persistent, files=files)
    made = copyset.take(client, [system], context)
    share = made.mappings[0].exposed_share
    note("exposed", name, set=str(made.id), copy=str(made.mappings[0].copy_id), share=share)
    return Taken(name=name, system=system, made=made)


def write(taken: Taken) -> dict[str, str]:
    """Write to a copy as its recovery does; return the digests of all files that are in it then."""
    share = taken.made.mappings[0].exposed_share
    content = secrets.token_bytes(50_000)
    wait_for(taken, Phase.OPEN)
    with Session(HOST, share, LOGON) as session:
        session.write(_RECOVERED, content)
    before: dict[str, str] = invariants.promised(record.read())[taken.name]["files"]
    return {**before, _RECOVERED: digest(content)}


def recover(taken: Taken) -> None:
    """Write to a copy, complete its recovery, and wait until it is sealed."""
    files = write(taken)
    with doing("seal", taken.system):
        note("completing", taken.name, files=files)
        taken.made.complete()
        wait_for(taken, Phase.SEALED)
        note("sealed", taken.name)


def copy_of(taken: Taken) -> ShadowCopy:
    """Return what the ledger says of a copy; it learns of it after Samba answers."""
    copy_id = str(taken.made.mappings[0].copy_id)
    (copy,) = wait_until(
        f"{taken.name} is learned",
        lambda: [copy for copy in ledger() if copy.copy_id == copy_id],
        SETTLE_SECONDS,
        pause=0.2,
    )
    return copy


def wait_for(taken: Taken, phase: Phase) -> None:
    """Wait until a copy has come to a phase; the ledger learns of it after Samba answers."""
    copy_id = str(taken.made.mappings[0].copy_id)
    wait_until(
        f"{taken.name} is {phase.value}",
        lambda: phase in (copy.phase for copy in ledger() if copy.copy_id == copy_id),
        SETTLE_SECONDS,
        pause=0.2,
    )


def delete(client: Client, taken: Taken) -> None:
    """Delete a copy as its client does."""
    note("deleting", taken.name)
    taken.made.client = client  # it may have been another that took it
    taken.made.delete()
    note("deleted", taken.name)
