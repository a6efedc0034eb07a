"""``samba-rvss metrics``: what a monitoring system watches; the daemon need not run.

What is told is what `status` judges. Times are points in time, so that a file that nobody has
written again is seen to be old.
"""

import argparse
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from samba_rvss import __version__, output
from samba_rvss.cli.common import Verbs, configuration, ledger_or_empty
from samba_rvss.cli.looks import limited
from samba_rvss.cli.openmetrics import Gauge, render
from samba_rvss.clock import now
from samba_rvss.errors import Problem, RvssError
from samba_rvss.kernel import files
from samba_rvss.model import Phase

if TYPE_CHECKING:
    from samba_rvss.cli.look import Look
    from samba_rvss.cli.standing import Standing
    from samba_rvss.model import Event

PREFIX = "samba_rvss_"
_DAY = timedelta(days=1)
_OTHERS_SECONDS = 10.0
_FILE_MODE = 0o644  # node_exporter is not root
_PHASES = tuple(phase for phase in Phase if phase not in (Phase.KEPT, Phase.GONE))
_ORPHANS = ("copy", "image", "branch", "mount", "share", "security")
"""What reconciling may find that nothing accounts for, as it names that."""

Sample = tuple[Mapping[str, str], float]


def register(verbs: Verbs) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "metrics",
        help="tell a monitoring system how it stands",
        description="Print in OpenMetrics text how the instance stands, for the textfile collector"
        " of node_exporter. The daemon need not run.",
    )
    verb.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default="",
        help="write it to this file, in one step, and print nothing",
    )
    verb.set_defaults(function=run, looks=True)


def run(arguments: argparse.Namespace) -> int:
    """Print or write the metrics; also that they could not be collected, which is a failure."""
    file = os.path.abspath(arguments.output) if arguments.output else ""
    common = {"configuration": arguments.configfile or "default"}
    if file:
        _require_replaceable(file)
    try:
        found = list(_collect(arguments))
    except RvssError:
        _put(file, render(of_collecting(done=False), common))
        raise
    _put(file, render([*of_collecting(done=True), *found], common))
    return 0


def _collect(arguments: argparse.Namespace) -> Iterator[Gauge]:
    from samba_rvss.cli.status import judge

    config = configuration(arguments)
    with limited(
        config.run_directory, "metrics", 1, seconds=_OTHERS_SECONDS, for_good=arguments.apart
    ):
        look, standing, *_ = judge(config)
    yield from of_instance(look, standing)
    with ledger_or_empty(config) as ledger:
        yield from of_history(
            [share.name for share in config.shares],
            {what: ledger.last_of_shares(what) for what in ("taken", "sealed")},
            ledger.counted_since(look.time - _DAY, failures()),
        )


def of_collecting(*, done: bool) -> Iterator[Gauge]:
    """Yield whether the rest could be collected, when, and by which version."""
    yield _one(
        "version_info", "The version of samba-rvss; always 1.", 1, labels={"version": __version__}
    )
    yield _one("collected", "Whether the metrics could be collected.", done)
    yield _one(
        "collected_timestamp_seconds",
        "When that was tried last.",
        now().timestamp(),
        "seconds",
    )


def of_instance(look: "Look", standing: "Standing") -> Iterator[Gauge]:
    """Yield what was seen of an instance, and how it stands."""
    presence = look.presence
    yield _one("daemon_up", "Whether the daemon answers.", presence is not None)
    yield _one(
        "healthy", "Whether nothing is wrong, as the command status tells.", standing.healthy
    )
    yield _one("wrong", "How much is wrong, as the command status tells.", len(standing.wrong))
    yield from _of_copies(look, standing)
    yield _of(
        "orphans",
        "What no shadow copy or backup accounts for, and is to be removed after the grace period.",
        _orphans(look),
    )
    yield _one("images_not_ours", "Images that are not ours.", len(standing.foreign))
    yield _one(
        "reconcile_to_do", "How many steps reconciling would do now.", len(look.plan.actions)
    )
    yield _of(
        "last_reconcile_timestamp_seconds",
        "When the running daemon has last reconciled.",
        [({}, datetime.fromisoformat(presence.reconciled).timestamp())]
        if presence and presence.reconciled
        else [],
        "seconds",
    )
    yield _of(
        "last_reconcile_failed",
        "How many steps of that failed.",
        [({}, len(presence.failed))] if presence else [],
    )
    yield _of(
        "samba_sets",
        "Shadow copy sets that Samba has, by their state.",
        [({"state": state.name.lower()}, count) for state, count in (standing.sets or {}).items()],
    )
    yield _one(
        "samba_differences", "Where the view of Samba and ours differ.", len(standing.differences)
    )
    yield from _of_backups(look, standing)


