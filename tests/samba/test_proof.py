"""Manifests of backups by the commands: made where they are wanted, verified, compared, removed."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss import cli
from samba_rvss.cli import manifest, verify
from samba_rvss.run import run
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

DAMAGED = 31
NOT_FOUND = 20
USAGE = 2


def _backup(rig: "Rig", *shares: str) -> str:
    """Have a client take and delete a set; return the id of the backup that is left."""
    before = {each["id"] for each in _listed(rig)}
    with rig.client() as client:
        taken = rig.expose(client, *shares)
        taken.complete()
        taken.delete()
    return wait_until("it is a backup", lambda: _new(rig, before, len(shares)))


def _new(rig: "Rig", before: set[str], parts: int) -> str:
    found = [each for each in _listed(rig) if each["id"] not in before]
    return found[0]["id"] if found and len(found[0]["parts"]) == parts and found[0]["seen"] else ""


def _listed(rig: "Rig") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rig.command("backup", "list", "--json").stdout)[
        "backups"
    ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What a command that ran in this process came to."""

    returncode: int
    stdout: str
    stderr: str

    def json(self, status: int = 0) -> dict[str, Any]:
        assert self.returncode == status, self.stderr
        found: dict[str, Any] = json.loads(self.stdout)
        return found


@pytest.fixture
def proving(
    rig: "Rig", capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., _Done]:
    """Run ``backup`` in this process: on a host that is busy, nothing idle would come to an end."""
    for verb in (manifest, verify):
        monkeypatch.setattr(verb, "idle", nullcontext)

    def run_backup(*words: str) -> _Done:
        capsys.readouterr()
        status = cli.main(["-s", str(rig.samba.configuration), "backup", *words])
        told = capsys.readouterr()
        return _Done(returncode=status, stdout=told.out, stderr=told.err)

    return run_backup


@only("btrfs")
def test_proof(rig: "Rig", proving: Callable[..., _Done], tmp_path: Path) -> None:
    options = {"rvss:keep": "yes", "rvss:manifest": "yes"}
    for name in ("vms", "logs"):
        rig.share(name, rig.volume(name), options if name == "vms" else {"rvss:keep": "yes"})
    rig.start()
    share = rig.fs.path / "vms"
    (share / "one\nname").write_bytes(b"content")
    (share / "same").write_bytes(b"same")
    first = _backup(rig, "vms", "logs")
    assert proving("verify", first).returncode == NOT_FOUND
    # As the timer does: of the share that wants it.
    done = proving("manifest", "--json").json()
    assert [each["share"] for each in done["manifests"]] == ["vms"]
    assert proving("manifest", "--json").json()["manifests"] == []
    done = proving("manifest", first, "--json").json()
    assert sorted(each["share"] for each in done["manifests"]) == ["logs", "vms"]
    assert "never" in proving("list").stdout
    assert proving("verify", first, "--subset", "1/9", "--json").json()["subset"] == "1/9"
    assert "in part" in proving("list").stdout
    recent = ("--outdated-after", "30d", "--json")
    assert proving("verify", "--subset", "1/9", *recent).json()["verified"] == []
    assert proving("verify", "--subset", "2/9", *recent).json()["verified"] != []
    found = proving("verify", first, "--json").json()["verified"]
    assert [(each["damaged"], each["failure"]) for each in found] == [(0, ""), (0, "")]
    assert " min ok" in proving("list").stdout
    for words in ([], ["--subset", "3/9"]):
        assert proving("verify", *words, *recent).json()["verified"] == []

    (share / "one\nname").write_bytes(b"another")
    (share / "new").touch()
    second = _backup(rig, "vms")
    refused = proving("diff", first, second)
    assert refused.returncode == NOT_FOUND
    assert f"'samba-rvss backup manifest {second}'" in refused.stderr
    assert proving("manifest").returncode == 0
    shown = proving("diff", first, second).stdout.splitlines()
    assert shown[:2] == ["+ [vms] new (0 B)", r"C [vms] one\nname (7 B)"]
    assert "[logs] is in one of them only" in shown
    changes = proving("diff", first, second, "--json").json()["changes"]
    assert [each["path"] for each in changes] == ["new", "one\nname"]

    copy = tmp_path / "copy"
    run(["cp", "-a", str(share), str(copy)], timeout=30)
    assert proving("verify", second, "--against", str(copy)).returncode == 0
    (copy / "same").write_bytes(b"SAME")
    lost = proving("verify", second, "--against", str(copy), "--json").json(DAMAGED)
    assert lost["verified"][0]["damaged"] == 1
    damage = {each["what"]: each["path"] for each in lost["verified"][0]["damage"]}
    assert damage == {"content": "same", "metadata": "same"}
    assert "damaged" not in proving("list").stdout  # the backup is not

    # An image cannot be changed: what it is compared with can.
    directory = Path(rig.daemon.state_directory, "manifests")
    with sqlite3.connect(directory / f"{second}.db") as database:
        database.execute("UPDATE entry SET digest = zeroblob(32) WHERE path = x'73616d65'")
    database.close()
    told = proving("verify", second)
    assert told.returncode == DAMAGED
    assert "content [vms] same: 1 of its 1 chunks, at byte 0" in told.stdout
    assert "damaged: 1 name" in proving("list").stdout
    ends = []
    for part in ("1/2", "2/2"):  # one is well, which does not make all of it well
        ends.append(proving("verify", second, "--subset", part).returncode)
        assert "damaged: 1 name" in proving("list").stdout
    assert sorted(ends) == [0, DAMAGED]
    assert f"backup verify {second}" in "".join(
        json.loads(rig.command("status", "--json").stdout)["wrong"]
    )
    for words in (["--subset", "3/2"], ["--outdated-after", "soon"], ["--against", "/"]):
        assert proving("verify", *words).returncode == USAGE
    for backup in (first, second):
        assert rig.command("delete", backup).returncode == 0
    assert list(directory.iterdir()) == []
    rig.assert_nothing_left()
