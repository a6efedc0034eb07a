"""What runs in a machine whose `disks` outlive it: it makes shadow copies, keeps a record, looks.

Its record is its own and each entry is on disk before it goes on, so that after a power loss it
still tells what was promised. What it does it says on standard output, for whoever wants to take
the power away in the middle of it: ``doing VERB FILE-SYSTEM``, ``done VERB FILE-SYSTEM``.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba.fsrvp import copyset
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.methods import APP_ROLLBACK, BACKUP, FILE_SHARE_BACKUP, NAS_ROLLBACK
from samba_rvss.testing.smbclient import Session
from samba_rvss.testing.waiting import wait_until
from tests.vm import invariants
from tests.vm.survey import (
    DATA,
    HOST,
    LOGON,
    NAME,
    UNITS,
    digest,
    ledger,
    look,
    output,
    shown,
)

SYSTEMS = ("btrfs", "zfs")
RECORD = Path("/var/lib/driver/record")
# Nothing that is under way takes longer on a busy emulated processor.
SETTLE_SECONDS = 120.0
_RECOVERED = "recovered"


def say(*words: object) -> None:
    """Tell the other side, at once.

    The port takes 32 KiB at a time (drivers/char/virtio_console.c, port_fops_write()), and an
    unbuffered Python forgets what a write did not take.
    """
    left = f"{' '.join(map(str, words))}\n".encode()
    while left:
        left = left[os.write(1, left) :]


@contextmanager
def doing(verb: str, system: str) -> Iterator[None]:
    """Tell that a verb begins, and that it is over."""
    say("doing", verb, system)
    yield
    say("done", verb, system)


# the record


def read_record() -> list[dict[str, Any]]:
    """Return the record; a last line that was not finished is passed over."""
    if not RECORD.exists():
        return []
    text = RECORD.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def note(what: str, name: str, **values: object) -> None:
    """Write an entry; it is on disk when this returns."""
    RECORD.parent.mkdir(exist_ok=True)
    fd = os.open(RECORD, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.ftruncate(fd, os.pread(fd, size, 0).rfind(b"\n") + 1)
        os.write(fd, f"{json.dumps({'what': what, 'name': name, **values})}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    parent = os.open(RECORD.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)
    os.close(parent)


# shadow copies


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


def recover(taken: Taken) -> None:
    """Write to a copy, complete its recovery, and wait until it is sealed."""
    share = taken.made.mappings[0].exposed_share
    content = secrets.token_bytes(50_000)
    wait_for(taken, Phase.OPEN)
    with Session(HOST, share, LOGON) as session:
        session.write(_RECOVERED, content)
    before = invariants.promised(read_record())[taken.name]["files"]
    with doing("seal", taken.system):
        note("completing", taken.name, files={**before, _RECOVERED: digest(content)})
        taken.made.complete()
        wait_for(taken, Phase.SEALED)
        note("sealed", taken.name)


def copy_of(taken: Taken) -> ShadowCopy:
    """Return what the ledger says of a copy."""
    (copy,) = (c for c in ledger() if c.copy_id == str(taken.made.mappings[0].copy_id))
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


def settled() -> tuple[dict[str, Any], list[str]]:
    """Look until nothing is wrong, or for SETTLE_SECONDS; return what was seen, and is wrong."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        seen = look()
        problems = invariants.wrong(seen, read_record())
        if not problems or time.monotonic() > deadline:
            return seen, problems
        time.sleep(2)


# what it is told to do


def take_all() -> None:
    """Take copies in every context, and leave them in every state that a reboot can meet."""
    recovery = Context.AUTO_RECOVERY
    # In all four contexts that Samba supports (srv_fss_agent.c, _fss_SetContext()).
    plans = (
        ("kept", APP_ROLLBACK | recovery, "recovered"),
        ("kept alike", NAS_ROLLBACK | recovery, "recovered"),
        ("backup", BACKUP | recovery, "recovered"),
        ("unrecovered", APP_ROLLBACK | recovery, "exposed"),
        ("plain", FILE_SHARE_BACKUP | recovery, "exposed"),
        ("unwritten", APP_ROLLBACK, "exposed"),
        ("committed", APP_ROLLBACK | recovery, "committed"),
    )
    found = []
    with connect() as client:
        for label, context, end in plans:
            for system in SYSTEMS if end != "committed" else SYSTEMS[:1]:
                say("taking", label, system)
                if end == "committed":
                    found.append({"label": label, "system": system, **_commit(client, context)})
                    continue
                taken = take(client, system, context)
                if end == "recovered":
                    recover(taken)
                else:
                    wait_for(taken, Phase.OPEN if context & recovery else Phase.SEALED)
                found.append(_told(label, taken))
    _result("taken", {"copies": found, "seen": look()})


