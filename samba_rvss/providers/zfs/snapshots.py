"""The snapshots of images: those of all in one transaction group, each image's with its own mark.

``zfs snapshot`` gives all that it makes the same properties, so a channel program does it
(zfs-program(8)). The kernel runs that in one transaction group, checks every change before it makes
it, and undoes nothing.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs.command import Command, problem
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK

_logger = logging.getLogger(__name__)

_MEMORY = 64 << 20  # bytes, for the marks and names; it may be up to 100 MiB (ZCP_MAX_MEMLIMIT)

# Its arguments: the name of the mark's property; then for each image its number of snapshots, its
# mark, and their names. It returns, for each image in turn, a number of errno(3).
_PROGRAM = """
local words = (...)["argv"]
local found = {}
local at = 2
while at <= #words do
    local last = at + 1 + tonumber(words[at])
    local failure = 0
    for number = at + 2, last do
        if failure == 0 then
            failure = zfs.check.snapshot(words[number])
        end
    end
    for number = at + 2, last do
        if failure == 0 then
            failure = zfs.sync.snapshot(words[number])
        end
        if failure == 0 then
            failure = zfs.sync.set_prop(words[number], words[1], words[at + 1])
        end
    end
    found[#found + 1] = failure
    at = last + 1
end
return found
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """The snapshots of one image.

    Attributes:
        names: theirs.
        mark: what they bear.
    """

    names: Sequence[str]
    mark: str


def take(zfs: Command, pool: Pool, wanted: Mapping[str, Marked]) -> dict[str, RvssError]:
    """Take the snapshots of images, those of each image at one instant, and of all if possible.

    Args:
        zfs: zfs(8).
        pool: the datasets'.
        wanted: what, by the images' ids.

    Returns:
        By the ids, why the snapshots of an image, or some of them, were not made.
    """
    if len(wanted) > 1:
        try:
            return _by_program(zfs, pool, wanted)
        except RvssError as exc:
            if exc.problem in (Problem.TOOL, Problem.MISSING):  # it may be at work yet
                return dict.fromkeys(wanted, exc)
            _logger.warning("snapshots are not taken at one instant: %s", exc)
    failures: dict[str, RvssError] = {}

    def alone(image: str, marked: Marked) -> None:
        try:
            zfs("snapshot", "-o", f"{MARK}={marked.mark}", *marked.names)
        except RvssError as exc:
            failures[image] = exc

    side_by_side([partial(alone, *item) for item in wanted.items()])
    return failures


def _by_program(zfs: Command, pool: Pool, wanted: Mapping[str, Marked]) -> dict[str, RvssError]:
    """Take all snapshots in one transaction group, as `take`.

    Raises:
        RvssError: as a `Command` does; nothing has been made, unless it is TOOL.
    """
    arguments = [MARK]
    for marked in wanted.values():
        arguments += [str(len(marked.names)), marked.mark, *marked.names]
    words = ("program", "-j", "-m", str(_MEMORY), pool.name, "-", *arguments)
    told = json.loads(zfs.fed(_PROGRAM, *words))["return"]
    failures = {}
    for image, (place, marked) in zip(wanted, enumerate(wanted.values(), 1), strict=True):
        code = int(told[str(place)])
        if code:
            failures[image] = _failure(marked.names[0], code)
    return failures


def _failure(snapshot: str, code: int) -> RvssError:
    said = "dataset does not exist" if code == errno.ENOENT else os.strerror(code)
    return problem(f"cannot create snapshot '{snapshot}': {said}")
