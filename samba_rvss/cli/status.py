"""``samba-rvss status``: healthy or not, in one screen; the daemon need not run."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from samba_rvss import output
from samba_rvss.cli import exposing
from samba_rvss.cli.common import Verbs, configuration
from samba_rvss.cli.looks import limited
from samba_rvss.cli.rows import Clients
from samba_rvss.cli.shares import examine
from samba_rvss.cli.waiting import waits_for
from samba_rvss.errors import RvssError
from samba_rvss.model import NOTHING, Phase
from samba_rvss.samba import control

if TYPE_CHECKING:
    from enum import Enum

    from samba_rvss.cli.look import Look
    from samba_rvss.cli.standing import Standing
    from samba_rvss.copies.backup import OfDefinition, OfShare
    from samba_rvss.model import Image, ShadowCopy
    from samba_rvss.samba.conf import Config

UNHEALTHY = 1
_AT_ONCE = 8  # administrators and agents that ask
_SHOWN = 8
_WIDTH = 300


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "status",
        help="tell whether all is well",
        description="Tell whether all is well, in one screen: shares, shadow copies, Samba's view"
        " of them beside ours, and what reconciling has done and would do.",
        epilog="Exit status: 0 all is well, 1 something is wrong.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the status; return 0 or UNHEALTHY."""
    with output.progress(output.LOOKING):
        config = configuration(arguments)
        with limited(config.run_directory, "status", _AT_ONCE, for_good=arguments.apart):
            found = judge(config)
    if arguments.json:
        output.print_json(as_data(*found))
    else:
        show(*found)
    return 0 if found[1].healthy else UNHEALTHY


def judge(config: "Config") -> "tuple[Look, Standing, int, dict[str, str], list[str]]":
    """Look at an instance, and judge it; return what `as_data` and `show` take.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    from samba_rvss.cli.look import look
    from samba_rvss.cli.standing import standing

    rows = [row for row in examine(config) if row["ours"]]
    reasons = {str(row["share"]): str(row["reason"]) for row in rows if not row["supported"]}
    inherits = {str(row["share"]) for row in rows if row["inherits"]}
    unsupported = {share: reason for share, reason in reasons.items() if share not in inherits}
    # What all shares have from [global] is not meant for each of them.
    inheriting = sorted(reasons.keys() & inherits)
    short = {
        str(row["share"]): str(row["warning"])
        for row in rows
        if row["warning"] and not row["inherits"]
    }
    unsupported |= {
        unfit.name: unfit.reason for unfit in config.sections if unfit.unfit and not unfit.inherits
    }
    seen = look(config)
    return seen, standing(seen, {**unsupported, **short}), len(rows), unsupported, inheriting


def as_data(
    seen: "Look",
    judged: "Standing",
    shares: int,
    unsupported: Mapping[str, str],
    inheriting: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the status as JSON has it.

    Args:
        seen: what was seen.
        judged: how the instance stands.
        shares: how many are ours.
        unsupported: those of them that can have no shadow copies, and why.
        inheriting: those that cannot either, and are not wrong: they only inherit the hook.
    """
    presence, oldest = seen.presence, judged.oldest
    return {
        "healthy": judged.healthy,
        "wrong": list(judged.wrong),
        "daemon": {
            "answers": presence is not None,
            "reason": seen.silence,
            "late": list(presence.late) if presence else [],
            "lacking": list(presence.lacking) if presence else [],
        },
        "shares": {"ours": shares, "unsupported": dict(unsupported), "inheriting": [*inheriting]},
        "copies": {
            "total": sum(judged.phases.values()),
            "by_phase": {phase.value: count for phase, count in judged.phases.items()},
            "oldest": oldest and {"id": oldest.id, "created": oldest.created.isoformat()},
            "unsealed_past_recovery": [
                {"id": copy, "seconds": round(seconds, 3)}
                for copy, seconds in judged.unsealed.items()
            ],
        },
        "backups": {
            "total": len(seen.backups),
            "shares": [
                {
                    "share": of.share,
                    "count": of.count,
                    "newest": of.newest and of.newest.isoformat(),
                    "warn_age": of.warn_age and of.warn_age.total_seconds(),
                    "stale": of.is_stale(seen.time),
                    "here_only": of.here_only,
                }
                for of in judged.backups
            ],
            "definitions": [
                {
                    "name": of.name,
                    "server": of.server,
                    "count": of.count,
                    "newest": of.newest and of.newest.isoformat(),
                    "warn_age": of.warn_age and of.warn_age.total_seconds(),
                    "stale": of.is_stale(seen.time),
                    "trouble": of.trouble,
                }
                for of in seen.definitions
            ],
        },
        "pruning": {
            "last": seen.pruned and seen.pruned.time.isoformat(),
            "in_use": [
                {"id": each.id, "since": each.since.isoformat(), "reason": each.reason}
                for each in seen.deferred
            ],
        },
        "exposed": [exposing.as_data(image) for image in _exposed(seen)],
        "not_ours": list(judged.foreign),
        "samba": {
            "sets": _states(judged.sets),
            "copies": _states(judged.samba_copies),
            "differences": list(judged.differences),
        }
        if judged.sets is not None and judged.samba_copies is not None
        else None,
        "reconcile": {
            "last": presence.reconciled or None if presence else None,
            "done": list(presence.done) if presence else [],
            "failed": list(presence.failed) if presence else [],
            "last_change": seen.change
            and {"time": seen.change.time.isoformat(), "detail": seen.change.detail},
            "to_do": len(seen.plan.actions),
            "left_alone": len(seen.plan.left_alone),
        },
    }


