"""The commands that tell how an instance stands and put it right, on a real Samba."""

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.errors import Problem
from samba_rvss.model import Phase
from samba_rvss.testing.waiting import wait_until

if TYPE_CHECKING:
    from samba_rvss.samba.fsrvp.copyset import CopySet
    from tests.samba.conftest import Rig

SHARE = "vms"
GRACE = 60.0


@pytest.fixture
def served(rig: "Rig") -> "Rig":
    """A share and both servers."""
    rig.samba.set_options({"rvss:grace": f"{GRACE:g} s"})
    rig.share(SHARE, rig.volume())
    rig.start()
    return rig


def _exposed(rig: "Rig") -> "CopySet":
    with rig.client() as client:
        taken = rig.expose(client, SHARE)
        rig.wait_for_phase(Phase.OPEN)
        taken.complete()
        (copy,) = rig.wait_for_phase(Phase.SEALED)
    # What recovery wrote to is cleared away afterwards: a daemon that stops before leaves it.
    whole = f"image {copy.id}"
    wait_until(
        lambda: f"{rig.fs.parts()} has one {whole}", lambda: rig.fs.parts().count(whole) == 1
    )
    return taken


def _json(done: "subprocess.CompletedProcess[str]", status: int) -> Any:
    assert done.returncode == status, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def _stray_mount(rig: "Rig") -> Path:
    path = rig.daemon.run_directory / "exposed" / SHARE / "20200101T000000Z-0badcafe"
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    return path


def _stray_share(rig: "Rig") -> str:
    name = f"{SHARE}@{{12345678-1234-1234-1234-123456789abc}}"
    path = rig.daemon.run_directory / "exposed" / SHARE / "20200101T000000Z-0badbeef"
    rig.samba.net("conf", "addshare", name, str(path))
    return name


def _unchanging(rig: "Rig") -> dict[str, object]:
    """Return what a command that only reads must leave as it is, byte for byte."""
    found: dict[str, object] = {}
    files = [
        *(rig.daemon.state_directory / name for name in ("ledger.db", "ledger.db-wal", "lock")),
        *rig.samba.directory.rglob("*.tdb"),
    ]
    for path in files:
        if path.exists():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (path.stat().st_mtime_ns, path.stat().st_size, digest)
    found["mounts"] = rig.mounts()
    found["directories"] = rig.mount_directories()
    found["images"] = rig.images()
    return found


def _settled(rig: "Rig") -> dict[str, object]:
    """Return the same as soon as nobody changes it, as Samba does for a client that has left."""
    while True:
        before = _unchanging(rig)
        time.sleep(0.5)
        if _unchanging(rig) == before:
            return before


def test_dry_run_tells_and_changes_nothing(served: "Rig") -> None:
    _exposed(served)
    (copy,) = served.ledger()
    mount, share = _stray_mount(served), _stray_share(served)
    # Foreign: neither bears our mark, so neither may ever be named.
    served.samba.net("conf", "addshare", "foreign", "/srv/foreign")
    before = _settled(served)
    told = _json(served.command("reconcile", "--dry-run", "--json"), 0)
    assert _unchanging(served) == before
    assert told["actions"] == []
    assert told["problems"] == []
    left = {one["target"]: one for one in told["left_alone"]}
    assert left.keys() >= {copy.id, str(mount), share}
    assert 0 < left[str(mount)]["due"] <= GRACE
    assert "no shadow copy belongs to it" in left[str(mount)]["reason"]
    assert not any(one["wrong"] for one in told["left_alone"])
    plain = served.command("reconcile", "-n")
    assert plain.returncode == 0, plain.stderr
    assert re.fullmatch(r"nothing to do, \d+ left alone", plain.stdout.splitlines()[-1])
    assert f"left alone: {share}: its shadow copy does not exist" in plain.stdout


def test_reconcile_removes_what_is_nobodys(served: "Rig") -> None:
    taken = _exposed(served)
    (copy,) = served.ledger()
    mount, share = _stray_mount(served), _stray_share(served)
    served.samba.net("conf", "addshare", "foreign", "/srv/foreign")
    first = _json(served.command("reconcile", "--json"), 0)
    assert first["actions"] == []
    # Images of others are left alone as well, on whatever this machine has mounted.
    assert {one["target"] for one in first["left_alone"]} >= {copy.id, str(mount), share}
    assert served.exposed_shares().count(share) == 1
    # Both have been seen; their time is over now.
    time.sleep(1.5)
    served.samba.set_options({"rvss:grace": "1 s"})
    done = _json(served.command("reconcile", "--json"), 0)
    assert [(one["kind"], one["target"], one["outcome"]) for one in done["actions"]] == [
        ("unmount", str(mount), "done"),
        ("remove share", share, "done"),
    ]
    assert not mount.exists()
    assert share not in served.exposed_shares()
    assert "foreign" in served.samba.net("conf", "listshares")
    told = _json(served.command("status", "--json"), 0)
    change = told["reconcile"]["last_change"]["detail"]
    assert f"unmount {mount}: no shadow copy belongs to it" in change
    assert share in change
    with served.client() as taken.client:
        taken.delete()
    served.assert_nothing_left()


