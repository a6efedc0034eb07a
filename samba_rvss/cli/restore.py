"""``samba-rvss backup restore``: what is in a backup, brought back.

The command reads and writes users' files itself; no daemon does. It asks the daemon for a backup of
what is there now, before it overwrites anything.
"""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from samba_rvss import output, wire
from samba_rvss.cli import importing
from samba_rvss.cli.common import BACKUP_ID, Verbs, ask, configuration, open_ledger
from samba_rvss.cli.look import instance_of
from samba_rvss.cli.manifest import shown, text
from samba_rvss.cli.reading import parts_of
from samba_rvss.copies import restore
from samba_rvss.copies.restore import Outcome, Wish
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import ShadowCopy
from samba_rvss.restore.plan import Overwrite, State
from samba_rvss.restore.selection import Selection
from samba_rvss.restore.tally import Tally, Told
from samba_rvss.samba import server
from samba_rvss.samba.conf import Config

_ENDING = (signal.SIGTERM, signal.SIGHUP)


def register(verbs: Verbs) -> None:
    """Add the verb to those of ``backup``."""
    verb = verbs.add_parser(
        "restore",
        help="bring back what is in a backup",
        description="Restore a share's directory, a directory or a file of a backup: beside where"
        " it was, under a new name, unless something else is said. What was restored is compared"
        " with the backup; the exit status is 31 if anything of it is different.",
    )
    verb.add_argument(
        "what", metavar="ID[:PATH]", help=f"{BACKUP_ID}; and what of it, from the share's directory"
    )
    verb.add_argument("--share", default="", help="which share, of a backup of several")
    verb.add_argument(
        "--machine",
        metavar="GUID",
        default="",
        help="a virtual machine's files, in place of a PATH, as far as names tell; and tell what"
        " to do on the host",
    )
    verb.add_argument(
        "--target", metavar="DIR", default="", help="put it into this directory, under its own name"
    )
    verb.add_argument(
        "--overwrite",
        choices=[each.value for each in Overwrite],
        help="put it where it was: never over what is there, over what is different, or over"
        " everything; what the backup does not have stays",
    )
    pattern = "what matches PATTERN, and what is in such a directory; may be repeated"
    verb.add_argument(
        "--include", metavar="PATTERN", action="append", default=[], help=f"only {pattern}"
    )
    verb.add_argument(
        "--exclude", metavar="PATTERN", action="append", default=[], help=f"not {pattern}"
    )
    verb.add_argument(
        "--force", action="store_true", help="even if a VFS module keeps a part of it elsewhere"
    )
    verb.add_argument("-n", "--dry-run", action="store_true", help="only tell what would be done")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run)


def run(arguments: argparse.Namespace) -> int:
    """Restore something; return 0, or what is wrong with what was restored."""
    if arguments.target and arguments.overwrite:
        raise RvssError(
            Problem.USAGE,
            "--overwrite is for the place where it was, and --target for another",
            "use one of them",
        )
    if arguments.machine and (":" in arguments.what or arguments.include or arguments.exclude):
        raise RvssError(
            Problem.USAGE, "--machine says which files are meant", "leave out PATH and patterns"
        )
    if arguments.what.startswith(":"):
        raise RvssError(
            Problem.USAGE, f"there is no ID in {arguments.what}", "see 'samba-rvss backup list'"
        )
    config = configuration(arguments)
    under_way = _UnderWay()
    try:
        wish, found = _restored(config, arguments, under_way)
    except RvssError as exc:
        if arguments.json:
            output.print_json(as_failure(under_way, exc.line()))
        raise
    except KeyboardInterrupt:
        if under_way.guard:
            output.print_error(f"what was there before is the backup {under_way.guard}")
        if arguments.json:
            output.print_json(as_failure(under_way, "interrupted"))
        raise
    tally = found.tally
    if not arguments.dry_run:
        _note(config, wish.part, found)
    told: list[str] = []
    try:
        told = _steps(config, wish, found)
    except RvssError as exc:  # what was restored is to be told in any case
        found.warnings = (*found.warnings, f"what to do on the host is not known: {exc.line()}")
    if arguments.json:
        output.print_json(as_data(wish, found, told))
    else:
        _tell(wish, found)
        for line in told:
            output.print_line(line)
    if tally.faults.count:
        return int(Problem.DAMAGED)
    return int(Problem.BUSY) if tally.states[State.IN_USE] and not arguments.dry_run else 0


