"""Shadow copies of a set are of one instant: taken at the first create callout of its Commit."""

import json
import time
from typing import TYPE_CHECKING

import pytest

from samba_rvss.copies.create import UNCLAIMED
from samba_rvss.model import Context, Phase, ShadowCopy
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samba_rvss.samba.fsrvp.client import Client
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig

_TRIES = 8
_ASKED_FOR = 60
NAMES = tuple(f"share{number}" for number in range(5))


@pytest.fixture
def served(rig: "Rig") -> "Rig":
    """Shares, each on a volume of its own, and both servers."""
    for name in NAMES:
        rig.share(name, rig.volume(name))
    rig.start()
    return rig


def _transids(copies: "Sequence[ShadowCopy]") -> list[int]:
    return [copy.transid for copy in copies]


def _take(rig: "Rig", client: "Client", *shares: str) -> "tuple[CopySet, list[ShadowCopy]]":
    """Take a set of one instant; on a busy host, not every set is."""
    for _ in range(_TRIES):
        taken = rig.expose(client, *shares)
        copies = rig.wait_for_phase(Phase.OPEN, len(shares))
        assert {copy.share for copy in copies} == set(shares)
        if len(set(_transids(copies))) == 1 and all(_transids(copies)):
            return taken, copies
        assert "set" not in {told["instant"] for told in rig.copies()}
        taken.complete()
        taken.delete()
    raise AssertionError(f"of {_TRIES} sets, none was of one instant")


def _unclaimed(rig: "Rig") -> list[str]:
    """Return the shares of which something was taken along that nobody asked for."""
    return _shares_of(rig, UNCLAIMED)


def _shares_of(rig: "Rig", what: str) -> list[str]:
    """Return the shares of all events of a kind."""
    done = rig.command("events", "--json")
    events = json.loads(done.stdout)["events"]
    return sorted(event["share"] for event in events if event["what"] == what)


@pytest.mark.vm(seconds=60, file_system="zfs")
def test_a_set_is_of_one_instant(served: "Rig") -> None:
    with served.client() as client:
        taken, _ = _take(served, client, *NAMES)
        taken.complete()
        served.wait_for_phase(Phase.SEALED, len(NAMES))
        for told in served.copies():
            assert told["instant"] == "set"
        taken.delete()
    assert _unclaimed(served) == []
    served.assert_nothing_left()


def test_a_set_of_shares_that_are_to_stand_alone(served: "Rig") -> None:
    for name in NAMES[:2]:
        served.share(name, served.fs.path / name, {"rvss:instant": "volume"})
    served.samba.reload()
    with served.client() as client:
        taken = served.expose(client, *NAMES)
        copies = {copy.share: copy for copy in served.wait_for_phase(Phase.OPEN, len(NAMES))}
        alone = {copies[name].transid for name in NAMES[:2]}
        rest = {copies[name].transid for name in NAMES[2:]}
        assert len(alone) == 2
        assert not alone & rest
        assert {told["instant"] for told in served.copies()} == {"volume"}
        taken.complete()
        taken.delete()
    served.assert_nothing_left()


@pytest.mark.vm(seconds=20, file_system="zfs")
def test_two_shares_of_one_volume(rig: "Rig") -> None:
    """On ZFS each has an instant of its own, and that is told."""
    top = rig.volume("both")
    for name in NAMES[:2]:
        (top / name).mkdir()
        rig.share(name, top / name)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, *NAMES[:2])
        together = len(set(_transids(rig.wait_for_phase(Phase.OPEN, 2)))) == 1
        assert not together or isinstance(rig.fs, LoopBtrfs)
        expected = "set" if together else "volume"
        assert {told["instant"] for told in rig.copies()} == {expected}
        taken.complete()
        taken.delete()
    rig.assert_nothing_left()


def test_what_is_taken_along_and_not_wanted_goes_at_once(served: "Rig") -> None:
    """Who asks about sixty shares does not make others pay for sixty."""
    more = tuple(f"other{number}" for number in range(_ASKED_FOR - len(NAMES)))
    for name in more:
        served.share(name, served.fs.volume(name))
    served.samba.reload()
    with served.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY)
        taken.check(*NAMES, *more)
        taken.prepare(*NAMES[:2])
        taken.commit()
        started = time.monotonic()
        wait_until(
            lambda: f"these are all: {served.fs.parts()}",
            lambda: len(served.images()) == 2,
            pause=0.01,
        )
        print(f"the rest is gone {time.monotonic() - started:.2f} s after Commit")
        # As many again as were added, of those that were only asked for.
        assert len(_unclaimed(served)) == 2
        assert {copy.share for copy in served.ledger()} == set(NAMES[:2])
        taken.expose()
        taken.complete()
        taken.delete()
    served.assert_nothing_left()


