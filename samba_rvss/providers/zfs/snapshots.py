"""The snapshots of images: those of all in one transaction group, each image's with its own mark.

``zfs snapshot`` gives all that it makes the same properties, so a channel program does it
(zfs-program(8)). The kernel runs that in one transaction group, checks every change before it makes
it, and undoes nothing.
"""

import errno
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.beside import side_by_side
from samba_rvss.providers.zfs.command import Command, problem
from samba_rvss.providers.zfs.pools import Pool
from samba_rvss.providers.zfs.properties import MARK
from samba_rvss.run import NotStarted

_logger = logging.getLogger(__name__)

# What is said of a program that was not run, by zfs_do_channel_program() and by ours itself.
_REFUSED = re.compile(
    "samba-rvss: not run|Permission denied|Invalid instruction or memory limit|syntax error"
    "|unrecognized command"
)
_MEMORY = 64 << 20  # bytes, for the marks and names; it may be up to 100 MiB (ZCP_MAX_MEMLIMIT)

# Its arguments: the name of the mark's property; then for each image its number of snapshots, its
# mark, and their names. It returns, for each image in turn, a number of errno(3).
_PROGRAM = """
if zfs.sync.set_prop == nil then
    error("samba-rvss: not run")
end
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
class Snapshots:
    """The snapshots of one image.

    Attributes:
        names: theirs.
        mark: what they bear.
    """

    names: Sequence[str]
    mark: str


def take(zfs: Command, pool: Pool, wanted: Mapping[str, Snapshots]) -> dict[str, RvssError]:
    """Take the snapshots of images, those of each image at one instant, and of all if possible.

    Args:
        zfs: zfs(8).
        pool: the datasets'.
        wanted: what, by the images' ids.

    Returns:
        By the ids, why the snapshots of an image, or some of them, were not made.
    """
    failures: dict[str, RvssError] = {}
    alone = dict(wanted)
    if len(wanted) > 1:
        try:
            codes = _by_program(zfs, pool, wanted)
        except _NotRun as exc:
            _logger.warning("snapshots are not taken at one instant: %s", exc)
        except RvssError as exc:  # some may have been made
            return dict.fromkeys(wanted, exc)
        else:
            # Another snapshot of its dataset is of the same group: that of another share in it, or
            # somebody else's. zfs(8) waits for the next one, and a program does not.
            alone = {image: wanted[image] for image, code in codes.items() if code == errno.EAGAIN}
            failures = {
                image: _failure(wanted[image].names[0], code)
                for image, code in codes.items()
                if code not in (0, errno.EAGAIN)
            }

    def take_alone(image: str) -> None:
        try:
            zfs("snapshot", "-o", f"{MARK}={wanted[image].mark}", *wanted[image].names)
        except RvssError as exc:
            failures[image] = exc

    side_by_side([partial(take_alone, image) for image in alone])
    return failures


class _NotRun(RvssError):
    """A channel program that has not been run, and so has done nothing."""


def _by_program(zfs: Command, pool: Pool, wanted: Mapping[str, Snapshots]) -> dict[str, int]:
    """Take all snapshots in one transaction group; return a number of errno(3) for each image.

    Of one that has EAGAIN nothing has been made.

    Raises:
        _NotRun: it was not run.
        RvssError: as a `Command` does; some snapshots may have been made.
    """
    arguments = [MARK]
    for marked in wanted.values():
        arguments += [str(len(marked.names)), marked.mark, *marked.names]
    words = ("program", "-j", "-m", str(_MEMORY), pool.name, "-", *arguments)
    try:
        told = json.loads(zfs.fed(_PROGRAM, *words))["return"]
    except NotStarted as exc:  # its arguments are too long, perhaps
        raise _NotRun(exc.problem, exc.message) from exc
    except RvssError as exc:
        if exc.problem in (Problem.TOOL, Problem.MISSING) or not _REFUSED.search(exc.message):
            raise
        raise _NotRun(exc.problem, exc.message) from exc
    return {image: int(told[str(place)]) for place, image in enumerate(wanted, 1)}


def _failure(snapshot: str, code: int) -> RvssError:
    said = "dataset does not exist" if code == errno.ENOENT else os.strerror(code)
    return problem(f"cannot create snapshot '{snapshot}': {said}")
