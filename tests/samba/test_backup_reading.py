"""What is in a backup, to read: in a namespace of its own for any program, or mounted to look."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samba_rvss.kernel import mounttable, processes
from samba_rvss.run import environment, run
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import only

if TYPE_CHECKING:
    from tests.samba.conftest import Rig

_ROOT = Path(__file__).resolve().parents[2]
_LARGE = 8 << 20
_BUSY = 17


def _backed_up(rig: "Rig", *shares: str, recovered: bytes) -> dict[str, Any]:
    """Let recovery write to a set, and delete it as its client; return the newest backup."""
    with rig.client() as client:
        taken = rig.expose(client, *shares)
        for exposed in taken.exposed_shares:
            with rig.session(exposed) as session:
                session.write("data", recovered)
        taken.complete()
        taken.delete()

    def backups() -> list[dict[str, Any]]:
        done = rig.command("backup", "list", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["backups"]
        return found

    def ready() -> list[dict[str, Any]]:
        found = [each for each in backups() if each["set_id"] == str(taken.id) and each["seen"]]
        return [each for each in found if len(each["parts"]) == len(shares)]

    return wait_until(lambda: f"it is a backup: {backups()}", ready)[0]


def _start(rig: "Rig", words: Sequence[str], **more: Any) -> "subprocess.Popen[bytes]":
    own = [sys.executable, "-m", "samba_rvss", "-s", str(rig.samba.configuration), "backup", "exec"]
    env = {**environment({"PYTHONPATH": str(_ROOT)}), **more.pop("env", {})}
    return subprocess.Popen([*own, *words], env=env, **more)


@contextmanager
def _killed(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a process with its children when a block ends."""
    try:
        yield
    finally:
        for pid in (*processes.descendants(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _exec(
    rig: "Rig", backup: str, *words: str, tag: str = "", **more: Any
) -> "subprocess.CompletedProcess[bytes]":
    tagged = ["--tag", tag] if tag else []
    files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = _start(rig, [backup, *tagged, "--", *words], **files, **more)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture
def reading(rig: "Rig") -> Iterator["Rig"]:
    for name in ("vms", "logs"):
        rig.share(name, rig.volume(name), {"rvss:keep": "recovered"})
    rig.start()
    yield rig
    assert rig.mounts() == []
    found = json.loads(rig.command("backup", "list", "--json").stdout)["backups"]
    for backup in found:
        assert rig.command("delete", backup["id"]).returncode == 0
    rig.assert_nothing_left()
    assert list((rig.daemon.run_directory / "leases").iterdir()) == []


@only("btrfs")
@pytest.mark.require("restic")
def test_restic_reads_nothing_twice(reading: "Rig", tmp_path: Path) -> None:
    """Its paths are the share's, so that the second backup is known to it but for what changed."""
    rig, share = reading, reading.fs.path / "vms"
    (share / "large").write_bytes(os.urandom(_LARGE))
    first = _backed_up(rig, "vms", recovered=b"the first")
    env = {"RESTIC_REPOSITORY": str(tmp_path / "repo"), "RESTIC_PASSWORD": "x"}
    env |= {"RESTIC_CACHE_DIR": str(tmp_path / "cache")}
    run(["restic", "init"], timeout=60, env=env)

    def carried(backup: dict[str, Any]) -> dict[str, Any]:
        words = ("restic", "backup", "--json", str(share))
        done = _exec(rig, backup["id"], *words, tag="offsite", env=env)
        assert done.returncode == 0, done.stderr
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    assert carried(first)["data_added"] > _LARGE
    second = _backed_up(rig, "vms", recovered=b"the second")
    (share / "data").write_bytes(b"live")
    summary = carried(second)
    assert (summary["files_changed"], summary["files_unmodified"]) == (1, 1)
    assert summary["data_added"] < _LARGE / 100
    restored = run(["restic", "dump", "latest", f"{share}/data"], timeout=60, env=env)
    assert restored.startswith("the second")
    shown = json.loads(rig.command("backup", "list", "--json").stdout)["backups"]
    assert [backup["tags"] for backup in shown] == [["offsite"]] * 2


def test_what_a_program_reads_is_not_deleted(reading: "Rig") -> None:
    rig = reading
    vms, logs = (rig.fs.path / name for name in ("vms", "logs"))
    backup = _backed_up(rig, "vms", "logs", recovered=b"sealed")
    for share in (vms, logs):
        (share / "data").write_bytes(b"live")
        (share / "later").mkdir()
    # In a share's directory a program is in the backup's.
    options = ('head -c 6 data; echo "$@"; touch new || exit 7', "sh", "--", "-x")
    done = _exec(rig, backup["id"], "sh", "-c", *options, tag="no", cwd=vms)
    assert (done.returncode, done.stdout) == (7, b"sealed-- -x\n"), done.stderr
    assert _exec(rig, backup["id"], "true", cwd=vms / "later").returncode == 12
    script = (
        f"trap 'echo asked' TERM; head -c 6 {vms}/data; echo; echo $$;"
        f" while ! read line; do :; done; head -c 6 {logs}/data; kill -KILL $$"
    )
    words = (backup["id"], "--", "bash", "-c", script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with _start(rig, words, **pipes) as process, _killed(process):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"sealed\n"
        program = int(process.stdout.readline())
        assert (vms / "data").read_bytes() == b"live"
        for part in backup["parts"]:
            refused = rig.command("delete", part["id"])
            assert refused.returncode == _BUSY
            assert f"bash (pid {program})" in refused.stderr
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"asked\n"
        # The program has the lease, and the mounts, whatever becomes of the daemon and of who
        # started it.
        process.kill()
        process.wait()
        rig.daemon.kill()
        rig.daemon.start()
        assert rig.command("delete", backup["id"]).returncode == _BUSY
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.read() == b"sealed"
    (found,) = json.loads(rig.command("backup", "list", "--json").stdout)["backups"]
    assert found["tags"] == []
    assert rig.command("delete", backup["id"]).returncode == 0


def test_what_is_mounted_is_not_deleted(reading: "Rig", tmp_path: Path) -> None:
    rig = reading
    backup = _backed_up(rig, "vms", "logs", recovered=b"sealed")
    own = rig.daemon.run_directory / "backups" / backup["id"]
    mounted = rig.command("backup", "mount", backup["set_id"])
    assert mounted.stdout.split() == [f"{own}/logs", f"{own}/vms"], mounted.stderr
    assert (own / "vms" / "data").read_bytes().startswith(b"sealed")
    options = {m.target: m.options for m in mounttable.mountinfo()}[f"{own}/vms"]
    assert options >= {"ro", "nosuid", "nodev", "noexec"}
    for part in backup["parts"]:
        refused = rig.command("delete", part["id"])
        assert refused.returncode == _BUSY
        assert f"is mounted at {own}/" in refused.stderr
    assert rig.command("reconcile").returncode == 0
    assert len(rig.mounts()) == 2
    assert rig.command("backup", "umount", backup["id"]).returncode == 0
    assert not own.exists()
    assert rig.command("backup", "umount", backup["id"]).returncode == 20
    done = rig.command("backup", "mount", backup["id"], str(tmp_path))
    assert done.stdout.split() == [f"{tmp_path}/logs", f"{tmp_path}/vms"], done.stderr
    assert rig.command("backup", "umount", str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []
