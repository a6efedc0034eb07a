"""What a share full of everything costs a client at Commit, and how fast all of it is restored.

    /usr/bin/python3 tests/bench/restore.py [--rounds N] [--files N] [--json]

Needs root, and what tests/run installs. Everything happens on a private Samba and a btrfs in a
file. Commit of a share with one file, of one with one nested volume, and of one with all that the
documents of backup programs forbid (links, a nested volume, FIFOs, sockets, ten levels, hard links,
many files), are measured in turns. A backup of the latter is restored into another directory of the
file system, and compared with the share: names, kinds, modes, owners, times, attributes, content,
which names are one file. ``cp --archive`` of the share, in the same minute, is what the time is
compared with. Exit status 1 if anything is different, or the Commit takes more than the limit.
"""

import argparse
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from samba_rvss.model import Context
from samba_rvss.run import run
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator
from samba_rvss.testing.waiting import wait_until

SHARES = ("little", "nested", "full")
LIMIT = 1.25
"""How many times as long the Commit of everything may take as that of a file in a nested volume."""
SIZE = 4 << 30
_RATIO = "Commit of everything / of a nested volume"
_DIRECTORY = 1000  # files in each
_LEVELS = 10


def fill(share: Path, fs: LoopBtrfs, count: int) -> None:
    """Put into a share what backup programs' documents forbid, and so many files."""
    deep = share.joinpath(*(f"level {number}" for number in range(_LEVELS)))
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"at the bottom")
    (share / "link").symlink_to("level 0")
    (share / "leaves").symlink_to("/etc/shadow")
    (share / "up").symlink_to("../..")
    (share / "loop").symlink_to("loop")
    os.mkfifo(share / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(share / "socket"))
    (share / "one").write_bytes(b"one file")
    os.link(share / "one", share / "level 0" / "two")
    with (share / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
        sparse.seek(1 << 39)
        sparse.write(b"in the middle")
    os.setxattr(share / "one", "user.DOSATTRIB", b"\0" * 64)
    os.chown(share / "one", 1234, 2345)
    nested = fs.subvolume(f"{share.name}/nested")
    (nested / "inside").write_bytes(b"in a nested volume")
    for number in range(count):
        directory = share / f"files {number // _DIRECTORY}"
        if not number % _DIRECTORY:
            directory.mkdir()
        (directory / f"{number}.txt").write_bytes(b"%d" % number * 20)


def seen(top: Path) -> dict[str, Any]:
    """Return what is known of each name in a tree."""
    first: dict[tuple[int, int], str] = {}
    found = {}
    for directory, below, files in os.walk(top):
        for name in (*below, *files):
            path = Path(directory, name)
            status = path.lstat()
            told: list[Any] = [status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns]
            told.append(
                sorted(
                    (n, os.getxattr(path, n, follow_symlinks=False))
                    for n in os.listxattr(path, follow_symlinks=False)
                )
            )
            here = str(path.relative_to(top))
            if path.is_symlink():
                told.append(os.readlink(path))
            elif path.is_file():
                told += [status.st_size, digest(path)]
                told.append(first.setdefault((status.st_dev, status.st_ino), here))
            found[here] = told
    return found


def digest(path: Path) -> str:
    """Return a digest of what is in a file, and of where."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        place = 0
        while place < end:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # there is no more
                break
            file.seek(place)
            data = file.read(1 << 16)
            if data.strip(b"\0"):
                total.update(b"%d:" % place + data.rstrip(b"\0"))
            place += len(data)
    return total.hexdigest()


class Bench:
    """A private Samba with a share of each kind."""

    def __init__(self, undo: ExitStack, count: int) -> None:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
        directory.chmod(0o755)
        self.fs = undo.enter_context(LoopBtrfs(directory, size=SIZE))
        self.samba = undo.enter_context(PrivateSmbd())
        self.daemon = undo.enter_context(RvssDaemon(self.samba))
        options = {"rvss:nested": "include", "rvss:keep": "yes"}
        for name in SHARES:
            share = self.fs.subvolume(name)
            (share / "file").write_bytes(b"content")
            self.samba.set_share(name, self.daemon.share(name, share, options))
        self.fs.subvolume("nested/nested")
        fill(self.fs.path / "full", self.fs, count)
        self.operator = undo.enter_context(BackupOperator(self.samba))
        self.daemon.start()
        self.samba.start()
        self.client = undo.enter_context(Client(self.samba.address, self.operator.logon))

    def commit(self, share: str) -> float:
        """Take a shadow copy, and delete it; return the seconds of its Commit."""
        os.sync()
        taken = CopySet(self.client, Context.AUTO_RECOVERY)
        taken.prepare(share)
        taken.commit()
        seconds = taken.calls[-1].seconds
        taken.expose()
        taken.complete()
        taken.delete()
        return seconds

    def command(self, *words: str) -> Any:
        """Run a command on this instance; return what it printed as JSON."""
        argv = [sys.executable, "-m", "samba_rvss", "-s", str(self.samba.configuration), *words]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def backup(self) -> str:
        """Return the id of the newest backup of what is full."""

        def found() -> list[str]:
            told = self.command("backup", "list", "--json")["backups"]
            return [each["id"] for each in told if "full" in json.dumps(each["parts"])]

        wait_until("it is kept", lambda: bool(found()))
        return found()[-1]


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure Commit and restore of a full share")
    parser.add_argument("--rounds", type=int, default=20, help="Commits of each share (20)")
    parser.add_argument("--files", type=int, default=100_000, help="files in the full one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with ExitStack() as undo:
        bench = Bench(undo, arguments.files)
        samples: dict[str, list[float]] = {share: [] for share in SHARES}
        for _ in range(arguments.rounds):
            for share, spent in samples.items():
                spent.append(bench.commit(share))
        median = {share: statistics.median(spent) for share, spent in samples.items()}
        backup = bench.backup()
        source, target = bench.fs.path / "full", bench.fs.path / "target"
        target.mkdir()
        began = time.monotonic()
        told = bench.command("backup", "restore", backup, "--target", str(target), "--json")
        restored = time.monotonic() - began
        began = time.monotonic()
        words = ["cp", "--archive", "--reflink=auto", str(source), str(bench.fs.path / "copied")]
        run(words, timeout=3600)
        os.sync()
        copied = time.monotonic() - began
        (made,) = target.iterdir()
        one, two = seen(source), seen(made)
        wrong = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        found = {
            "Commit of one file, ms": 1000 * median["little"],
            "Commit of a nested volume / of one file": median["nested"] / median["little"],
            _RATIO: median["full"] / median["nested"],
            "names": len(one),
            "restored and compared, s": restored,
            "restore / cp --archive": restored / copied,
            "different": wrong[:20],
            "faults": told["faults"],
        }
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, figure in found.items():
            shown = f"{figure:10.2f}" if isinstance(figure, float) else f"{figure!s:>10}"
            print(f"{shown}  {name}")
    late = float(found[_RATIO]) > LIMIT
    return 1 if wrong or late else 0


if __name__ == "__main__":
    sys.exit(main())
