"""Which images can be adopted on purpose, and whose copies they become: on real file systems.

And on which file systems images are looked for when nobody asks for more.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.clock import now
from samba_rvss.copies import adopt, concern
from samba_rvss.copies.adopt import Candidate
from samba_rvss.copies.instance import Instance
from samba_rvss.errors import Problem, RvssError
from samba_rvss.ledger import Ledger
from samba_rvss.model import NOTHING, Mark, Nested, Phase, SetState, ShadowCopy
from samba_rvss.mounts import Mounts
from samba_rvss.samba import conf
from samba_rvss.samba.process import SambaProcess
from samba_rvss.testing.example import share_section
from tests.imaging import make_image
from tests.kernel.conftest import SEALED
from tests.kernel.test_btrfs import take_former
from tests.kernel.test_provider import mark_of, probe, take

if TYPE_CHECKING:
    from tests.kernel.conftest import BtrfsStorage, Storage

pytestmark = pytest.mark.require("root")

btrfs_only = pytest.mark.parametrize("storage", ["btrfs"], indirect=True)


@pytest.fixture
def samba() -> Iterator[SambaProcess]:
    """Where python-samba runs."""
    with closing(SambaProcess()) as process:
        yield process


class Adopting:
    """An instance that has the provider of a storage, and shares on it."""

    def __init__(self, directory: Path, storage: "Storage", samba: SambaProcess) -> None:
        self._storage = storage
        self._samba = samba
        self._directory = directory
        for name in ("lock", "state", "cache", "private", "run", "rvss"):
            (directory / name).mkdir()
        self._ledger = Ledger(f"{directory}/rvss/ledger.db")

    def close(self) -> None:
        """Close its ledger."""
        self._ledger.close()

    def instance(self, **shares: Path) -> Instance:
        """Return the instance with shares by their names."""
        directory = self._directory
        names = {"lock directory": "lock", "state directory": "state", "private dir": "private"}
        names |= {"cache directory": "cache", "rvss:run directory": "run"}
        names |= {"rvss:state directory": "rvss"}
        lines = [f"    {name} = {directory}/{where}\n" for name, where in names.items()]
        hook = f"/usr/lib/samba-rvss/hook -S {directory}/run/hook.sock"
        sections = [share_section(name, str(path), hook) for name, path in shares.items()]
        file = directory / "smb.conf"
        file.write_text("[global]\n" + "".join(lines + sections))
        config = self._samba.call(conf.load, str(file))
        return Instance(
            config=config,
            ledger=self._ledger,
            mounts=Mounts(config.run_directory),
            providers=(self._storage.provider,),
            samba=self._samba,
        )

    def candidates(self, on: str = "", **shares: Path) -> dict[str, Candidate]:
        """Return what could be adopted of the other instance, by the images' ids."""
        instance = self.instance(**shares)
        here = probe(self._storage.provider, self._storage.top, Nested.INCLUDE).file_system
        images = self._storage.provider.inventory().foreign
        (source,) = {image.instance for image in images if image.file_system == here}
        return {found.id: found for found in adopt.candidates(instance, source, on)}


@pytest.fixture
def adopting(tmp_path: Path, storage: "Storage", samba: SambaProcess) -> Iterator[Adopting]:
    """An instance whose shares a test says."""
    with ExitStack() as undo:
        made = Adopting(tmp_path, storage, samba)
        undo.callback(made.close)
        yield made


def theirs(
    storage: "Storage", path: Path, share: str = "elsewhere", *, sealed: bool = True
) -> Mark:
    """Take an image of the other instance; return its mark."""
    mark = replace(mark_of(probe(storage.other, path, Nested.INCLUDE), path), share=share)
    make_image(storage.other, mark)
    if sealed:
        storage.other.seal(mark.volume, mark.id, SEALED, opened=True)
    return mark


