"""Commands that look at file systems by themselves, while one of these stands still."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from samba_rvss.kernel import files, mounting
from samba_rvss.run import environment
from samba_rvss.testing.disk import SickDisk
from samba_rvss.testing.example import share_section
from samba_rvss.testing.loop import LoopBtrfs

pytestmark = pytest.mark.require("root", "btrfs", "loop", "nbdkit")

ROOT = Path(__file__).resolve().parents[2]
HOOK = "/usr/libexec/samba-rvss/hook"
# Those that need no daemon, and all that each of them is to say.
COMMANDS = {
    ("status", "--json"): (1, "has not answered for"),
    ("shares", "--json"): (0, "has not answered for"),
    ("list", "--all"): (0, "has not answered for"),
    ("reconcile", "--dry-run"): (0, "has not answered for"),
    ("adopt", "--dry-run", "--from", "x", "--on", "{sick}"): (17, "has not answered for"),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, SickDisk, Path, Path]]:
    """Yield smb.conf, a disk, where that is mounted, and where a good one is.

    Nothing but the top of the first is in memory.
    """
    with ExitStack() as stack:
        healthy = stack.enter_context(LoopBtrfs(tmp_path))
        good = healthy.subvolume("good")
        disk = stack.enter_context(SickDisk(tmp_path))
        file_system = stack.enter_context(LoopBtrfs(tmp_path, disk=disk.file))
        sick = file_system.subvolume("sick")
        mounting.umount(str(file_system.path))
        file_system.mount(file_system.path)
        # Not even the super block, for which all other mounts would have to wait.
        with files.opened(os.open(file_system.device, os.O_RDONLY)) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for name in ("lock", "state", "cache", "private", "run", "rvss"):
            (tmp_path / name).mkdir()
        file = tmp_path / "smb.conf"
        file.write_text(
            "[global]\n"
            f"    lock directory = {tmp_path}/lock\n"
            f"    state directory = {tmp_path}/state\n"
            f"    cache directory = {tmp_path}/cache\n"
            f"    private dir = {tmp_path}/private\n"
            f"    rvss:run directory = {tmp_path}/run\n"
            f"    rvss:state directory = {tmp_path}/rvss\n"
            "    registry shares = yes\n"
            "    include = registry\n"
            + share_section("good", str(good), f"{HOOK} -S {tmp_path}/run/hook.sock")
            + share_section("sick", str(sick), f"{HOOK} -S {tmp_path}/run/hook.sock")
        )
        yield file, disk, file_system.path, healthy.path


def test_each_command_ends_and_names_what_is_stuck(site: tuple[Path, SickDisk, Path, Path]) -> None:
    file, disk, sick, good = site
    disk.stand_still()
    with ExitStack() as stack:
        stack.callback(disk.heal)
        running = {
            words: subprocess.Popen(
                [sys.executable, "-m", "samba_rvss", "-s", str(file)]
                + [word.format(sick=f"{sick}/sick") for word in words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment({"PYTHONPATH": str(ROOT)}),
            )
            for words in COMMANDS
        }
        told = {}
        for words, process in running.items():
            stack.callback(process.communicate)
            # Until its output ends too: no process of it may hold that open.
            told[words] = (process.communicate(timeout=60)[0], process.returncode)
    for words, (status, sentence) in COMMANDS.items():
        out, returned = told[words]
        assert (returned, sentence in out, str(sick) in out) == (status, True, True), (words, out)
        assert f"mounted at {good}" not in out, (words, out)
    rows = json.loads(told["shares", "--json"][0])["shares"]
    assert [(row["share"], row["supported"]) for row in rows] == [("good", True), ("sick", False)]
