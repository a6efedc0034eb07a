"""SIGKILL of the daemon at every point of a shadow copy's life: whole or gone, never half.

What Samba's own record holds after a set that failed or vanished is Samba's: a set that blocks it
is taken out of the way here by ending the worker and removing srv_fss.tdb.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies.instance import POINTS
from samba_rvss.errors import RvssError
from samba_rvss.model import Context, Phase, SetState
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.methods import BACKUP
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samba_rvss.samba.fsrvp.client import Client
    from tests.samba.conftest import Rig

SHARE = "vms"
RECOVERED = b"what the application wrote"


def points(*verbs: str) -> list[str]:
    """Return the points of some verbs."""
    return [point for point in POINTS if point.split(".")[0] in verbs]


PLAIN, PREVIOUS = "plain", "previous versions"


@pytest.fixture(params=[PLAIN, PREVIOUS])
def share(request: pytest.FixtureRequest, rig: "Rig") -> Path:
    """A share of a directory in a volume, in both of its forms; Samba runs."""
    path = rig.volume() / "share"
    path.mkdir()
    path.chmod(0o777)
    (path / "data").write_bytes(b"from the source")
    (path / "data").chmod(0o666)
    options = rig.previous_options(SHARE, path) if request.param == PREVIOUS else {}
    rig.share(SHARE, path, options)
    rig.samba.start()
    return path


# Where one form shows what both would, the one with more mounts.
only_previous = pytest.mark.parametrize("share", [PREVIOUS], indirect=True)


def begin(client: "Client", *, recovery: bool = True) -> CopySet:
    """Prepare a set that stays as it is when a step fails."""
    context = Context.AUTO_RECOVERY if recovery else BACKUP
    sequence = CopySet(client, context, abort_on_failure=False)
    sequence.prepare(SHARE)
    return sequence


def recover(rig: "Rig", exposed: str) -> None:
    """Write through the exposed share, as an application that brings its files in order."""
    with rig.session(exposed) as session:
        session.write("recovered", RECOVERED)
        session.write("data", RECOVERED)


def assert_recovered(rig: "Rig", exposed: str) -> None:
    """Fail unless the recovery is in the copy, and nothing more can be written."""
    from samba_rvss.testing.smbclient import SmbError

    with rig.session(exposed) as session:
        assert session.read("recovered") == session.read("data") == RECOVERED
        with pytest.raises(SmbError):
            session.write("late", b"")
        with pytest.raises(SmbError):
            session.write("data", b"")


def wait_for_crash(rig: "Rig", point: str, count: int = 1) -> None:
    """Wait until the daemon has ended itself, at a point that it has reached so often."""
    rig.daemon.wait_until_dead()
    assert rig.daemon.log().splitlines().count(f"reached {point}") == count


def crash(rig: "Rig", point: str) -> None:
    """Start a daemon that ends itself when it finds work to resume."""
    before = rig.daemon.log().splitlines().count(f"reached {point}")
    with suppress(RvssError):  # it may end itself before it serves
        rig.daemon.start(crash_at=point)
    wait_for_crash(rig, point, before + 1)


def assert_whole_or_gone(rig: "Rig") -> None:
    """Fail if anything is there by half: row, image, mounts and directories say the same."""
    copies = rig.ledger()
    inventory = rig.fs.provider(identity_of(rig.daemon)).inventory()
    images = {image.id: image for image in inventory.images}
    assert {copy.id for copy in copies} == images.keys()
    assert rig.images() == sorted(images)
    paths = {copy.path for copy in copies} | {copy.previous_path for copy in copies} - {""}
    assert sorted(rig.mounts()) == sorted(paths)
    assert sorted(rig.mount_directories()) == sorted(paths)
    # What recovery wrote to goes once it is recorded that the copy is sealed.
    parts = sorted(["volume vms", *(f"image {copy.id}" for copy in copies)])
    wait_until(lambda: f"these are all: {rig.fs.parts()}", lambda: rig.fs.parts() == parts)
    for copy in copies:
        assert copy.phase in (Phase.TAKEN, Phase.OPEN, Phase.SEALING, Phase.SEALED)
        assert images[copy.id].complete
        for path in filter(None, (copy.path, copy.previous_path)):
            writable = not os.statvfs(path).f_flag & os.ST_RDONLY
            assert writable == (copy.phase is Phase.OPEN and path == copy.path)
            assert (Path(path) / "data").exists()
        if copy.phase is Phase.SEALED:
            assert images[copy.id].read_only


def assert_a_fresh_set_works(rig: "Rig") -> None:
    """Take a set from beginning to end; if Samba is blocked by its own record, free it first."""

    def unblock() -> None:
        rig.samba.end_workers()
        (rig.samba.lock_directory / "srv_fss.tdb").unlink()

    others = {copy.id for copy in rig.ledger()}
    rig.assert_a_fresh_set_works(SHARE, unblock=unblock)
    assert {copy.id for copy in rig.ledger()} == others
    assert_whole_or_gone(rig)


def recovered(rig: "Rig", sequence: CopySet) -> str:
    """Bring a sequence to where the client would say that recovery is complete."""
    sequence.commit()
    (exposed,) = sequence.expose()
    rig.wait_for_phase(Phase.OPEN)
    recover(rig, exposed)
    return exposed


def end_well(rig: "Rig", sequence: CopySet, exposed: str) -> None:
    """See that a copy is sealed, whole and recovered, and goes when its client deletes it."""
    rig.wait_for_phase(Phase.SEALED)
    assert_whole_or_gone(rig)
    assert_recovered(rig, exposed)
    sequence.delete()
    rig.assert_nothing_left()
    assert_a_fresh_set_works(rig)


@pytest.fixture
def client(rig: "Rig", share: Path) -> "Iterator[Client]":
    """The client that goes through a crash; its connection is to Samba, which lives on."""
    with rig.client() as connected:
        yield connected


# one crash


@pytest.mark.vm(seconds=45, file_system="zfs", share=PREVIOUS, point="create.image")
@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("create"))
def test_crash_during_commit(rig: "Rig", client: "Client", point: str) -> None:
    """The client is told that its commit failed. What had been finished is kept."""
    _commit_in_vain(rig, client, point)
    rig.daemon.start()
    assert_whole_or_gone(rig)
    kept = rig.ledger()
    assert [copy.phase for copy in kept] == [Phase.TAKEN] * (point == "create.taken")
    assert_a_fresh_set_works(rig)
    for copy in kept:
        done = rig.command("delete", copy.id)
        assert done.returncode == 0, done.stderr
    rig.assert_nothing_left()


@only_previous
@pytest.mark.usefixtures("share")
def test_crash_after_the_mount_of_previous_versions(rig: "Rig", client: "Client") -> None:
    _commit_in_vain(rig, client, "create.mounted*2")
    rig.daemon.start()
    rig.assert_nothing_left()
    assert_a_fresh_set_works(rig)


def _commit_in_vain(rig: "Rig", client: "Client", point: str) -> None:
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    with pytest.raises(FsrvpError):
        sequence.commit()
    wait_for_crash(rig, point)
    sequence.abort()


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("open"))
def test_crash_between_commit_and_recovery(rig: "Rig", client: "Client", point: str) -> None:
    """The client notices nothing: when the daemon is back, its sequence goes on."""
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    sequence.commit()
    wait_for_crash(rig, point)

    rig.daemon.start()
    rig.wait_for_phase(Phase.OPEN)
    assert_whole_or_gone(rig)
    (exposed,) = sequence.expose()
    recover(rig, exposed)
    sequence.complete()
    end_well(rig, sequence, exposed)


@only_previous
@pytest.mark.usefixtures("share")
def test_recovery_was_complete_before_it_was_recorded(rig: "Rig", client: "Client") -> None:
    """It was open, though the ledger does not say so: a file that still is changes nothing."""
    rig.daemon.start(crash_at="open.opened")
    sequence = begin(client)
    sequence.commit()
    wait_for_crash(rig, "open.opened")
    (exposed,) = sequence.expose()
    recover(rig, exposed)
    (copy,) = rig.ledger()
    assert not copy.set_id
    with (Path(copy.path) / "data").open("r+b", buffering=0) as held:
        sequence.complete()
        rig.daemon.start()
        (sealed,) = rig.wait_for_phase(Phase.SEALED)
        with suppress(OSError):
            held.write(b"too late")
    (image,) = rig.fs.provider(identity_of(rig.daemon)).inventory().images
    assert image.mark.sealed is not None
    assert image.mark.sealed.set_id == sealed.set_id == str(sequence.id)
    assert image.mark.sealed.state is SetState.RECOVERED
    end_well(rig, sequence, exposed)


@pytest.mark.vm(seconds=45, long=True, file_system="zfs", share=PLAIN, point="seal.marked")
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("seal"))
def test_crash_after_recovery(rig: "Rig", client: "Client", point: str) -> None:
    """Sealing is resumed and completed; the recovery is in the copy, and nothing else ever is."""
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    exposed = recovered(rig, sequence)
    sequence.complete()
    wait_for_crash(rig, point)
    rig.daemon.start()
    end_well(rig, sequence, exposed)


@pytest.mark.usefixtures("share")
@only_previous
@pytest.mark.parametrize("point", ["seal.closed", "seal.marked", "seal.sealed"])
def test_recovery_is_recorded_when_it_is_on_disk(rig: "Rig", client: "Client", point: str) -> None:
    """Not before it is sealed: a power loss may have taken it, and the next start must know."""
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    exposed = recovered(rig, sequence)
    sequence.complete()
    rig.daemon.wait_until_dead()
    (copy,) = rig.ledger()
    sealed = copy.phase is Phase.SEALED
    assert (copy.state is SetState.RECOVERED) is sealed is (point == "seal.sealed")
    rig.daemon.start()
    end_well(rig, sequence, exposed)


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("seal"))
def test_crash_while_a_copy_without_recovery_is_sealed(
    rig: "Rig", client: "Client", point: str
) -> None:
    rig.daemon.start(crash_at=point)
    sequence = begin(client, recovery=False)
    sequence.commit()
    wait_for_crash(rig, point)

    rig.daemon.start()
    rig.wait_for_phase(Phase.SEALED)
    assert_whole_or_gone(rig)
    (exposed,) = sequence.expose()
    with rig.session(exposed) as session:
        assert session.read("data") == b"from the source"
    sequence.delete()
    rig.assert_nothing_left()
    assert_a_fresh_set_works(rig)


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("delete"))
def test_crash_during_deletion(rig: "Rig", client: "Client", point: str) -> None:
    """The deletion is finished, with share and descriptor, though Samba was told it failed."""
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    sequence.commit()
    (exposed,) = sequence.expose()
    recover(rig, exposed)
    sequence.complete()
    rig.wait_for_phase(Phase.SEALED)
    with pytest.raises(FsrvpError):
        sequence.delete()
    wait_for_crash(rig, point)

    rig.daemon.start()
    rig.assert_nothing_left(sets=False)
    assert_whole_or_gone(rig)
    # The client may ask again: gone already is success, for us. Samba has its own mind.
    with suppress(FsrvpError):
        sequence.delete()
    assert_a_fresh_set_works(rig)


@pytest.mark.vm(seconds=45, long=True, file_system="zfs", share=PREVIOUS, point="keep.sealed")
@pytest.mark.parametrize("share", [PREVIOUS], indirect=True)
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("keep"))
def test_crash_while_a_copy_becomes_a_backup(rig: "Rig", client: "Client", point: str) -> None:
    """It becomes one wholly, though Samba was told that its deletion failed; no byte is lost."""
    unsealed = point in ("keep.ended", "keep.sealed")  # then it is sealed after its client's end
    rig.daemon.start(crash_at=point)
    sequence = begin(client)
    recovered(rig, sequence)
    if not unsealed:
        sequence.complete()
    (copy,) = rig.wait_for_phase(Phase.OPEN if unsealed else Phase.SEALED)
    kept = rig.command("keep", copy.id)
    assert kept.returncode == 0, kept.stderr
    with suppress(FsrvpError):
        sequence.delete()
    wait_for_crash(rig, point)

    rig.daemon.start()
    rig.wait_for_unmounted(copy.path)
    with suppress(RvssError):  # it may have been told that it is deleted
        sequence.delete()
    assert rig.ledger() == []

    def backups() -> list[dict[str, object]]:
        return list(json.loads(rig.command("backup", "list", "--json").stdout)["backups"])

    wait_until(lambda: f"it is a backup: {backups()}", lambda: len(backups()) == 1)
    listed = backups()
    assert [(found["id"], found["consistent"]) for found in listed] == [(copy.id, not unsealed)]
    # It is in Previous Versions again, where it is mounted on demand: now it is not.
    versions = str(rig.daemon.run_directory / "previous" / "vms")
    expected = {"images", "mounts", "directories"}
    wait_until(
        lambda: f"left: {rig.left(sets=False)}", lambda: rig.left(sets=False).keys() == expected
    )
    left = rig.left(sets=False)
    assert left["mounts"] == [versions]
    assert [os.path.dirname(str(entry)) for entry in left["directories"]] == [versions]
    with rig.image(copy) as image:
        assert (image / "share" / "data").read_bytes() == RECOVERED
    done = rig.command("delete", copy.id)
    assert done.returncode == 0, done.stderr
    assert_a_fresh_set_works(rig)


@only_previous
@pytest.mark.usefixtures("share")
def test_what_was_exposed_while_nobody_followed_goes_whole(rig: "Rig", client: "Client") -> None:
    """The ledger never heard of the exposed share, and Samba has removed that from its registry."""
    rig.daemon.start(crash_at="open.intent")
    sequence = begin(client)
    sequence.commit()
    wait_for_crash(rig, "open.intent")
    sequence.expose()
    sequence.complete()
    with pytest.raises(FsrvpError):
        sequence.delete()
    assert rig.descriptors() != []
    (copy,) = rig.ledger()
    assert not copy.exposed_share
    rig.fs.provider(identity_of(rig.daemon)).destroy(copy.volume, copy.id)
    rig.daemon.start()
    rig.assert_nothing_left(sets=False)


# a crash while a crash is being cleaned up


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first in ("create.image", "create.mounted", "delete.unmounted")
        for second in points("delete")
        # what was never exposed has no share to delete
        if not (first.startswith("create") and second == "delete.unshared")
    ],
)
def test_crash_while_a_crash_is_undone(
    rig: "Rig", client: "Client", first: str, second: str
) -> None:
    rig.daemon.start(crash_at=first)
    sequence = begin(client)
    with suppress(FsrvpError):
        sequence.commit()
        sequence.expose()
        sequence.complete()
        rig.wait_for_phase(Phase.SEALED)
        sequence.delete()
    wait_for_crash(rig, first)
    crash(rig, second)

    rig.daemon.start()
    assert_whole_or_gone(rig)
    rig.assert_nothing_left(sets=False)
    with suppress(FsrvpError):
        client.abort_shadow_copy_set(sequence.id)
    assert_a_fresh_set_works(rig)


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("seal.renamed", second) for second in points("seal")),
        # From the mark on the image is sealed, and it is the record that is amended.
        ("seal.marked", "seal.closed"),
        ("seal.marked", "seal.mounted"),
    ],
)
def test_crash_while_sealing_is_resumed(
    rig: "Rig", client: "Client", first: str, second: str
) -> None:
    rig.daemon.start(crash_at=first)
    sequence = begin(client)
    exposed = recovered(rig, sequence)
    sequence.complete()
    wait_for_crash(rig, first)
    crash(rig, second)
    rig.daemon.start()
    end_well(rig, sequence, exposed)


@only_previous
@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_crash_while_mounts_are_made_anew(rig: "Rig", client: "Client", sealed: bool) -> None:  # noqa: FBT001
    """As after a reboot: the mounts are gone, images and record are there."""
    rig.daemon.start()
    sequence = begin(client)
    exposed = recovered(rig, sequence)
    if sealed:
        sequence.complete()
        rig.wait_for_phase(Phase.SEALED)
    rig.daemon.kill()
    rig.daemon.unmount()
    crash(rig, "create.mounted")
    rig.daemon.start()
    if not sealed:
        rig.wait_for_phase(Phase.OPEN)
        assert_whole_or_gone(rig)
        sequence.complete()
    end_well(rig, sequence, exposed)


@pytest.mark.usefixtures("share")
def test_the_ledger_is_lost_with_the_crash(rig: "Rig", client: "Client") -> None:
    """Losing the ledger loses nothing: the images bear their marks."""
    rig.daemon.start()
    sequence = begin(client)
    sequence.commit()
    (exposed,) = sequence.expose()
    rig.wait_for_phase(Phase.OPEN)
    (before,) = rig.ledger()
    recover(rig, exposed)
    rig.daemon.kill()
    for name in rig.daemon.state_directory.glob("ledger.db*"):
        name.unlink()
    rig.daemon.start()
    (after,) = rig.wait_for_phase(Phase.OPEN)
    assert (after.id, after.path, after.volume) == (before.id, before.path, before.volume)
    assert_whole_or_gone(rig)
    sequence.complete()
    rig.wait_for_phase(Phase.SEALED)
    assert_recovered(rig, exposed)
    rig.daemon.kill()
    for name in rig.daemon.state_directory.glob("ledger.db*"):
        name.unlink()
    rig.daemon.start()
    end_well(rig, sequence, exposed)


@pytest.mark.usefixtures("share")
@pytest.mark.parametrize("point", points("adopt"))
def test_crash_while_another_instances_image_is_adopted(
    rig: "Rig", client: "Client", point: str
) -> None:
    """What was taken over, and is in no record yet, is adopted by the next start."""
    rig.daemon.start()
    sequence = begin(client)
    exposed = recovered(rig, sequence)
    sequence.complete()
    (copy,) = rig.wait_for_phase(Phase.SEALED)
    before = identity_of(rig.daemon)
    rig.daemon.stop()
    for path in rig.daemon.state_directory.iterdir():
        path.unlink()
    rig.daemon.start(crash_at=point)
    assert rig.ledger() == []
    assert rig.command("adopt", "--from", before.id).returncode != 0
    wait_for_crash(rig, point)
    rig.daemon.start()
    (after,) = rig.wait_for_phase(Phase.SEALED)
    assert (after.id, after.adopted) == (copy.id, True)
    assert_recovered(rig, exposed)
    assert rig.command("delete", copy.id).returncode == 0
    assert_whole_or_gone(rig)


def test_every_point_is_crashed_at() -> None:
    assert sorted(
        points("create", "open", "seal", "delete", "keep", "adopt", "expose", "conceal")
    ) == sorted(POINTS)
