"""How long rpcd_fsrvp waits for a client: its own clocks, as smb.conf sets them.

Samba reads the numbers by strtol(3) (lib/param/loadparm.c, lp_int()).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

IDLE = "rpcd_fsrvp:idle_seconds"
SHORT_IDLE = 10
"""What is recommended for `IDLE`: a client between two calls reconnects sooner."""

SEQUENCE = "fss:sequence timeout"
_NUMBER = re.compile(r"\s*([+-]?(?:0x[0-9a-f]+|\d+))", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Times in seconds; infinity where a clock does not run.

    Attributes:
        short: what a client has after SetContext, StartShadowCopySet, and a Commit or Expose
            (source3/rpc_server/fss/srv_fss_agent.c, fss_seq_tout_set()).
        long: what it has after AddToShadowCopySet, PrepareShadowCopySet and GetShareMapping.
        idle: for how long a worker without a connection lives on
            (source3/rpc_server/rpc_worker_internal.c).
    """

    short: float = 180.0
    long: float = 1800.0
    idle: float = 60.0


def clocks(globals_: Mapping[str, str]) -> Clocks:
    """Return the clocks that [global] sets."""
    sequence = number(globals_.get(SEQUENCE))
    idle = number(globals_.get(IDLE))
    usual = Clocks()
    return Clocks(
        short=usual.short if sequence is None else sequence or math.inf,
        long=usual.long if sequence is None else sequence or math.inf,
        idle=usual.idle if idle is None else idle,
    )


def number(text: str | None) -> float | None:
    """Return a number, of seconds for example; None if the option is not set.

    What is no number is 0 to Samba, and what is negative never comes to an end.
    """
    if not text:
        return None
    match = _NUMBER.match(text)
    if match is None:
        return 0.0
    digits = match[1].lower()
    octal = digits.lstrip("+-")
    base = 16 if "0x" in octal else 8 if octal.startswith("0") and len(octal) > 1 else 10
    try:
        found = int(digits, base)
    except ValueError:  # a 9 in an octal number
        return 0.0
    return float(found) if found >= 0 else math.inf
