"""A branch: a writable image beside a sealed one, which nothing of it can change."""

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Branch, Exposed, Kept, Mark, Nested
from tests.kernel.conftest import SEALED
from tests.kernel.test_provider import NOW, seen, take

if TYPE_CHECKING:
    from tests.kernel.conftest import Storage

pytestmark = pytest.mark.vm(seconds=20, storage="zfs")

_PLACES = ("file", "inner/file")


def _sealed(storage: "Storage") -> tuple[Path, Mark]:
    """Make a volume with another nested in it, and a backup of both."""
    share = storage.volume("vms")
    storage.volume("vms/inner")
    for name in _PLACES:
        (share / name).write_text("sealed")
    mark = take(storage.provider, share, Nested.INCLUDE)
    provider = storage.provider
    with seen(provider, mark, writable=True) as image:
        (image / "recovered").write_text("sealed")
    provider.seal(mark.volume, mark.id, SEALED, opened=True)
    provider.keep(mark.volume, mark.id)
    kept = provider.mark(mark.volume, mark.id)
    assert kept is not None
    provider.claim(replace(kept, kept=Kept(since=NOW)))
    return share, mark


def branch_of(storage: "Storage", sealed: Mark) -> Mark:
    mark = replace(
        sealed,
        id=f"{NOW:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
        branch=Branch(of=sealed.id, exposed=Exposed(share="vms-1", account="x", uid=7, until=NOW)),
    )
    volume = storage.provider.branch(sealed.volume, sealed.id, mark)
    return replace(mark, volume=volume)


def test_what_is_written_to_a_branch_is_not_in_the_backup(storage: "Storage") -> None:
    provider = storage.provider
    share, sealed = _sealed(storage)
    for name in _PLACES:
        (share / name).write_text("live")
    branch = branch_of(storage, sealed)
    with seen(provider, branch, writable=True) as image:
        for name in (*_PLACES, "recovered"):
            assert (image / name).read_text() == "sealed"
            (image / name).write_text("written")
        (image / "inner" / "new").mkdir()
    with seen(provider, sealed) as image:
        assert sorted(os.listdir(image)) == ["file", "inner", "recovered"]
        assert os.listdir(image / "inner") == ["file"]
        for name in (*_PLACES, "recovered"):
            assert (image / name).read_text() == "sealed"
    found = {image.id: image for image in provider.inventory().images}
    assert found.keys() == {sealed.id, branch.id}
    others = {each.mark.id if each.mark else each.id for each in provider.inventory().foreign}
    assert others.isdisjoint(found)
    assert (found[sealed.id].complete, found[sealed.id].read_only) == (True, True)
    assert (found[branch.id].complete, found[branch.id].read_only) == (True, False)
    assert branch.branch is not None
    assert found[branch.id].mark.branch == replace(branch.branch, ready=True)
    # It is found again as it is after it has been changed, and concealed.
    concealed = Branch(of=sealed.id, ready=True)
    provider.claim(replace(branch, branch=concealed))
    assert provider.mark(branch.volume, branch.id) == replace(branch, branch=concealed)
    (again,) = [image for image in provider.inventory().images if image.id == branch.id]
    assert again.mark.branch == concealed
    with seen(provider, branch) as image:
        assert (image / "inner" / "file").read_text() == "written"
    provider.require_free(sealed.volume, sealed.id)  # no branch is others': the mark forbids it
    provider.destroy(branch.volume, branch.id)
    provider.destroy(branch.volume, branch.id)
    assert [image.id for image in provider.inventory().images] == [sealed.id]
    with seen(provider, sealed) as image:
        assert (image / "recovered").read_text() == "sealed"
    provider.destroy(sealed.volume, sealed.id)
    assert storage.names() == []


@pytest.mark.vm(seconds=20, long=True, storage="zfs")
def test_there_is_no_branch_of_what_is_not_sealed(storage: "Storage") -> None:
    share = storage.volume("vms")
    (share / "file").write_text("sealed")
    mark = take(storage.provider, share)
    with pytest.raises(RvssError) as caught:
        branch_of(storage, mark)
    assert caught.value.problem is Problem.NOT_SEALED
    assert [image.id for image in storage.provider.inventory().images] == [mark.id]
    storage.provider.destroy(mark.volume, mark.id)
    assert storage.names() == []
