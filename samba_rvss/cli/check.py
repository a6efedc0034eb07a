"""``samba-rvss check``: what is in a share that those warn of who make backups of it.

It is information: nothing of it keeps a share from having shadow copies, but for nested volumes,
which `shares` and `doctor` tell as well.
"""

import argparse
import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration
from samba_rvss.cli.manifest import shown, text
from samba_rvss.copies.examine import HELD, LEVELS, Examination, What, examine
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.priority import idle
from samba_rvss.model import Nested, Share
from samba_rvss.samba import open_files
from samba_rvss.samba.conf import Config
from samba_rvss.samba.open_files import OpenFile

_SHOWN = 10

_TITLES = {
    What.NESTED: "nested volumes",
    What.MOUNT: "other mounts",
    What.LINK: "symbolic links that lead away",
    What.SPECIAL: "special files",
    What.DEEP: f"directories more than {LEVELS} levels down",
    What.UNREADABLE: "directories that were not looked at",
    What.OUTSIDE: "files in no virtual machine's directory",
    What.NO_DISKS: "virtual machines without a disk beside them",
    What.NO_PARENT: "differencing disks without their parent",
    What.OPEN: "open files",
}
_WHY = {
    What.LINK: "they lead out of the share or begin at the root: from a copy they lead to what is"
    " there now, or nowhere",
    What.SPECIAL: "devices, FIFOs and sockets: copies have them; backup programs may stop at them",
    What.DEEP: "some backup programs go no further",
    What.UNREADABLE: "they cannot be listed, or lie too deep",
    What.OUTSIDE: "who makes backups of virtual machines leaves them out",
    What.NO_DISKS: "their disks may be on another share, and a backup has to have both",
    What.NO_PARENT: "it is not on this share, or is another by now",
    What.OPEN: "without the help of who writes to them, a copy has them as after a crash",
}
_NESTED = {
    Nested.REFUSE: "shadow copies are refused (rvss:nested = refuse)",
    Nested.INCLUDE: "copies have them (rvss:nested = include)",
}


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "check",
        help="tell what is in a share that backup programs stumble over",
        description="List all that is in a share, and tell what the makers of backup programs warn"
        " of. All of it is information, and the exit status is 0.",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("share", metavar="SHARE")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Look through a share."""
    config = configuration(arguments)
    share = _share(config, arguments.share)
    found = Examination()
    with files.opened(_directory(share)) as root, output.progress(found.told), idle():
        examine(root, found)
    opened, unknown = _open_files(config, share)
    for file in opened:
        found.add(What.OPEN, os.fsencode(file.path))
    if arguments.json:
        output.print_json(as_data(share, found, opened, unknown))
        return 0
    _print(share, found, opened, unknown)
    return 0


def _share(config: Config, name: str) -> Share:
    share = config.share(name)
    if share is None:
        raise RvssError(
            Problem.NOT_FOUND, f"there is no share {name} of ours", "see 'samba-rvss shares'"
        )
    return share


def _directory(share: Share) -> int:
    try:
        return os.open(share.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise RvssError(
            Problem.BAD_PATH, f"cannot open {share.path}: {exc.strerror}", "see 'samba-rvss shares'"
        ) from exc


def _open_files(config: Config, share: Share) -> tuple[list[OpenFile], str]:
    """Return the files of a share that clients have open, and why that is not known."""
    try:
        found = open_files.look(config.file)
    except RvssError as exc:
        return [], exc.line()
    inside = os.path.normpath(share.path) + "/"
    # The share's own directory is open whenever somebody looks at it.
    return [
        replace(file, path=file.path.removeprefix(inside))
        for file in found
        if file.path.startswith(inside)
    ], ""


def _print(share: Share, found: Examination, opened: Iterable[OpenFile], unknown: str) -> None:
    facts = {
        "share": share.name,
        "path": share.path,
        "files": str(found.files),
        "directories": str(found.directories),
        "symbolic links": str(found.links),
        "levels": str(found.deepest),
        "virtual machines": str(len(found.machines)),
        "virtual disks": str(len(found.disks)),
    }
    if not found.is_whole:
        facts["left out"] = "there are too many machines and disks to look at all"
    if unknown:
        facts["open files"] = f"not known: {unknown}"
    output.print_facts(facts)
    users = {file.path: _user(file) for file in opened}
    for what, finding in found.findings.items():
        output.print_line()
        output.print_line(f"{_TITLES[what]}: {finding.count}; {_why(what, share)}")
        for path in finding.paths[:_SHOWN]:
            user = users.get(os.fsdecode(path), "") if what is What.OPEN else ""
            output.print_line(f"    {shown(path)}{user}")
        if finding.count > _SHOWN:
            output.print_line(f"    and {finding.count - _SHOWN} more")


def _user(file: OpenFile) -> str:
    return f" ({file.user} from {file.machine})" if file.machine else f" ({file.user})"


def _why(what: What, share: Share) -> str:
    if what is What.NESTED:
        return _NESTED[share.nested]
    if what is What.MOUNT:
        return f"they were not looked into; {_NESTED[share.nested]}"
    return _WHY[what]


def as_data(
    share: Share, found: Examination, opened: Iterable[OpenFile], unknown: str
) -> dict[str, Any]:
    """Return what was found as JSON has it."""
    return {
        "share": share.name,
        "path": share.path,
        "files": found.files,
        "directories": found.directories,
        "links": found.links,
        "levels": found.deepest,
        "findings": [
            {
                "check": what.value,
                "count": finding.count,
                "why": _why(what, share),
                "paths": [text(path) for path in finding.paths],
            }
            for what, finding in found.findings.items()
        ],
        "machines": [
            {
                "guid": machine.guid,
                "home": text(machine.home),
                "disks": len(machine.disks),
                "others": max(0, len(machine.guids) - 1),
            }
            for machine in found.machines[:HELD]
        ],
        "open": [
            {"path": file.path, "user": file.user, "machine": file.machine}
            for file in islice(opened, HELD)
        ],
        "open_unknown": unknown,
        "left_out": not found.is_whole,
    }