def show(
    seen: "Look",
    judged: "Standing",
    shares: int,
    unsupported: Mapping[str, str],
    inheriting: Sequence[str] = (),
) -> None:
    """Print the status for people; the arguments are those of `as_data`."""
    if judged.healthy:
        output.print_line("healthy", "bold green")
    else:
        output.print_line(f"NOT HEALTHY: {len(judged.wrong)} wrong", "bold red")
    _some(judged.wrong)
    output.print_line()
    oldest = judged.oldest
    taken = "none"
    if oldest:
        old = output.span(seen.time - oldest.created)
        taken = f"{oldest.id}, taken {output.local_time(oldest.created)}, {old} ago"
    clients = Clients(seen.config)
    facts = {
        "daemon": "answers" if seen.presence else seen.silence,
        "shares": f"{shares} ours"
        + (f", {len(unsupported)} unsupported" if unsupported else "")
        + (
            f", {len(inheriting)} without copies as they only inherit the hook"
            if inheriting
            else ""
        ),
        "copies": _counted(judged.phases),
        "oldest": taken,
        "smbd": _smbd(seen.config),
        "connected": clients.to([copy.exposed_share for copy in seen.seen.copies]),
        "backups": str(len(seen.backups)),
        "unsealed past recovery": str(len(judged.unsealed)),
        "images not ours": str(len(judged.foreign)),
        "samba's sets": _counted(judged.sets),
        "samba's copies": _counted(judged.samba_copies),
        "last reconcile": _last(seen),
        "last change": _change(seen),
        "last pruning": _pruning(seen),
        "to do now": str(len(seen.plan.actions)),
    }
    output.print_facts(facts)
    working = [_working(copy, seen, clients) for copy in seen.seen.copies if not _is_done(copy)]
    if working:
        output.print_line()
        output.print_line(f"not sealed: {len(working)}")
        _some(working)
    kept = [_kept(of, seen.time) for of in judged.backups]
    kept += [_managed(of, seen.time) for of in seen.definitions]
    if kept:
        output.print_line()
        _some(kept)
    shown = [f"{image.id}: {exposing.line(image)}" for image in _exposed(seen)]
    if shown:
        output.print_line()
        output.print_line(f"exposed backups, and writable copies of them: {len(shown)}")
        _some(shown)
    if judged.differences:
        output.print_line()
        output.print_line(f"differing between Samba's view and ours: {len(judged.differences)}")
        _some(judged.differences)
    elif judged.sets is not None:
        output.print_line()
        output.print_line("Samba's view and ours are the same.")
    if judged.foreign:
        output.print_line()
        output.print_line(
            f"not ours, and left alone: {len(judged.foreign)}, see 'samba-rvss list --all'"
        )
        _some(judged.foreign)
    if seen.plan.actions:
        output.print_line()
        output.print_line(f"{len(seen.plan.actions)} to do, see 'samba-rvss reconcile --dry-run':")
        _some([action.describe() for action in seen.plan.actions])


def _smbd(config: "Config") -> str:
    """Return whether smbd runs, which is not ours to judge, in words."""
    try:
        found = control.pids_of(control.SERVER, config.samba_lock_directory)
    except RvssError as exc:
        return exc.line()
    return "runs" if found else "does not run"


def _is_done(copy: "ShadowCopy") -> bool:
    return copy.phase is Phase.SEALED


def _working(copy: "ShadowCopy", seen: "Look", clients: Clients) -> str:
    """Return in a line how far a copy has come, who is connected, and what it waits for."""
    age = seen.time - copy.created
    waits = waits_for(copy, seen.config, seen.seen.present, age.total_seconds(), "")
    who = clients.of(copy.exposed_share)
    return (
        f"{copy.id} [{copy.share}] {copy.phase.value}, {output.span(age)} old,"
        f" connected: {who}, waits for {waits}"
    )


def _kept(of: "OfShare", present: datetime) -> str:
    newest = f"the newest {output.span(present - of.newest)} old" if of.newest else "none yet"
    here = f", {of.here_only} on this file system only" if of.here_only else ""
    return f"[{of.share}] backups: {of.count}, {newest}{here}"


def _managed(of: "OfDefinition", present: datetime) -> str:
    newest = f"the newest {output.span(present - of.newest)} old" if of.newest else "none yet"
    if of.server:
        return f"backup {of.name} of {of.server}: {newest}"
    return f"backup {of.name}: {of.count}, {newest}"


def _exposed(look: "Look") -> "list[Image]":
    return exposing.of((look.seen.inventory or NOTHING).images)


def _some(lines: Sequence[str]) -> None:
    """Print the first lines, and how many there are besides."""
    for line in lines[:_SHOWN]:
        output.print_line(f"  {line}")
    if len(lines) > _SHOWN:
        output.print_line(f"  and {len(lines) - _SHOWN} more")


def _states(counts: Mapping[Any, int]) -> dict[str, int]:
    return {state.name.lower(): count for state, count in sorted(counts.items())}


def _counted(counts: Mapping[Any, int] | None) -> str:
    """Return a total and its parts, in the order of the enumeration."""
    if counts is None:
        return "cannot be seen"
    total = sum(counts.values())
    if not total:
        return "0"
    kind: type[Enum] = type(next(iter(counts)))
    parts = [f"{counts[part]} {part.name.lower()}" for part in kind if counts.get(part)]
    return f"{total}: {', '.join(parts)}"


def _last(seen: "Look") -> str:
    presence = seen.presence
    if presence is None:
        return "not known while the daemon does not answer"
    if not presence.reconciled:
        return "none yet"
    when = output.local_time(datetime.fromisoformat(presence.reconciled))
    done = [*presence.done, *(f"FAILED {line}" for line in presence.failed)]
    return f"{when}: {'; '.join(done) or 'nothing to do'}"[:_WIDTH]


def _change(seen: "Look") -> str:
    change = seen.change
    return f"{output.local_time(change.time)}: {change.detail}"[:_WIDTH] if change else "none"


def _pruning(seen: "Look") -> str:
    if seen.pruned is None:
        return "none yet"
    count, ids = len(seen.deferred), ", ".join(each.id for each in seen.deferred)
    later = f"; {count} in use, to go the next time: {ids}" if count else ""
    return f"{output.local_time(seen.pruned.time)}{later}"[:_WIDTH]
