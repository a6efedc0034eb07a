"""Writable copies of backups: how one is deleted that is still in use for a moment."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies import branches
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Branch, Exposed, Mark, Volume
from tests.unit.site import Shelf, Site, with_samba
from tests.unit.values import mark_of

BRANCH = replace(mark_of("b"), branch=Branch(of="a", ready=True))


class OneBranch(Shelf):
    """A file system with one image, which is in use for so many attempts to destroy it.

    Attributes:
        full: whether no mark can be written.
        destroyed: which were destroyed.
        last: what its mark says.
    """

    def __init__(self, site: Site, attempts: int, *, full: bool = False) -> None:
        super().__init__(site.inventory)
        self._attempts = attempts
        self.full = full
        self.destroyed: list[str] = []
        self.last = BRANCH

    def mark(self, volume: Volume, image: str) -> Mark | None:
        """See `samba_rvss.providers.Provider`."""
        return self.last

    def claim(self, mark: Mark) -> None:
        """See `samba_rvss.providers.Provider`."""
        if self.full:
            raise RvssError(Problem.NO_SPACE, "there is no room for its mark")
        self.last = mark

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


def delete(site: Site, shelf: OneBranch) -> None:
    branches.delete(replace(site.instance(), providers=(shelf,)), BRANCH, 0)


def test_who_has_just_been_disconnected_may_have_it_open_for_a_moment(site: Site) -> None:
    shelf = OneBranch(site, attempts=2)
    delete(site, shelf)
    assert shelf.destroyed == ["b"]
    assert shelf.last.branch == Branch(of="a", ready=False)


def test_one_that_is_in_use_is_told_to_go_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody must believe that it stays: its mark says that it goes, and reconciling deletes it."""
    monkeypatch.setattr(branches, "_BUSY_SECONDS", 0.0)
    shelf = OneBranch(site, attempts=1000)
    with pytest.raises(RvssError) as caught:
        delete(site, shelf)
    assert caught.value.problem is Problem.BUSY
    said = "b is concealed, and not deleted yet (dataset is busy)"
    assert caught.value.line() == f"{said}: it is deleted as soon as nobody uses it"


@pytest.mark.parametrize("exposed", [None, Exposed(share="vms-1")], ids=["concealed", "exposed"])
def test_one_on_a_full_file_system_goes(site: Site, exposed: Exposed | None) -> None:
    """There is no room to write that it goes, and it is what takes the room."""
    shelf = OneBranch(site, attempts=0, full=True)
    shelf.last = replace(BRANCH, branch=Branch(of="a", ready=True, exposed=exposed))
    branches.delete(replace(site.instance(), providers=(shelf,)), shelf.last, 0)
    assert shelf.destroyed == ["b"]


def test_one_on_a_full_file_system_that_is_in_use_is_not_said_to_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branches, "_BUSY_SECONDS", 0.0)
    with pytest.raises(RvssError) as caught:
        delete(site, OneBranch(site, attempts=1000, full=True))
    assert caught.value.line() == "dataset is busy"
