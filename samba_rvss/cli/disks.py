"""What was found of the virtual disks of copies and backups when they were sealed, for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from samba_rvss import output
from samba_rvss.copies import disks
from samba_rvss.hyperv.chains import Parent
from samba_rvss.hyperv.report import Seen
from samba_rvss.model import ShadowCopy
from samba_rvss.samba.conf import Config

COLUMNS = ("SHARE", "DISK", "STATE", "SIZE", "PARENT")


def told(config: Config, copies: Iterable[ShadowCopy]) -> str:
    """Return what was found of the disks of some copies, in words."""
    found = [(copy, disks.known(config, copy.id)) for copy in copies]
    several = len(found) > 1
    return (
        "; ".join(
            f"[{copy.share}] {report.words()}" if several else report.words()
            for copy, report in found
            if report is not None
        )
        or "-"
    )


def state(config: Config, copies: Iterable[ShadowCopy]) -> str:
    """Return how many disks of a backup there are, and whether they are good, in a few words."""
    found = [report for copy in copies if (report := disks.known(config, copy.id)) is not None]
    all_of_them = [disk for report in found for disk in report.disks]
    if not all_of_them:
        return "-"
    good = sum(disk.is_good for disk in all_of_them)
    count = len(all_of_them)
    return f"{count} good" if good == count else f"{good} of {count} good"


def rows(config: Config, copies: Sequence[ShadowCopy]) -> list[list[str]]:
    """Return a row for each disk of some copies."""
    return [
        [copy.share, disk.path, _state(disk), output.size(disk.size or None), _parent(disk)]
        for copy in copies
        for disk in _disks(config, copy)
    ]


def _disks(config: Config, copy: ShadowCopy) -> Iterator[Seen]:
    report = disks.known(config, copy.id)
    yield from report.disks if report is not None else ()


def _state(disk: Seen) -> str:
    return f"{disk.state.value}: {disk.why}" if disk.why else disk.state.value


def _parent(disk: Seen) -> str:
    return "-" if disk.parent is Parent.NONE else disk.parent.value


def as_data(config: Config, copy: ShadowCopy) -> dict[str, Any] | None:
    """Return what was found of a copy's disks as JSON has it."""
    report = disks.known(config, copy.id)
    return report.as_data() if report is not None else None
