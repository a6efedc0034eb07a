"""Who counts as somebody that a worker keeps waiting: whose share may have a shadow copy."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from samba_rvss.daemon.rescue import Rescue
from samba_rvss.daemon.stuck import Asker
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Site


@pytest.fixture
def rescue(tmp_path: Path) -> Iterator[Rescue]:
    with closing(SambaProcess()) as samba:
        site = Site(tmp_path, samba)
        with closing(site.ledger):
            yield Rescue(site.instance, lambda: None)


def test_who_is_refused_begins_no_set(rescue: Rescue) -> None:
    knocks = []
    for verb, good in (("check", False), ("check", True), ("create", True), ("check", False)):
        rescue.begins()
        knocks.append(rescue.knocks)  # not before it has its answer
        rescue.ends(verb, Asker(uid=1, path="/srv/vms"), good=good and verb == "check")
        knocks.append(rescue.knocks)
    assert knocks == [0, 0, 0, 1, 1, 1, 1, 1]
