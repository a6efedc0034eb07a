"""``samba-rvss prune``: delete the backups that no rule keeps, after showing what becomes of all.

What is shown is what is done: the same plan. The daemon deletes, one backup after the other, and
refuses what has been held meanwhile. What is in use goes the next time: that is no failure.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from samba_rvss import output, wire
from samba_rvss.backups import plausibility, pruning
from samba_rvss.backups.policy import Policy
from samba_rvss.backups.pruning import Verdict
from samba_rvss.cli import grouping, kept
from samba_rvss.cli.common import Verbs, agreed, ask, configuration, ledger_or_empty
from samba_rvss.clock import now
from samba_rvss.copies import identity
from samba_rvss.copies.backup import Backup
from samba_rvss.copies.locate import find
from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.patience import COMMON
from samba_rvss.samba import definitions, twins
from samba_rvss.samba.conf import Config

_DETAIL = 1000  # characters of what failed: a request has a limit, in bytes


@dataclass(slots=True, kw_only=True)
class Left:
    """What was to go and is still there, by the ids of the backups, and why.

    Attributes:
        failures: what somebody has to see to.
        in_use: what is in use or held, and goes some other time.
        status: the exit status; 0 without a failure.
    """

    failures: dict[str, str] = field(default_factory=dict)
    in_use: dict[str, str] = field(default_factory=dict)
    status: int = 0


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "prune",
        help="delete the backups that no rule keeps",
        description="Show what becomes of each backup by its rules, and delete those that"
        " no rule keeps.",
    )
    verb.add_argument(
        "-n", "--dry-run", action="store_true", help="show it only; the daemon need not run"
    )
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument(
        "--trust-clock", action="store_true", help="prune even if the clock may be wrong"
    )
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Show the plan, ask, and carry it out; a failure is reported and stops nothing else."""
    config = configuration(arguments)
    with ledger_or_empty(config) as ledger, output.progress(output.LOOKING):
        found = kept.look(config, ledger)
        last = ledger.last_event(plausibility.PRUNED) or ledger.last_event()
        doubted = ledger.times(plausibility.UNPRUNED)
    defined = definitions.load(config)
    for line in grouping.unruled(found, defined):
        output.print_error(line)
    policies = {**_policies(config), **grouping.policies(defined, config, found)}
    present = now()
    known = [grouping.as_pruned(each, defined) for each in found]
    verdicts = pruning.plan(known, policies, now=present)
    doubt = plausibility.doubt(
        known,
        policies.values(),
        now=present,
        last=last.time if last else None,
        doubted=doubted,
    )
    backups = {each.id: each for each in found}
    going = [verdict for verdict in verdicts if verdict.removed]
    if not arguments.json:
        _show(verdicts, backups)
    if doubt and not arguments.trust_clock:
        refusal = RvssError(
            Problem.REFUSED, f"nothing is pruned: {doubt}", "if it is right, --trust-clock"
        )
        if not arguments.dry_run:
            ask(config, wire.AdminRequest(verb="unpruned", reason=doubt[:_DETAIL]))
            raise refusal
        output.print_error(refusal.line())
    left = Left()
    if not arguments.dry_run and (not going or _agreed(arguments, len(going))):
        left = _remove(config, going, backups, quiet=arguments.json)
    if arguments.json:
        told = [as_data(v, backups[v.backup.id], left) for v in verdicts]
        output.print_json({"backups": told})
    return left.status


def _agreed(arguments: argparse.Namespace, count: int) -> bool:
    """Return whether so many backups are to go.

    Raises:
        RvssError: USAGE if there is nobody to ask.
    """
    if arguments.yes:
        return True
    hint = "use --yes, or --dry-run"
    if arguments.json:
        raise RvssError(Problem.USAGE, "there is nobody to ask", hint)
    output.print_line()
    return agreed(f"Delete {count} backup{'s' * (count > 1)}?", hint)


