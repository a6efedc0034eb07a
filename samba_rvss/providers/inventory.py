"""The images on many file systems, as one inventory."""

import logging
from collections.abc import Callable, Iterable

from samba_rvss.errors import RvssError
from samba_rvss.model import Image, Inventory
from samba_rvss.providers import Provider

_logger = logging.getLogger(__name__)


def listed(
    file_systems: Iterable[str], images: Callable[[str], Iterable[Image]], where: str
) -> Inventory:
    """List file systems one after the other; what cannot be listed is left out, and logged.

    Args:
        file_systems: their identities.
        images: lists the images of one file system.
        where: what stands before the identity in the log: "on btrfs".
    """
    complete: set[str] = set()
    found: list[Image] = []
    for file_system in file_systems:
        try:
            there = list(images(file_system))
        except (OSError, RvssError) as exc:
            _logger.warning("cannot list the images %s %s: %s", where, file_system, exc)
        else:
            complete.add(file_system)
            found += there
    return Inventory(file_systems=frozenset(complete), images=tuple(found))


def of_all(providers: Iterable[Provider]) -> Inventory:
    """List this instance's images on every mounted file system, of every kind."""
    found = [provider.inventory() for provider in providers]
    return Inventory(
        file_systems=frozenset[str]().union(*(part.file_systems for part in found)),
        images=tuple(image for part in found for image in part.images),
    )
