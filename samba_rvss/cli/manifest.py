"""``samba-rvss backup manifest`` and ``diff``: what is in backups, file by file.

The command reads the backup itself, as idle as the kernel lets it be; no daemon reads users' files.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

from samba_rvss import output
from samba_rvss.cli.common import BACKUP_ID, Verbs, configuration, ledger_or_empty, open_ledger
from samba_rvss.cli.look import instance_of
from samba_rvss.cli.reading import parts_of
from samba_rvss.clock import now
from samba_rvss.copies import manifests
from samba_rvss.copies.instance import Instance
from samba_rvss.copies.manifests import About
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel.priority import idle
from samba_rvss.ledger import Ledger
from samba_rvss.manifests.diff import Change, How, changes
from samba_rvss.manifests.entry import missing
from samba_rvss.manifests.make import Progress
from samba_rvss.manifests.manifest import Manifest
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.samba.conf import Config

MOST = 100_000
"""How many changes JSON has at most: an object is printed in one piece."""

_SIGNS = {How.ADDED: "+", How.REMOVED: "-", How.CONTENT: "C", How.METADATA: "M"}
_NAMED = 20  # names of which not all could be read; the manifest has all


def register(verbs: Verbs) -> None:
    """Add the verbs to those of ``backup``."""
    verb = verbs.add_parser(
        "manifest",
        help="note what is in a backup, with digests",
        description="Read backups, at idle priority, and note of each file what it is, whose it is"
        " and its digests, to verify and compare it later. What has not changed since another"
        " backup of the share is not read again.",
    )
    those = "; without one, those without a manifest of the shares with 'rvss:manifest = yes'"
    verb.add_argument("copy", nargs="*", metavar="ID", help=BACKUP_ID + those)
    verb.add_argument("--anew", action="store_true", help="read all of it, even if there is one")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run_make, looks=True)
    verb = verbs.add_parser(
        "diff",
        help="tell what is different between two backups",
        description="Tell which files were added (+) and removed (-), and of which the content (C)"
        " or only the metadata (M) is different. Both backups need a manifest.",
    )
    verb.add_argument("copy", metavar="A", help=BACKUP_ID)
    verb.add_argument("other", metavar="B", help="the later one")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(function=run_diff, looks=True)


def run_make(arguments: argparse.Namespace) -> int:
    """Make manifests; each failure is reported and none stops the rest."""
    config = configuration(arguments)
    done: list[dict[str, Any]] = []
    status = 0
    with ledger_or_empty(config) as ledger:
        instance = instance_of(config, ledger)
        for part in _wanted(config, ledger, arguments.copy):
            failure = ""
            about = None
            try:
                about = _make(instance, part, anew=arguments.anew)
                if about.unreadable:
                    status = status or Problem.DAMAGED
                if about.unreadable or about.left_out:
                    _name_faults(config, part)
            except RvssError as exc:
                failure = exc.line()
                if arguments.copy or exc.problem is not Problem.BUSY:  # the next time does it
                    status = status or exc.problem
                output.print_error(f"{part.id} [{part.share}]: {failure}")
            done.append({"id": part.id, "share": part.share, **as_data(about), "failure": failure})
            if about is not None and not arguments.json:
                output.print_line(f"{part.id} [{part.share}]: {line(about)}")
    if arguments.json:
        output.print_json({"manifests": done})
    return int(status)


def _wanted(config: Config, ledger: Ledger, words: Iterable[str]) -> Iterator[ShadowCopy]:
    """Yield the parts of backups of which a manifest is to be made."""
    yield from named(ledger, words)
    if words:
        return
    for part in ledger.backups():
        share = config.share(part.share)
        if part.phase is not Phase.KEPT or share is None or not config.union(share).manifest:
            continue
        if not manifests.exists(config, part.id):
            yield part


def named(ledger: Ledger, words: Iterable[str]) -> Iterator[ShadowCopy]:
    """Yield all parts of the backups that words on the command line mean, each once.

    Raises:
        RvssError: NOT_FOUND or USAGE: a word means none, or several.
    """
    parts = {part.id: part for word in words for part in parts_of(ledger, word)}
    yield from parts.values()


def _make(instance: Instance, part: ShadowCopy, *, anew: bool) -> About:
    about = None if anew else manifests.about(instance.config, part.id)
    if about is not None:
        return about
    progress = Progress()
    with output.progress(lambda: f"[{part.share}] {progress.told()}"), idle():
        return manifests.make(instance, part, progress, anew=anew)


def _name_faults(config: Config, part: ShadowCopy) -> None:
    with Manifest(manifests.path(config, part.id), part.id) as manifest:
        for entry in islice(manifest.faults(), _NAMED):
            output.print_error(f"[{part.share}] {shown(entry.path)}: {missing(entry)}")


def run_diff(arguments: argparse.Namespace) -> int:
    """Tell what is different between two backups."""
    config = configuration(arguments)
    counts: dict[str, int] = {how.value: 0 for how in How}
    size = 0
    kept: list[dict[str, Any]] = []
    with open_ledger(config) as ledger, ExitStack() as stack:
        before = _opened(config, parts_of(ledger, arguments.copy), stack)
        after = _opened(config, parts_of(ledger, arguments.other), stack)
        shares = sorted(before.keys() & after.keys())
        if not shares:
            raise RvssError(
                Problem.USAGE,
                f"{arguments.copy} and {arguments.other} have no share in common",
                "see 'samba-rvss backup list'",
            )
        for share in shares:
            for change in changes(before[share], after[share]):
                counts[change.how.value] += 1
                size += change.size if change.how is not How.REMOVED else 0
                if not arguments.json:
                    output.print_line(_line(share, change))
                elif len(kept) < MOST:
                    kept.append(change_as_data(share, change))
        only = sorted(before.keys() ^ after.keys())
    if arguments.json:
        left_out = sum(counts.values()) - len(kept)
        sums = {"counts": counts, "size": size, "only_in_one": only, "left_out": left_out}
        output.print_json({**sums, "changes": kept})
        return 0
    for share in only:
        output.print_line(f"[{share}] is in one of them only")
    added, removed, content, metadata = counts.values()
    output.print_line(
        f"{added} added, {removed} removed, {content} with another content, {metadata} with other"
        f" metadata; {output.size(size)} are new"
    )
    return 0


def _opened(config: Config, parts: list[ShadowCopy], stack: ExitStack) -> Mapping[str, Manifest]:
    """Open the manifests of a backup, by their shares.

    Raises:
        RvssError: NOT_FOUND if a part has none, with how to get one; STATE.
    """
    return {
        part.share: stack.enter_context(Manifest(manifests.path(config, part.id), part.id))
        for part in parts
    }


def _line(share: str, change: Change) -> str:
    told = list(change.fields)
    if change.how in (How.ADDED, How.CONTENT):
        told.insert(0, output.size(change.size))
    detail = f" ({', '.join(told)})" if told else ""
    return f"{_SIGNS[change.how]} [{share}] {shown(change.path)}{detail}"


def change_as_data(share: str, change: Change) -> dict[str, Any]:
    """Return what is different in one place as JSON has it."""
    return {
        "share": share,
        "path": text(change.path),
        "change": change.how.value,
        "size": change.size,
        "fields": list(change.fields),
    }


def shown(path: bytes) -> str:
    """Return a path in a share, for people."""
    return text(path) or "."


def text(path: bytes) -> str:
    """Return a path in a share as text; bytes that are not UTF-8 become surrogates."""
    return path.decode("utf-8", "surrogateescape")


def line(about: About) -> str:
    """Return what is known of a manifest in words."""
    words = f"{about.files} files, {output.size(about.size)}, {output.local_time(about.made)}"
    if about.reused:
        words += f", {about.reused} files unchanged and not read"
    if about.left_out:
        words += f", {about.left_out} in part"
    return f"{words}, {about.unreadable} unreadable" if about.unreadable else words


def as_data(about: About | None) -> dict[str, Any]:
    """Return what is known of a manifest as JSON has it."""
    if about is None:
        return dict.fromkeys(About.__slots__)
    return {name: getattr(about, name) for name in About.__slots__} | {
        "made": about.made.isoformat()
    }


def told(config: Config, part: ShadowCopy) -> str:
    """Return what there is to tell of a part's manifest, for people."""
    try:
        about = manifests.about(config, part.id)
    except RvssError:
        return "damaged"
    return line(about) if about else "-"


def state(config: Config, parts: Sequence[ShadowCopy]) -> str:
    """Return whether a backup was verified, and what came of it, in two words."""
    if not any(manifests.exists(config, part.id) for part in parts):
        return "-"
    found = [manifests.verification(config, part.id) for part in parts]
    damaged = sum(each.damaged for each in found if each)
    if damaged:
        return f"damaged: {damaged} name{'s' * (damaged > 1)}"
    wholes = [each.whole for each in found if each and each.whole]
    if len(wholes) == len(parts):
        return f"{output.span(now() - min(wholes))} ok"
    return "in part" if any(found) else "never"


def standing_as_data(config: Config, part: ShadowCopy) -> dict[str, Any]:
    """Return a part's manifest, and how it was verified last, as JSON has them."""
    try:
        about = manifests.about(config, part.id)
    except RvssError:
        about = None
    found = manifests.verification(config, part.id)
    return {
        "manifest": as_data(about) if about else None,
        "verified": found.as_data() if found else None,
    }
