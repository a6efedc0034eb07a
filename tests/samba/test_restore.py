"""What is restored is for a client as it was; and what is refused while a client uses it."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.copies import guard
from samba_rvss.errors import Problem
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import OnBtrfs
from tests.samba.test_exact import (
    assert_same,
    furnish,
    local_view,
    remote_view,
    smbcacls,
    tool_view,
)

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_HUGE = 1 << 40
_GUID = "0D1C2B3A-0000-1111-8888-ABCDEFABCDEF"


def _backed_up(rig: "Rig") -> str:
    """Take a backup as a client does; return its id."""
    with rig.client() as client:
        taken = rig.expose(client, "vms")
        taken.complete()
        taken.delete()
    backups: list[dict[str, Any]] = []

    def is_kept() -> bool:
        done = rig.command("backup", "list", "--json")
        backups[:] = json.loads(done.stdout)["backups"]
        return any(each["set_id"] == str(taken.id) and each["seen"] for each in backups)

    wait_until(lambda: f"it is a backup: {backups}", is_kept)
    return str(backups[-1]["id"])


def _restored(rig: "Rig", *words: str, status: int = 0) -> dict[str, Any]:
    done = rig.command("backup", "restore", *words, "--json")
    assert done.returncode == status, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _refused(rig: "Rig", problem: Problem, *words: str) -> str:
    done = rig.command("backup", "restore", *words)
    assert (done.returncode, done.stdout) == (problem, "")
    return done.stderr


def _comparable(share: Path) -> dict[str, dict[str, object]]:
    """Return what there is to be known of a tree, but for what a restored file has of its own."""
    found = local_view(share)
    for facts in found.values():
        facts.pop("ino", None)
    return found


@pytest.mark.vm(seconds=110, long=True, file_system="zfs")
def test_it_is_for_a_client_as_it_was(rig: "Rig") -> None:
    share = rig.volume()
    options = {"vfs objects": "acl_xattr shell_snap streams_xattr", "rvss:keep": "recovered"}
    rig.share("vms", share, options)
    furnish(share, rig.operator.uid)
    with (share / "huge.vhdx").open("wb") as huge:
        huge.truncate(_HUGE)
        for place in (0, _HUGE // 2, _HUGE - 4096):
            huge.seek(place)
            huge.write(b"data of it".ljust(4096))
    files = (f"Virtual Machines/{_GUID}.vmcx", "Virtual Hard Disks/disk.vhdx", "notes.txt")
    for name in files:
        (share / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (share / "one" / name).write_bytes(name.encode())
    rig.start()
    with rig.session("vms") as session:
        session.write("nt", b"with an NT ACL")
        session.write("nt:stream", b"an alternate data stream")
        smbcacls(rig, "vms", "nt", "-a", "ACL:S-1-5-21-1-2-3-1234:1/0/0x00000020")
        session.make_directory("日本 Ünï")
        smbcacls(rig, "vms", "日本 Ünï", "-a", "ACL:S-1-5-21-1-2-3-1235:0/3/0x001200a9")
        session.write("日本 Ünï\\inherits", b"an NT ACL")
    os.sync()
    with rig.session("vms") as session:
        remote = remote_view(session)
        stream = session.read("nt:stream")
    # The huge file's content would take long to read in Python.
    huge_blocks = (share / "huge.vhdx").stat().st_blocks
    names = ("directory", "nt", "日本 Ünï", "suid")
    local = {name: _comparable(share / name) for name in names}
    tools = [tool_view(name, share) for name in ("getfacl", "getfattr")]
    backup = _backed_up(rig)

    for path in share.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "nt":
            path.unlink()
    (share / "nt").write_bytes(b"overwritten")
    (share / "new").write_bytes(b"what the backup does not have")
    always = (backup, "--overwrite", "always")
    with rig.session("vms") as session:
        with session.open("nt"):
            told = _refused(rig, Problem.BUSY, *always)
            assert f"nt in [vms] by {rig.operator.name}" in told, told
            assert "from 127." in told
            assert _restored(rig, *always, "--dry-run")["states"]["in_use"] == 1
        found = _restored(rig, *always)
    assert found["states"]["updated"] >= 1, found
    assert (found["faults"], found["compared"]) == ([], "image")
    (share / "new").unlink()
    with rig.session("vms") as session:
        seen = remote_view(session)
        assert session.read("nt:stream") == stream
    for view in (seen, remote):
        for name in (".", ".."):  # whose names came and went
            view.pop(name, None)
    assert_same(seen, remote)
    assert {name: _comparable(share / name) for name in names} == local
    assert [tool_view(name, share) for name in ("getfacl", "getfattr")] == tools
    huge_status = (share / "huge.vhdx").stat()
    assert huge_status.st_size == _HUGE
    assert huge_status.st_blocks <= huge_blocks
    assert (found["shared"]["files"] > 0) == isinstance(rig.fs, OnBtrfs)

    before = found["guard"]
    listed = json.loads(rig.command("backup", "list", "--json").stdout)["backups"]
    (kept,) = [each for each in listed if each["id"] == before]
    assert kept["tags"] == [guard.TAG]
    assert [hold["tag"] for hold in kept["holds"]] == [guard.TAG]
    done = rig.command("backup", "restore", f"{before}:nt")
    assert (done.returncode, done.stderr) == (0, "")
    first, how = done.stdout.splitlines()
    beside, told = first.split(": ")
    assert told == "1 restored; compared with the image."
    assert how.startswith("1 file shares" if isinstance(rig.fs, OnBtrfs) else "1 file was")
    assert Path(beside).read_bytes() == b"overwritten"
    assert Path(beside).parent == share
    assert rig.command("backup", "verify", before).returncode == Problem.NOT_FOUND
    events = json.loads(rig.command("events", "--json").stdout)["events"]
    assert [event["what"] for event in events].count("restored") == 2

    found = _restored(rig, backup, "--machine", f"{{{_GUID.lower()}}}")
    made = Path(found["where"])
    assert made.name.startswith("one.restored-")
    assert {str(path.relative_to(made)) for path in made.rglob("*.*")} == set(files[:2])
    told = f"\\vms\\{made.name}\\Virtual Machines\\{_GUID}.vmcx' -Copy"
    assert any(line.startswith("Import-VM") and told in line for line in found["steps"])

    # what cannot be done, and why
    _refused(rig, Problem.NOT_FOUND, backup, "--machine", _GUID.replace("1", "2"))
    assert "is not in" in _refused(rig, Problem.NOT_FOUND, f"{backup}:nowhere")
    assert "symbolic link" in _refused(rig, Problem.NOT_FOUND, f"{backup}:to directory/inside")
    _refused(rig, Problem.USAGE, f"{backup}:directory/../data")
    _refused(rig, Problem.USAGE, backup, "--target", "/", "--overwrite", "never")
    _refused(rig, Problem.NOT_FOUND, backup, "--share", "logs")
    _refused(rig, Problem.BAD_PATH, f"{backup}:nt", "--target", str(share))
    _refused(rig, Problem.BAD_PATH, f"{backup}:nt", "--target", str(share / "nowhere"))
    rig.share("vms", share, {**options, "vfs objects": "streams_depot shell_snap"})
    assert "streams_depot" in _refused(rig, Problem.NOT_SUPPORTED, f"{backup}:nt")
    assert _restored(rig, f"{backup}:nt", "--force", "--dry-run")["warnings"]
    assert [name for name in os.listdir(share) if name.startswith(".rvss-")] == []

    assert rig.command("release", before, "--tag", guard.TAG).returncode == 0
    for each in listed:
        assert rig.command("delete", each["id"]).returncode == 0
    rig.assert_nothing_left()
