"""How many looks at file systems there may be at once, and until when one is under way."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import samba_rvss
from samba_rvss.cli.looks import limited
from samba_rvss.errors import Problem, RvssError
from samba_rvss.run import environment

ROOT = str(Path(samba_rvss.__file__).parents[1])


def test_there_are_no_more_than_so_many(tmp_path: Path) -> None:
    directory = str(tmp_path)
    with ExitStack() as looks:
        for _ in range(2):
            looks.enter_context(limited(directory, "status", 2))
        os.utime(tmp_path / "look-status-0", (0.0, 0.0))
        with pytest.raises(RvssError, match=r"the first of 2 looks .* at (1970|1969)") as caught:
            looks.enter_context(limited(directory, "status", 2))
        assert caught.value.problem is Problem.BUSY
        with limited(directory, "metrics", 1):  # is another kind
            pass
    with limited(directory, "status", 2):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_where_nothing_can_be_written_nothing_is_limited(tmp_path: Path) -> None:
    (tmp_path / "look-metrics-0").symlink_to("/dev/null")
    for directory in (tmp_path, tmp_path / "none"):
        with limited(str(directory), "metrics", 1), limited(str(directory), "metrics", 1):
            pass


def test_one_is_under_way_until_its_process_has_ended(tmp_path: Path) -> None:
    """A thread of it may hang in the kernel when the command has told its status."""
    code = (
        "import os, sys, threading\n"
        "from samba_rvss.cli import apart\n"
        "from samba_rvss.cli.looks import limited\n"
        "def work():\n"
        f"    with limited({str(tmp_path)!r}, 'metrics', 1, for_good=True):\n"
        "        pass\n"
        "    print('looked', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return 7\n"
        "sys.exit(apart.run(work))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": ROOT}),
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "looked\n"
        with (
            pytest.raises(RvssError, match=r"a look that was begun at .* has not ended") as caught,
            limited(str(tmp_path), "metrics", 1),
        ):
            pass
        assert re.search(r"at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", caught.value.message)
        command.communicate("\n", timeout=60)
        assert command.returncode == 7
    with limited(str(tmp_path), "metrics", 1, seconds=60.0):
        pass
