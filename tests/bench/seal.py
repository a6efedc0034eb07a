"""How long a writer can still write after RecoveryComplete, and how long sealing takes.

    /usr/bin/python3 tests/bench/seal.py [--against CHECKOUT] [--rounds N] [--idle] [--json]

Needs root, and what tests/run installs. A program on the server writes a counter into the exposed
copy without end, once through a handle that it keeps and once through a new one for each write,
while every processor is kept busy. With ``--against``, the code of another checkout does the same
in turns. Each sealing is compared with `btrfs subvolume snapshot -r` of as much dirty data, taken
just before it. Exit status 1 if the median of sealing with little dirty data is over the limit.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeAlias

if __name__ == "__main__" and "SAMBA_RVSS_BENCH_TREE" not in os.environ:
    os.environ["SAMBA_RVSS_BENCH_TREE"] = str(Path(__file__).resolve().parents[2])
sys.path.insert(0, os.environ["SAMBA_RVSS_BENCH_TREE"])

import btrfsutil

from samba_rvss.ledger import Ledger
from samba_rvss.model import Context, Phase
from samba_rvss.samba.fsrvp.client import Client
from samba_rvss.samba.fsrvp.copyset import CopySet
from samba_rvss.testing.daemon import RvssDaemon
from samba_rvss.testing.loop import LoopBtrfs
from samba_rvss.testing.smbd import PrivateSmbd
from samba_rvss.testing.users import BackupOperator

SEAL_LIMIT = 0.200
LITTLE, MUCH = 1 << 20, 64 << 20
PATIENCE = 1.0  # how long the writer goes on after RecoveryComplete, in seconds
SECONDS = 120.0

Sample: TypeAlias = dict[str, float]


class Writer(threading.Thread):
    """Writes a counter at the beginning of a file until it is told to end.

    Attributes:
        accepted: when each count was accepted (`time.monotonic`), by the count.
    """

    def __init__(self, path: str, *, keep: bool) -> None:
        super().__init__()
        self._path = path
        self._keep = keep
        self.ending = threading.Event()
        self.accepted: list[float] = []

    def run(self) -> None:
        """Write, and go on after each failure."""
        fd = os.open(self._path, os.O_WRONLY)
        try:
            while not self.ending.is_set():
                try:
                    if not self._keep:
                        os.close(fd)
                        fd = -1
                        fd = os.open(self._path, os.O_WRONLY)
                    os.pwrite(fd, struct.pack("=Q", len(self.accepted)), 0)
                    self.accepted.append(time.monotonic())
                except OSError:
                    time.sleep(0.0005)
                time.sleep(0)
        finally:
            if fd >= 0:
                os.close(fd)


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Keep processors busy."""
    spin = "import os, time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
    spinning = [subprocess.Popen([sys.executable, "-ISEc", spin]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(rounds: int) -> list[Sample]:
    """Measure this tree's code; each sample has times in seconds."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rvss-bench-")))
        directory.chmod(0o755)
        fs = stack.enter_context(LoopBtrfs(directory, size=4 << 30))
        samba = stack.enter_context(PrivateSmbd())
        daemon = stack.enter_context(RvssDaemon(samba))
        path = fs.subvolume("plain")
        (path / "counter").write_bytes(bytes(8))
        samba.set_share("plain", daemon.share("plain", path))
        operator = stack.enter_context(BackupOperator(samba))
        daemon.start()
        samba.start()
        client = stack.enter_context(Client(samba.address, operator.logon))
        return [
            _round(client, daemon, fs, size, keep=keep)
            for keep in (False, True)
            for size in (LITTLE, MUCH)
            for _ in range(rounds)
        ]


def _round(client: Client, daemon: RvssDaemon, fs: LoopBtrfs, size: int, *, keep: bool) -> Sample:
    taken = CopySet(client, context=Context.AUTO_RECOVERY)
    taken.prepare("plain")
    taken.commit()
    taken.expose()
    copy = _wait(daemon, Phase.OPEN)
    baseline = _snapshot_time(fs, size)
    (Path(copy) / "dirty").write_bytes(os.urandom(size))
    writer = Writer(f"{copy}/counter", keep=keep)
    writer.start()
    while len(writer.accepted) < 10:
        time.sleep(0.001)
    taken.complete()
    completed = time.monotonic()
    ending = threading.Timer(PATIENCE, writer.ending.set)
    ending.start()
    _wait(daemon, Phase.SEALED)
    sealed = time.monotonic() - completed
    ending.join()
    writer.join()
    count = struct.unpack("=Q", (Path(copy) / "counter").read_bytes())[0]
    taken.delete()
    return {
        "keep": float(keep),
        "size": float(size),
        "snapshot": baseline,
        "sealed": sealed,
        "accepted": writer.accepted[-1] - completed,
        "contained": writer.accepted[count] - completed,
    }


def _wait(daemon: RvssDaemon, phase: Phase) -> str:
    """Wait until the only copy is in a phase; return its path."""
    deadline = time.monotonic() + SECONDS
    with closing(Ledger(f"{daemon.state_directory}/ledger.db", read_only=True)) as ledger:
        while True:
            copies = ledger.copies()
            if len(copies) == 1 and copies[0].phase is phase:
                return copies[0].path
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {phase.value}: {copies}")
            time.sleep(0.0005)


def _snapshot_time(fs: LoopBtrfs, size: int) -> float:
    """Return the seconds that a read-only snapshot takes of as much dirty data."""
    source = fs.subvolume("source")
    (source / "dirty").write_bytes(os.urandom(size))
    started = time.perf_counter()
    btrfsutil.create_snapshot(str(source), str(fs.path / "snapshot"), read_only=True)
    spent = time.perf_counter() - started
    for name in ("snapshot", "source"):
        fs.delete_subvolume(name)
    return spent


def run_tree(tree: str, rounds: int) -> list[Sample]:
    """Measure the code of a checkout in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--measure", "--rounds", str(rounds)],
        env={**os.environ, "SAMBA_RVSS_BENCH_TREE": tree},
        cwd=tree,  # `python3 -m` looks there first
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: list[Sample] = json.loads(done.stdout)
    return found


def show(name: str, samples: list[Sample]) -> None:
    """Print medians of one tree's samples."""
    for keep in (False, True):
        for size in (LITTLE, MUCH):
            some = [s for s in samples if s["keep"] == keep and s["size"] == size]
            middle = {
                key: statistics.median(s[key] for s in some)
                for key in ("sealed", "snapshot", "accepted", "contained")
            }
            ratio = statistics.median(s["sealed"] / s["snapshot"] for s in some)
            how = "keeps its handle" if keep else "opens for each write"
            print(
                f"{name}: writer {how}, {size >> 20} MiB dirty (n={len(some)}):"
                f" sealed {middle['sealed'] * 1000:.1f} ms = {ratio:.2f} x a snapshot"
                f" ({middle['snapshot'] * 1000:.1f} ms);"
                f" last accepted {middle['accepted'] * 1000:+.1f} ms,"
                f" last contained {middle['contained'] * 1000:+.1f} ms after RecoveryComplete,"
                f" worst {max(s['contained'] for s in some) * 1000:+.1f} ms"
            )


def main() -> int:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description="measure the sealing of a shadow copy")
    parser.add_argument("--against", default="", help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each kind in a turn (5)")
    parser.add_argument("--turns", type=int, default=2, help="turns of each checkout (2)")
    parser.add_argument("--idle", action="store_true", help="keep no processor busy")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.rounds)))
        return 0
    trees = {"this": os.environ["SAMBA_RVSS_BENCH_TREE"]}
    if arguments.against:
        trees["against"] = str(Path(arguments.against).resolve())
    samples: dict[str, list[Sample]] = {name: [] for name in trees}
    with load(0 if arguments.idle else os.cpu_count() or 1):
        for _ in range(arguments.turns):
            for name, tree in trees.items():
                samples[name] += run_tree(tree, arguments.rounds)
    if arguments.json:
        print(json.dumps(samples))
    else:
        for name, some in samples.items():
            show(name, some)
    little = [s["sealed"] for s in samples["this"] if s["size"] == LITTLE]
    return int(statistics.median(little) > SEAL_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
