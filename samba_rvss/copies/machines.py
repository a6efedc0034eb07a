"""A virtual machine in a backup, by its GUID: which files are its own, as far as names tell."""

import os
import posixpath
import re

from samba_rvss.errors import Problem, RvssError
from samba_rvss.hyperv.layout import Machine
from samba_rvss.hyperv.survey import survey

_GUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE)
_SHOWN = 5


def find(root: int, guid: str, image: str) -> Machine:
    """Return the machine of a GUID.

    Args:
        root: the share's directory in the image.
        guid: as Hyper-V shows it, with or without braces.
        image: the image's id, for the error.

    Raises:
        RvssError: USAGE if it is no GUID; NOT_FOUND if there is no such machine; STATE if there are
            several, or not all of the share could be looked at.
    """
    match = _GUID.fullmatch(guid.strip())
    if match is None:
        raise RvssError(
            Problem.USAGE, f"{guid} is no GUID", "see 'Get-VM | Select-Object Name, Id' on the host"
        )
    found = survey(root)
    meant = [each for each in found.machines if each.guid == match[1].upper()]
    if not meant:
        names = ", ".join(each.guid for each in found.machines[:_SHOWN])
        more = f" and {len(found.machines) - _SHOWN} more" if found.machines[_SHOWN:] else ""
        raise RvssError(
            Problem.NOT_FOUND,
            f"{image} has no virtual machine {match[1].upper()}",
            f"it has {names or 'none'}{more}",
        )
    if len(meant) > 1:
        places = " and ".join(os.fsdecode(each.home) or "the share" for each in meant)
        raise RvssError(
            Problem.STATE,
            f"{match[1].upper()} is in {places}",
            "restore one of these directories by its path",
        )
    if found.left_out:
        raise RvssError(
            Problem.STATE,
            f"not all of {image} was looked at, for {found.left_out}",
            "restore the machine's directory by its path",
        )
    return meant[0]


def common(machine: Machine) -> bytes:
    """Return the directory that has all of a machine; empty for the share's own."""
    directories = [posixpath.dirname(path) for path in machine.paths]
    if not machine.home or b"" in directories:
        return b""
    return posixpath.commonpath([machine.home, *directories])
