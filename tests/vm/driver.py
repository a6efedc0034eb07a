"""What runs in a machine whose `disks` outlive it: it makes shadow copies, keeps a record, looks.

Its `record` is its own and each entry is on disk before it goes on, so that after a power loss it
still tells what was promised. What it does it says, for whoever wants to take the power away in the
middle of it. What it does with backups is in `keeping`.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.model import Context, Phase
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.methods import APP_ROLLBACK, BACKUP, FILE_SHARE_BACKUP, NAS_ROLLBACK
from samba_rvss.testing.waiting import wait_until
from tests.vm import invariants, keeping, record
from tests.vm.record import doing, note, say
from tests.vm.survey import UNITS, backups, command, ledger, look, lose_ledger, output, shown
from tests.vm.taking import (
    SETTLE_SECONDS,
    Taken,
    connect,
    copy_of,
    delete,
    recover,
    take,
    take_set,
    wait_for,
)

SYSTEMS = ("btrfs", "zfs")


def settled() -> tuple[dict[str, Any], list[str]]:
    """Look until nothing is wrong, or for SETTLE_SECONDS; return what was seen, and is wrong."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        seen = look()
        problems = invariants.wrong(seen, record.read())
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
    # Not persistent, but kept: it lives.
    kept = [keeping.keep(system, keeping.WAYS[-1]) for system in SYSTEMS]
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
    _result("taken", {"copies": found, "kept": [k.id for k in kept], "seen": look()})


def _commit(client: Client, context: Context) -> dict[str, Any]:
    """Commit a set of both shares, and expose nothing."""
    made = CopySet(client, context)
    made.prepare(*SYSTEMS)
    made.commit()
    copies = {system: str(copy_id) for system, copy_id in made.copies.items()}
    learned = set(copies.values())
    wait_until(
        "the committed set is learned and open",
        lambda: (
            learned
            == {
                copy.copy_id
                for copy in ledger()
                if copy.set_id == str(made.id) and copy.phase is Phase.OPEN
            }
        ),
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
    """Look after a reboot, at once and when everything has settled; then take a fresh set.

    In the end the ledger is lost, and backups are looked for once more.
    """
    first = look()
    sealing, problems = settled()
    fresh = []
    with connect() as client:
        for system in SYSTEMS:
            taken = take(client, system, APP_ROLLBACK | Context.AUTO_RECOVERY)
            recover(taken)
            fresh.append(_told("fresh", taken))
            delete(client, taken)
    gone = {one["id"] for one in fresh}
    wait_until(
        "the fresh ones are deleted",
        lambda: gone.isdisjoint(copy.id for copy in ledger()),
        SETTLE_SECONDS,
        pause=0.2,
    )
    after = look()
    lose_ledger()
    _result(
        "found",
        {
            "first": first,
            "settled": sealing,
            "wrong": problems,
            "fresh": fresh,
            "after": after,
            "journal": output("journalctl", "-b", "-o", "short-monotonic", "-u", UNITS[0]),
            "without ledger": backups(),
        },
    )


def work(system: str, verb: str) -> None:
    """Look whether all is well, and then make and delete copies or backups until the power goes.

    Args:
        system: the file system to begin with.
        verb: what is to be done; everything that is done with shadow copies is done one after the
            other, whichever of it this is.
    """
    seen, problems = settled()
    say("seen", json.dumps({"seen": seen, "record": record.read(), "wrong": problems}))
    if problems:
        say(
            "journal",
            json.dumps(output("journalctl", "-b", "-o", "short-monotonic", "-u", UNITS[0])),
        )
        return
    there = {seen["mounts"][copy["path"]]["name"] for copy in seen["copies"]}
    old = {
        name: copy
        for name, copy in invariants.promised(record.read()).items()
        if copy["what"] in ("completing", "sealed", "keeping", "deleting") and name in there
    }
    kept = keeping.known(seen)
    order = (system, *(other for other in SYSTEMS if other != system))
    if verb in keeping.VERBS:
        say("ready")
        ways = islice(cycle(keeping.WAYS), len(record.read()), None)
        while True:
            for each in order:
                keeping.work(verb, each, kept, ways)
    for each in SYSTEMS:
        with doing("prepare", each), connect() as client:
            take(client, each, BACKUP | Context.AUTO_RECOVERY)  # for the next start to release
    say("ready")
    sets: list[list[Taken]] = []
    while True:
        for each in order:
            with connect() as client:
                with doing("create", each):
                    shares = [each, f"{each}-log"]
                    taken = take_set(client, shares, APP_ROLLBACK | Context.AUTO_RECOVERY)
                recover(*taken)
                for name in [name for name, copy in old.items() if copy["system"] == each]:
                    with doing("delete", each):
                        _delete_old(name, old.pop(name))
                for other in [other for other in sets if other[0].system == each]:
                    with doing("delete", each):
                        delete(client, *other)
                    sets.remove(other)
                sets.append(taken)


def _delete_old(name: str, copy: Mapping[str, Any]) -> None:
    """Delete a copy of an earlier start, which Samba does not know any more."""
    note("deleting", name)
    command("delete", copy["copy"])
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
