"""Who is connected to which share: as Samba's own databases tell it.

Contract: it looks, and changes nothing; smbstatus(1) is asked, for a bounded time.
Source: source3/utils/status.c and status_json.c, traverse_connections_json() (since Samba 4.17).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run

_SECONDS = 2.0  # a client may wait for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection to a share.

    Attributes:
        machine: where it comes from: an address, or what the client calls itself.
        since: when it was made.
    """

    machine: str
    since: datetime


def look(configfile: str) -> dict[str, Connection]:
    """Return the oldest connection to each share that has one, by its name in lower case.

    Raises:
        RvssError: SAMBA if smbstatus says what cannot be understood; else as `run`.
    """
    found: dict[str, Connection] = {}
    words = ["smbstatus", f"--configfile={configfile}", "--shares", "--json"]
    try:
        for each in json.loads(run(words, timeout=_SECONDS))["tcons"].values():
            since = datetime.fromisoformat(each["connected_at"]).astimezone(UTC)
            share = each["service"].lower()
            if share not in found or since < found[share].since:
                found[share] = Connection(machine=str(each["machine"]), since=since)
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as exc:
        raise RvssError(Problem.SAMBA, f"smbstatus says what is not understood: {exc}") from exc
    return found
