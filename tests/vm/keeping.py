"""What the `driver` does with backups: keeps, exposes, conceals and prunes them.

Place: in the machine, above `taking`. What each note promises is in `promises`: a value is None
from before something is begun until it is done.
"""

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samba_rvss.model import Context, Phase
from samba_rvss.samba.fsrvp.methods import APP_ROLLBACK, BACKUP
from samba_rvss.testing.smbclient import Session
from tests.vm import invariants, record, taking
from tests.vm.promises import HOLD, TAG
from tests.vm.record import doing, note
from tests.vm.survey import HOST, LOGON, command, digest, shares_again

VERBS = ("keep", "expose", "conceal", "prune")
WAYS = ("sealed", "unsealed", "not persistent")
"""What a copy is when `samba-rvss keep` comes: the client's delete follows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A backup: the name of the content that it shows, and its id."""

    name: str
    system: str
    id: str

    @property
    def promised(self) -> Mapping[str, Any]:
        """What the record says of it."""
        return invariants.promised(record.read())[self.name]

    def note(self, **values: object) -> None:
        """Write down what is promised of it."""
        note("kept", self.name, **values)


def known(seen: Mapping[str, Any]) -> list[Kept]:
    """Return the backups that there are; what was undecided of them is decided from now on."""
    found = []
    for backup in seen["backups"]:
        name, files = backup["mounted"]["name"], backup["mounted"]["files"]
        promised = invariants.promised(record.read())[name]
        kept = Kept(name=name, system=promised["system"], id=backup["id"])
        branches = [each for each in backup["exposed"] if each["writable"]]
        there = seen["written"][branches[0]["id"]]["files"] if branches else {}
        kept.note(
            backup=True,
            files=files,
            unsealed=None if promised.get("unsealed", False) is not False else False,
            held=HOLD in {hold["tag"] for hold in backup["holds"]},
            tagged=TAG in backup["tags"],
            shown=len(branches) < len(backup["exposed"]),
            branch=bool(branches),
            open=any(each["share"] for each in branches),
            writing={},
            written={file: content for file, content in there.items() if file not in files},
        )
        found.append(kept)
    return found


def keep(system: str, way: str = WAYS[0]) -> Kept:
    """Take a shadow copy, have it become a backup, hold and tag it.

    Args:
        system: of which file system.
        way: one of WAYS.
    """
    context = BACKUP if way == WAYS[2] else APP_ROLLBACK
    with taking.connect() as client:
        with doing("create", system):
            taken = taking.take(client, system, context | Context.AUTO_RECOVERY)
        kept = Kept(name=taken.name, system=system, id=taking.copy_of(taken).id)
        if way == WAYS[1]:
            files = taking.write(taken)
            with doing("keep", system):
                command("keep", kept.id)
                note("keeping", kept.name, files=files, asked=False, unsealed=True)
                taken.made.complete()
                taken.made.delete()
                kept.note(backup=True)
                taking.wait_for(taken, Phase.KEPT)
                kept.note(unsealed=False)
                _hold(kept)
            return kept
        taking.recover(taken)
        with doing("keep", system):
            note("keeping", kept.name, asked=context is not BACKUP)
            command("keep", kept.id)
            note("keeping", kept.name, asked=True)
            taken.made.delete()
            kept.note(backup=True)
            _hold(kept)
        return kept


def _hold(kept: Kept) -> None:
    kept.note(held=None)
    command("hold", kept.id, "--tag", HOLD)
    kept.note(held=True, tagged=None)
    command("tag", kept.id, TAG)
    kept.note(tagged=True)


def expose(kept: Kept) -> None:
    """Make a backup a share, and a writable copy of it another one; write to that."""
    with doing("expose", kept.system):
        kept.note(shown=None)
        command("backup", "expose", kept.id)
        kept.note(shown=True, branch=kept.promised.get("branch") or None, open=None)
        told = command("backup", "expose", kept.id, "--writable")
        kept.note(branch=True, open=True)
        (share,) = re.findall(r"\[(.+)\]", told)
        file, content = f"written-{secrets.token_hex(4)}", secrets.token_bytes(50_000)
        new, written = {file: digest(content)}, kept.promised.get("written", {})
        kept.note(writing=new)
        with Session(HOST, share, LOGON) as session:
            session.write(file, content)
        _flush(Path(shares_again()[share], file))
        kept.note(written={**written, **new})


def _flush(file: Path) -> None:
    """Bring a file to the disk, as a client that asks for it does."""
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def conceal(kept: Kept) -> None:
    """Take the shares of a backup away, and delete what was written."""
    with doing("conceal", kept.system):
        kept.note(shown=None, open=None)
        command("backup", "conceal", kept.id, missing=True)
        kept.note(shown=False, open=False)
        if kept.promised.get("branch"):
            kept.note(branch=None)
            command("backup", "conceal", kept.id, "--delete", "--yes")
            kept.note(branch=False, writing={}, written={})


def prune(there: list[Kept], system: str) -> None:
    """Let go of all backups of a file system but the newest, and prune."""
    own = sorted((kept for kept in there if kept.system == system), key=lambda kept: kept.id)
    for kept in own[:-1]:
        if kept.promised.get("shown") or kept.promised.get("branch"):
            conceal(kept)
        if kept.promised.get("held"):
            kept.note(held=None)
            command("release", kept.id, "--tag", HOLD)
            kept.note(held=False)
    plan = json.loads(command("prune", "--dry-run", "--json", "--trust-clock"))["backups"]
    going = {verdict["id"] for verdict in plan if verdict["removed"]}
    gone = [kept for kept in there if kept.id in going]
    with doing("prune", system):
        for kept in gone:
            note("deleting", kept.name)
        command("prune", "--yes", "--trust-clock")
        for kept in gone:
            note("deleted", kept.name)
    for kept in gone:
        there.remove(kept)


def work(verb: str, system: str, there: list[Kept], ways: Iterator[str]) -> None:
    """Do a verb once on a file system, with what it needs to have been done before.

    Args:
        verb: one of VERBS.
        system: the file system.
        there: the backups that there are; it is kept up.
        ways: how the next ones are to be made, see WAYS.
    """

    def new() -> Kept:
        there.append(keep(system, next(ways)))
        return there[-1]

    own = [kept for kept in there if kept.system == system]
    bare = [kept for kept in own if not kept.promised.get("shown")]
    shown = [kept for kept in own if kept.promised.get("shown")]
    match verb:
        case "keep":
            new()
        case "expose":
            expose(bare[-1] if bare else new())
        case "conceal":
            if not shown:
                shown = [bare[-1] if bare else new()]
                expose(shown[0])
            conceal(shown[0])
        case "prune":
            for _ in range(len(own), 2):
                new()
            prune(there, system)