def test_two_clients_whose_shares_overlap(served: "Rig", second_operator: "BackupOperator") -> None:
    with served.client() as first, served.client(second_operator) as second:
        one = CopySet(first, Context.AUTO_RECOVERY)
        two = CopySet(second, Context.AUTO_RECOVERY)
        one.check(*NAMES[:3])
        two.check(*NAMES[2:])
        one.prepare(*NAMES[:3])
        one.commit()
        mine = [copy for copy in served.ledger() if copy.phase is not Phase.CREATING]
        assert {copy.share for copy in mine} == set(NAMES[:3])
        one.expose()
        two.prepare(*NAMES[2:])
        two.commit()
        theirs = [copy for copy in served.ledger() if copy.id not in {each.id for each in mine}]
        assert {copy.share for copy in theirs} == set(NAMES[2:])
        two.expose()
        for each in (one, two):
            each.complete()
            each.delete()
    served.assert_nothing_left()


def test_one_that_fails_harms_no_other(served: "Rig") -> None:
    """Its own callout gives the reason; Samba asks for the rest; a new Commit has all anew."""
    with served.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        taken.prepare(*NAMES)
        failing = (NAMES[0], NAMES[3])
        for name in failing:
            served.fs.volume(f"{name}/inner")
        with pytest.raises(FsrvpError):
            taken.commit()
        for name in failing:
            refusal = served.fs.nested_refusal(f"{name}/inner")
            assert refusal in served.wait_for_log(f"create {served.fs.path / name}")
        # The first has had its callout when the rest is taken.
        assert {NAMES[0]} == set(NAMES) - set(_shares_of(served, "create"))
        before = {copy.id for copy in served.ledger()}
        for name in failing:
            served.fs.delete_volume(f"{name}/inner")
        taken.commit()
        copies = [
            copy
            for copy in served.ledger()
            if copy.id not in before and copy.phase is not Phase.CREATING
        ]
        assert {copy.share for copy in copies} == set(NAMES)
        taken.expose()
        taken.complete()
        taken.delete()


def test_a_volume_is_made_anew_before_its_copy_is_asked_for(served: "Rig") -> None:
    """What was taken along is of the old one; its own callout takes the new one."""
    with served.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY)
        taken.prepare(*NAMES)
        served.fs.delete_volume(NAMES[3])
        served.volume(NAMES[3])
        taken.commit()
        taken.expose()
        with served.session(taken.mappings[3].exposed_share) as session:
            assert session.list() == ["data"]
        taken.complete()
        taken.delete()
    served.assert_nothing_left()


@pytest.mark.vm(seconds=60, long=True, file_system="zfs")
def test_the_daemon_ends_between_taking_and_claiming(served: "Rig") -> None:
    served.daemon.stop()
    served.daemon.start(crash_at="create.mounted")
    with served.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        taken.prepare(*NAMES)
        with pytest.raises(FsrvpError):
            taken.commit()
        assert len(served.images()) == len(NAMES)
        taken.abort()
    served.daemon.wait_until_dead()
    served.daemon.start()
    assert served.ledger() == []
    served.assert_nothing_left()


def test_what_is_nested_is_of_one_instant_too(rig: "Rig") -> None:
    for name in NAMES[:2]:
        rig.share(name, rig.volume(name), {"rvss:nested": "include"})
        for inner in ("one", "two"):
            rig.volume(f"{name}/{inner}")
    rig.start()
    with rig.client() as client:
        taken, _ = _take(rig, client, *NAMES[:2])
        for mapping in taken.mappings:
            with rig.session(mapping.exposed_share) as session:
                assert session.read("two/data") == b"from the source\n" * 64
        taken.complete()
        taken.delete()
    rig.assert_nothing_left()


def test_a_set_on_two_file_systems(rig: "Rig") -> None:
    """Each is of one instant, and the time between them is told."""
    with LoopBtrfs(rig.directory) as other:
        for name in NAMES[:2]:
            rig.share(name, rig.volume(name))
        for name in NAMES[2:4]:
            path = other.subvolume(name, 0o777)
            (path / "data").write_text("content")
            rig.share(name, path)
        rig.start()
        with rig.client() as client:
            for _ in range(_TRIES):
                taken = rig.expose(client, *NAMES[:4])
                copies = {copy.share: copy for copy in rig.wait_for_phase(Phase.OPEN, 4)}
                here = {copies[name].transid for name in NAMES[:2]}
                there = {copies[name].transid for name in NAMES[2:4]}
                told = rig.copies()
                taken.complete()
                taken.delete()
                if len(here) == len(there) == 1:
                    break
        assert {each["instant"] for each in told} == {"set"}
        times = [copy.taken.timestamp() for copy in copies.values() if copy.taken is not None]
        assert {each["gap_ms"] for each in told} == {round((max(times) - min(times)) * 1000)}
        rig.assert_nothing_left()
