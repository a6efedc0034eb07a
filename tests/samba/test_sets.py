"""Shadow copy sets: large ones, several, half-failed ones, and how they come to an end."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samba_rvss.model import Context, Phase
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig


SHARES = int(os.environ.get("SAMBA_RVSS_SHARES", "64"))
"""How many shares a large set has; for slow machines, as Windows waits a minute for a Commit."""


def _seconds(taken: CopySet, method: str) -> float:
    return sum(call.seconds for call in taken.calls if call.method == method)


def test_large_set(rig: "Rig") -> None:
    names = []
    for number in range(3):
        rig.fs.volume(f"volume{number}")
    for number in range(SHARES):
        path = rig.fs.path / f"volume{number % 3}" / f"share{number}"
        path.mkdir()
        path.chmod(0o777)
        (path / "data").write_text(f"{number}")
        names.append(f"share{number}")
        rig.share(names[-1], path)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, *names)
        commit = _seconds(taken, "CommitShadowCopySet")
        expose = _seconds(taken, "ExposeShadowCopySet")
        each = f"{1000 * commit / SHARES:.1f} ms a share"
        print(f"Commit of {SHARES} shares: {1000 * commit:.0f} ms, {each};")
        print(f"Expose: {1000 * expose:.0f} ms")
        assert commit < 50
        for number, mapping in enumerate(taken.mappings):
            if number % 8 == 0:
                with rig.session(mapping.exposed_share) as session:
                    # Each has its own directory, and nothing else of the volume.
                    assert session.list() == ["data"]
                    assert session.read("data") == b"%d" % number
                    session.write("recovered", b"%d" % number)
        started = time.monotonic()
        taken.complete()
        copies = rig.wait_for_phase(Phase.SEALED, SHARES)
        print(f"all sealed {1000 * (time.monotonic() - started):.0f} ms after RecoveryComplete")
        assert {copy.exposed_share for copy in copies} == set(rig.exposed_shares())
        assert len(rig.images()) == SHARES
        started = time.monotonic()
        taken.delete()
        print(f"all deleted in {1000 * (time.monotonic() - started):.0f} ms")
    rig.assert_nothing_left()


@pytest.mark.member(file_system="btrfs")
def test_two_users_one_after_the_other(rig: "Rig", second_operator: "BackupOperator") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as first, rig.client(second_operator) as second:
        one = rig.expose(first, "vms")
        two = rig.expose(second, "vms")
        with rig.session(one.mappings[0].exposed_share) as session:
            session.write("from", b"the first")
        one.complete()
        with rig.session(two.mappings[0].exposed_share, second_operator) as session:
            session.write("from", b"the second")
            assert session.list() == ["data", "from"]
        (copy,) = [c for c in rig.ledger() if c.set_id == str(one.id)]
        assert copy.uid == rig.operator.uid
        two.complete()
        copies = rig.wait_for_phase(Phase.SEALED, 2)
        assert {c.uid for c in copies} == {rig.operator.uid, second_operator.uid}
        with rig.session(one.mappings[0].exposed_share) as session:
            assert session.read("from") == b"the first"
        two.delete()
        with rig.session(one.mappings[0].exposed_share) as session:
            assert session.read("from") == b"the first"
        one.delete()
    rig.assert_nothing_left()


def test_daemon_is_down(rig: "Rig") -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        taken.start()
        taken.add("vms")
        rig.daemon.stop()
        started = time.monotonic()
        with pytest.raises(FsrvpError) as caught:
            taken.commit()
        spent = time.monotonic() - started
        assert spent < 10
        assert caught.value.name == "E_FAIL"
        with pytest.raises(FsrvpError) as caught:
            client.is_path_supported("vms")
        assert caught.value.name == "FSRVP_E_NOT_SUPPORTED"
        socket = rig.daemon.run_directory / "hook.sock"
        sentence = (
            f"samba-rvss hook: cannot reach the daemon at {socket} (No such file or directory):"
            " start samba-rvss.service"
        )
        assert rig.samba.log().count(sentence) == 2
        taken.abort()
        rig.assert_nothing_left()
        # It is there again, and the next set works.
        rig.daemon.start()
        rig.expose(client, "vms").delete()
        # Killed, it leaves its socket behind.
        rig.daemon.kill()
        with pytest.raises(FsrvpError):
            client.is_path_supported("vms")
        assert "(Connection refused): start samba-rvss.service" in rig.samba.log()
        rig.daemon.start()
        rig.expose(client, "vms").delete()
    rig.assert_nothing_left()


@pytest.mark.member(file_system="btrfs", binding="seal")
def test_one_share_of_a_set_fails(rig: "Rig") -> None:
    names = ["first", "second", "third"]
    for name in names:
        rig.share(name, rig.volume(name))
    rig.start()
    with rig.client() as client:
        failing = CopySet(client, Context.AUTO_RECOVERY, abort_on_failure=False)
        failing.start()
        failing.add(*names)
        rig.fs.volume("second/inner")
        with pytest.raises(FsrvpError) as caught:
            failing.commit()
        assert caught.value.name == "E_FAIL"
        assert rig.fs.nested_refusal("second/inner") in rig.samba.log()
        failing.abort()
        # The failed one has left nothing; what Samba took before it, it forgets. Such a copy is
        # never opened, is in nobody's reach, and the administrator can remove it.
        copies = rig.wait_for_phase(Phase.TAKEN, len(rig.ledger()))
        assert "second" not in {copy.share for copy in copies}
        assert rig.images() == sorted(copy.id for copy in copies)
        for copy in copies:
            assert os.statvfs(copy.path).f_flag & os.ST_RDONLY
        assert rig.exposed_shares() == []
        # They are in no other set's way.
        rig.fs.delete_volume("second/inner")
        taken = rig.expose(client, *names)
        taken.complete()
        taken.delete()
        if copies:
            done = rig.command("delete", *(copy.id for copy in copies))
            assert done.returncode == 0, done.stderr
    rig.assert_nothing_left()


def test_delete_twice(rig: "Rig") -> None:
    volume = rig.volume()
    rig.share("vms", volume)
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
        taken.delete()
        rig.assert_nothing_left()
        with pytest.raises(FsrvpError) as caught:
            client.delete_share_mapping(taken.id, taken.copies["vms"], "vms")
        print("the second time:", caught.value.name)
    # To the hook, gone already is success.
    done = rig.hook("delete", str(volume), copy.path)
    assert (done.returncode, done.stderr) == (0, "")
    rig.assert_nothing_left()


@pytest.mark.member(file_system="btrfs", binding="seal")
def test_previous_versions(rig: "Rig") -> None:
    volume = rig.volume()
    (volume / "data").write_bytes(b"old")
    rig.share("vms", volume, rig.previous_options("vms", volume))
    rig.start()

    def listed() -> list[str]:
        words = ["smbclient", f"//{rig.samba.address}/vms", *rig.operator.words]
        said = run([*words, "-c", "allinfo data"], timeout=30)
        return [line for line in said.splitlines() if line.startswith("@GMT-")]

    assert listed() == []
    with rig.client() as client:
        one = rig.expose(client, "vms")
        two = rig.expose(client, "vms")  # within the same second, most likely
        one.complete()
        two.complete()
        copies = rig.wait_for_phase(Phase.SEALED, 2)
        (volume / "data").write_bytes(b"new")
        names = sorted(Path(copy.previous_path).name for copy in copies)
        assert sorted(listed()) == names
        with rig.session("vms") as session:
            assert session.read("data") == b"new"
            for name in names:
                assert session.read(f"{name}\\data") == b"old"
        one.delete()
        assert len(listed()) == 1
        two.delete()
        assert listed() == []
    rig.assert_nothing_left()


def _held_by_samba(rig: "Rig", device: int) -> list[str]:
    """Return what processes of Samba have open on a device, by its number."""
    found = []
    for pid in rig.samba.processes():
        for entry in (*Path(f"/proc/{pid}/fd").glob("*"), Path(f"/proc/{pid}/cwd")):
            try:
                if entry.stat().st_dev == device:
                    found.append(f"{entry}: {os.readlink(entry)}")
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.mark.parametrize("how", ["client", "command"])
def test_delete_while_in_use(rig: "Rig", how: str) -> None:
    from samba_rvss.testing.smbclient import SmbError

    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        exposed = taken.mappings[0].exposed_share
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        with rig.session(exposed) as writing, rig.session(exposed) as reading:
            file = writing.open("data", write=True)
            file.write(b"in use")
            other = reading.open("data")
            assert other.read(6) == b"in use"
            # Every volume has a number of its own; paths say nothing after an unmount.
            device = os.stat(copy.path).st_dev
            assert _held_by_samba(rig, device)
            if how == "client":
                taken.delete()
            else:
                done = rig.command("delete", copy.id)
                assert (done.returncode, done.stdout) == (0, f"{copy.id} is deleted\n")
            rig.assert_nothing_left(sets=how == "client")
            for attempt in (lambda: file.write(b"x"), lambda: other.read(6)):
                with pytest.raises(SmbError):
                    attempt()
            # smbd lets go although both clients are still connected
            wait_until(
                lambda: f"Samba lets go: {_held_by_samba(rig, device)}",
                lambda: not _held_by_samba(rig, device),
            )
        with pytest.raises(SmbError):
            rig.session(exposed)
    rig.assert_nothing_left(sets=how == "client")


@pytest.mark.parametrize("recovered", [False, True])
def test_command_deletes_an_exposed_copy(rig: "Rig", *, recovered: bool) -> None:
    rig.share("vms", rig.volume())
    rig.start()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        if recovered:
            taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED if recovered else Phase.OPEN)
        assert rig.exposed_shares() == [taken.mappings[0].exposed_share]
        assert len(rig.descriptors()) == 1
        done = rig.command("delete", copy.id)
        assert (done.returncode, done.stdout) == (0, f"{copy.id} is deleted\n")
        rig.assert_nothing_left(sets=False)
        # The client's own delete finds it gone, and Samba forgets the set too.
        taken.delete()
        assert rig.command("delete", copy.id).returncode != 0
    rig.assert_nothing_left()
