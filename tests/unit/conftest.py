"""What several of these tests need."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from samba_rvss import run
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase
from tests.unit.values import COPY_ID, SET, copy_of

_CONF = """\
[global]
    lock directory = {0}/lock
    state directory = {0}/state
    cache directory = {0}/cache
    private dir = {0}/private
    registry shares = yes
    include = registry
    rvss:run directory = {0}/run
    rvss:state directory = {0}/rvss
[vms]
    path = {0}/vms
    vfs objects = shell_snap
    shell_snap:check path command = {hook} check
    shell_snap:create command = {hook} create
    shell_snap:delete command = {hook} delete
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resting:
    """An instance on which nothing runs.

    Attributes:
        configuration: its smb.conf, with the share [vms].
        ledger: its ledger's file.
        copy: the id of a sealed shadow copy in there, whose file system is not there.
        kept: the id of a backup, of which the same is true.
    """

    configuration: Path
    ledger: str
    copy: str
    kept: str


@pytest.fixture
def resting(reachable: Path) -> Resting:
    """Return an instance on which nothing runs, with a shadow copy and a backup."""
    for name in ("lock", "state", "cache", "private", "run", "rvss"):
        (reachable / name).mkdir()
    hook = f"/usr/libexec/samba-rvss/hook -S {reachable}/run/hook.sock"
    found = Resting(
        configuration=reachable / "smb.conf",
        ledger=f"{reachable}/rvss/ledger.db",
        copy="20261122T100000Z-0000aaaa",
        kept="20261122T110000Z-0000bbbb",
    )
    found.configuration.write_text(_CONF.format(reachable, hook=hook))
    with closing(Ledger(found.ledger)) as ledger:
        ledger.add(replace(copy_of(found.copy, Phase.SEALED), share="vms"), "create")
        kept = replace(copy_of(found.kept, Phase.KEPT), share="vms", set_id=SET, copy_id=COPY_ID)
        ledger.add(kept, "create")
        ledger.note_set("a set", "aborted")
    return found


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let smbstatus say something."""
    monkeypatch.setattr(run, "_PATH", str(tmp_path))
    run.tool.cache_clear()

    def made(text: str) -> None:
        (tmp_path / "said").write_text(text)
        program = tmp_path / "smbstatus"
        program.write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/said\n")
        program.chmod(0o755)

    yield made
    run.tool.cache_clear()
