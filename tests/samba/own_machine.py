"""A machine of its own, as far as its administrator can tell: namespaces, in which lines are run.

Place: a program, which the tests start as the first process of new mount, network, host name and
process namespaces; when it ends, so does all that it has started, and its mounts are gone.
Contract: /etc is a copy; /run, /srv and what Samba and we have below /var are empty; and /usr has
samba-rvss in it, as packaging/install puts it there. Samba has the directories and the port that it
has without any setting. The daemon is started, as a package's scripts do, which need systemd.

usage: own_machine.py SUBVOLUME PASSWORD <LINES >OUTPUT
SUBVOLUME is what the machine has at /srv/vms, where its share is; PASSWORD is typed where a line
asks for one. LINES and OUTPUT are JSON: a list of lines; of each its exit status and what it said.
"""

import fcntl
import json
import os
import pty
import shutil
import socket
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

from samba_rvss.testing.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SMB_CONF = """\
[global]
    workgroup = WORKGROUP
    log file = /var/log/samba/log.%m

[vms]
    path = /srv/vms
    read only = no
"""
USER = "ann"
_SECONDS = 60.0
_COLUMNS = 80


def main() -> None:
    """Make the machine, run the lines, and print what came of them."""
    subvolume, password = sys.argv[1:]
    lines = json.load(sys.stdin)
    _make(subvolume)
    _quietly("useradd", "--no-create-home", USER)
    _quietly("smbpasswd", "-s", "-a", USER, given=f"{password}\n{password}\n")
    with open("/var/log/started", "wb") as log:
        for words in (["smbd", "--foreground", "--no-process-group"], ["samba-rvss", "daemon"]):
            # smbd signals its process group, and ends with a pipe that is its standard input.
            subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
    wait_until("smbd serves", _is_served, seconds=_SECONDS)
    admin = Path("/run/samba-rvss/admin.sock")
    wait_until("the daemon is there", admin.exists, seconds=_SECONDS)
    json.dump([_run(line, password) for line in lines], sys.stdout)


def _make(subvolume: str) -> None:
    work = Path("/mnt")  # what is mounted there is seen here alone
    _mount("-t", "tmpfs", "none", work)
    shutil.copytree("/etc", work / "etc", symlinks=True)
    (work / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 files\n")
    (work / "etc/samba/smb.conf").write_text(SMB_CONF)
    (work / "etc/samba/smb.conf").chmod(0o644)
    socket.sethostname("files")
    _quietly("ip", "link", "set", "lo", "up")
    _quietly(ROOT / "packaging" / "install", DESTDIR=str(work / "root"))
    (work / "vms").mkdir()
    _mount("--bind", subvolume, work / "vms")
    _mount("--bind", work / "etc", "/etc")
    _mount("-t", "overlay", "-o", f"lowerdir={work}/root/usr:/usr", "none", "/usr")
    for directory in ("/run", "/srv", "/var/lib", "/var/cache", "/var/log"):
        _mount("-t", "tmpfs", "-o", "mode=755", "none", directory)
    for directory in ("/run/samba", "/var/lib/samba/private", "/var/cache/samba", "/var/log/samba"):
        Path(directory).mkdir(parents=True)
    Path("/srv/vms").mkdir()
    _mount("--move", work / "vms", "/srv/vms")


def _mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True, stdout=sys.stderr)


def _quietly(*words: str | Path, given: str = "", **more: str) -> None:
    environment = {**os.environ, **more}
    subprocess.run(words, check=True, input=given, text=True, stdout=sys.stderr, env=environment)


def _is_served() -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", 445), 1):
        return True
    return False


def _run(line: str, password: str) -> tuple[int, str]:
    """Run a line at a terminal; return its exit status and what it printed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _COLUMNS, 0, 0))
    words = ["setsid", "--ctty", "bash", "-c", line]  # who asks for a password opens /dev/tty
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said, typed = b"", False
        with suppress(OSError):  # EIO, when nobody has the terminal any more
            while some := os.read(ours, 1 << 16):
                said += some
                if not typed and b"Password" in said:
                    os.write(ours, f"{password}\n".encode())
                    typed = True
        os.close(ours)
    return process.returncode, said.decode(errors="replace").replace("\r\n", "\n")


if __name__ == "__main__":
    main()
