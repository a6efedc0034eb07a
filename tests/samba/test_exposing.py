"""Backups as shares again: read-only, or as a writable copy beside the backup."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss import wire
from samba_rvss.cli.exposing import as_data
from samba_rvss.copies.backup import Backup, in_ledger
from samba_rvss.ledger import Ledger
from samba_rvss.model import Mark, Phase
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.results import FsrvpError
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import identity_of

if TYPE_CHECKING:
    from samba_rvss.testing.users import BackupOperator
    from tests.samba.conftest import Rig

_HELD, _REFUSED, _NOT_FOUND = 30, 19, 20
_SEALED = b"recovered"
_OPTIONS = {"rvss:keep": "recovered", "guest ok": "yes"}


def _json(rig: "Rig", *words: str) -> Any:
    done = rig.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _do(rig: "Rig", *words: str) -> str:
    done = rig.command("backup", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _refused(rig: "Rig", status: int, *words: str) -> str:
    done = rig.command(*words)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stderr


def _ask(rig: "Rig", verb: str, copy: str, **more: Any) -> wire.Result | None:
    """Ask the daemon without a process for it; return its answer, None if it dies of that."""
    path = rig.daemon.run_directory / "admin.sock"
    wait_until("the daemon listens", path.exists)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(60)
        peer.connect(str(path))
        peer.send(wire.encode_admin(wire.AdminRequest(verb=verb, copy=copy, **more)))
        while data := peer.recv(wire.MAXIMUM):
            answer = wire.decode_answer(data)
            if isinstance(answer, wire.Result):
                return answer
    return None


def _asked(rig: "Rig", verb: str, copy: str, **more: Any) -> None:
    answer = _ask(rig, verb, copy, **more)
    assert answer is not None
    assert answer.status == 0, answer.line


def _backups(rig: "Rig") -> list[Backup]:
    path = rig.daemon.state_directory / "ledger.db"
    inventory = rig.fs.provider(identity_of(rig.daemon)).inventory()
    with closing(Ledger(str(path), read_only=True)) as ledger:
        return in_ledger(ledger, inventory.images)


def _delete_copies(rig: "Rig") -> None:
    """Delete all writable copies."""
    for backup in _backups(rig):
        for image in backup.exposed:
            if image.mark.branch:
                _asked(rig, "conceal", image.id, delete=True)


def _backed_up(rig: "Rig", *more: str) -> str:
    with rig.client() as client:
        taken = rig.expose(client, "vms", *more)
        for exposed in taken.exposed_shares:
            with rig.session(exposed) as session:
                session.write("data", _SEALED)
        taken.complete()
        rig.wait_for_phase(Phase.SEALED, 1 + len(more))
        taken.delete()
    return _backups(rig)[-1].id


def _name(backup: str, more: str = "") -> str:
    return f"vms-{backup[:8]}-{backup[9:15]}{more}"


def _registered(rig: "Rig") -> list[str]:
    names = rig.samba.net("conf", "listshares").splitlines()
    return sorted(name for name in names if name.startswith(("vms-", "logs-")))


def _may(rig: "Rig", share: str, user: "BackupOperator") -> str:
    """Return what somebody may do with a share: nothing, read or write."""
    from samba_rvss.testing.smbclient import SmbError

    try:
        with rig.session(share, user) as session:
            session.read("data")
            try:
                session.write("new", b"written")
            except SmbError:
                return "read"
            return "write"
    except SmbError as exc:
        return exc.name


def _assert_whole(rig: "Rig") -> list[dict[str, Any]]:
    """Fail unless what is exposed by its mark is a share that leads to a mount, and nothing else.

    Returns:
        What is exposed, and what there is beside the backup.
    """
    (backup,) = _backups(rig)
    found = [as_data(image) for image in backup.exposed]
    exposed = [each for each in found if each["share"]]
    assert set(_registered(rig)) == {each["share"] for each in exposed}
    paths = {rig.parameters(each["share"])["path"] for each in exposed}
    assert set(rig.mounts()) == paths
    assert {str(path) for path in rig.daemon.run_directory.glob("shared/*/*")} == paths
    for each in exposed:
        may = "write" if each["writable"] else "read"
        assert _may(rig, each["share"], rig.operator) == may
    tags = {"writable" if each["writable"] else "exposed" for each in found}
    assert {hold.tag for hold in backup.holds} == tags
    return found


def _assert_well(rig: "Rig") -> None:
    status = _json(rig, "status")
    assert (status["wrong"], status["reconcile"]["to_do"]) == ([], 0)
    assert status["exposed"] == [as_data(image) for image in _backups(rig)[0].exposed]


@pytest.fixture
def kept(rig: "Rig", second_operator: "BackupOperator") -> Iterator["Rig"]:
    users = f"{rig.operator.name} +{second_operator.name}"
    volume = rig.volume("vms")
    volume.chmod(0o777)
    rig.share("vms", volume, {**_OPTIONS, "valid users": users})
    rig.start()
    yield rig
    for backup in _backups(rig):
        _ask(rig, "conceal", backup.id)
        _delete_copies(rig)
        for part in backup.parts:
            _asked(rig, "delete", part.id)
    assert _registered(rig) == []
    rig.assert_nothing_left()


def test_a_backup_is_a_share_again(kept: "Rig", second_operator: "BackupOperator") -> None:
    rig = kept
    first, second = rig.operator, second_operator
    backup = _backed_up(rig)
    name = _name(backup)
    assert _do(rig, "expose", backup) == f"{backup} is exposed as [{name}]"
    assert (_may(rig, name, first), _may(rig, name, second)) == ("read", "read")
    with rig.session(name) as session:
        assert session.read("data") == _SEALED
    parameters = rig.parameters(name)
    assert "shell_snap" not in parameters["vfs objects"]
    assert [key for key in parameters if key.startswith(("rvss:", "shell_snap:"))] == []
    assert parameters["read only"] == "yes"
    assert parameters["path"].startswith(f"{rig.daemon.run_directory}/shared/vms/")
    with rig.client() as client, pytest.raises(FsrvpError):
        rig.expose(client, name)
    # It is held, and everybody says so.
    for words in (("delete", backup), ("release", backup, "--tag", "exposed")):
        assert "backup conceal" in _refused(rig, _HELD if words[0] == "delete" else 2, *words)
    for telling in (("backup", "show", backup), ("backup", "list"), ("list",), ("status",)):
        assert f"exposed as [{name}]" in rig.command(*telling).stdout
    _do(rig, "expose", backup)
    other = ("backup", "expose", backup, "--for", first.name)
    assert "conceal" in _refused(rig, _REFUSED, *other)
    # It outlives the daemon and the ledger; what somebody has taken away comes back.
    rig.daemon.stop()
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    rig.unmount(parameters["path"])
    rig.samba.net("conf", "delshare", name)
    rig.daemon.start()
    wait_until(
        lambda: f"it is a share again: {_registered(rig)}, {rig.daemon.log()[-2000:]}",
        lambda: _registered(rig) == [name],
    )
    assert len(_assert_whole(rig)) == 1
    _assert_well(rig)
    _do(rig, "conceal", backup)
    assert _may(rig, name, first) == "NT_STATUS_BAD_NETWORK_NAME"
    assert _assert_whole(rig) == []
    _refused(rig, _NOT_FOUND, "backup", "conceal", backup)


def test_only_who_may_connect_to_the_share_can_reach_it(
    kept: "Rig", second_operator: "BackupOperator"
) -> None:
    rig = kept
    first, second = rig.operator, second_operator
    backup = _backed_up(rig)
    name = _name(backup)
    _refused(rig, _REFUSED, "backup", "expose", backup, "--for", "root")
    _refused(rig, _NOT_FOUND, "backup", "expose", backup, "--for", "nobody-of-that-name")
    _do(rig, "expose", backup, "--for", second.name, "--until", "2999-12-31")
    assert (_may(rig, name, first), _may(rig, name, second)) == ("NT_STATUS_ACCESS_DENIED", "read")
    (told,) = _json(rig, "backup", "list")["backups"][0]["exposed"]
    assert (told["account"], told["until"][:4]) == (second.name, "3000")
    # Whom its base share lets connect no more, that one lets no more.
    rig.share("vms", rig.fs.path / "vms", {**_OPTIONS, "valid users": first.name})
    _asked(rig, "reconcile", "")
    assert _registered(rig) == []
    _asked(rig, "expose", backup)
    denied = "NT_STATUS_ACCESS_DENIED"
    assert (_may(rig, name, first), _may(rig, name, second)) == ("read", denied)
    rig.share("vms", rig.fs.path / "vms", _OPTIONS)
    sddl = f"D:(A;;0x1f01ff;;;S-1-22-1-{second.uid})"
    words = ["sharesec", f"--configfile={rig.samba.configuration}", "vms", f"--setsddl={sddl}"]
    run(words, timeout=60)
    _asked(rig, "reconcile", "")
    assert (_may(rig, name, first), _may(rig, name, second)) == (denied, "read")
    # So it is with the directories above it.
    above = rig.fs.path
    above.chmod(0o700)
    _asked(rig, "reconcile", "")
    assert _may(rig, name, second) == denied
    assert "/shared/vms/way-" in rig.parameters(name)["path"]
    above.chmod(0o755)
    _asked(rig, "reconcile", "")
    assert _may(rig, name, second) == "read"
    assert len(rig.mounts()) == 1
    _asked(rig, "conceal", backup)
    shown = subprocess.run(
        ["tdbdump", str(rig.samba.state_directory / "share_info.tdb")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SECDESC/vms\\00" in shown.stdout
    assert name not in shown.stdout
    # Of several shares all are exposed, or none: here, because somebody has the name of one.
    run([*words[:-1], "--delete"], timeout=60)
    rig.share("logs", rig.volume("logs"), _OPTIONS)
    rig.samba.end_workers()
    both = _backed_up(rig, "logs")
    (parts,) = (backup.parts for backup in _backups(rig) if backup.id == both)
    # They may have been taken in two seconds.
    taken = {part.share: f"{part.share}-{part.created:%Y%m%d-%H%M%S}" for part in parts}
    _asked(rig, "expose", both, writable=True)
    assert _registered(rig) == [f"{taken['logs']}-rw", f"{taken['vms']}-rw"]
    _asked(rig, "conceal", both)
    name = taken["vms"]
    rig.share(name, rig.volume("others"))
    assert f"there is a share {name}" in _refused(rig, _REFUSED, "backup", "expose", both)
    assert _registered(rig) == []
    assert rig.mounts() == []
    assert all(each.exposed is None for each in _marks(rig))


def _marks(rig: "Rig") -> list[Mark]:
    return [image.mark for image in rig.fs.provider(identity_of(rig.daemon)).inventory().images]


@pytest.mark.vm(seconds=60, long=True, file_system="zfs")
def test_a_writable_copy_beside_a_backup(kept: "Rig") -> None:
    rig = kept
    backup = _backed_up(rig)
    name = _name(backup, "-rw")
    _do(rig, "expose", backup, "--writable")
    with rig.session(name) as session:
        assert session.read("data") == _SEALED
        session.write("data", b"written")
    # Both can be exposed; neither is the other.
    _do(rig, "expose", backup)
    with rig.session(_name(backup)) as session:
        assert session.read("data") == _SEALED
    _, copy = _assert_whole(rig)
    assert (copy["writable"], copy["backup"], copy["share"]) == (True, backup, name)
    _assert_well(rig)
    assert "is held as 'exposed', 'writable'" in _refused(rig, _HELD, "delete", backup)
    assert f"stays in {copy['id']}" in _do(rig, "conceal", backup)
    assert "--delete" in _refused(rig, _HELD, "delete", backup)
    # What was written is deleted by nobody who was not told to.
    rig.daemon.stop()
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    rig.daemon.start()
    assert rig.command("reconcile").returncode == 0
    assert rig.command("prune", "--yes").returncode == 0
    _refused(rig, 2, "backup", "conceal", backup, "--delete")
    assert _assert_whole(rig) == [{**copy, "share": None}]
    _do(rig, "expose", backup, "--writable")
    with rig.session(name) as session:
        assert session.read("data") == b"written"
    shown = _do(rig, "conceal", copy["id"], "--delete", "--yes")
    assert f"{copy['id']} is a writable copy of the backup {backup}" in shown
    assert _assert_whole(rig) == []
    assert [mark.id for mark in _marks(rig)] == [backup]


_READ_ONLY = ("expose.recorded", "expose.mounted", "expose.shared")
_WRITABLE = ("expose.held", "expose.branched", "expose.mounted", "expose.shared")
_CONCEALED = ("conceal.intent", "conceal.hidden", "conceal.recorded")
_DELETED = ("conceal.condemned", "conceal.destroyed")
EXPOSING = frozenset((*_READ_ONLY, *_WRITABLE, *_CONCEALED, *_DELETED))
"""The points at which the daemon is killed here."""


def test_crash_while_a_backup_is_exposed_or_concealed(kept: "Rig") -> None:
    """Whatever was begun is whole or gone when the daemon runs again; no byte written is lost."""
    rig = kept
    backup = _backed_up(rig)

    def crash(point: str, verb: str, what: str, **more: Any) -> list[dict[str, Any]]:
        rig.daemon.stop()
        rig.daemon.start(crash_at=point)
        assert _ask(rig, verb, what, **more) is None
        rig.daemon.wait_until_dead()
        rig.daemon.start()
        _asked(rig, "reconcile", "")
        return _assert_whole(rig)

    def write(name: str) -> None:
        with rig.session(name) as session:
            session.write("data", b"written")

    for point in _READ_ONLY:
        assert len(crash(point, "expose", backup)) == 1
        _asked(rig, "conceal", backup)
    for point in _WRITABLE:
        exposed = crash(point, "expose", backup, writable=True)
        assert len(exposed) == (point != "expose.held")
        _delete_copies(rig)
    for point in (*_CONCEALED, *_DELETED):
        _asked(rig, "expose", backup, writable=True)
        write(_name(backup, "-rw"))
        (image,) = _backups(rig)[0].exposed
        left = crash(point, "conceal", image.id, delete=True)
        gone = point in _DELETED
        assert [each["share"] for each in left] == ([] if gone else [None])
        if not gone:
            _asked(rig, "expose", backup, writable=True)
            with rig.session(_name(backup, "-rw")) as session:
                assert session.read("data") == b"written"
            _delete_copies(rig)
    assert [mark.id for mark in _marks(rig)] == [backup]
    _assert_well(rig)
