"""What a command sees of an instance by itself, whether a daemon runs or not.

It observes and plans as the daemon does before it reconciles, and asks a running daemon only for
what no file says. Nothing is changed, and nothing is started.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from samba_rvss import output, wire
from samba_rvss.backups.plausibility import DEFERRED, PRUNED, UNPRUNED
from samba_rvss.cli.common import ask, ledger_or_empty
from samba_rvss.cli.deferred import Deferred, deferred
from samba_rvss.clock import now
from samba_rvss.copies import doubt, identity, manifests, runs
from samba_rvss.copies.backup import Backup, OfDefinition, in_ledger, of_definition
from samba_rvss.copies.instance import Instance
from samba_rvss.daemon import holding
from samba_rvss.daemon.news import NO_ROOM
from samba_rvss.errors import RvssError
from samba_rvss.ledger import Ledger, aside
from samba_rvss.model import NOTHING, Event
from samba_rvss.mounts import Mounts
from samba_rvss.providers.all import providers
from samba_rvss.reconcile.decision import Plan
from samba_rvss.reconcile.observation import Observation, Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba import definitions, notification, readable, serving
from samba_rvss.samba.conf import Config
from samba_rvss.samba.definitions import Definition
from samba_rvss.samba.process import Caller, Here

_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen.

    Attributes:
        time: when.
        config: the instance's.
        presence: what the daemon said, None if it did not answer.
        silence: why it did not answer.
        seen: everything that a plan depends on.
        plan: what reconciling would do.
        backups: those in the ledger.
        change: the last reconciling that did something, or failed to.
        pruned: the last pruning, or the last that was refused for the clock.
        deferred: the backups that it found in use.
        damaged: ledgers that could not be read and were set aside.
        samba: what keeps Samba from serving Remote VSS as it must.
        altered: a sentence on each part of a backup that was not as its manifest has it.
        holding: a sentence on each file system that only our mounts keep in use.
        roomless: the last event of those shares whose last shadow copy found no room.
        doubted: the last copy whose set may have had another client's context.
        unnotified: why the notify command is not run; empty if it is.
        definitions: of each managed backup, what there is of it.
        undefined: a sentence on each thing that is wrong with their definitions.
    """

    time: datetime
    config: Config
    presence: wire.Presence | None
    silence: str
    seen: Observation
    plan: Plan
    backups: tuple[Backup, ...]
    change: Event | None
    pruned: Event | None = None
    deferred: tuple[Deferred, ...] = ()
    damaged: tuple[str, ...] = ()
    samba: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    holding: tuple[str, ...] = ()
    roomless: tuple[Event, ...] = ()
    doubted: Event | None = None
    unnotified: str = ""
    definitions: tuple[OfDefinition, ...] = ()
    undefined: tuple[str, ...] = ()


def look(config: Config, samba: Caller | None = None) -> Look:
    """Look at everything.

    Args:
        config: the instance's.
        samba: where python-samba runs; None for this process.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    presence, busy, silence = _presence(config)
    with ledger_or_empty(config) as ledger:
        instance = instance_of(config, ledger, samba)
        seen = observe(
            Sources(
                instance=instance,
                quiet=lambda: presence.quiet if presence else None,
                busy=lambda: busy,
            )
        )
        backups = in_ledger(ledger, (seen.inventory or NOTHING).images)
        change = ledger.last_event("reconciled")
        doubted = ledger.last_event(doubt.IN_DOUBT)
        last = ledger.last_of_shares("taken", NO_ROOM)
        prunings = [ledger.last_event(what) for what in (PRUNED, UNPRUNED)]
        in_use = deferred(ledger.events_of(DEFERRED, PRUNED))
        there = {part.id for backup in backups for part in backup.parts}
    defined = definitions.load(config)
    return Look(
        time=now(),
        config=config,
        presence=presence,
        silence=silence,
        seen=seen,
        plan=plan(seen),
        backups=tuple(backups),
        change=change,
        pruned=max(filter(None, prunings), key=lambda event: event.time, default=None),
        deferred=tuple(each for each in in_use if each.id in there),
        damaged=tuple(aside(config.ledger)),
        samba=tuple(filter(None, [*serving.obstacles(config), readable.nobody(config.file)])),
        roomless=tuple(event for event in last.values() if event.what == NO_ROOM),
        doubted=doubted,
        unnotified=notification.obstacle(config.notify_command),
        altered=tuple(_altered(config, backups)),
        holding=instance.mounts.holding(),
        definitions=tuple(_of_definition(config, each, backups) for each in defined.good),
        undefined=defined.problems,
    )


def _of_definition(
    config: Config, definition: Definition, backups: Iterable[Backup]
) -> OfDefinition:
    name, damage = definition.name, ""
    try:
        trace = None if runs.is_running(config, name) else runs.read(config, name)
    except RvssError as exc:
        trace, damage = None, exc.line()
    found = of_definition(definition, backups, trace, now())
    return replace(found, trouble=damage) if damage else found


def _altered(config: Config, backups: Iterable[Backup]) -> Iterator[str]:
    for part in (part for backup in backups for part in backup.parts):
        found = manifests.verification(config, part.id)
        if found is not None and found.damaged:
            when = output.local_time(found.time)
            yield (
                f"{part.id} of [{part.share}] was damaged at {when}: {found.damaged} names are not"
                f" as its manifest has them, which 'samba-rvss backup verify {part.id}' tells"
            )


def instance_of(config: Config, ledger: Ledger, samba: Caller | None = None) -> Instance:
    """Return an instance for looking at it; the arguments are those of `look`.

    Raises:
        RvssError: STATE if its identity is damaged.
    """
    ours = identity.read(config)
    return Instance(
        config=config,
        ledger=ledger,
        mounts=Mounts(config.run_directory),
        providers=providers(ours, config.homes),
        samba=samba or Here(),
        identity=ours,
    )


def _presence(config: Config) -> tuple[wire.Presence | None, frozenset[str], str]:
    """Ask the daemon; return what it said, the copies that it seals, and why it did not answer."""
    if not holding.is_taken(config):
        return None, frozenset(), "the daemon does not run: start samba-rvss.service"
    parts: list[wire.Part] = []
    try:
        ask(config, wire.AdminRequest(verb="status"), parts.append, _SECONDS, quiet=True)
    except RvssError as exc:
        return None, frozenset(), f"{exc.message}: it may be starting, or hang"
    found = [part for part in parts if isinstance(part, wire.Presence)]
    busy = frozenset(copy for part in parts if isinstance(part, wire.Busy) for copy in part.copies)
    return (found[0] if found else None), busy, ""