def _remove(
    config: Config,
    going: list[Verdict],
    backups: Mapping[str, Backup],
    *,
    quiet: bool,
) -> Left:
    """Delete backups, the oldest first; return what is left of them."""
    left = Left()
    for number, verdict in enumerate(reversed(going), 1):
        name = verdict.backup.id
        for part in backups[name].parts:
            try:
                ask(config, wire.AdminRequest(verb="delete", copy=part.id))
            except RvssError as exc:
                _note(config, left, name, part.id, exc)
                break
        else:
            if not quiet:
                output.print_line(f"{number} of {len(going)}: {name} is deleted")
    reason = "; ".join(f"{name} is not deleted: {why}" for name, why in left.failures.items())
    ask(config, wire.AdminRequest(verb="pruned", reason=reason[:_DETAIL]))
    return left


def _note(config: Config, left: Left, name: str, part: str, exc: RvssError) -> None:
    """Note that a part of a backup was not deleted, and tell why."""
    why = exc.line()
    if exc.problem in (Problem.BUSY, Problem.HELD):
        left.in_use[name] = why
        output.print_error(f"{name} is not deleted yet: {why}")
        if exc.problem is Problem.BUSY:  # a hold, such as another program's on ZFS, is meant
            try:
                ask(config, wire.AdminRequest(verb="deferred", copy=part, reason=why[:_DETAIL]))
            except RvssError as unrecorded:  # by an older daemon: the rest goes anyway
                output.print_error(f"that {name} is in use is not recorded: {unrecorded.line()}")
        return
    left.failures[name] = why
    output.print_error(f"{name} is not deleted: {why}")
    left.status = left.status or int(exc.problem)


def _policies(config: Config) -> dict[str, Policy | None]:
    """Return the rules of each group; of one that two shares give different rules, none."""
    from samba_rvss.providers.all import providers

    known = providers(identity.read(config), config.homes)
    found: dict[str, Policy | None] = {}
    names: dict[str, str] = {}
    for path, alike in twins.grouped(config.shares).items():
        try:
            group = COMMON.look(path, partial(find, alike[0], known)).group
        except RvssError as exc:
            for share in alike:
                output.print_error(f"[{share.name}] nothing of it is pruned: {exc.line()}")
            continue
        for share in alike:
            if share.obstacle:  # its rules may be among what is wrong with it
                output.print_error(f"[{share.name}] nothing of it is pruned: {share.obstacle}")
                found[group] = None
            elif found.setdefault(group, share.retention) != share.retention:
                found[group] = None
                output.print_error(
                    f"[{names[group]}] and [{share.name}] are one directory and have different"
                    " rules: nothing of it is pruned"
                )
            names[group] = share.name
    return found


def _show(verdicts: tuple[Verdict, ...], backups: Mapping[str, Backup]) -> None:
    rows = [
        [
            verdict.backup.id,
            output.local_time(verdict.backup.taken),
            ", ".join(backups[verdict.backup.id].shares),
            "goes" if verdict.removed else "stays",
            output.size(verdict.backup.size),
            "; ".join(verdict.sentences),
        ]
        for verdict in verdicts
    ]
    columns = ["ID", "TAKEN", "SHARES", "", "SPACE", "BECAUSE"]
    styles = {"goes": "red", "stays": "green"}
    output.print_table(columns, rows, "There are no backups.", styles, brief=True)


def as_data(verdict: Verdict, found: Backup, left: Left) -> dict[str, Any]:
    """Return what becomes of a backup as JSON has it.

    Args:
        verdict: what becomes of it.
        found: the backup.
        left: what could not be deleted.
    """
    return {
        "id": verdict.backup.id,
        "taken": verdict.backup.taken.isoformat(),
        "shares": list(found.shares),
        "removed": verdict.removed,
        "size": verdict.backup.size,
        "reasons": [{"text": r.text, "group": r.group} for r in verdict.reasons],
        "notes": list(verdict.notes),
        "failure": left.failures.get(verdict.backup.id, ""),
        "in_use": left.in_use.get(verdict.backup.id, ""),
    }