def test_a_share_is_known_by_its_place(storage: "Storage", adopting: Adopting) -> None:
    """Its name and path in the mark do not count, and nothing that forbids a shadow copy does."""
    volume = storage.volume("vms")
    (volume / "docs").mkdir()
    whole, part = theirs(storage, volume), theirs(storage, volume / "docs")
    storage.volume("vms/nested")  # a new shadow copy of it is refused
    found = adopting.candidates(all=volume, docs=volume / "docs")
    assert {
        one.id: one.mark and (one.mark.share, one.mark.share_path) for one in found.values()
    } == {
        whole.id: ("all", str(volume)),
        part.id: ("docs", str(volume / "docs")),
    }


def test_one_place_with_two_names(storage: "Storage", adopting: Adopting) -> None:
    volume = storage.volume("vms")
    (storage.top / "other").mkdir()
    mark = theirs(storage, volume, "VMS")
    ours = adopting.candidates(again=volume, vms=volume)[mark.id].mark
    assert ours is not None
    assert ours.share == "vms"
    refused = adopting.candidates(again=volume, once=volume)[mark.id]
    assert refused.mark is None
    assert "which of the shares again, once it is of cannot be told" in refused.refusal
    refused = adopting.candidates(vms=storage.top / "other")[mark.id]
    assert "no share of ours sits in" in refused.refusal


def test_what_is_not_sealed_is_refused(storage: "Storage", adopting: Adopting) -> None:
    volume = storage.volume("vms")
    mark = theirs(storage, volume, sealed=False)
    assert adopting.candidates(vms=volume)[mark.id].refusal == "it is not sealed"


def test_only_on_one_file_system(storage: "Storage", adopting: Adopting) -> None:
    volume = storage.volume("vms")
    mark = theirs(storage, volume)
    assert adopting.candidates(on=str(volume), vms=volume).keys() == {mark.id}
    for path, problem in (("/proc", Problem.NOT_SUPPORTED), ("/nowhere", Problem.BAD_PATH)):
        with pytest.raises(RvssError) as caught:
            adopting.candidates(on=path, vms=volume)
        assert caught.value.problem is problem


@btrfs_only
@pytest.mark.parametrize("read_only", [False, True])
def test_the_former_layout(storage: "BtrfsStorage", adopting: Adopting, *, read_only: bool) -> None:
    """Its mark has a run directory for the instance, and does not say that it is sealed."""
    mark = take_former(storage, read_only=read_only)
    instance = adopting.instance(vms=Path(mark.share_path))
    (found,) = adopt.candidates(instance, instance.config.run_directory)
    assert found.id == mark.id
    if read_only:
        assert found.mark is not None
        assert found.mark.sealed is not None
        assert found.mark.sealed.state is SetState.RECOVERED
    else:
        assert found.refusal == "it is not sealed, or a part of it is missing"


def test_only_what_concerns_us_is_looked_at(storage: "Storage", adopting: Adopting) -> None:
    """By a share, a copy in the ledger, or an image of ours that was made or found there."""
    volume = storage.volume("vms")
    mark = theirs(storage, volume)
    here = mark.volume.file_system
    assert concern.file_systems(adopting.instance(vms=volume / "docs")) == {here}
    unshared = adopting.instance()
    assert storage.provider.inventory().foreign
    assert concern.file_systems(unshared) == set()
    seen = unshared.inventory(concern.file_systems(unshared))
    assert seen == NOTHING
    take(storage.provider, volume)
    assert concern.file_systems(unshared) == {here}
    assert here in unshared.inventory({here}).file_systems


def test_a_copy_that_is_gone_counts(storage: "Storage", adopting: Adopting) -> None:
    volume = probe(storage.provider, storage.volume("vms"))
    instance = adopting.instance()
    copy = ShadowCopy(
        id="x",
        share="vms",
        share_path="/vms",
        volume=volume,
        created=now(),
        phase=Phase.GONE,
        path="/x",
    )
    instance.ledger.add(copy, "create")
    assert concern.file_systems(instance) == {volume.file_system}
