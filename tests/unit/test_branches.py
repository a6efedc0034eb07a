"""Writable copies of backups: how one is deleted that is still in use for a moment."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies import branches
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Branch, Volume
from tests.unit.site import Shelf, Site, with_samba
from tests.unit.values import mark_of


class InUse(Shelf):
    """A file system on which an image is in use, for so many attempts."""

    def __init__(self, site: Site, attempts: int) -> None:
        super().__init__(site.inventory)
        self._attempts = attempts
        self.destroyed: list[str] = []

    def destroy(self, volume: Volume, image: str) -> None:
        """See `samba_rvss.providers.Provider`."""
        if self._attempts:
            self._attempts -= 1
            raise RvssError(Problem.BUSY, "dataset is busy")
        self.destroyed.append(image)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with with_samba(tmp_path) as made:
        yield made


def test_who_has_just_been_disconnected_may_have_it_open_for_a_moment(site: Site) -> None:
    shelf = InUse(site, attempts=2)
    mark = replace(mark_of("b"), branch=Branch(of="a", ready=True))
    branches.delete(replace(site.instance(), providers=(shelf,)), mark, 0)
    assert shelf.destroyed == ["b"]