@dataclass(slots=True)
class _UnderWay:
    """What is known of a restore that has not ended.

    Attributes:
        wish: what is to be restored; None until it is known which backup is meant.
        tally: how far it has come.
        guard: the id of the backup of what was there before; empty if there is none.
    """

    wish: Wish | None = None
    tally: Tally = field(default_factory=Tally)
    guard: str = ""


def _restored(
    config: Config, arguments: argparse.Namespace, under_way: _UnderWay
) -> tuple[Wish, Outcome]:
    """Restore what is meant; return what that was, and what came of it.

    Raises:
        RvssError: as `_part` and `copies.restore.restore`.
    """
    word, _, path = arguments.what.partition(":")
    tally = under_way.tally

    def guard() -> str:
        request = wire.AdminRequest(verb="guard", copy=part.id)
        under_way.guard = ask(config, request, quiet=True)
        return under_way.guard

    with open_ledger(config) as ledger, _interruptible():
        part = _part(ledger, word, arguments.share)
        wish = under_way.wish = Wish(
            part=part,
            path=os.fsencode(path.strip("/")),
            wanted=Selection(arguments.include, arguments.exclude),
            directory=arguments.target,
            overwrite=Overwrite(arguments.overwrite) if arguments.overwrite else None,
            dry_run=arguments.dry_run,
            force=arguments.force,
            machine=arguments.machine,
        )
        with output.progress(lambda: f"[{part.share}] {_progress(tally)}"):
            return wish, restore.restore(instance_of(config, ledger), wish, tally, guard)


