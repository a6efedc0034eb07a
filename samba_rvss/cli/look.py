"""What a command sees of an instance by itself, whether a daemon runs or not.

It looks as the daemon does before it reconciles, and asks a running one only for what no file
says. Nothing is changed, and nothing is started.
"""

from dataclasses import dataclass
from datetime import datetime

from samba_rvss import instance, wire
from samba_rvss.cli.common import ask, ledger_or_empty
from samba_rvss.errors import RvssError
from samba_rvss.ledger import now
from samba_rvss.model import Event, Inventory
from samba_rvss.mounts import Mounts
from samba_rvss.providers.all import providers
from samba_rvss.reconcile.decision import Plan
from samba_rvss.reconcile.observation import Observation, Sources, observe
from samba_rvss.reconcile.plan import plan
from samba_rvss.samba.conf import Config
from samba_rvss.samba.process import Here

_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen.

    Attributes:
        time: when.
        config: of the instance.
        presence: the daemon's word, None if it gave none.
        silence: why it gave none.
        seen: everything that a plan depends on.
        plan: what reconciling would do.
        change: the last reconciling that did something, or failed to.
    """

    time: datetime
    config: Config
    presence: wire.Presence | None
    silence: str
    seen: Observation
    plan: Plan
    change: Event | None


def look(config: Config) -> Look:
    """Look at everything.

    Raises:
        RvssError: STATE if the ledger cannot be read.
    """
    presence, busy, silence = _presence(config)
    known = providers(config.run_directory)

    def inventory() -> Inventory:
        found = [provider.inventory() for provider in known]
        return Inventory(
            file_systems=frozenset[str]().union(*(one.file_systems for one in found)),
            images=tuple(image for one in found for image in one.images),
        )

    with ledger_or_empty(config) as record:
        seen = observe(
            Sources(
                config=config,
                ledger=record,
                mounts=Mounts(config.run_directory),
                samba=Here(),
                inventory=inventory,
                quiet=lambda: presence.quiet if presence else None,
                busy=lambda: busy,
            )
        )
        change = record.last_event("reconciled")
    return Look(
        time=now(),
        config=config,
        presence=presence,
        silence=silence,
        seen=seen,
        plan=plan(seen),
        change=change,
    )


def _presence(config: Config) -> tuple[wire.Presence | None, frozenset[str], str]:
    """Ask the daemon what it knows; tell why it did not answer, if it did not."""
    if not instance.is_taken(config):
        return None, frozenset(), "the daemon does not run: start samba-rvss.service"
    parts: list[wire.Part] = []
    try:
        ask(config, wire.AdminRequest(verb="status"), parts.append, _SECONDS)
    except RvssError as exc:
        return None, frozenset(), f"{exc.message}: it may be starting, or hang"
    found = [part for part in parts if isinstance(part, wire.Presence)]
    busy = frozenset(copy for part in parts if isinstance(part, wire.Busy) for copy in part.copies)
    return (found[0] if found else None), busy, ""
