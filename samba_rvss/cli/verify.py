"""``samba-rvss backup verify``: backups, or copies of them, compared with their manifests.

What came of it is written down beside the manifest, and shown by ``backup list``.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from samba_rvss import output
from samba_rvss.backups import policy
from samba_rvss.cli.common import BACKUP_ID, Verbs, configuration, ledger_or_empty
from samba_rvss.cli.look import instance_of
from samba_rvss.cli.manifest import named, shown, text
from samba_rvss.clock import now
from samba_rvss.copies import manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.manifests import Verification
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.kernel.priority import idle
from samba_rvss.ledger import Ledger
from samba_rvss.manifests import subset
from samba_rvss.manifests.make import Progress
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.subset import Subset
from samba_rvss.manifests.verify import Difference, compare
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.mounts import escape
from samba_rvss.samba.conf import Config

MOST = 1000
"""How many differences of one part are told: what is worse is damaged as a whole."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What came of verifying a part of a backup.

    Attributes:
        part: which part.
        entries: how many names were compared.
        read: how many bytes were read.
        damaged: how many names are not as they should be.
        told: what is different of them, but for what is beyond MOST.
        left_out: how many differences are beyond that.
        failure: why it could not be verified; empty if it could.
    """

    part: ShadowCopy
    entries: int = 0
    read: int = 0
    damaged: int = 0
    told: list[Difference] = field(default_factory=list)
    left_out: int = 0
    failure: str = ""


def register(verbs: Verbs) -> None:
    """Add the verb to those of ``backup``."""
    verb = verbs.add_parser(
        "verify",
        help="compare a backup with its manifest",
        description="Read backups, at idle priority, and tell what is not as their manifests have"
        " it. The exit status is 31 if there is any.",
    )
    verb.add_argument(
        "copy",
        nargs="*",
        metavar="ID",
        help=f"{BACKUP_ID}; without one, all that have a manifest",
    )
    verb.add_argument(
        "--subset",
        metavar="N/T|X%",
        default="",
        help="read the Nth of T parts of the content, or a random part of it",
    )
    verb.add_argument(
        "--outdated-after",
        metavar="AGE",
        default="",
        help="leave out what was verified less than that ago, in whole or in this subset, and was"
        " not damaged: 24h, 30d, 4w",
    )
    verb.add_argument(
        "--against",
        metavar="DIR",
        default="",
        help="read this directory in place of the backup; of several shares, one in it for each",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Verify backups; each failure is reported and none stops the rest."""
    chosen = _subset(arguments.subset)
    since = _since(arguments.outdated_after)
    if arguments.against and len(arguments.copy) != 1:
        raise RvssError(Problem.USAGE, "--against needs one ID", "see 'samba-rvss backup list'")
    config = configuration(arguments)
    results = []
    status = 0
    with ledger_or_empty(config) as ledger:
        instance = instance_of(config, ledger)
        parts = _wanted(config, ledger, arguments.copy)
        several = len(parts) > 1
        for part in parts:
            if since and _is_recent(manifests.verification(config, part.id), chosen, since):
                continue
            where = arguments.against
            if where and several:
                where = os.path.join(where, escape(part.share))
            found = Found(part=part)
            results.append(found)
            try:
                _verify(instance, found, chosen, where)
            except RvssError as exc:
                found.failure = exc.line()
                status = status or exc.problem
                output.print_error(f"{part.id} [{part.share}]: {found.failure}")
            if found.damaged:
                status = status or Problem.DAMAGED
            if not arguments.json:
                _tell(found)
    if arguments.json:
        output.print_json({"subset": chosen.text, "verified": [as_data(each) for each in results]})
    elif not results:
        output.print_line("There is nothing to verify.")
    return int(status)


def _subset(words: str) -> Subset:
    try:
        return subset.parse(words) if words else subset.WHOLE
    except ValueError as exc:
        raise RvssError(Problem.USAGE, f"--subset {words}: {exc}") from exc


def _since(words: str) -> datetime | None:
    """Return since when a backup need not have been verified.

    Raises:
        RvssError: USAGE.
    """
    try:
        age = policy.parse_minimum(words) if words else None
    except ValueError as exc:
        raise RvssError(Problem.USAGE, f"--outdated-after {words}: {exc}") from exc
    return now() - age.length if age else None


def _is_recent(before: Verification | None, chosen: Subset, since: datetime) -> bool:
    """Return whether what is to be verified was, since then, and was not damaged."""
    if before is None or before.damaged:
        return False
    was_whole = before.whole is not None and before.whole > since
    return was_whole or (before.subset == chosen.text and before.time > since)


def _wanted(config: Config, ledger: Ledger, words: Sequence[str]) -> list[ShadowCopy]:
    if words:
        return list(named(ledger, words))
    kept = (part for part in ledger.backups() if part.phase is Phase.KEPT)
    return [part for part in kept if manifests.exists(config, part.id)]


def _verify(instance: Instance, found: Found, chosen: Subset, where: str) -> None:
    """Compare a part of a backup, or what is said to be a copy of it, with its manifest.

    Raises:
        RvssError: NOT_FOUND if it has none, or the directory is not there; as `manifests.opened`.
    """
    config, part = instance.config, found.part
    progress = Progress()
    last: bytes | None = None
    with (
        Manifest(manifests.path(config, part.id), part.id) as manifest,
        _directory(where) if where else manifests.opened(instance, part) as root,
        idle(),
        output.progress(
            lambda: (
                f"[{part.share}] {progress.entries} names compared, "
                f"{output.size(progress.read)} read"
            )
        ),
    ):
        for difference in compare(manifest, root, progress, chosen, elsewhere=bool(where)):
            found.damaged += difference.path != last  # all of one name come together
            last = difference.path
            if len(found.told) < MOST:
                found.told.append(difference)
            else:
                found.left_out += 1
        found.entries, found.read = progress.entries, progress.read
        if not where:  # while it cannot be deleted
            _record(config, manifest, found, chosen)


def _record(config: Config, manifest: Manifest, found: Found, chosen: Subset) -> None:
    if not manifest.is_current():
        raise RvssError(
            Problem.BUSY, "another manifest was made meanwhile", "verify it once that is made"
        )
    manifests.record(config, found.part.id, now(), chosen.text, found.damaged)


@contextmanager
def _directory(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise RvssError(Problem.BAD_PATH, f"cannot read {path}: {exc.strerror}") from exc
    with files.opened(fd):
        yield fd


def _tell(found: Found) -> None:
    for each in found.told:
        detail = f": {each.detail}" if each.detail else ""
        output.print_line(f"{each.what} [{found.part.share}] {shown(each.path)}{detail}")
    if found.left_out:
        output.print_line(f"and {found.left_out} more")
    if not found.failure:
        state = f"DAMAGED: {found.damaged} names" if found.damaged else "as it was"
        read = f"{found.entries} names compared, {output.size(found.read)} read"
        output.print_line(f"{found.part.id} [{found.part.share}]: {state}; {read}")


def as_data(found: Found) -> dict[str, Any]:
    """Return what came of verifying a part of a backup as JSON has it."""
    return {
        "id": found.part.id,
        "share": found.part.share,
        "entries": found.entries,
        "read": found.read,
        "damaged": found.damaged,
        "damage": [
            {
                "path": text(each.path),
                "what": each.what,
                "detail": each.detail,
                "offset": each.offset,
            }
            for each in found.told
        ],
        "left_out": found.left_out,
        "failure": found.failure,
    }
