"""What an rpcd_fsrvp has in memory, and nowhere else: the shadow copy sets that it has begun.

Every Samba process tells on request what it has allocated, by the names of the structures and the
texts of the strings (smbcontrol(1), pool-usage; source3/lib/tallocmsg.c). A worker has its sets
below one block of its own (source3/rpc_server/fss/srv_fss_agent.c, srv_fssa_start()). Strings there
are ids and what smb.conf says; what is elsewhere may be a client's, and is not looked at.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import run

SECONDS = 3.0
"""How long a worker may take, in seconds. One that waits for a callout does not answer."""

_AGENT = "    parent fss rpc server ctx "
_BLOCK = re.compile(r"(?P<indent>(?: {4})+)(?P<name>\S.*?) +contains +\d+ bytes in +\d+ blocks ")
# The id of a set that was read from srv_fss.tdb has the key's beginning before it, and the set is a
# level deeper (source3/rpc_server/fss/srv_fss_state.c, fss_state_retrieve()).
_ID = re.compile(r"(?:sc_set/)?(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_RENEWAL, _SET, _COPY, _MAPPING = (
    "struct GUID",
    "struct fss_sc_set",
    "struct fss_sc",
    "struct fss_sc_smap",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSet:
    """A shadow copy set in a worker's memory.

    Attributes:
        id: Samba's id of it.
        shares: those that were added to it.
    """

    id: str
    shares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a worker has in memory.

    Attributes:
        sets: all sets, also those that are in srv_fss.tdb.
        renewals: a number that changes whenever a client's call has renewed the time of its set,
            because Samba notes the set's id with each timer and does not free it before the timer
            fires (srv_fss_agent.c, fss_seq_tout_set()). Whoever is refused changes nothing.
    """

    sets: tuple[HeldSet, ...]
    renewals: int


def look(configfile: str, pid: int) -> Memory:
    """Return what a worker has in memory.

    Raises:
        RvssError: SAMBA if it does not tell.
    """
    try:
        said = run(
            ["smbcontrol", f"--configfile={configfile}", str(pid), "pool-usage"],
            timeout=SECONDS,
            preferred=False,  # somebody may wait for his Commit
        )
    except RvssError as exc:
        raise RvssError(Problem.SAMBA, f"rpcd_fsrvp {pid} does not answer", str(exc)) from exc
    return parse(said)


def parse(said: str) -> Memory:
    """Read a worker's answer.

    Raises:
        RvssError: SAMBA if it is not that of an rpcd_fsrvp.
    """
    lines = said.split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith(_AGENT)]
    if len(starts) != 1:
        raise RvssError(Problem.SAMBA, "rpcd_fsrvp does not tell which sets it has in memory")
    renewals, ids, shares = 0, list[str](), list[list[str]]()
    above: list[str] = []
    for depth, name in _below(lines[starts[0] + 1 :]):
        del above[depth - 2 :]
        match above:
            case [] if name == _RENEWAL:
                renewals += 1
            case [*_, parent] if parent == _SET and (found := _ID.fullmatch(name)):
                ids[-1] = found["id"]
            case [*_, first, second, third] if (first, second, third) == (_SET, _COPY, _MAPPING):
                # Beside the share stands the name that it is to be exposed by.
                if not name.endswith(("}", "}$")):
                    shares[-1].append(name)
        if name == _SET:
            ids.append("")
            shares.append([])
        above.append(name)
    if not all(ids):
        raise RvssError(Problem.SAMBA, "rpcd_fsrvp has a set without an id in memory")
    sets = tuple(
        HeldSet(id=key, shares=tuple(found)) for key, found in zip(ids, shares, strict=True)
    )
    return Memory(sets=sets, renewals=renewals)


def _below(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield depth, from 2, and name of each block below the first one."""
    for line in lines:
        match = _BLOCK.match(line)
        if match is None:
            return
        depth = len(match["indent"]) // 4
        if depth < 2:
            return
        yield depth, match["name"]
