"""Two instances with the same paths on one file system: neither touches what is the other's.

Each daemon has a mount namespace of its own, and there its run and state directories on a tmpfs of
its own, at the same paths: as in two containers. No Samba runs: its file of sets is written as
Samba writes it. SAMBA_RVSS_SETS says how many sets each of the two takes.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from samba_rvss.errors import Problem
from samba_rvss.model import Context, Identity, Phase, SetState
from samba_rvss.run import environment
from samba_rvss.testing import fss_records
from samba_rvss.testing.example import share_section
from samba_rvss.testing.waiting import wait_until
from tests.samba.filesystems import FileSystem

_SETS = {"btrfs": 6, "zfs": 2}  # the emulated machine takes its time
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 120.0
_CONTEXT = int(Context.AUTO_RECOVERY | Context.PERSISTENT | Context.NO_AUTO_RELEASE)


class Container:
    """A mount namespace with directories of its own at the paths that another one has too."""

    def __init__(self, directory: Path, share: Path) -> None:
        self._directory, self._share = directory, share
        self._home = directory / "home"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._log = directory / f"log-{time.monotonic_ns()}"
        script = f"mount -t tmpfs tmpfs {self._home} && exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script])
        wait_until("a tmpfs", lambda: self.inside(self._home).is_mount(), _SECONDS)
        for name in ("lock", "state", "cache", "private", "run", "rvss"):
            self.inside(self._home / name).mkdir()
        self._taken: dict[str, str] = {}  # ids in the order of taking, with the path of each

    def inside(self, path: Path) -> Path:
        """Return a path of the namespace as one of ours."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def _argv(self, *words: str) -> list[str]:
        return ["nsenter", "-m", "-t", str(self._holder.pid), sys.executable, *words]

    def start(self) -> None:
        """Start the daemon, and return when it serves."""
        argv = self._argv("-m", "samba_rvss", "-s", str(self._directory / "smb.conf"), "daemon")
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                argv, stdout=log, stderr=log, env=environment({"PYTHONPATH": str(_ROOT)})
            )
        wait_until(
            self._said, lambda: self.command("reconcile").returncode != Problem.NO_DAEMON, _SECONDS
        )

    def _said(self) -> str:
        return f"a daemon: {self._log.read_text()[-2000:]}"

    def kill(self) -> None:
        """End the daemon with SIGKILL."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def end(self) -> None:
        """End all of it; its mounts vanish with it."""
        self.kill()
        self._holder.kill()
        self._holder.wait()

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run ``samba-rvss`` there."""
        argv = self._argv("-m", "samba_rvss", "-s", str(self._directory / "smb.conf"), *words)
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=environment({"PYTHONPATH": str(_ROOT)}),
            timeout=_SECONDS,
            check=False,
        )

    def run(self, *words: str) -> Any:
        """Run ``samba-rvss`` there, and return the JSON that it prints."""
        done = self.command(*words)
        assert done.stdout, done.stderr + self._log.read_text()[-2000:]
        return json.loads(done.stdout)

    def take(self) -> None:
        """Take a set of one copy, which Samba has: every other one is recovered."""
        hook = [str(self._directory / "samba-rvss" / "hook"), "-S", f"{self._home}/run/hook.sock"]
        done = subprocess.run(
            self._argv(*hook, "create", str(self._share)),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self._taken |= {copy["id"]: copy["path"] for copy in self.copies()}
        states = (SetState.COMMITTED, SetState.RECOVERED)
        records = fss_records.of_file(len(self._taken))
        for number, path in enumerate(self._taken.values()):
            of, own = f"{os.getpid():08x}-{number}", f"{self._holder.pid:08x}-{number}"
            records |= fss_records.of_set(of, states[number % 2], _CONTEXT, 1)
            created = int(datetime.now(UTC).timestamp())
            records |= fss_records.of_copy(of, own, str(self._share), path, created, 1)
            records |= fss_records.of_map(of, own, "vms", f"vms@{{{own}}}", 0)
        fss_records.store(self.inside(self._home / "lock" / "srv_fss.tdb"), records)

    def copies(self, phase: Phase | None = None) -> list[dict[str, Any]]:
        """Return what its ledger has."""
        found: list[dict[str, Any]] = self.run("list", "--json")["copies"]
        return [copy for copy in found if phase is None or copy["phase"] == phase.value]

    def identity(self) -> str:
        """Return its id."""
        return self.inside(self._home / "rvss" / "instance").read_text().strip()

    def lose_identity(self) -> None:
        """Remove its id, of which it makes a new one."""
        self.inside(self._home / "rvss" / "instance").unlink()

    def lose_ledger(self) -> None:
        """Remove the ledger's files."""
        for file in self.inside(self._home / "rvss").glob("ledger.db*"):
            file.unlink()

    def forget_sets(self) -> None:
        """Remove srv_fss.tdb, as a boot does."""
        with suppress(FileNotFoundError):
            self.inside(self._home / "lock" / "srv_fss.tdb").unlink()


@pytest.fixture
def two(rig_directory: Path, file_system: FileSystem) -> Iterator[tuple[Container, Container]]:
    """Two containers beside each other, on one file system; nothing is served yet."""
    (rig_directory / "home").mkdir()
    (rig_directory / "samba-rvss").mkdir()
    shutil.copy(_ROOT / "samba_rvss" / "hook.py", rig_directory / "samba-rvss" / "hook")
    share = file_system.volume("vms")
    (share / "data").write_bytes(b"content")
    home = rig_directory / "home"
    directories = "".join(
        f"    {name} = {home}/{where}\n"
        for name, where in {
            "lock directory": "lock",
            "state directory": "state",
            "cache directory": "cache",
            "private dir": "private",
            "rvss:run directory": "run",
            "rvss:state directory": "rvss",
        }.items()
    )
    hook = f"{rig_directory}/samba-rvss/hook -S {home}/run/hook.sock"
    (rig_directory / "smb.conf").write_text(
        f"[global]\n{directories}    rvss:grace = 1 h\n    registry shares = yes\n"
        f"    include = registry\n{share_section('vms', str(share), hook)}"
    )
    containers = (Container(rig_directory, share), Container(rig_directory, share))
    try:
        yield containers
    finally:
        for container in containers:
            container.end()


@pytest.mark.vm(seconds=140, long=True, file_system="zfs")
def test_neither_touches_what_is_the_other_s(
    two: tuple[Container, Container], file_system: FileSystem
) -> None:
    one, other = two
    sets = int(os.environ.get("SAMBA_RVSS_SETS", "0")) or _SETS[file_system.kind]
    half, where = sets // 2, ""

    def images() -> dict[str, str]:
        """Return every image on the file system, with the instance that its mark bears."""
        found = file_system.provider(Identity(id="nobody")).inventory().foreign
        return {image.id: image.instance for image in found if image.file_system == where}

    def is_whole(container: Container) -> bool:
        found = sorted(copy["phase"] for copy in container.copies())
        return bool(found == ["open"] * (sets - half) + ["sealed"] * half)

    def both_are_whole() -> None:
        for container in two:
            wait_until("all are open or sealed", partial(is_whole, container), _SECONDS)
        found = images()
        for container in two:
            ours = {copy["id"] for copy in container.copies()}
            assert {name for name, who in found.items() if who == container.identity()} == ours
        assert len(found) == 2 * sets

    # The second starts when the first has all that it is to have.
    for container in two:
        container.start()
        for _ in range(sets):
            container.take()
    where = one.copies()[0]["volume"]["file_system"]
    both_are_whole()
    for container in two:
        done = container.command("reconcile")
        assert done.returncode == 0, done.stdout
    both_are_whole()
    listed = one.run("list", "--all", "--json")["images"]
    listed = [row for row in listed if row["file_system"] == where]  # other tests run
    assert {(row["whose"], row["instance"]) for row in listed} == {
        ("another instance's", other.identity())
    }
    assert len(listed) == sets
    said = "\n".join(one.run("status", "--json")["not_ours"])
    assert said.count(f"it is another instance's, {other.identity()}") == sets

    # Killing either leaves the other whole, and itself once it is back.
    for container in two:
        container.kill()
        for living in two:
            if living is not container:
                assert living.command("reconcile").returncode == 0
        container.start()
        both_are_whole()

    # While one is served, nobody takes over what is its own.
    refused = other.command("adopt", "--from", one.identity())
    assert refused.returncode != 0
    assert "is served on this machine, by process" in refused.stderr

    # Both ledgers are lost: nothing else is.
    for container in two:
        container.kill()
        container.lose_ledger()
    for container in two:
        container.start()
    both_are_whole()
    sealed = one.copies(Phase.SEALED)
    assert all(copy["adopted"] and copy["context"] == _CONTEXT for copy in sealed)
    assert all(copy["set_id"] and copy["copy_id"] for copy in sealed)

    # ... and srv_fss.tdb with it: what is sealed is known by its marks.
    one.kill()
    one.lose_ledger()
    one.forget_sets()
    one.start()
    names = ("id", "set_id", "copy_id", "context", "exposed_share")
    again = [{name: copy[name] for name in names} for copy in one.copies(Phase.SEALED)]
    assert again == [{name: copy[name] for name in names} for copy in sealed]
    assert len(images()) == 2 * sets

    # Taken over on purpose: what is sealed, and nothing else.
    one.kill()
    tried = other.run("adopt", "--from", one.identity(), "--dry-run", "--json")
    done = other.run("adopt", "--from", one.identity(), "--json")
    moved = {copy["id"] for copy in again}
    assert {action["target"] for action in tried["actions"]} == moved
    assert {(action["target"], action["outcome"]) for action in done["actions"]} == {
        (name, "done") for name in moved
    }
    assert [(left["wrong"], "not sealed" in left["reason"]) for left in done["left_alone"]] == [
        (True, True)
    ] * (sets - half)
    mine = {copy["id"]: copy for copy in other.copies(Phase.SEALED)}
    for name in moved:
        assert mine[name]["adopted"]
        assert (other.inside(Path(mine[name]["path"])) / "data").read_bytes() == b"content"
    one.start()
    left = {it["target"]: it for it in one.run("reconcile", "--json")["left_alone"] if it["wrong"]}
    assert all("its image is not ours any more" in left[name]["reason"] for name in moved)
    assert len(images()) == 2 * sets

    # Its id is lost, and its ledger is not.
    before, sealed = other.identity(), other.copies(Phase.SEALED)
    other.kill()
    other.lose_identity()
    other.start()
    done = other.run("adopt", "--from", before, "--json")
    assert {(action["target"], action["outcome"]) for action in done["actions"]} == {
        (copy["id"], "done") for copy in sealed
    }
    assert other.copies(Phase.SEALED) == sealed
    left = {it["target"]: it for it in other.run("reconcile", "--json")["left_alone"]}
    for copy in sealed:
        assert "not ours any more" not in left[copy["id"]]["reason"]
