"""Two clients at once: Samba gives one the context of the other, and we say so."""

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies.doubt import IN_DOUBT
from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase, SetState
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.methods import BACKUP
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.client import Client
    from tests.samba.conftest import Rig

pytestmark = only("btrfs")


def _doubts(rig: "Rig") -> list[str]:
    with closing(Ledger(str(rig.daemon.state_directory / "ledger.db"), read_only=True)) as ledger:
        return [event.detail for event in ledger.events() if event.what == IN_DOUBT]


def _give_the_context_of_another(rig: "Rig", first: "Client", second: "Client", end: str) -> None:
    from samba_rvss.testing.smbclient import SmbError

    taken = CopySet(first, Context.AUTO_RECOVERY)
    first.set_context(Context.AUTO_RECOVERY)
    second.set_context(BACKUP)
    taken.check("vms")
    set_id = first.start_shadow_copy_set()
    copy_id = first.add_to_shadow_copy_set(set_id, "vms")
    first.commit_shadow_copy_set(set_id)
    first.expose_shadow_copy_set(set_id)
    exposed = first.get_share_mapping(set_id, copy_id, "vms").exposed_share
    (copy,) = rig.wait_for_phase(Phase.SEALED)
    assert not copy.auto_recovery
    with rig.session(exposed) as session:
        with pytest.raises(SmbError):
            session.write("data", b"recovered")
        if end == "complete":
            first.recovery_complete_shadow_copy_set(set_id)
            wait_until("it is said", lambda: _doubts(rig))
        first.delete_share_mapping(set_id, copy_id, "vms")
    for said in _doubts(rig):
        assert f"connected to {exposed} before RecoveryComplete" in said
        assert f"{copy.id} ({copy_id} of {set_id}): {said}" in rig.daemon.log()


@pytest.mark.parametrize("end", ["complete", "delete"])
def test_the_context_of_another(rig: "Rig", end: str) -> None:
    """A client asks for recovery, another does not, and the first gets what the second wanted."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as first, rig.client() as second:

        def doubted() -> bool:
            # A deletion waits for a moment only: where the host is busy, there may be no word.
            _give_the_context_of_another(rig, first, second, end)
            return bool(_doubts(rig))

        wait_until("it is said", doubted)
    told = rig.command("doctor", "vms").stdout
    assert "contexts:" in told
    rig.assert_nothing_left()


def test_a_context_that_fits(rig: "Rig") -> None:
    """No doubt: who reads a copy after RecoveryComplete, or recovers one with AUTO_RECOVERY."""
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        for recovery in (False, True):
            taken = rig.expose(client, "vms", recovery=recovery)
            (exposed,) = taken.exposed_shares
            if recovery:
                with rig.session(exposed) as session:
                    session.write("data", b"recovered")
            taken.complete()
            if recovery:  # else it has been sealed for long, and nobody is dropped
                rig.wait_for_phase(Phase.SEALED, state=SetState.RECOVERED)
            with rig.session(exposed) as session:
                session.read("data")
                rig.wait_for_phase(Phase.SEALED, state=SetState.RECOVERED)
                taken.delete()
    rig.assert_nothing_left()
    assert _doubts(rig) == []
