"""A command in a process of its own: its output, its exit status, and that nobody waits for it."""

import subprocess
import sys
from pathlib import Path

import pytest

import samba_rvss
from samba_rvss.run import environment

ROOT = str(Path(samba_rvss.__file__).parents[1])
WAITING = "threading.Thread(target=threading.Event().wait).start(); "


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("print('said') or 7", 7),
        (f"[exec({WAITING!r}), print('said'), 7][2]", 7),  # a thread that does not end
        ("print('said', flush=True) or os.kill(os.getpid(), 9)", 137),
    ],
)
def test_the_status_comes_at_once(command: str, status: int) -> None:
    code = (
        "import os, sys, threading\n"
        "from samba_rvss.cli import apart\n"
        f"sys.exit(apart.run(lambda: {command}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment({"PYTHONPATH": ROOT}),
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("said\n", "", status)
