"""A command in a process of its own: its output, its exit status, and that nobody waits for it."""

import os
import select
import signal
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


def test_what_has_to_come_to_its_end_is_waited_for() -> None:
    """It hears of the interruption itself, as whatever a terminal has in its foreground."""
    code = (
        "import os, signal, sys\n"
        "from samba_rvss.cli import apart\n"
        "apart.SECONDS = 0.0\n"
        "def work():\n"
        "    signal.signal(signal.SIGINT, lambda *_: os.write(1, b'heard\\n'))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    print('removed')\n"
        "    return 0\n"
        "sys.exit(apart.run(work, 60.0))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": ROOT}),
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        assert command.stdin is not None
        assert command.stdout.readline() == "ready\n"
        os.killpg(command.pid, signal.SIGINT)
        assert command.stdout.readline() == "heard\n"
        command.stdin.write("\n")
        command.stdin.flush()
        assert command.stdout.read() == "removed\n"
        assert command.wait(60) == 130


def test_it_ends_with_who_waits_for_it(tmp_path: Path) -> None:
    """Whoever ends the command ends what it does: also with a signal that cannot be heard."""
    file = tmp_path / "steps"
    code = (
        "import os, time\n"
        "from samba_rvss.cli import apart\n"
        "def work():\n"
        "    print(os.getpid(), flush=True)\n"
        "    while True:\n"
        f"        open({str(file)!r}, 'a').write('.')\n"
        "        time.sleep(0.01)\n"
        "apart.run(work)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": ROOT}),
    ) as command:
        assert command.stdout is not None
        child = os.pidfd_open(int(command.stdout.readline()))
        try:
            command.kill()
            assert select.select([child], [], [], 60.0)[0]
        finally:
            os.close(child)
