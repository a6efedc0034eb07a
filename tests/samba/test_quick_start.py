"""The README's quick start, each line as it stands there, on a machine that never saw samba-rvss.

Only its first line is replaced: apt would install what `packaging/install` installs here, and its
scripts start the daemon, for which a test machine has no systemd; tests/vm has both.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from samba_rvss.run import environment
from samba_rvss.testing.loop import LoopBtrfs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
_MACHINE = Path(__file__).with_name("own_machine.py")
_NAMESPACES = ["--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _section() -> str:
    return README.split("\n## Quick start\n", 1)[1].split("\n## ", 1)[0]


def _lines() -> list[str]:
    return re.findall(r"^    (\S.*)$", _section(), re.MULTILINE)


def test_it_fits_a_screen() -> None:
    lines = _section().strip().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80


@pytest.mark.require("root", "smbd", "ip")
def test_each_line_works(loop_btrfs: LoopBtrfs) -> None:
    install, *lines = _lines()
    assert install.startswith("apt install ./samba-rvss_")
    path = loop_btrfs.subvolume("vms")
    done = subprocess.run(
        ["unshare", *_NAMESPACES, sys.executable, "-P", _MACHINE, path, "secret"],
        input=json.dumps([*lines, "samba-rvss list", "samba-rvss status"]),
        env=environment({"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}),
        start_new_session=True,
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    setup, granted, checked, events, listed, status = json.loads(done.stdout)
    assert setup[0] == 0
    assert "+    shell_snap:create command = /usr/libexec/samba-rvss/hook create" in setup[1]
    assert "doctor vms --probe --user USER" in setup[1]
    assert granted == [0, "Granted SeBackupPrivilege to FILES\\ann\n"]
    # Notes are not wrong: where the tests run, nobody may keep the clock.
    assert checked[0] == 0, checked[1]
    assert re.search(r"good +probe: \[vms\] ann took a shadow copy through Samba", checked[1])
    assert events[0] == 0
    # Each is a line of a screen: when, of which share, the end of our id, what.
    whats = re.findall(r"^[\d-]+ [\d:]+ +vms +[0-9a-f]{8} +(\w+)", events[1], re.MULTILINE)
    assert (whats[:2], whats[-2:]) == (["create", "taken"], ["delete", "gone"])
    assert {"opened", "sealed"} <= set(whats)
    assert len(events[1].splitlines()) == 1 + len(whats)
    assert listed == [0, "There are no shadow copies.\n"]
    assert status[0] == 0, status[1]