def _commit(client: Client, context: Context) -> dict[str, Any]:
    """Commit a set of both shares, and expose nothing."""
    made = CopySet(client, context)
    made.prepare(*SYSTEMS)
    made.commit()
    copies = {system: str(copy_id) for system, copy_id in made.copies.items()}
    learned = set(copies.values())
    wait_until(
        "the committed set is learned",
        lambda: learned == {copy.copy_id for copy in ledger() if copy.set_id == str(made.id)},
        SETTLE_SECONDS,
        pause=0.2,
    )
    return {"set": str(made.id), "copies": copies}


def _told(label: str, taken: Taken) -> dict[str, Any]:
    copy = copy_of(taken)
    return {
        "label": label,
        "system": taken.system,
        "name": taken.name,
        "id": copy.id,
        "path": copy.path,
        "share": copy.exposed_share,
        "content": shown(copy.path),
    }


def look_again() -> None:
    """Look after a reboot, at once and when everything has settled; then take a fresh set."""
    first = look()
    sealing, _ = settled()
    fresh = []
    with connect() as client:
        for system in SYSTEMS:
            taken = take(client, system, APP_ROLLBACK | Context.AUTO_RECOVERY)
            recover(taken)
            fresh.append(_told("fresh", taken))
            delete(client, taken)
    _result(
        "found",
        {
            "first": first,
            "settled": sealing,
            "fresh": fresh,
            "after": look(),
            "journal": output("journalctl", "-b", "-o", "short-monotonic", "-u", UNITS[0]),
        },
    )


def delete(client: Client, taken: Taken) -> None:
    """Delete a copy as its client does."""
    note("deleting", taken.name)
    taken.made.client = client  # it may have been another that took it
    taken.made.delete()
    note("deleted", taken.name)


def work(system: str) -> None:
    """Look whether all is well, and then make and delete shadow copies until the power goes.

    Args:
        system: the file system to begin with.
    """
    seen, problems = settled()
    say("seen", json.dumps({"seen": seen, "record": read_record(), "wrong": problems}))
    if problems:
        say(
            "journal",
            json.dumps(output("journalctl", "-b", "-o", "short-monotonic", "-u", UNITS[0])),
        )
        return
    old = {
        name: copy
        for name, copy in invariants.promised(read_record()).items()
        if copy["what"] in ("completing", "sealed", "deleting")
        and any(name == mount["name"] for mount in seen["mounts"].values())
    }
    for each in SYSTEMS:
        with doing("prepare", each), connect() as client:
            take(client, each, BACKUP | Context.AUTO_RECOVERY)  # for the next start to release
    say("ready")
    order = (system, *(other for other in SYSTEMS if other != system))
    kept: list[Taken] = []
    while True:
        for each in order:
            with connect() as client:
                with doing("create", each):
                    taken = take(client, each, APP_ROLLBACK | Context.AUTO_RECOVERY)
                recover(taken)
                for name in [name for name, copy in old.items() if copy["system"] == each]:
                    with doing("delete", each):
                        _delete_old(name, old.pop(name))
                for other in [other for other in kept if other.system == each]:
                    with doing("delete", each):
                        delete(client, other)
                    kept.remove(other)
                kept.append(taken)


def _delete_old(name: str, copy: Mapping[str, Any]) -> None:
    """Delete a copy of an earlier start, which Samba does not know any more."""
    note("deleting", name)
    subprocess.run(["samba-rvss", "delete", copy["copy"]], check=True)
    note("deleted", name)


def _result(name: str, value: object) -> None:
    Path(os.environ["JOB_RESULTS"], name).write_text(json.dumps(value), "utf-8")


def main(argv: Sequence[str]) -> int:
    """Do what the first word says."""
    verb, *words = argv
    verbs: dict[str, Callable[..., None]] = {"take": take_all, "look": look_again, "work": work}
    verbs[verb](*words)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
