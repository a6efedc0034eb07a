"""The pools that are imported: each is known by its guid, and called by the name that it has now.

Place: below the rest of this provider. Contract: a pool may be exported, and another one imported
under its name; so a name is looked up whenever it is used, and kept nowhere. A pool's name begins
with a letter and a guid is a decimal number: so older records and marks, which have a name in the
place of a guid, are told apart.
"""

import logging
import os
from collections.abc import Container
from dataclasses import dataclass

from samba_rvss.errors import Problem, RvssError
from samba_rvss.providers.zfs.command import Command, rows

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool that is imported."""

    guid: str
    name: str

    def is_named(self, file_system: str) -> bool:
        """Return whether a `Volume.file_system` means this pool."""
        return file_system in (self.guid, self.name)

    def here(self, dataset: str) -> str:
        """Return what a dataset of this pool is called now, given a name of it."""
        return "/".join([self.name, *dataset.split("/")[1:]])


def imported(zfs: Command) -> list[Pool]:
    """Return the pools that are imported.

    The kernel says it without a program since OpenZFS 2.2 (module/zfs/spa_stats.c).

    Raises:
        RvssError: as a `Command` does.
    """
    return _kernel_says(zfs.kstat) or [
        Pool(guid=guid, name=name)
        for name, guid in rows(zfs.zpool("list", "-H", "-o", "name,guid"), 2)
    ]


def wanted(zfs: Command, only: Container[str] | None) -> dict[str, Pool]:
    """Return pools that are imported, by their guids; none if that cannot be told, which is logged.

    Args:
        zfs: zfs(8).
        only: guids or names; None for all pools.
    """
    try:
        found = imported(zfs)
    except RvssError as exc:
        _logger.warning("cannot list the pools: %s", exc)
        return {}
    return {
        pool.guid: pool for pool in found if only is None or pool.guid in only or pool.name in only
    }


def of(dataset: str) -> str:
    """Return the name of the pool of a dataset or snapshot."""
    return dataset.partition("/")[0].partition("@")[0]


def find(zfs: Command, file_system: str) -> Pool:
    """Return the pool that a `Volume.file_system` means.

    Raises:
        RvssError: NOT_FOUND if it is not imported; else as a `Command` does.
    """
    for pool in imported(zfs):
        if pool.is_named(file_system):
            return pool
    raise RvssError(
        Problem.NOT_FOUND,
        f"the pool {file_system} is not imported",
        "see 'zpool list -o name,guid'",
    )


def _kernel_says(kstat: str) -> list[Pool]:
    found = []
    try:
        names = sorted(os.listdir(kstat))
    except FileNotFoundError:
        return []
    for name in names:
        if name.startswith("$"):
            continue  # "$import": zpool(8) only looks at a pool
        try:
            with open(f"{kstat}/{name}/guid", encoding="ascii") as file:
                found.append(Pool(guid=file.read().strip(), name=name))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found
