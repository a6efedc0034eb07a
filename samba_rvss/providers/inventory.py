"""The images on many file systems, as one inventory."""

import logging
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from samba_rvss.errors import RvssError
from samba_rvss.model import Foreign, Image, Inventory
from samba_rvss.providers import Provider
from samba_rvss.providers.patience import COMMON, Place

_logger = logging.getLogger(__name__)


def listed(
    file_systems: Iterable[str],
    images: Callable[[str], Iterable[Image | Foreign] | None],
    where: str,
    place: Callable[[str], Place] | None = None,
) -> Inventory:
    """List file systems one after the other; what cannot be listed is told, and logged.

    Args:
        file_systems: their identities.
        images: lists the images of one file system; None if there is no place for any.
        where: what stands before the identity in the log: "on btrfs".
        place: tells where one is mounted, by its identity, so that it is waited for a bounded time;
            without it, listing waits for none without a limit of its own.
    """
    complete: set[str] = set()
    found: list[Image | Foreign] = []
    unlisted: dict[str, str] = {}
    homeless: set[str] = set()
    for file_system in file_systems:
        try:
            if place is None:
                listing = images(file_system)
            else:
                listing = COMMON.call(place(file_system), partial(images, file_system))
            there = list(listing or ())
        except (OSError, RvssError) as exc:
            reason = exc.line() if isinstance(exc, RvssError) else str(exc)
            _logger.warning("cannot list the images %s %s: %s", where, file_system, reason)
            unlisted[file_system] = reason
        else:
            complete.add(file_system)
            found += there
            if listing is None:
                homeless.add(file_system)
    return Inventory(
        file_systems=frozenset(complete),
        images=tuple(image for image in found if isinstance(image, Image)),
        foreign=tuple(image for image in found if isinstance(image, Foreign)),
        unlisted=unlisted,
        homeless=frozenset(homeless),
    )


def of_all(providers: Iterable[Provider], only: Container[str] | None = None) -> Inventory:
    """List the images on mounted file systems of every kind.

    Args:
        providers: one for each kind.
        only: the file systems to look at; None for all that are mounted.
    """
    found = [provider.inventory(only) for provider in providers]
    return Inventory(
        file_systems=frozenset[str]().union(*(part.file_systems for part in found)),
        images=tuple(image for part in found for image in part.images),
        foreign=tuple(image for part in found for image in part.foreign),
        unlisted={name: reason for part in found for name, reason in part.unlisted.items()},
        homeless=frozenset[str]().union(*(part.homeless for part in found)),
        former_names={old: new for part in found for old, new in part.former_names.items()},
    )


def with_sizes(providers: Iterable[Provider], images: Iterable[Image]) -> list[Image]:
    """Return images with how much space comes free with each, where its file system tells that."""
    by_place: dict[tuple[str, str], list[Image]] = {}
    for image in images:
        by_place.setdefault((image.provider, image.mark.volume.file_system), []).append(image)
    known = {provider.name: provider for provider in providers}
    found = []
    for (provider, _), there in by_place.items():
        sizes: Mapping[str, int] = {}
        with suppress(RvssError):  # whoever listed the images has said what does not answer
            sizes = known[provider].sizes(there)
        found += [replace(image, size=sizes.get(image.id)) for image in there]
    return found
