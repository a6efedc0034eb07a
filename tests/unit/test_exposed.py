"""Exposed shares: what a mark or a record says is one is removed only if it has such a name."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from samba_rvss.copies import exposed
from samba_rvss.run import run
from samba_rvss.samba.process import SambaProcess
from tests.unit.site import Site
from tests.unit.values import COPY_ID


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(SambaProcess()) as samba:
        made = Site(tmp_path, samba)
        with closing(made.ledger):
            yield made


def test_no_share_of_an_administrator_is_removed(site: Site) -> None:
    ours = f"vms@{{{COPY_ID}}}"
    net = ["net", "conf", f"--configfile={site.config.file}"]
    for name in ("vms", ours):
        run([*net, "addshare", name, "/srv"], timeout=30)
    for name in ("vms", "global", ours, ours):
        exposed.delete_share(site.instance(), name)
    assert run([*net, "listshares"], timeout=30).split() == ["vms"]
