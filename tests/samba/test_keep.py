"""Kept backups: what a client deletes stays as a backup, and is nobody's prey."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.copies import leases
from samba_rvss.kernel import files
from samba_rvss.ledger import Ledger
from samba_rvss.model import Phase, ShadowCopy
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import OnZfs

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_KEEP = {"rvss:keep": "recovered"}


def _json(rig: "Rig", *words: str) -> Any:
    done = rig.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _kept(rig: "Rig") -> list[ShadowCopy]:
    path = rig.daemon.state_directory / "ledger.db"
    with closing(Ledger(str(path), read_only=True)) as ledger:
        return ledger.backups()


def _backed_up(
    rig: "Rig", *shares: str, complete: bool = True, only_read: str = ""
) -> dict[str, bytes]:
    """Take a set, let recovery write to it, and delete it as its client; return what was sealed."""
    sealed = {}
    with rig.client() as client:
        taken = rig.expose(client, *shares)
        for share, exposed in zip(shares, taken.exposed_shares, strict=True):
            with rig.session(exposed) as session:
                if share == only_read:
                    sealed[share] = session.read("data")
                    continue
                text = f"recovered {share}".encode()
                session.open("data", write=True).write(text)
                sealed[share] = text
        if complete:
            taken.complete()
            rig.wait_for_phase(Phase.SEALED, len(shares))
        taken.delete()
    return sealed


def _assert_sealed(rig: "Rig", sealed: dict[str, bytes]) -> None:
    for copy in _kept(rig):
        with rig.image(copy) as image:
            assert (image / "data").read_bytes().startswith(sealed[copy.share])


@pytest.fixture
def kept(rig: "Rig") -> Iterator["Rig"]:
    for name in ("vms", "logs"):
        rig.share(name, rig.volume(name), _KEEP)
    rig.start()
    yield rig
    for backup in _kept(rig):
        rig.command("delete", backup.id)
    rig.assert_nothing_left()


def _assert_nothing_but_images(rig: "Rig") -> None:
    def left() -> dict[str, list[object]]:
        return {name: found for name, found in rig.left().items() if name != "images"}

    wait_until(lambda: f"nothing is left but images: {left()}", lambda: not left(), 60)


@pytest.mark.member(file_system="btrfs", binding="seal")
def test_what_its_client_deletes_stays_as_one_backup(kept: "Rig") -> None:
    rig = kept
    sealed = _backed_up(rig, "vms", "logs")
    _assert_nothing_but_images(rig)
    (backup,) = _json(rig, "backup", "list")["backups"]
    assert (backup["consistent"], sorted(backup["shares"])) == (True, ["logs", "vms"])
    assert _json(rig, "list")["copies"] == []
    _assert_sealed(rig, sealed)
    # Nothing that reconciles touches it, whatever has been lost.
    rig.daemon.stop()
    for file in rig.daemon.state_directory.glob("ledger.db*"):
        file.unlink()
    rig.daemon.start()
    assert rig.command("reconcile").returncode == 0
    (again,) = _json(rig, "backup", "list")["backups"]
    changing = {"parts": None, "size": None}
    assert {**again, **changing} == {**backup, **changing}
    _assert_nothing_but_images(rig)
    _assert_sealed(rig, sealed)
    assert rig.command("status").returncode == 0, rig.command("status").stdout


@pytest.mark.vm(seconds=90, long=True, file_system="zfs")
def test_a_held_backup_is_not_deleted(kept: "Rig") -> None:
    rig = kept
    sealed = _backed_up(rig, "vms", "logs", only_read="logs")
    (backup,) = _json(rig, "backup", "list")["backups"]
    fs = rig.fs
    if isinstance(fs, OnZfs):  # of that to which recovery wrote nothing, ZFS needs no clone
        bare = {copy.id for copy in _kept(rig) if copy.share == "logs"}
        wait_until(lambda: f"{fs.bare()} are without clones", lambda: fs.bare() == bare)
        _assert_sealed(rig, sealed)
    for words in (
        ("hold", backup["id"], "--tag", "offsite"),
        ("hold", backup["id"], "--tag", "audit", "--until", "2999-12-31"),
        ("tag", backup["set_id"], "copied"),
    ):
        done = rig.command(*words)
        assert done.returncode == 0, done.stderr
    (held,) = _json(rig, "backup", "list")["backups"]
    assert [hold["tag"] for hold in held["holds"]] == ["audit", "offsite"]
    assert held["tags"] == ["copied"]
    refused = rig.command("delete", backup["id"])
    assert refused.returncode == 30
    assert "held as 'audit', 'offsite'" in refused.stderr
    assert rig.command("release", backup["id"], "--tag", "offsite").returncode == 0
    assert rig.command("delete", backup["id"]).returncode == 30
    assert rig.command("release", backup["id"], "--tag", "audit").returncode == 0
    assert rig.command("release", backup["id"], "--tag", "audit").returncode == 20
    done = rig.command("delete", backup["id"])
    assert done.returncode == 0, done.stderr
    rig.assert_nothing_left()


def test_a_client_need_not_wait_until_it_is_sealed(kept: "Rig") -> None:
    """RecoveryComplete and the deletion follow each other at once: nothing of it is lost."""
    rig = kept
    sealed: dict[str, bytes] = {}
    for recovery in (True, True, False):
        with rig.client() as client:
            taken = rig.expose(client, "vms", recovery=recovery)
            if recovery:
                with rig.session(taken.exposed_shares[0]) as session:
                    session.write("data", b"recovered vms")
                sealed["vms"] = b"recovered vms"
            taken.complete()
            taken.delete()
    wait_until(lambda: f"three are kept: {_kept(rig)}", lambda: len(_phases(rig, Phase.KEPT)) == 3)
    assert [backup["consistent"] for backup in _json(rig, "backup", "list")["backups"]] == [
        True
    ] * 3
    recovered = [copy for copy in _kept(rig) if copy.auto_recovery]
    assert len(recovered) == 2
    for copy in recovered:
        with rig.image(copy) as image:
            assert (image / "data").read_bytes() == sealed["vms"]
    _assert_nothing_but_images(rig)


def test_what_its_client_deletes_unrecovered_is_kept_where_all_are(kept: "Rig") -> None:
    rig = kept
    rig.share("vms", rig.volume("others"), {"rvss:keep": "yes"})
    _backed_up(rig, "vms", complete=False)
    wait_until(lambda: f"it is kept: {_kept(rig)}", lambda: len(_phases(rig, Phase.KEPT)) == 1)
    (backup,) = _json(rig, "backup", "list")["backups"]
    assert (backup["consistent"], backup["missing"]) == (
        False,
        "its client never said RecoveryComplete",
    )
    _assert_sealed(rig, {"vms": b"recovered vms"})
    _assert_nothing_but_images(rig)


def _phases(rig: "Rig", phase: Phase) -> list[ShadowCopy]:
    return [copy for copy in _kept(rig) if copy.phase is phase]


def test_without_recovery_nothing_is_kept_unless_asked(kept: "Rig") -> None:
    rig = kept
    _backed_up(rig, "vms", complete=False)
    rig.assert_nothing_left()
    rig.share("vms", rig.volume("others"), {"rvss:keep": "no"})
    rig.samba.end_workers()
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        (copy,) = rig.wait_for_phase(Phase.OPEN)
        assert rig.command("keep", copy.id).returncode == 0
        assert rig.command("hold", copy.id).returncode == 26  # it is not sealed
        taken.complete()
        rig.wait_for_phase(Phase.SEALED)
        taken.delete()
    assert [found.id for found in _kept(rig)] == [copy.id]


def test_prune_removes_what_no_rule_keeps_and_says_why(kept: "Rig") -> None:
    rig = kept
    others, rules = rig.volume("others"), {**_KEEP, "rvss:retention": "latest 1"}
    rig.share("vms", others, rules)
    for _ in range(3):
        _backed_up(rig, "vms")
    oldest, held, newest = _json(rig, "backup", "list")["backups"]
    assert rig.command("hold", held["id"], "--tag", "offsite").returncode == 0
    plan = _json(rig, "prune", "--dry-run")["backups"]
    assert [(row["id"], row["removed"]) for row in plan] == [
        (newest["id"], False),
        (held["id"], False),
        (oldest["id"], True),
    ]
    assert [[r["text"] for r in row["reasons"]] for row in plan] == [
        ["latest 1 of 1", "newest", "newest application-consistent"],
        ["held: offsite"],
        ["no rule keeps it"],
    ]
    # A line that is wrong may have been one that protects: nothing goes then.
    rig.share("vms", others, {**rules, "rvss:prun requires": "offsite"})
    stays = rig.command("prune", "--yes", "--json")
    assert [row["removed"] for row in json.loads(stays.stdout)["backups"]] == [False] * 3
    assert "[vms] nothing of it is pruned: " in stays.stderr
    rig.share("vms", others, rules)
    unasked = rig.command("prune")
    assert (unasked.returncode, len(_kept(rig))) == (2, 3)
    # What somebody reads goes the next time, and until then nothing is wrong.
    with files.opened(leases.take(str(rig.daemon.run_directory), oldest["id"])):
        assert "is being read" in _json(rig, "prune", "--yes")["backups"][2]["in_use"]
    status = _json(rig, "status")
    assert status["wrong"] == []
    assert [each["id"] for each in status["pruning"]["in_use"]] == [oldest["id"]]
    done = rig.command("prune", "--yes")
    assert done.returncode == 0, done.stderr
    assert [copy.id for copy in _kept(rig)] == [held["id"], newest["id"]]
    assert _json(rig, "status")["pruning"]["in_use"] == []
    assert rig.command("release", held["id"], "--tag", "offsite").returncode == 0