def test_reconcile_does_at_once_what_is_due(served: "Rig") -> None:
    _exposed(served)
    (copy,) = served.ledger()
    served.unmount(copy.path)
    told = _json(served.command("reconcile", "-n", "--json"), 3)
    (action,) = told["actions"]
    assert (action["kind"], action["target"]) == ("mount again", copy.id)
    assert (action["outcome"], action["reason"]) == ("to do", "it is not mounted")
    sick = served.command("status")
    assert sick.returncode == 1
    assert sick.stdout.startswith("NOT HEALTHY: 1 wrong")
    assert f"{copy.id}: it is not mounted" in sick.stdout

    def reconciled() -> list[str]:
        """Reconcile; nothing if the daemon, which does it by itself soon, has come before."""
        served.unmount(copy.path)
        done = served.command("reconcile")
        assert (done.returncode, done.stderr) == (0, "")
        return [] if done.stdout.startswith("nothing to do") else done.stdout.splitlines()

    lines = wait_until("the command comes first", reconciled)
    assert lines[0] == f"done: mount again {copy.id}: it is not mounted"
    # Images of others are left alone as well, on whatever this machine has mounted.
    assert re.fullmatch(r"1 done, \d+ left alone", lines[-1])
    assert os.path.ismount(copy.path)
    assert served.command("status").returncode == 0


def test_failure_is_told(served: "Rig") -> None:
    """A copy whose mount point is occupied: nothing can be mounted there."""
    _exposed(served)
    (copy,) = served.ledger()
    served.unmount(copy.path)
    os.rmdir(copy.path)
    Path(copy.path).write_text("in the way")
    try:
        told = _json(served.command("reconcile", "--json"), 1)
        (action,) = told["actions"]
        assert action["outcome"] == "failed"
        assert action["error"]
        sick = _json(served.command("status", "--json"), 1)
        assert any("the last reconciling failed" in line for line in sick["wrong"])
        assert sick["reconcile"]["failed"]
    finally:
        os.unlink(copy.path)


def test_reconcile_without_a_daemon(served: "Rig") -> None:
    _exposed(served)
    served.daemon.stop()
    refused = served.command("reconcile")
    assert refused.returncode == Problem.NO_DAEMON
    assert "start samba-rvss.service" in refused.stderr
    assert _json(served.command("reconcile", "-n", "--json"), 0)["actions"] == []
    sick = served.command("status", "--json")
    told = _json(sick, 1)
    assert told["wrong"] == ["the daemon does not run: start samba-rvss.service"]
    assert told["copies"]["by_phase"] == {"sealed": 1}


def test_boot_puts_things_back_without_a_daemon(served: "Rig") -> None:
    _exposed(served)
    (copy,) = served.ledger()
    refused = served.command("reconcile", "--boot")
    assert refused.returncode == Problem.BUSY
    assert "samba-rvss reconcile" in refused.stderr
    served.daemon.stop()
    served.unmount(copy.path)
    stray = _stray_mount(served)
    told = _json(served.command("reconcile", "--boot", "--json"), 0)
    assert [(one["kind"], one["outcome"]) for one in told["actions"]] == [
        ("unmount", "done"),
        ("mount again", "done"),
    ]
    assert os.path.ismount(copy.path)
    assert not stray.exists()
    served.daemon.start()
    assert served.command("status").returncode == 0


def test_boot_puts_back_what_samba_has_forgotten(served: "Rig") -> None:
    """As in a container that is started anew, on a machine that was not."""
    _exposed(served)
    (copy,) = served.ledger()
    served.daemon.stop()
    served.samba.end_workers()
    (served.samba.lock_directory / "srv_fss.tdb").unlink()
    served.unmount(copy.path)
    told = _json(served.command("reconcile", "--boot", "--json"), 0)
    assert [(one["kind"], one["target"], one["outcome"]) for one in told["actions"]] == [
        ("mount again", copy.id, "done")
    ]
    assert os.path.ismount(copy.path)


def test_boot_opens_what_a_client_recovers(served: "Rig") -> None:
    """As in a container that is started anew: smbd may start as soon as it ends."""
    with served.client() as client:
        served.expose(client, SHARE)
        (copy,) = served.wait_for_phase(Phase.OPEN)
        served.daemon.stop()
        served.unmount(copy.path)
        done = served.command("reconcile", "--boot")
        assert done.returncode == 0, done.stderr
        assert not os.statvfs(copy.path).f_flag & os.ST_RDONLY
        served.unmount(copy.path)
        served.daemon.start()
        assert not os.statvfs(copy.path).f_flag & os.ST_RDONLY
        served.wait_for_phase(Phase.OPEN)


def test_boot_seals_what_samba_recovered_meanwhile(served: "Rig") -> None:
    with served.client() as client:
        taken = served.expose(client, SHARE)
        served.wait_for_phase(Phase.OPEN)
        served.daemon.stop()
        taken.complete()
        sick = served.command("status", "--json")
        (late,) = _json(sick, 1)["copies"]["unsealed_past_recovery"]
        assert late["id"] == served.ledger()[0].id
        assert served.command("reconcile", "--boot").returncode == 0
        (copy,) = served.wait_for_phase(Phase.SEALED)
        assert not os.access(f"{copy.path}/data", os.W_OK)