def _part(ledger: Ledger, word: str, share: str) -> ShadowCopy:
    """Return the part of a backup that is meant.

    Raises:
        RvssError: NOT_FOUND if there is none, USAGE if there are several.
    """
    parts = parts_of(ledger, word)
    names = ", ".join(part.share for part in parts)
    found = [part for part in parts if not share or part.share.lower() == share.lower()]
    if not found:
        raise RvssError(Problem.NOT_FOUND, f"[{share}] is not in {word}", f"it has {names}")
    if len(found) > 1:
        raise RvssError(
            Problem.USAGE, f"{word} is a backup of several shares", f"name one of {names}: --share"
        )
    return found[0]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have what ends us interrupt us, so that we leave nothing behind."""
    before = [signal.signal(number, signal.default_int_handler) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)


def _progress(tally: Tally) -> str:
    done = sum(tally.states.values())
    compared = output.size(tally.progress.read)
    return f"{done} names, {output.size(tally.passed)} restored, {compared} compared"


def _note(config: Config, part: ShadowCopy, found: Outcome) -> None:
    """Have it recorded that something was restored; if that fails, it is told."""
    try:
        reason = f"{found.where or 'nothing'}: {_sum(found)}"
        ask(config, wire.AdminRequest(verb="restored", copy=part.id, reason=reason[:1000]))
    except RvssError as exc:
        output.print_error(f"it is not recorded that something was restored: {exc.line()}")


def _steps(config: Config, wish: Wish, found: Outcome) -> list[str]:
    """Return lines that tell what to do on the host with a virtual machine that was restored."""
    if found.machine is None or not found.where:
        return []
    share = next((s for s in config.shares if f"{found.where}/".startswith(f"{s.path}/")), None)
    if share is None:
        return [f"# {found.where} is in no share of ours: move it to where a host can read it."]
    name = server.look(config.file).netbios_name
    configuration = next(
        (each for each in found.machine.configuration if each.endswith((b".vmcx", b".xml"))),
        found.machine.configuration[0],
    )
    where = found.where.removeprefix(share.path)
    below = os.fsdecode(configuration[len(found.path) :]).lstrip("/")
    home = os.fsdecode(found.machine.home)
    return importing.steps(
        importing.unc(name, share.name, f"{where}/{below}"),
        importing.unc(name, share.name, where),
        importing.unc(name, wish.part.share, home),
        in_place=wish.overwrite is not None,
    )


def _sum(found: Outcome) -> str:
    states = [f"{found.tally.states[state]} {state.value}" for state in State]
    told = ", ".join(line for line in states if not line.startswith("0 ")) or "nothing"
    faults = found.tally.faults.count
    return told + (f", {faults} faults" if faults else "")


def _tell(wish: Wish, found: Outcome) -> None:
    tally, share = found.tally, wish.part.share
    if found.machine is not None and found.machine.others:
        others = ", ".join(found.machine.others)
        output.print_line(f"Disks beside it may be those of {others}: names do not tell.")
    for warning in found.warnings:
        output.print_error(warning)
    for path in found.removed:
        output.print_error(f"{path} was left by a restore that was killed, and is removed")
    if wish.dry_run or wish.overwrite is not None:
        for name, state in tally.changes.names:
            output.print_line(f"{state} [{share}] {shown(name)}")
        _tell_more(tally.changes)
    for name, what in tally.notes.names:
        output.print_line(f"[{share}] {shown(name)}: {what}")
    _tell_more(tally.notes)
    for name, what in tally.faults.names:
        output.print_error(f"[{share}] {shown(name)}: {what}")
    if tally.faults.count > len(tally.faults.names):
        output.print_error(f"and {tally.faults.count - len(tally.faults.names)} more")
    if found.guard:
        output.print_line(f"What was there before is the backup {found.guard}.")
    if not found.where:
        output.print_line("Nothing of it is wanted.")
        return
    if wish.dry_run:
        where = f" as {found.where}" if wish.overwrite is None else ""
        output.print_line(f"It would be restored{where}: {_sum(found)}.")
        return
    with_what = "its manifest" if found.by_manifest else "the image"
    output.print_line(f"{found.where}: {_sum(found)}; compared with {with_what}.")
    if tally.shared:
        much = output.size(tally.shared_bytes)
        files = _files(tally.shared, "shares its", "share their")
        output.print_line(f"{files} data with the backup: {much}.")
    if tally.copied:
        much = output.size(tally.copied_bytes)
        output.print_line(f"{_files(tally.copied, 'was', 'were')} copied: {much}.")


def _files(count: int, one: str, several: str) -> str:
    return f"{count} file{'s' * (count > 1)} {several if count > 1 else one}"


def _tell_more(told: Told) -> None:
    if told.count > len(told.names):
        output.print_line(f"and {told.count - len(told.names)} more")


def as_data(wish: Wish, found: Outcome, told: Sequence[str] = ()) -> dict[str, Any]:
    """Return what came of it as JSON has it.

    Args:
        wish: what was to be restored.
        found: what came of it.
        told: what to do on the host with a virtual machine.
    """
    tally, machine = found.tally, found.machine
    return {
        "failure": "",
        "id": wish.part.id,
        "share": wish.part.share,
        "path": text(found.path),
        "machine": machine and {"guid": machine.guid, "others": list(machine.others)},
        "steps": list(told),
        "where": found.where,
        "dry_run": wish.dry_run,
        "guard": found.guard,
        "states": {state.value.replace(" ", "_"): tally.states[state] for state in State},
        "changes": [{"path": text(n), "state": state} for n, state in tally.changes.names],
        "changed": tally.changes.count,
        "shared": {"files": tally.shared, "bytes": tally.shared_bytes},
        "copied": {"files": tally.copied, "bytes": tally.copied_bytes},
        "compared": "" if wish.dry_run else "manifest" if found.by_manifest else "image",
        "faults": [{"path": text(n), "what": what} for n, what in tally.faults.names],
        "faulty": tally.faults.count,
        "notes": [{"path": text(n), "what": what} for n, what in tally.notes.names],
        "warnings": list(found.warnings),
        "removed": list(found.removed),
    }


def as_failure(under_way: _UnderWay, failure: str) -> dict[str, Any]:
    """Return what came of a restore that failed as JSON has it: what was not reached is empty.

    Args:
        under_way: how far it has come.
        failure: why it failed.
    """
    wish = under_way.wish
    if wish is None:
        return {"failure": failure}
    found = Outcome(tally=under_way.tally, guard=under_way.guard, path=wish.path)
    return {**as_data(wish, found), "failure": failure, "compared": ""}
