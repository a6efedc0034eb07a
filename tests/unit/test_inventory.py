"""Inventories of many file systems as one: what cannot be listed is not said to have no images."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Image, Inventory, Mark
from samba_rvss.providers.inventory import listed
from tests.unit.values import VOLUME


def image_of(name: str) -> Image:
    """Return an image."""
    mark = Mark(
        id=name,
        share="vms",
        share_path="/srv/vms",
        volume=VOLUME,
        created=datetime(2024, 2, 29, tzinfo=UTC),
    )
    return Image(id=name, provider="btrfs", mark=mark, complete=True, read_only=True)


def images(file_system: str) -> Iterator[Image]:
    """List one file system after some of whose images something can fail."""
    if file_system == "empty":
        return
    yield image_of(f"{file_system} 1")
    if file_system == "refused":
        raise RvssError(Problem.SYSTEM, "it is suspended")
    if file_system == "broken":
        raise OSError(5, "Input/output error")
    yield image_of(f"{file_system} 2")


def test_what_cannot_be_listed_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found = listed(["a", "refused", "empty", "broken", "b"], images, "in the pool")
    assert [image.id for image in found.images] == ["a 1", "a 2", "b 1", "b 2"]
    assert found.file_systems == {"a", "b", "empty"}
    assert [record.getMessage() for record in caplog.records] == [
        "cannot list the images in the pool refused: it is suspended",
        "cannot list the images in the pool broken: [Errno 5] Input/output error",
    ]


def test_nothing_is_an_inventory_too() -> None:
    assert listed([], images, "on btrfs") == Inventory(file_systems=frozenset(), images=())