def test_status_of_a_healthy_instance(served: "Rig") -> None:
    empty = served.command("status")
    assert (empty.returncode, empty.stderr) == (0, "")
    assert empty.stdout.splitlines()[0] == "healthy"
    _exposed(served)
    (copy,) = served.ledger()
    shown = served.command("status").stdout
    assert len(shown.splitlines()) <= 24
    lines = [line for line in shown.splitlines() if line[22:24] == "  "]
    facts = {line[:22].strip(): line[22:].strip() for line in lines}
    assert facts["daemon"] == "answers"
    assert facts["shares"] == "1 ours"
    assert facts["copies"] == "1: 1 sealed"
    assert facts["oldest"].startswith(copy.id)
    assert facts["unsealed past recovery"] == "0"
    assert facts["samba's sets"] == facts["samba's copies"] == "1: 1 recovered"
    assert "Samba's view and ours are the same." in shown
    told = _json(served.command("status", "--json"), 0)
    assert told["healthy"] is True
    assert told["samba"] == {
        "sets": {"recovered": 1},
        "copies": {"recovered": 1},
        "differences": [],
    }


def test_status_says_why_a_copy_is_not_sealed(served: "Rig") -> None:
    with served.client() as client:
        taken = served.expose(client, SHARE)
        (copy,) = served.wait_for_phase(Phase.OPEN)
        with served.fs.read_only():
            taken.complete()
            line = served.wait_for_log("is not sealed")
            assert all(name in line for name in (copy.id, copy.copy_id, copy.set_id)), line
            told = _json(served.command("status", "--json"), 1)
            (wrong,) = [line for line in told["wrong"] if copy.id in line]
            assert wrong.startswith(f"{copy.id} is not sealed: ")
            assert "read-only" in wrong
            # It is being sealed: that is not work for reconcile, and the daemon says so.
            assert _json(served.command("reconcile", "-n", "--json"), 0)["actions"] == []
        served.wait_for_phase(Phase.SEALED)
    assert served.command("status").returncode == 0


def test_status_shows_where_samba_differs(served: "Rig") -> None:
    _exposed(served)
    (copy,) = served.ledger()
    served.samba.end_workers()
    (served.samba.lock_directory / "srv_fss.tdb").unlink()
    share = _stray_share(served)
    told = _json(served.command("status", "--json"), 0)
    assert told["samba"]["copies"] == {}
    path = served.samba.net("conf", "getparm", share, "path").strip()
    assert told["samba"]["differences"] == [
        f"{copy.id} is sealed, and in no set of Samba's",
        f"the share {share} leads to {path}, which we have not",
    ]


def test_status_tells_of_a_share_that_cannot_be_copied(served: "Rig", tmp_path: Path) -> None:
    served.share("tmp", tmp_path / "missing")
    told = _json(served.command("status", "--json"), 1)
    assert list(told["shares"]["unsupported"]) == ["tmp"]
    assert any(line.startswith("[tmp]: ") for line in told["wrong"])


def test_events_tell_the_life_of_a_set(served: "Rig") -> None:
    taken = _exposed(served)
    (copy,) = served.ledger()
    with served.client() as taken.client:
        taken.delete()
    served.assert_nothing_left()
    by_copy = _json(served.command("events", "--json", copy.id), 0)["events"]
    whats = [one["what"] for one in by_copy]
    assert whats[:2] == ["create", "taken"]
    assert whats[-2:] == ["delete", "gone"]
    assert {"opened", "recovered", "sealed"} <= set(whats)
    # Samba may be past Commit when we look.
    assert {"committed", "exposed"} & set(whats)
    for one in by_copy:
        assert one["copy"] == copy.id
        assert one["set_id"] == str(taken.id)
        assert one["copy_id"] == str(taken.mappings[0].copy_id)
        assert one["share"] == SHARE
    assert [one["time"] for one in by_copy] == sorted(one["time"] for one in by_copy)
    timed = {one["what"]: one for one in by_copy}
    uid = timed["taken"]["uid"]
    assert timed["taken"]["user"] == served.operator.name
    assert timed["gone"]["uid"] == uid
    for what in ("taken", "sealed", "gone"):
        assert 0 < timed[what]["duration"] < 30
    for word in (copy.id.rpartition("-")[2], str(taken.mappings[0].copy_id), copy.path):
        assert _json(served.command("events", "--json", word), 0)["events"] == by_copy, word
    by_set = _json(served.command("events", "--json", str(taken.id)), 0)["events"]
    assert by_set == by_copy
    last = _json(served.command("events", "--json", "--limit", "2"), 0)["events"]
    assert [one["what"] for one in last] == ["delete", "gone"]
    shown = served.command("events", copy.id).stdout.splitlines()
    assert len(shown) == 1 + len(by_copy)
    assert f"{uid} ({served.operator.name})" in shown[1]
    unknown = served.command("events", "nothing")
    assert unknown.returncode == Problem.NOT_FOUND
    assert "list --all" in unknown.stderr
