"""What becomes of a copy of which somebody has removed a part by hand while it was open."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.kernel import mounting
from samba_rvss.model import Phase
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of

if TYPE_CHECKING:
    from samba_rvss.model import ShadowCopy
    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.samba.fsrvp.copyset import CopySet
    from tests.samba.conftest import Rig


@pytest.fixture
def opened(rig: "Rig") -> "tuple[Client, CopySet, ShadowCopy]":
    """A copy that is open for its recovery."""
    rig.samba.set_options({"rvss:grace": "5 s", "rvss:recovery timeout": "60 s"})
    rig.share("vms", rig.volume())
    rig.start()
    client = rig.client()
    taken = rig.expose(client, "vms")
    (copy,) = rig.wait_for_phase(Phase.OPEN)
    return client, taken, copy


def test_an_image_that_is_lost_before_it_is_sealed(
    rig: "Rig", opened: "tuple[Client, CopySet, ShadowCopy]"
) -> None:
    """It cannot be sealed any more, so what is left of the copy goes."""
    client, taken, copy = opened
    rig.fs.provider(identity_of(rig.daemon)).destroy(copy.volume, copy.id)
    with client:
        taken.complete()
        rig.wait_for_log("is not sealed")
    rig.assert_nothing_left(90)


def test_a_mount_that_is_lost_before_it_is_sealed(
    rig: "Rig", opened: "tuple[Client, CopySet, ShadowCopy]"
) -> None:
    """It is sealed, and mounted as that."""
    client, taken, copy = opened
    rig.unmount(copy.path)
    with client:
        taken.complete()
        rig.wait_for_phase(Phase.SEALED, seconds=60)
        with rig.session(taken.mappings[0].exposed_share) as session:
            assert session.read("data").startswith(b"from the source")
        taken.delete()
    rig.assert_nothing_left()


def test_a_ledger_that_is_lost_before_the_copy_is_sealed(
    rig: "Rig", opened: "tuple[Client, CopySet, ShadowCopy]"
) -> None:
    """The daemon writes it anew, and nothing is forgotten."""
    client, taken, copy = opened
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    with client:
        taken.complete()
        rig.wait_for_log("was removed or replaced and is written anew")
        (sealed,) = rig.wait_for_phase(Phase.SEALED)
        assert (sealed.id, sealed.set_id, sealed.context) == (copy.id, copy.set_id, copy.context)
        taken.delete()
    rig.assert_nothing_left()


def test_a_writable_layer_that_is_lost_while_the_copy_is_recovered(
    rig: "Rig", opened: "tuple[Client, CopySet, ShadowCopy]"
) -> None:
    """Somebody unmounts once, and the closed mount beneath shows: it is opened again."""
    client, taken, copy = opened
    mounting.umount(copy.path)
    with client:
        assert rig.command("reconcile").returncode == 0
        wait_until("it is open again", lambda: not os.statvfs(copy.path).f_flag & os.ST_RDONLY)
        with rig.session(taken.mappings[0].exposed_share) as session:
            session.write("data", b"recovered")
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        assert (Path(copy.path) / "data").read_bytes() == b"recovered"
        taken.delete()
    rig.assert_nothing_left()
