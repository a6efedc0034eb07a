"""Shadow copies in rows, as people see them: for `list` once, for `watch` again and again.

Contract: the ledger is read, and Samba asked who is connected; no file system is looked at.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from samba_rvss import output
from samba_rvss.cli.waiting import waits_for
from samba_rvss.clock import moment, now
from samba_rvss.errors import RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba import control
from samba_rvss.samba.conf import Config
from samba_rvss.samba.parser import exposed_copy

STYLES = {
    Phase.CREATING.value: "cyan",
    Phase.TAKEN.value: "cyan",
    Phase.OPEN.value: "yellow",
    Phase.SEALING.value: "bold yellow",
    Phase.SEALED.value: "green",
    Phase.KEPT.value: "green",
    Phase.DELETING.value: "magenta",
    Phase.GONE.value: "dim",
    "writable copy": "yellow",
    "backup": "green",
}
"""How phases are shown."""

_TOLD = 100  # characters of a reason


class Clients:
    """Who is connected to shares, as far as Samba tells.

    Args:
        config: the instance's.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.file
        self._asked = False
        self._found: Mapping[str, tuple[str, ...]] | None = None

    def _all(self) -> Mapping[str, tuple[str, ...]] | None:
        if not self._asked:
            self._asked = True
            with suppress(RvssError):
                self._found = control.clients(self._file)
        return self._found

    def of(self, share: str) -> str:
        """Return who is connected to an exposed share, in words."""
        if not share:
            return "-"
        found, meant = self._all(), exposed_copy(share)
        if found is None:
            return "not known"
        machines = {
            machine
            for known, connected in found.items()
            if exposed_copy(known) == meant
            for machine in connected
        }
        return ", ".join(sorted(machines)) or "nobody"

    def to(self, shares: Iterable[str]) -> str:
        """Return how many machines are connected to how many of some exposed shares, in words."""
        wanted = {exposed_copy(share) for share in shares if share}
        found = self._all() if wanted else {}
        if found is None:
            return "not known"
        used = {
            share: machines for share, machines in found.items() if exposed_copy(share) in wanted
        }
        if not used:
            return "nobody"
        machines = len({machine for each in used.values() for machine in each})
        return f"{machines} client{'s' * (machines > 1)} to {len(used)} of them"


def age(taken: datetime) -> str:
    """Return for how long there has been something, in words."""
    return output.span(now() - taken)


def waiting(config: Config, ledger: Ledger, copies: Iterable[ShadowCopy]) -> dict[str, str]:
    """Return what each shadow copy waits for, by its id; empty where it waits for nothing.

    Raises:
        RvssError: STATE.
    """
    present, found = moment(), {}
    for copy in copies:
        said = ""
        if copy.phase in (Phase.SEALING, Phase.DELETING) or copy.ended:
            said = "".join(event.detail for event in ledger.events(copy.id, 1))[:_TOLD]
        seconds = (now() - copy.created).total_seconds()
        found[copy.id] = waits_for(copy, config, present, seconds, said)
    return found
