"""Exposed shares: what a mark or a record says is one is removed only if it has such a name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_rvss.copies import exposed
from samba_rvss.run import run
from tests.unit.site import Site, with_samba
from tests.unit.values import COPY_ID


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with with_samba(tmp_path) as made:
        yield made


def test_no_share_of_an_administrator_is_removed(site: Site) -> None:
    ours = f"vms@{{{COPY_ID}}}"
    net = ["net", "conf", f"--configfile={site.config.file}"]
    for name in ("vms", ours):
        run([*net, "addshare", name, "/srv"], timeout=30)
    for name in ("vms", "global", ours, ours):
        exposed.delete_share(site.instance(), name)
    assert run([*net, "listshares"], timeout=30).split() == ["vms"]
