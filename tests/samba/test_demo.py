"""``samba-rvss demo``: it shows what it promises, and leaves nothing, however it ends."""

import ctypes
import grp
import json
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import samba_rvss
from samba_rvss.kernel import mounttable
from samba_rvss.kernel.processes import descendants
from samba_rvss.run import environment

pytestmark = pytest.mark.require("root", "btrfs", "loop", "smbd", "qemu")

ROOT = Path(samba_rvss.__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SECONDS = 60.0
OLDER: set[int] = set()  # descendants of ours that no test here has made


@pytest.fixture(autouse=True)
def _orphans_are_ours() -> Iterator[None]:
    """Become the parent of what outlives its own, so that nothing can hide."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    OLDER.clear()
    OLDER.update(descendants(os.getpid()))
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def _start(directory: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "samba_rvss", "demo", "--directory", str(directory), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"PYTHONPATH": str(ROOT)}),
        start_new_session=True,
        text=True,
    )


def _nothing_is_left(directory: Path, said: str) -> None:
    """See that all that the demonstration said it made is gone, and all that it keeps quiet."""
    assert set(descendants(os.getpid())) <= OLDER
    assert list(directory.iterdir()) == []
    prefixes = [f"{directory}/"]
    for home in re.findall(r"^.* configure a private Samba: (.*)/smb\.conf", said, re.MULTILINE):
        assert not Path(home).exists()
        prefixes.append(f"{home}/")
    assert [m for m in mounttable.mountinfo() if m.target.startswith(tuple(prefixes))] == []
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        assert str(directory) not in device.read_text()
    for user in re.findall(r"\brvssop[0-9a-f]{8}\b", said):
        assert user not in {entry.pw_name for entry in pwd.getpwall()}
        assert user not in {entry.gr_name for entry in grp.getgrall()}


def test_all_expectations_are_met(rig_directory: Path) -> None:
    with _start(rig_directory, "--json") as demo:
        out, said = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, said
    shown: dict[str, Any] = json.loads(out)
    assert shown["ok"] is True
    assert shown["error"] == ""
    assert shown["seconds"] < SECONDS
    assert [check["name"] for check in shown["checks"] if check["ok"] is not True] == []
    assert len(shown["checks"]) >= 25
    stages = [stage["name"] for stage in shown["stages"]]
    wanted = [
        "GetSupportedVersion",
        "IsPathSupported",
        "SetContext",
        "StartShadowCopySet",
        "AddToShadowCopySet",
        "PrepareShadowCopySet",
        "CommitShadowCopySet",
        "ExposeShadowCopySet",
        "GetShareMapping",
        "RecoveryComplete",
        "DeleteShareMapping",
    ]
    assert [name for name in stages if name in wanted] == wanted
    _nothing_is_left(rig_directory, said)


def test_tables_for_people(rig_directory: Path) -> None:
    with _start(rig_directory) as demo:
        out, said = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, said
    assert "STEP\tMS\tSEEN\n" in out
    assert "\nEXPECTATION\tMET\tFOUND\n" in out
    assert re.search(r"^(\d+) of \1 expectations are met", out, re.MULTILINE)
    _nothing_is_left(rig_directory, said)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("make a btrfs on a loop device", signal.SIGINT),
        ("make a Backup Operator", signal.SIGINT),
        ("start a machine that writes to it", signal.SIGINT),
        ("PrepareShadowCopySet", signal.SIGINT),
        ("ExposeShadowCopySet", signal.SIGINT),
        ("RecoveryComplete", signal.SIGINT),
        ("DeleteShareMapping", signal.SIGINT),
        ("CommitShadowCopySet", signal.SIGTERM),
        ("GetShareMapping", signal.SIGHUP),
    ],
)
def test_a_signal_leaves_nothing(rig_directory: Path, step: str, number: signal.Signals) -> None:
    """As a terminal sends it: to everything that runs in the foreground."""
    with _start(rig_directory) as demo:
        assert demo.stderr is not None
        said = ""
        for line in demo.stderr:
            said += line
            if f" ms  {step}: " in line:
                os.killpg(demo.pid, number)
                break
        rest = demo.communicate(timeout=SECONDS)[1]
    assert demo.returncode == 128 + number, said + rest
    assert "everything is cleared away" in rest
    _nothing_is_left(rig_directory, said + rest)


def test_directory_that_users_cannot_walk_into(rig_directory: Path) -> None:
    closed = rig_directory / "closed"
    closed.mkdir(mode=0o700)
    with _start(closed) as demo:
        said = demo.communicate(timeout=SECONDS)[1]
    assert demo.returncode == 2
    assert said == (
        f"samba-rvss: not all users can walk into {closed}:"
        " name another directory with --directory\n"
    )