def _of_copies(look: "Look", standing: "Standing") -> Iterator[Gauge]:
    copies = (*look.seen.copies, *(copy for copy in look.seen.backups if copy.ended))
    counts = Counter((copy.share, copy.phase) for copy in copies if copy.phase in _PHASES)
    shares = sorted({share.name for share in look.config.shares} | {copy.share for copy in copies})
    yield _of(
        "copies",
        "Shadow copies by share and phase.",
        [
            ({"share": share, "phase": phase.value}, counts[share, phase])
            for share in shares
            for phase in _PHASES
        ],
    )
    oldest: dict[str, datetime] = {}
    for copy in look.seen.copies:
        oldest[copy.share] = min(copy.created, oldest.get(copy.share, copy.created))
    yield _of(
        "oldest_copy_timestamp_seconds",
        "When the oldest shadow copy of a share was taken.",
        [({"share": share}, when.timestamp()) for share, when in sorted(oldest.items())],
        "seconds",
    )
    yield _one(
        "unsealed",
        "Shadow copies that are not sealed though their recovery is complete.",
        len(standing.unsealed),
    )
    yield _one(
        "unsealed_longest_seconds",
        "For how long the longest of them has been so; 0 if there is none.",
        max(standing.unsealed.values(), default=0.0),
        "seconds",
    )


def _of_backups(look: "Look", standing: "Standing") -> Iterator[Gauge]:
    told = standing.backups
    yield _of(
        "backups",
        "Backups of a share.",
        [({"share": backups.share}, backups.count) for backups in told],
    )
    yield _of(
        "backups_here_only",
        "Those of them that are on the file system of the share only, as far as their tags tell.",
        [({"share": backups.share}, backups.here_only) for backups in told],
    )
    yield _of(
        "newest_backup_timestamp_seconds",
        "When the newest backup of a share was taken.",
        [({"share": b.share}, b.newest.timestamp()) for b in told if b.newest],
        "seconds",
    )
    yield _of(
        "backup_warn_age_seconds",
        "How old the newest backup of a share may be.",
        [({"share": b.share}, b.warn_age.total_seconds()) for b in told if b.warn_age],
        "seconds",
    )
    yield _of(
        "backup_stale",
        "Whether the newest backup of a share is older than that, or there is none.",
        [({"share": b.share}, int(b.is_stale(look.time))) for b in told],
    )
    yield _of(
        "last_prune_timestamp_seconds",
        "When backups were last pruned, or that was refused for the clock.",
        [({}, look.pruned.time.timestamp())] if look.pruned else [],
        "seconds",
    )


def of_history(
    shares: Iterable[str],
    last: "Mapping[str, Mapping[str, Event]]",
    failed: Mapping[tuple[str, str], int],
) -> Iterator[Gauge]:
    """Yield what the ledger tells of what has been.

    Args:
        shares: the names of ours.
        last: the newest event of each kind, "taken" and "sealed", of each share.
        failed: how many failures of each kind there were in the last day, by share and kind.
    """
    for what, name, told in (
        ("taken", "last_create_duration_seconds", "to be taken"),
        ("sealed", "last_seal_duration_seconds", "to be sealed"),
    ):
        yield _of(
            name,
            f"How long the newest shadow copy of a share has needed {told}.",
            [
                ({"share": event.share}, event.duration)
                for event in last[what].values()
                if event.duration is not None
            ],
            "seconds",
        )
    counts = Counter(dict.fromkeys(((share, what) for share in shares for what in failures()), 0))
    counts.update(failed)
    yield _of(
        "failures_last_day",
        "What failed in the last 24 hours; a set that Samba aborts has no share.",
        [({"share": share, "event": what}, count) for (share, what), count in counts.items()],
    )


def failures() -> tuple[str, ...]:
    """Return the events of the ledger that are failures."""
    from samba_rvss.copies.delete import ABORTED, NOT_DESTROYED
    from samba_rvss.daemon.news import NO_ROOM, NOT_DELETED, NOT_TAKEN

    return NOT_TAKEN, NO_ROOM, NOT_DELETED, NOT_DESTROYED, ABORTED, "lost", "not sealed yet"


def _orphans(look: "Look") -> list[Sample]:
    found = Counter(name.split(" ", 1)[0] for name in look.plan.findings)
    return [({"what": what}, found[what]) for what in _ORPHANS]


def _of(name: str, text: str, samples: Iterable[Sample], unit: str = "") -> Gauge:
    """Return a gauge; of what is written alike, numbers are added, and of times the worst is told.

    That is the earliest, and the longest.
    """
    together: Callable[[Iterable[float]], float] = max if unit else sum
    if name.endswith(("_timestamp_seconds", "_warn_age_seconds")):
        together = min
    elif name == "backup_stale":
        together = max
    return Gauge(
        name=PREFIX + name, help=text, unit=unit, samples=tuple(samples), together=together
    )


def _one(
    name: str, text: str, value: float, unit: str = "", labels: Mapping[str, str] | None = None
) -> Gauge:
    value = int(value) if isinstance(value, bool) else value
    return _of(name, text, [(labels or {}, value)], unit)


def _require_replaceable(file: str) -> None:
    """Refuse to put a file in the place of what is none, a device for example.

    Raises:
        RvssError: USAGE.
    """
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise RvssError(Problem.USAGE, f"{file} cannot be written ({exc.strerror})") from exc
    if not stat.S_ISREG(mode):
        raise RvssError(
            Problem.USAGE, f"{file} is no regular file", "without -o the text is printed"
        )


def _put(file: str, text: str) -> None:
    if not file:
        output.print_document(text)
        return
    try:
        files.replace(file, text.encode(), mode=_FILE_MODE)
    except OSError as exc:
        raise RvssError(
            Problem.SYSTEM, f"{file} cannot be written ({exc.strerror})", "see its directory"
        ) from exc
