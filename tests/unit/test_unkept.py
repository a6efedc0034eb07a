"""A shadow copy that is not to become a backup, whatever its share says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from samba_rvss.copies import holds, keep
from samba_rvss.errors import Problem, RvssError
from samba_rvss.model import Keep, Phase, SetState
from tests.unit.site import Site, with_samba


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with with_samba(tmp_path) as made:
        yield made


@pytest.mark.parametrize("phase", [Phase.TAKEN, Phase.OPEN])
def test_it_is_not_kept_before_it_is_sealed(site: Site, phase: Phase) -> None:
    copy = replace(site.copy, phase=phase, keep=Keep.YES, state=SetState.RECOVERED)
    site.ledger.add(copy, "create")
    assert keep.is_wanted(copy)
    changed = holds.unwant(site.instance(), copy, uid=0)
    assert changed == site.ledger.get(copy.id)
    assert (changed.phase, changed.keep) == (phase, Keep.NO)
    assert not keep.is_wanted(changed)


@pytest.mark.parametrize("phase", [Phase.SEALING, Phase.SEALED, Phase.KEPT, Phase.GONE])
def test_later_it_is_what_its_mark_says(site: Site, phase: Phase) -> None:
    copy = replace(site.copy, phase=phase, keep=Keep.YES)
    site.ledger.add(copy, "create")
    with pytest.raises(RvssError, match=r"whether it is kept is decided") as caught:
        holds.unwant(site.instance(), copy, uid=0)
    assert caught.value.problem is Problem.STATE
    found = site.ledger.get(copy.id)
    assert found is not None
    assert (found.phase, found.keep) == (phase, Keep.YES)
