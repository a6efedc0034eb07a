"""The README's quick start, each line as it stands there, on a machine that never saw samba-rvss.

Only its first line is replaced: apt would install what `packaging/install` installs here, and its
scripts start the daemon, for which a test machine has no systemd; tests/vm has both.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_rvss.testing.host import Host, await_port, make_volume
from samba_rvss.testing.waiting import wait_until
from tests.samba.terminal import run_line

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
_PASSWORD = "secret"
_SMB_CONF = """\
[global]
    workgroup = WORKGROUP
    log file = /var/log/samba/log.%m

[vms]
    path = /srv/vms
    read only = no
"""


def _section() -> str:
    return README.split("\n## Quick start\n", 1)[1].split("\n## ", 1)[0]


def _lines() -> list[str]:
    return re.findall(r"^    (\S.*)$", _section(), re.MULTILINE)


def test_it_fits_a_screen() -> None:
    lines = _section().strip().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80


@pytest.fixture
def files() -> Iterator[Host]:
    """A file server that never saw samba-rvss before it was installed, and a user."""
    with Host("files", installed=True) as host:
        host.call(make_volume, "/srv/vms")
        host.write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 files\n")
        host.write("/etc/samba/smb.conf", _SMB_CONF)
        host.run("useradd", "--no-create-home", "ann")
        typed = f"{_PASSWORD}\\n{_PASSWORD}\\n"
        host.run("sh", "-c", f"printf '{typed}' | smbpasswd -s -a ann")
        host.start("smbd", "--foreground", "--no-process-group")
        host.call(await_port, "127.0.0.1", 445)
        host.start("samba-rvss", "daemon")
        admin = host.path("/run/samba-rvss/admin.sock")
        wait_until("the daemon is there", admin.exists)
        yield host


@pytest.mark.require("root", "smbd", "btrfs", "loop", "ip")
def test_each_line_works(files: Host) -> None:
    install, *lines = _lines()
    assert install.startswith("apt install ./samba-rvss_")
    lines += ["samba-rvss list", "samba-rvss status"]
    said = [files.call(run_line, line, _PASSWORD) for line in lines]
    setup, granted, checked, events, listed, status = said
    assert setup[0] == 0
    assert "+    shell_snap:create command = /usr/libexec/samba-rvss/hook create" in setup[1]
    assert "doctor vms --probe --user USER" in setup[1]
    assert granted == (0, "Granted SeBackupPrivilege to FILES\\ann\n")
    # Notes are not wrong: where the tests run, nobody may keep the clock.
    assert checked[0] == 0, checked[1]
    assert re.search(r"good +probe: \[vms\] ann took a shadow copy through Samba", checked[1])
    assert events[0] == 0
    # Each is a line of a screen: when, of which share, the end of our id, what.
    whats = re.findall(r"^[\d-]+ [\d:]+ +vms +[0-9a-f]{8} +(\w+)", events[1], re.MULTILINE)
    assert (whats[:2], whats[-2:]) == (["create", "taken"], ["delete", "gone"])
    assert {"opened", "sealed"} <= set(whats)
    assert len(events[1].splitlines()) == 1 + len(whats)
    assert listed == (0, "There are no shadow copies.\n")
    assert status[0] == 0, status[1]
