"""``samba-rvss backup find``: which versions of a file there are, over all backups.

Backups with a manifest are looked up in that; others are walked, in the command's own process.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

from samba_rvss import output
from samba_rvss.cli.common import Verbs, configuration, ledger_or_empty
from samba_rvss.cli.look import instance_of
from samba_rvss.cli.manifest import shown, text
from samba_rvss.copies import manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import processes
from samba_rvss.kernel.priority import idle
from samba_rvss.manifests import find
from samba_rvss.manifests.entry import Entry
from samba_rvss.manifests.find import Found, Version
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.manifests.walk import Aside
from samba_rvss.model import Phase, ShadowCopy

MOST = 100_000
"""How many files are told at most."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def register(verbs: Verbs) -> None:
    """Add the verb to those of ``backup``."""
    verb = verbs.add_parser(
        "find",
        help="tell which versions of a file there are in the backups",
        description="Tell which versions of a file there are in all backups, the newest first, and"
        " which backups have each.",
    )
    what = (
        "of files' paths in their share, such as 'web/*.vhdx'; * goes over slashes, letters mean"
        " both cases, and a pattern without a slash is for names in any directory"
    )
    verb.add_argument("pattern", metavar="PATTERN", help=what)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run, looks=True)


@dataclass(slots=True)
class _Result:
    """What was found.

    Attributes:
        files: each, with the parts of the backups of its directory, the newest first.
        left_out: how many more there are.
        failures: of the parts that could not be looked into, and why.
    """

    files: list[tuple[Sequence[ShadowCopy], Found]] = field(default_factory=list)
    left_out: int = 0
    failures: list[tuple[ShadowCopy, RvssError]] = field(default_factory=list)
    looked: int = 0

    def told(self) -> str:
        return f"{len(self.files) + self.left_out} files found, {self.looked} backups opened"


def run(arguments: argparse.Namespace) -> int:
    """Find files; a backup that cannot be looked into is reported, and does not stop the rest."""
    if not arguments.pattern.strip("/"):
        raise RvssError(Problem.USAGE, "the pattern is empty", "'*' is for all files")
    config = configuration(arguments)
    processes.open_many_files()  # a manifest for each backup of a share
    result = _Result()
    with ledger_or_empty(config) as ledger, output.progress(result.told), idle():
        instance = instance_of(config, ledger)
        kept = [part for part in ledger.backups() if part.phase is Phase.KEPT]
        kept.sort(key=lambda part: (part.volume.group, part.created), reverse=True)
        for _, parts in groupby(kept, key=lambda part: part.volume.group):
            _find(instance, list(parts), arguments.pattern, result)
    for part, failure in result.failures:
        output.print_error(f"{part.id} [{part.share}]: {failure.line()}")
    if arguments.json:
        output.print_json(as_data(result.files, result.left_out, result.failures))
    else:
        for of_file in result.files:
            _print(*of_file)
        if result.left_out:
            output.print_line(f"{result.left_out} more files are left out")
        if not result.files:
            output.print_line("No file of that name is in a backup.")
    return int(result.failures[0][1].problem) if result.failures else 0


def _find(instance: Instance, parts: Sequence[ShadowCopy], pattern: str, result: _Result) -> None:
    """Find files in the backups of one directory.

    Args:
        instance: theirs.
        parts: the backups' parts, the newest first.
        pattern: which files.
        result: is added to.
    """
    is_wanted = find.matcher(pattern)
    opened: list[ShadowCopy] = []
    streams: list[Iterable[Entry]] = []
    with ExitStack() as stack:
        for part in parts:
            try:
                if manifests.exists(instance.config, part.id):
                    where = manifests.path(instance.config, part.id)
                    manifest = stack.enter_context(Manifest(where, part.id))
                    streams.append(_read(part, manifest.files(is_wanted), result))
                else:
                    streams.append(_walked(instance, part, is_wanted, result))
                opened.append(part)
            except RvssError as exc:
                result.failures.append((part, exc))
            result.looked += 1
        for found in find.versions(streams):
            if len(result.files) >= MOST:
                result.left_out += 1
            else:
                result.files.append((opened, found))


def _read(part: ShadowCopy, entries: Iterable[Entry], result: _Result) -> Iterable[Entry]:
    """Yield entries; a manifest that fails on the way ends, and is a failure."""
    try:
        yield from entries
    except RvssError as exc:
        result.failures.append((part, exc))


def _walked(instance: Instance, part: ShadowCopy, is_wanted: Any, result: _Result) -> list[Entry]:
    """Return the files of a backup without a manifest, by walking through it."""
    unread: list[bytes] = []

    def aside(what: Aside, path: bytes) -> None:
        if what in (Aside.UNREADABLE, Aside.TOO_DEEP) and not unread:
            unread.append(path)

    with manifests.opened(instance, part) as root:
        found, left_out = find.of_tree(root, is_wanted, MOST, aside)
    result.left_out += left_out
    if unread:
        why = f"not all of it was looked at: {shown(unread[0])} cannot be read, or lies too deep"
        result.failures.append((part, RvssError(Problem.SYSTEM, why)))
    return found


def _print(parts: Sequence[ShadowCopy], found: Found) -> None:
    count = len(found.versions)
    share = parts[found.versions[0].backups[0]].share
    versions = f"{count} version{'s' * (count > 1)}"
    output.print_line(f"[{share}] {shown(found.path)}: {versions}")
    for version in found.versions:
        changed = _moment(version.entry.mtime)
        when = output.local_time(changed) if changed else "at an odd time"
        ids = " ".join(parts[number].id for number in version.backups)
        output.print_line(f"    {when}  {output.size(version.entry.size)}  {ids}")


def as_data(
    files: Iterable[tuple[Sequence[ShadowCopy], Found]],
    left_out: int,
    failures: Iterable[tuple[ShadowCopy, RvssError]],
) -> dict[str, Any]:
    """Return what was found as JSON has it."""
    return {
        "files": [
            {
                "share": parts[found.versions[0].backups[0]].share,
                "path": text(found.path),
                "versions": [_version(parts, version) for version in found.versions],
            }
            for parts, found in files
        ],
        "left_out": left_out,
        "failures": [
            {"id": part.id, "share": part.share, "failure": failure.line()}
            for part, failure in failures
        ],
    }


def _version(parts: Sequence[ShadowCopy], version: Version) -> dict[str, Any]:
    changed = _moment(version.entry.mtime)
    return {
        "size": version.entry.size,
        "mtime": changed.isoformat() if changed else None,
        "digest": version.entry.digest.hex() or None,
        "backups": [parts[number].id for number in version.backups],
    }


def _moment(nanoseconds: int) -> datetime | None:
    """Return a time of a file; None for one of another era, which anybody can set."""
    try:
        found = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
        found.astimezone()
    except (OverflowError, ValueError):
        return None
    return found
